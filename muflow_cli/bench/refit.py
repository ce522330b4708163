"""A detector's settings fitted again to some of the reals, each image encoded once for all of the fits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.pvalues import Scores
from muflow_cli.detector import Detector
from muflow_cli.engine.branch import Head
from muflow_cli.engine.devices import Placement
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.executor import one_thread
from muflow_cli.engine.inference import heads_for_inference
from muflow_cli.environment import utc_now
from muflow_cli.errors import BadCalibration
from muflow_cli.fit.branch import BranchFit, FittedBranch, fit_branch
from muflow_cli.fit.features import encode
from muflow_cli.fit.sources import rounds_of
from muflow_cli.fit.split import Split
from muflow_cli.fit.store import Store, build_store
from muflow_cli.fit.work import Work
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, LoadSpec, load
from muflow_cli.images.near import near_duplicate_groups, perceptual_hash
from muflow_cli.progress import NoProgress, ProgressListener
from muflow_cli.records import Declared, Facts, Unreadable
from muflow_cli.specs import BranchSpec, View, ViewSpec

# A view beside those of the branches, by which near copies are recognised at any size; no branch has this name.
_WHOLE: Final = "whole image"
_WHOLE_VIEW: Final = ViewSpec(kind=View.RESIZE, size=64)
_CHUNK: Final = 256

# Branch -> its fitted heads, one for each layer.
Heads = Mapping[str, Sequence[Head]]


class Template:
    """A detector whose settings and encoders are taken over, and nothing that was fitted.

    Args:
        detector: the template.
        placement: where to compute.

    Attributes:
        detector: as given.
        placement: as given.
        encoders: branch -> its encoder on the device.
    """

    def __init__(self, detector: Detector, placement: Placement) -> None:
        self.detector, self.placement = detector, placement
        self.encoders = {name: PlacedEncoder(branch.encoder, placement) for name, branch in detector.branches.items()}

    @property
    def sees_crops(self) -> bool:
        """Whether a fit looks at other views of an image than a scan does."""
        return any(branch.view.kind is View.CROPS for branch in self.detector.spec.branches)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Distinct images, and what the encoders of all branches make of their views.

    Attributes:
        store: the images that could be decoded.
        near_hashes: of each whole image, whatever the views of the branches.
        declared: of each image.
        unreadable: records of the others.
        folder: of the store.
        pooled: branch -> per layer (views, C, g, g), memory-mapped; empty until they are encoded.
        at: content hash -> position in the store.
    """

    store: Store
    near_hashes: Sequence[int]
    declared: Sequence[Declared]
    unreadable: Sequence[Unreadable]
    folder: Path
    at: Mapping[str, int]
    pooled: Mapping[str, Sequence[NDArray[np.generic]]] = field(default_factory=dict)

    @property
    def digests(self) -> list[str]:
        """Content hashes of the images."""
        return [entry.facts.sha256 for entry in self.store.entries]

    def encode(self, template: Template, progress: ProgressListener) -> Encoded:
        """The same images, encoded."""
        pooled = {}
        for name, encoder in template.encoders.items():
            work = Work(self.folder).branch(name, labelled=len(template.encoders) > 1)
            rows = self.store.rows(name, range(len(self.store.entries)))
            pooled[name] = encode(encoder, self.store.views[name], rows, work, progress) if rows else []
        return replace(self, pooled=pooled)

    def facts(self, sha256: str) -> Facts:
        """What was read of an image."""
        return self.store.entries[self.at[sha256]].facts


