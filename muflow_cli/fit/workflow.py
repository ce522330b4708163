"""The workflow of `fit`: inputs -> split -> each branch fitted -> calibration -> bundle."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muflow_cli.agreement import computed
from muflow_cli.bundle import save
from muflow_cli.calibration.calibration import Calibration, source_digest
from muflow_cli.calibration.features import Features
from muflow_cli.calibration.rules import rule_class
from muflow_cli.canonical import to_json
from muflow_cli.claims import InputGuard, claimed
from muflow_cli.cluster import Cluster, open_cluster
from muflow_cli.detector import Detector, Provenance, columns_of
from muflow_cli.engine.branch import Branch, Encoder
from muflow_cli.engine.devices import Placement, place
from muflow_cli.engine.encoder_row import Library
from muflow_cli.engine.encoders import encoder_row, layers_of
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.scoring import Extras, ScoredUnit, Scorer, score_stream
from muflow_cli.engine.weights import Weights, find_weights
from muflow_cli.environment import utc_now, versions
from muflow_cli.errors import BadData, BadSpec, CannotWrite, IncompatibleOptions, NothingToDo
from muflow_cli.files import write_whole
from muflow_cli.fit.branch import BranchFit, FittedBranch, branch_history, fit_branch
from muflow_cli.fit.elsewhere import ClusterEncoding
from muflow_cli.fit.features import work_bytes
from muflow_cli.fit.outlook import planned
from muflow_cli.fit.records import FitRequest, FitSummary
from muflow_cli.fit.sources import Fold, rounds_of, short_names, sources_of
from muflow_cli.fit.split import Split, deal, require_images, with_clips_whole
from muflow_cli.fit.store import Store, StoredImage, build_store, has_store, open_store
from muflow_cli.fit.work import Work, open_work
from muflow_cli.images.clips import LoadedClip, is_clip
from muflow_cli.images.find import check_present, find, find_each
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, LoadSpec, load, load_with_clips
from muflow_cli.images.near import near_duplicate_groups, packed
from muflow_cli.images.prepare import face_search
from muflow_cli.output.history import HISTORY_WRITERS, History, history_suffix
from muflow_cli.progress import NoProgress, ProgressListener, StageTimer
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import MOST_FRAMES, Backend, InputSpec
from muflow_cli.skipped import SkipCount, nothing_found
from muflow_cli.specs import DetectorSpec, View

_AHEAD = 64


def fit(request: FitRequest, progress: ProgressListener | None = None) -> FitSummary:
    """Fit a detector to real faces and write its bundle; nothing here ever sees a synthetic image.

    Raises:
        MuflowError: one sentence; the work folder stays only where `resume` can use it.
    """
    if request.runtime.backend is not Backend.TORCH:
        raise BadSpec("backend", request.runtime.backend, "torch, which alone fits a detector")
    timer = StageTimer(progress or NoProgress())
    skipped = SkipCount()
    replaced = request.force or request.resume
    outputs = [request.output, *request.reports]
    with claimed(outputs, force=replaced, inputs=[*request.reals, *request.weights.values()]):
        _check_views(request)
        writers = {path: HISTORY_WRITERS[history_suffix(path)] for path in request.reports}
        rule_class(request.spec.rule.method).check(request.spec.rule)
        # Looked at before weights are downloaded or anything is loaded.
        found = _found(request, skipped)
        weights = _weights(request)
        placement = place(request.runtime)
        # What must be equal for a resumed run to end in the same bundle.
        key = {
            "reals": [Path(name).absolute().as_posix() for name in request.reals],
            "spec": to_json(request.spec),
            "inputs": to_json(request.inputs),
            "allow_declared": request.allow_declared,
            "weights": {name: weight.sha256 for name, weight in weights.items()},
            "placement": [str(placement.device), placement.precision.value],
            "versions": _versions(request.spec),
            "store": "with sources and clips",
        }
        with (
            open_work(request.output, key, resume=request.resume, force=request.force) as work,
            nullcontext() if request.cluster is None else open_cluster(request.cluster) as cluster,
        ):
            try:
                summary, history = _Fit(request, placement, weights, work, timer, found, cluster).run()
                for path, write in writers.items():
                    write_whole(path, write(history), force=replaced)
                return replace(summary, skipped_files=skipped.rows)
            except KeyboardInterrupt:
                timer.note(f"the finished work is kept in {work.folder}; continue with --resume")
                raise


def _found(request: FitRequest, skip: SkipCount) -> list[tuple[str, Input | Unreadable]]:
    """The inputs with the arguments that led to them; those of a fit that begins are refused if they are too few.

    Raises:
        NoSuchInput: for an argument that names nothing.
        NothingToDo: without any input.
        TooFewImages: where even so many different images would be too few.
    """
    if not request.resume:
        check_present(request.reals, request.inputs)
    # The video of a motion photo shows what its still shows, and would not stay on one side of the split with it.
    found = list(find_each(request.reals, replace(request.inputs, embedded_video=False), skip))
    files = sum(_images_of(item, request.inputs) for _, item in found)
    if not found and not request.resume:
        remedy = "give files or folders of real face images"
        raise nothing_found(f"no image in {', '.join(request.reals)}", skip.rows, remedy)
    if files and not request.resume:
        require_images(request.spec, files)
    return found


def _images_of(item: Input | Unreadable, inputs: InputSpec) -> int:
    """How many images an input gives at most."""
    if isinstance(item, Unreadable) or inputs.clips is None or not is_clip(item.path, inputs):
        return int(isinstance(item, Input))
    return MOST_FRAMES if inputs.clips.every else inputs.clips.frames


def _check_views(request: FitRequest) -> None:
    """Refuse clips for branches that read the calibration's images again, which the frames of a clip are not."""
    crops = [branch.name for branch in request.spec.branches if branch.view.kind is View.CROPS]
    if crops and request.inputs.clips is not None:
        why = f"the branch {crops[0]} cuts native crops, which are drawn from images alone"
        raise IncompatibleOptions("--frames", "view.kind=crops", why)


