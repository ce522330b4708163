"""The workflow of `fit`: find -> split -> encode once -> averages -> target -> flow -> calibrate -> bundle."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from muflow_cli.bundle import check_writable, save
from muflow_cli.calibration import Calibration, source_digest
from muflow_cli.canonical import to_json
from muflow_cli.detector import Detector, Provenance
from muflow_cli.engine.cores import pipelined
from muflow_cli.engine.encoders import chosen_cuts
from muflow_cli.engine.features import Space, fit_space
from muflow_cli.engine.scoring import Extractor, Model, Placement, place
from muflow_cli.engine.train_state import Progress, TrainHooks
from muflow_cli.engine.training import Trained, train
from muflow_cli.engine.weights import Weights, find_weights
from muflow_cli.environment import utc_now, versions
from muflow_cli.errors import CannotWrite, NothingToDo, TooFewPictures
from muflow_cli.fit.cache import chunks, encode, project, work_bytes
from muflow_cli.fit.targets import Averaging, Targets, mu_targets, normal_targets
from muflow_cli.fit.work import Work, open_work
from muflow_cli.pictures.find import find
from muflow_cli.pictures.pool import Loaded, LoadSpec, load
from muflow_cli.pictures.split import Split, near_duplicate_groups, split
from muflow_cli.pictures.store import Store, build_store, has_store, open_store
from muflow_cli.records import Unreadable
from muflow_cli.rules import pictures_needed as rule_needs
from muflow_cli.specs import DetectorSpec, InputSpec, Precision, TargetKind
from muflow_cli.watch import Clock, Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class FitRequest:
    """What `fit` is asked.

    Attributes:
        reals: files, folders, globs, archives of real face pictures.
        output: the bundle to write.
        spec: the detector to fit.
        weights: local encoder weights; None = torchvision's download.
        inputs: which files are read.
        device: auto, cpu, cuda or cuda:N.
        precision: of the convolutions.
        workers: decoding threads.
        resume: go on after a run that was killed.
        force: replace an existing output.
    """

    reals: tuple[str, ...]
    output: Path
    spec: DetectorSpec
    weights: Path | None = None
    inputs: InputSpec = field(default_factory=InputSpec)
    device: str = "auto"
    precision: Precision = Precision.AUTO
    workers: int = 2
    resume: bool = False
    force: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSummary:
    """What `fit` did. NLLs in nats per dimension, times in seconds."""

    output: str
    used: int
    skipped: dict[str, int]
    train: int
    validation: int
    calibration: int
    near_duplicates: int
    provenance: Provenance
    scales: tuple[str, ...]
    regularisation_raised: tuple[str, ...]
    seconds: dict[str, float]
    fingerprint: str
    calibration_fingerprint: str


def fit(request: FitRequest, watch: Watch) -> FitSummary:
    """Fit a detector to real faces and write its bundle; nothing here ever sees a synthetic picture.

    Raises:
        MuflowError: one sentence; the work folder stays only where `--resume` can use it.
    """
    clock = Clock(watch)
    check_writable(request.output, force=request.force or request.resume)
    chosen_cuts(request.spec.feature.encoder, request.spec.feature.cuts)
    weights = find_weights(request.spec.feature.encoder, request.weights)
    placement = place(request.device, request.precision)
    key = _key(request, weights, placement)
    work = open_work(request.output, key, resume=request.resume, force=request.force)
    try:
        summary = _Fit(request, placement, weights, work, clock).run()
    except KeyboardInterrupt:
        clock.note(f"what was done is kept in {work.folder}: go on with --resume")
        raise
    except BaseException:
        work.remove()
        raise
    work.remove()
    return summary


def _key(request: FitRequest, weights: Weights, placement: Placement) -> dict[str, object]:
    """What must be equal for a resumed run to end in the same bundle."""
    return {
        "reals": [Path(name).absolute().as_posix() for name in request.reals],
        "spec": to_json(request.spec),
        "inputs": to_json(request.inputs),
        "weights": weights.sha256,
        "placement": [str(placement.device), placement.precision.value],
        "versions": versions(),
    }


def pictures_needed(spec: DetectorSpec) -> tuple[int, str]:
    """Fewest distinct pictures that `spec` can be fitted to, and why."""
    train, rule = spec.train, spec.rule
    for_rule = rule_needs(rule)
    needs = {
        f"{train.calibration_share:.0%} of them calibrate, and {rule.method} at alpha {rule.alpha:g} "
        f"needs {for_rule}": math.ceil(for_rule / train.calibration_share),
        "training, validation and calibration each need some": 10,
    }
    if spec.target.kind is TargetKind.MU:
        share = 1 - train.validation_share - train.calibration_share
        why = f"{share:.0%} of them train, and an average is over {spec.target.mean_size}"
        needs[why] = math.ceil(spec.target.mean_size / share)
    why = max(needs, key=lambda reason: needs[reason])
    return needs[why], why


class _Fit:
    """One run: the parts that its stages share."""

    def __init__(self, request: FitRequest, placement: Placement, weights: Weights, work: Work, clock: Clock) -> None:
        self.request, self.spec = request, request.spec
        self.weights, self.work, self.clock = weights, work, clock
        self.placement = placement
        self.extractor = Extractor(self.spec.feature, weights.tensors, placement)

    def run(self) -> FitSummary:
        """All stages, in order."""
        store = self.read()
        parts, groups = self.deal(store)
        train_places, validation_places = store.places(parts.train), store.places(parts.validation)
        pooled = encode(self.extractor, store.views, train_places + validation_places, self.work, self.clock)
        cut = len(train_places)
        self.clock.stage("statistics", len(pooled))
        spaces = [fit_space(chunks(map_[:cut]), self.spec.feature) for map_ in pooled]
        features = [
            project(map_, space, self.spec.feature, self.work.file(f"vectors.{i}"))
            for i, (map_, space) in enumerate(zip(pooled, spaces, strict=True))
        ]
        targets = self.targets(store, parts, spaces)
        trained = self.train([f[:cut] for f in features], [f[cut:] for f in features], targets)
        detector = self.calibrated(self.assemble(store, parts, spaces, targets, trained), store, parts)
        self.clock.stage("write", None)
        save(detector, self.request.output, force=self.request.force or self.request.resume)
        return self.summary(detector, store, parts, targets, near=len(groups) - len(set(groups)))

    def read(self) -> Store:
        """Every usable real, read once; the disk that the fit takes is stated before anything is written."""
        self.clock.stage("read", None)
        if self.request.resume and has_store(self.work.folder):
            return open_store(self.work.folder)
        inputs, view = self.request.inputs, self.spec.view
        spec = LoadSpec(
            view=view, inputs=inputs, workers=self.request.workers, ahead=64, crops_seed=self.spec.train.seed
        )

        found = list(find(self.request.reals, inputs))
        self.find_room(sum(not isinstance(one, Unreadable) for one in found))

        def counted() -> Iterator[Loaded | Unreadable]:
            for item in load(found, spec):
                self.clock.advance()
                yield item

        return build_store(counted(), self.work.folder, view.size)

    def find_room(self, files: int) -> None:
        """Tell what the work folder will take, if there is anything to read; CannotWrite where the disk has less."""
        if not files:
            return
        needed, free = work_bytes(self.spec, files), shutil.disk_usage(self.work.folder).free
        takes = f"{files} files take up to {math.ceil(needed / 2**20)} MiB of disk while they are fitted to"
        if needed > free:
            raise CannotWrite(str(self.work.folder), f"{takes}, {free / 2**20:.0f} MiB are free")
        self.clock.note(f"{takes}; {free / 2**20:.0f} MiB are free")

    def deal(self, store: Store) -> tuple[Split, list[int]]:
        """The split, refused where it would be too small."""
        self.clock.stage("split", None)
        if not store.kept:
            reasons = ", ".join(f"{n} {code}" for code, n in sorted(store.skipped.items()))
            raise NothingToDo(
                f"no usable picture in {', '.join(self.request.reals)} ({reasons or 'nothing found'}): "
                "give files or folders of real face pictures"
            )
        needed, why = pictures_needed(self.spec)
        if len(store.kept) < needed:
            raise TooFewPictures("fit", len(store.kept), needed, why)
        groups = near_duplicate_groups([entry.near_hash for entry in store.kept])
        parts = split([entry.facts.sha256 for entry in store.kept], groups, self.spec.train)
        return parts, groups.tolist()

    def targets(self, store: Store, parts: Split, spaces: Sequence[Space]) -> Targets:
        """What the flow maps reals onto."""
        if self.spec.target.kind is TargetKind.NORMAL:
            return normal_targets(spaces)
        first = [store.kept[i].first for i in parts.train]
        averaging = Averaging(views=store.views, places=first, target=self.spec.target, seed=self.spec.train.seed)
        return mu_targets(averaging, self.extractor, spaces, self.clock)

    def train(self, features: list[Tensor], held_out: list[Tensor], targets: Targets) -> Trained:
        """The flow, from the last checkpoint where there is one."""
        self.clock.stage("train", self.spec.train.epochs)

        def on_epoch(_progress: Progress) -> None:
            self.clock.advance()

        hooks = TrainHooks(on_epoch=on_epoch, save=self.work.save_checkpoint, resume=self.work.load_checkpoint())
        device = self.placement.device
        mixtures = [mixture.to(device) for mixture in targets.mixtures]
        trained = train(features, held_out, mixtures, self.spec.flow, self.spec.train, hooks=hooks)
        return replace(trained, flows=[flow.to(torch.device("cpu")) for flow in trained.flows])

    def assemble(
        self, store: Store, parts: Split, spaces: Sequence[Space], targets: Targets, trained: Trained
    ) -> Detector:
        """The detector before its calibration."""
        used = sorted(store.kept[i].facts.sha256 for i in (*parts.train, *parts.validation))
        hashes = np.frombuffer(bytes.fromhex("".join(used)), dtype=np.uint8).reshape(-1, 32)
        model = Model(
            feature=self.spec.feature,
            score_kind=self.spec.target.score_kind,
            weights=self.extractor.weights,
            spaces=spaces,
            flows=trained.flows,
            targets=targets.mixtures,
        )
        provenance = Provenance(
            created=utc_now(),
            versions=versions(),
            device=str(self.placement.device),
            precision=self.placement.precision.value,
            weights_origin=self.weights.origin,
            weights_sha256=self.weights.sha256,
            train=len(parts.train),
            validation=len(parts.validation),
            train_digest=source_digest(used),
            overlap=targets.overlap.shared,
            effective_sample_size=targets.overlap.effective_sample_size,
            components=tuple(fit.components for fit in targets.fits),
            reg_covar=tuple(fit.reg_covar for fit in targets.fits),
            epochs=trained.epochs,
            best_epoch=trained.best_epoch,
            train_nll=trained.train_nll,
            validation_nll=trained.validation_nll,
        )
        return Detector(spec=self.spec, model=model, provenance=provenance, fitted_on=hashes.copy())

    def calibrated(self, detector: Detector, store: Store, parts: Split) -> Detector:
        """The same detector with the scores of the reals that it never saw."""
        self.clock.stage("calibrate", len(parts.calibration))
        scorer = detector.scorer(self.placement)
        step = self.placement.batch_size
        batches = (parts.calibration[start : start + step] for start in range(0, len(parts.calibration), step))
        scores = []
        for indices, found in pipelined(batches, lambda indices: scorer.submit([store.of(i) for i in indices])):
            scores.append(found)
            self.clock.advance(len(indices))
        calibration = Calibration(
            scores=np.concatenate(scores),
            facts=tuple(store.kept[i].facts for i in parts.calibration),
            rule=self.spec.rule,
            created=utc_now(),
        )
        return replace(detector, calibration=calibration)

    def summary(self, detector: Detector, store: Store, parts: Split, targets: Targets, *, near: int) -> FitSummary:
        """What to tell."""
        self.clock.close()
        calibration = detector.calibration
        return FitSummary(
            output=str(self.request.output),
            used=len(store.kept),
            skipped=store.skipped,
            train=len(parts.train),
            validation=len(parts.validation),
            calibration=len(parts.calibration),
            near_duplicates=near,
            provenance=detector.provenance,
            scales=detector.scales,
            regularisation_raised=tuple(
                scale for scale, fit in zip(detector.scales, targets.fits, strict=True) if fit.raised
            ),
            seconds=dict(self.clock.seconds),
            fingerprint=detector.fingerprint,
            calibration_fingerprint=calibration.fingerprint() if calibration else "",
        )