def store_images(
    inputs: Sequence[Input],
    spec: LoadSpec,
    folder: Path,
    progress: ProgressListener,
    check: Callable[[Loaded], None] = lambda _: None,
    sources: Mapping[str, str] | None = None,
) -> Encoded:
    """Read images once.

    Args:
        inputs: where their bytes lie; of identical bytes the first counts.
        spec: how images become views.
        folder: for what is too large for memory; made here.
        progress: told of the stages.
        check: called with every image that could be decoded.
        sources: path of an input -> its source.
    """
    near: dict[str, int] = {}
    declared: dict[str, Declared] = {}
    unreadable: list[Unreadable] = []

    def loaded() -> Iterator[Loaded | Unreadable]:
        for item in load(inputs, replace(spec, views={**spec.views, _WHOLE: _WHOLE_VIEW})):
            progress.advance()
            if isinstance(item, Unreadable):
                unreadable.append(item)
                continue
            check(item)
            near[item.facts.sha256] = perceptual_hash(item.views[_WHOLE][0])
            declared[item.facts.sha256] = item.declared
            yield replace(item, views={name: item.views[name] for name in spec.views})

    folder.mkdir()
    sizes = {name: view.size for name, view in spec.views.items()}
    store = build_store(loaded(), folder, sizes, allow_declared=True, sources=sources)
    digests = [entry.facts.sha256 for entry in store.entries]
    return Encoded(
        store=store,
        near_hashes=[near[sha256] for sha256 in digests],
        declared=[declared[sha256] for sha256 in digests],
        unreadable=unreadable,
        folder=folder,
        at={sha256: position for position, sha256 in enumerate(digests)},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Refitted:
    """A detector of the template's settings, fitted to some of the reals.

    Attributes:
        heads: of every branch.
        placement: of the heads.
        calibration: of the reals that no branch saw.
        judge: of the calibration.
        epochs: branch -> epochs that its flows were trained for.
    """

    heads: Heads
    placement: Placement
    calibration: Calibration
    judge: Judge
    epochs: Mapping[str, int]

    def columns(self, encoded: Encoded, digests: Sequence[str]) -> Scores:
        """(B, S) scores of encoded images, nats per dimension."""
        return _columns(self.heads, self.placement, encoded, [encoded.at[sha256] for sha256 in digests])

    def standard(self, columns: Scores) -> Scores:
        """(B,) distance of each mean score from the median of the calibration's, in median absolute deviations."""
        reals = self.calibration.mean_scores
        centre = np.median(reals)
        deviation = np.median(np.abs(reals - centre))
        return np.asarray((columns.mean(axis=1) - centre) / deviation, np.float64)


def refit(template: Template, reals: Encoded, scanned: Encoded, parts: Split, folder: Path) -> Refitted:
    """Fit every branch of the template, and calibrate.

    Args:
        template: the settings and encoders.
        reals: with the views of a fit.
        scanned: the same reals with the views of a scan, which calibrate.
        parts: positions in `reals`.
        folder: for what is too large for memory; made and removed here.

    Raises:
        MuflowError: where the images do not suffice for the settings, or a likelihood is not finite.
    """
    detector, placement = template.detector, template.placement
    folder.mkdir()
    try:
        fitted = {
            spec.name: _refitted_branch(template, spec, reals, parts, Work(folder)) for spec in detector.spec.branches
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    heads = {name: heads_for_inference(part.branch, placement) for name, part in fitted.items()}
    held_out = [scanned.at[reals.store.entries[index].facts.sha256] for index in parts.calibration]
    calibration = Calibration(
        scores=_columns(heads, placement, scanned, held_out),
        columns=detector.columns,
        facts=tuple(scanned.store.entries[index].facts for index in held_out),
        rule=detector.spec.rule,
        created=utc_now(),
    )
    spread = calibration.mean_scores
    if not np.median(np.abs(spread - np.median(spread))):
        raise BadCalibration("holds scores of which more than half are equal, so that folds cannot be compared")
    return Refitted(
        heads=heads,
        placement=placement,
        calibration=calibration,
        judge=Judge(calibration),
        epochs={name: part.provenance.epochs for name, part in fitted.items()},
    )


def _refitted_branch(template: Template, spec: BranchSpec, reals: Encoded, parts: Split, work: Work) -> FittedBranch:
    origin = template.detector.provenance.branches[spec.name]
    left_out = rounds_of(
        [entry.source for entry in reals.store.entries],
        near_duplicate_groups(reals.near_hashes),
        reals.digests,
        [*parts.train, *parts.validation],
        template.detector.spec.train,
    )
    fit = BranchFit(
        spec=spec,
        train=template.detector.spec.train,
        encoder=template.encoders[spec.name],
        weights_origin=origin.weights_origin,
        weights_sha256=origin.weights_sha256,
        folds=left_out,
        work=work.branch(spec.name, labelled=False),
        progress=NoProgress(),
        pooled=reals.pooled[spec.name],
    )
    return fit_branch(fit, reals.store, parts)


@torch.inference_mode()
def _columns(heads: Heads, placement: Placement, encoded: Encoded, indices: Sequence[int]) -> Scores:
    """(B, S) scores of the images at `indices`: means over the positions and the views of each image."""
    columns = []
    for name, layers in heads.items():
        rows = encoded.store.rows(name, indices)
        views = [encoded.store.entries[index].views[name] for index in indices]
        spans = list(pairwise(accumulate(views, initial=0)))
        for head, pooled in zip(layers, encoded.pooled[name], strict=True):
            by_view = _by_view(head, placement, pooled, rows)
            columns.append([by_view[start:end].mean() for start, end in spans])
    return np.array(columns, dtype=np.float64).T


def _by_view(head: Head, placement: Placement, pooled: NDArray[np.generic], rows: Sequence[int]) -> Scores:
    """(V,) scores of the views at `rows`."""
    parts: list[Tensor] = []
    # On one core, because the last digits of a product depend on how many cores share it.
    with one_thread():
        for start in range(0, len(rows), _CHUNK):
            maps = torch.from_numpy(np.array(pooled[list(rows[start : start + _CHUNK])], dtype=np.float32))
            parts.append(head(maps.to(placement.device)).mean(dim=(1, 2)).double().cpu())
    return torch.cat(parts).numpy()