def _weights(request: FitRequest) -> dict[str, Weights]:
    """Encoder weights of every branch; unknown names and layers are refused here, early."""
    branches = {branch.name: branch for branch in request.spec.branches}
    for name in request.weights:
        if name not in branches:
            raise BadSpec("--encoder-weights", f"{name}=...", "the name of a branch, " + " or ".join(branches))
    for branch in branches.values():
        layers_of(branch.feature, branch.view.size)
    return {name: find_weights(branch.feature.encoder, request.weights.get(name)) for name, branch in branches.items()}


def _versions(spec: DetectorSpec) -> dict[str, str]:
    """Versions of the libraries that compute, with timm's where an encoder is its own."""
    of_timm = any(encoder_row(branch.feature.encoder).library is Library.TIMM for branch in spec.branches)
    return versions() | ({"timm": version("timm")} if of_timm else {})


def _spread(detector: Detector) -> dict[str, float]:
    """Branch -> standard deviation of its mean scores over the calibration reals, nats per dimension."""
    scores, columns = detector.calibration.scores, detector.columns
    own = {name: [column.startswith(f"{name}/") for column in columns] for name in detector.branches}
    return {name: float(scores[:, chosen].mean(axis=1).std()) for name, chosen in own.items()}


class _Fit:
    """One run: the parts that its stages share."""

    def __init__(
        self,
        request: FitRequest,
        placement: Placement,
        weights: Mapping[str, Weights],
        work: Work,
        timer: StageTimer,
        found: Sequence[tuple[str, Input | Unreadable]],
        cluster: Cluster | None,
    ) -> None:
        self.request, self.spec, self.placement = request, request.spec, placement
        self.weights, self.work, self.timer, self.found, self.cluster = weights, work, timer, found, cluster

    def run(self) -> tuple[FitSummary, History]:
        """All stages, in order."""
        store = self.read()
        parts, groups = self.deal(store)
        names = short_names({entry.source for entry in store.entries})
        left_out = rounds_of(
            [names[entry.source] for entry in store.entries],
            groups,
            [entry.facts.sha256 for entry in store.entries],
            [*parts.train, *parts.validation],
            self.spec.train,
        )
        self.timer.plan(lambda: planned(self.spec, store, parts, len(left_out), self.placement))
        fitted = {branch.name: self.branch(branch.name, store, parts, left_out) for branch in self.spec.branches}
        detector = self.detector(store, parts, fitted)
        self.timer.stage("write", None)
        save(detector, self.request.output, force=self.request.force or self.request.resume)
        self.timer.close()
        summary = FitSummary(
            output=str(self.request.output),
            used=len(store.entries),
            skipped=store.skipped,
            declared_synthetic=store.declared_synthetic,
            train=len(parts.train),
            validation=len(parts.validation),
            calibration=len(parts.calibration),
            near_duplicates=len(groups) - len(set(groups.tolist())),
            provenance=detector.provenance,
            columns=detector.columns,
            regularisation_raised=tuple(column for branch in fitted.values() for column in branch.raised),
            seconds=dict(self.timer.seconds),
            fingerprint=detector.fingerprint,
            calibration_fingerprint=detector.calibration.fingerprint(),
            rule=self.spec.rule.method,
            alpha=self.spec.rule.alpha,
            true_rate=rule_class(self.spec.rule.method).rate_bounds(self.spec.rule, len(detector.calibration)),
            spread=_spread(detector),
        )
        return summary, self.history(fitted)

    def history(self, fitted: Mapping[str, FittedBranch]) -> History:
        """Every epoch of every branch."""
        return History(
            title=self.request.output.name,
            reasons={name: branch.provenance.stopped for name, branch in fitted.items()},
            epochs=[epoch for name, branch in fitted.items() for epoch in branch_history(name, branch)],
        )

    def read(self) -> Store:
        """Every usable real, read once; the disk space that the fit needs is stated before anything is written."""
        self.timer.stage("read", None)
        if self.request.resume and has_store(self.work.folder):
            return open_store(self.work.folder)
        inputs = [item for _, item in self.found]
        guard = InputGuard([self.request.output, *self.request.reports])
        for item in inputs:
            guard.check(item.path)
        self.check_room(sum(_images_of(item, self.request.inputs) for item in inputs))

        def counted() -> Iterator[Loaded | LoadedClip | Unreadable]:
            for item in load_with_clips(inputs, self.load_spec(crops_seed=self.spec.train.seed)):
                self.timer.advance()
                yield item

        sizes = {branch.name: branch.view.size for branch in self.spec.branches}
        return build_store(
            counted(),
            self.work.folder,
            sizes,
            allow_declared=self.request.allow_declared,
            sources=sources_of(self.found, self.request.reals),
        )

    def load_spec(self, *, crops_seed: int | None) -> LoadSpec:
        """How images become views; with `crops_seed` as in training, otherwise as in a scan."""
        return LoadSpec(
            views={branch.name: branch.view for branch in self.spec.branches},
            inputs=self.request.inputs,
            workers=self.request.runtime.threads,
            ahead=_AHEAD,
            crops_seed=crops_seed,
            container=self.spec.container,
            faces=face_search(self.spec.faces, self.request.inputs),
            processes=self.request.runtime.decodes_in_processes,
        )

    def check_room(self, files: int) -> None:
        """State the size of the work folder, if there is anything to read; CannotWrite if the disk has less space."""
        if not files:
            return
        needed, free = work_bytes(self.spec, files), shutil.disk_usage(self.work.folder).free
        takes = f"fitting to {files} images takes up to {math.ceil(needed / 2**20)} MiB of disk"
        if needed > free:
            raise CannotWrite(str(self.work.folder), f"{takes}, but only {free / 2**20:.0f} MiB are free")
        self.timer.note(f"{takes}; {free / 2**20:.0f} MiB are free")

    def deal(self, store: Store) -> tuple[Split, NDArray[np.int64]]:
        """The split and the group of each image, near copies together; refused if there are too few images."""
        self.timer.stage("split", None)
        if not store.entries:
            reasons = ", ".join(f"{n} {code}" for code, n in sorted(store.skipped.items()))
            raise NothingToDo(
                f"no usable image in {', '.join(self.request.reals)} ({reasons or 'no file'})",
                "give files or folders of real face images",
            )
        near = near_duplicate_groups([entry.near_hash for entry in store.entries])
        groups = with_clips_whole(near, [entry.clip for entry in store.entries])
        parts = deal([entry.facts.sha256 for entry in store.entries], groups, self.spec)
        return parts, groups

    def branch(self, name: str, store: Store, parts: Split, left_out: tuple[Fold, ...]) -> FittedBranch:
        """Fit one branch."""
        spec, weights = next(branch for branch in self.spec.branches if branch.name == name), self.weights[name]
        elsewhere = None
        if self.cluster is not None:
            elsewhere = ClusterEncoding(self.cluster, spec.feature, weights.tensors, self.placement).maps
        fit = BranchFit(
            spec=spec,
            train=self.spec.train,
            encoder=PlacedEncoder(Encoder.load(spec.feature, weights.tensors), self.placement),
            weights_origin=weights.origin,
            weights_sha256=weights.sha256,
            folds=left_out,
            work=self.work.branch(name, labelled=len(self.spec.branches) > 1),
            progress=self.timer,
            elsewhere=elsewhere,
        )
        return fit_branch(fit, store, parts)

    def detector(self, store: Store, parts: Split, fitted: Mapping[str, FittedBranch]) -> Detector:
        """The detector of all branches, calibrated on the reals that none of them saw."""
        branches = {name: part.branch for name, part in fitted.items()}
        seen = sorted(
            (store.entries[i].facts.sha256, store.entries[i].near_hash) for i in (*parts.train, *parts.validation)
        )
        used = [sha256 for sha256, _ in seen]
        hashes = np.frombuffer(bytes.fromhex("".join(used)), dtype=np.uint8).reshape(-1, 32)
        provenance = Provenance(
            created=utc_now(),
            versions=_versions(self.spec),
            device=str(self.placement.device),
            precision=self.placement.precision.value,
            train=len(parts.train),
            validation=len(parts.validation),
            train_digest=source_digest(used),
            branches={name: part.provenance for name, part in fitted.items()},
        )
        return Detector(
            spec=replace(self.spec, branches=tuple(branch.spec for branch in branches.values())),
            branches=branches,
            provenance=provenance,
            fitted_on=hashes.copy(),
            fitted_near=packed([near for _, near in seen]),
            calibration=self.calibration(store, parts, branches),
        )

    def held_out(self, store: Store, parts: Split) -> Iterator[StoredImage | Loaded]:
        """The images that calibrate, with the views of a scan; read again where those of training are others.

        Raises:
            BadData: where one of them cannot be read any more, or holds other bytes.
        """
        if all(branch.view.kind is not View.CROPS for branch in self.spec.branches):
            yield from (store.image(index) for index in parts.calibration)
            return
        at = {item.path: item for item in find(self.request.reals, self.request.inputs)}
        entries = [store.entries[index] for index in parts.calibration]
        inputs = [at.get(entry.path) or Unreadable(path=entry.path, code="missing", message="") for entry in entries]
        for entry, item in zip(entries, load(inputs, self.load_spec(crops_seed=None)), strict=True):
            if not isinstance(item, Loaded) or item.facts.sha256 != entry.facts.sha256:
                raise BadData(f"{entry.path} changed while the detector was fitted", "start again with --force")
            yield item

    def calibration(self, store: Store, parts: Split, branches: Mapping[str, Branch]) -> Calibration:
        """Scores and features of the reals that no branch saw."""
        self.timer.stage("calibrate", len(parts.calibration))
        rows, facts, features = [], [], []
        held_out, scorer = self.held_out(store, parts), Scorer(branches, self.placement)
        for scored in score_stream(held_out, scorer, Extras(features=True)):
            if isinstance(scored, ScoredUnit):
                rows.append(scored.columns)
                facts.append(scored.unit.facts)
                features.append(scored.features)
            self.timer.advance()
        return Calibration(
            scores=np.stack(rows),
            columns=columns_of(branches),
            facts=tuple(facts),
            near_hashes=packed([store.entries[index].near_hash for index in parts.calibration]),
            features=Features(np.stack(features), *self.placement.computed_by),
            computed=computed(scorer, {name: branch.spec.view for name, branch in branches.items()}),
            rule=self.spec.rule,
            created=utc_now(),
        )
