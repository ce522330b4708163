"""`muflow info`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from muflow_cli.cli import options
from muflow_cli.cli.description import description_rows, features_text, selection_rows
from muflow_cli.cli.startup import quick_start
from muflow_cli.output.inert import inert
from muflow_cli.specs import View

if TYPE_CHECKING:
    from muflow_cli.calibration.coverage import Description
    from muflow_cli.detector import BundleFile, Detector
    from muflow_cli.specs import FeatureSpec

_SEEN: Final = {View.RESIZE: "the whole image", View.FACE: "the aligned face"}


def info_command(
    detector: options.DetectorArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a detector contains: branches, columns, provenance, fingerprints and calibration.

    **Example**

    ```sh
    muflow info faces.safetensors --json
    ```
    """
    with quick_start():
        from muflow_cli.bundle import load

        loaded = load(detector)
        from muflow_cli.calibration.judge import Judge
    features, computed = loaded.calibration.features, loaded.calibration.computed
    description, file = Judge(loaded.calibration).describe(), loaded.file
    assert file is not None  # noqa: S101 - it was loaded
    if as_json:
        from muflow_cli.canonical import to_json

        document = {
            "schema": "muflow.info/1",
            "format": file.format,
            "file_sha256": file.sha256,
            "provenance_covered": file.provenance_covered,
            "fingerprint": loaded.fingerprint,
            "calibration_fingerprint": loaded.calibration.fingerprint(),
            "columns": list(loaded.columns),
            "bytes": _bytes(loaded),
            "spec": to_json(loaded.spec),
            "provenance": to_json(loaded.provenance),
            "calibration": to_json(description),
            "calibrated_on": loaded.calibration.calibrated_on.value,
            "features": None if features is None else to_json(features.info),
            "computed": None if computed is None else to_json(computed.by),
        }
        typer.echo(json.dumps(document, indent=2))
        return
    for name, text in _rows(detector, loaded, file, description):
        typer.echo(f"{name:14} {inert(text)}")


def _bytes(detector: Detector) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in detector.tensors().values())


def _modelled(feature: FeatureSpec) -> str:
    """The numbers of each layer that a branch models."""
    what = {"mean": "mean", "std": "deviation", "both": "mean and deviation"}[feature.statistics]
    where = f"in {feature.grid} x {feature.grid} cells" if feature.grid else "at each position"
    where += " together" if feature.joint else ""
    size = f"projected to at most {feature.dimensions} dimensions" if feature.dimensions else "not projected"
    return f"{what} of each channel {where}, {size}"


def _rows(path: Path, detector: Detector, file: BundleFile, description: Description) -> Iterator[tuple[str, str]]:
    origin, spec = detector.provenance, detector.spec
    yield "bundle", f"{path}, format {file.format}, {_bytes(detector) / 1024:.0f} KiB of tensors"
    yield "  SHA-256", f"{file.sha256} (of the file)"
    if not file.provenance_covered:
        yield (
            "  note",
            "where this detector comes from (fitted, images, versions, weights, epochs) is covered by no digest inside "
            "a bundle of format 1; `muflow calibrate DETECTOR -o NEW` writes it in format 2",
        )
    yield "fitted", f"{origin.created} on {origin.device} in {origin.precision}, preset {spec.preset}"
    yield "images", f"{origin.train} train, {origin.validation} validation, SHA-256 of the set {origin.train_digest}"
    if origin.adaptation is not None:
        named = origin.adaptation
        yield "adapted", f"{named.created} to {named.images} real images, SHA-256 of the set {named.digest}"
    yield "versions", ", ".join(f"{name} {number}" for name, number in origin.versions.items())
    if spec.container is not None:
        what = "image" if spec.faces is None else "square of a face"
        yield "container", f"{spec.container}, which every {what} goes through first"
    if spec.faces is not None:
        yield "faces", f"each by itself, found by {spec.faces.detector}, from {spec.faces.min_side} px on"
    yield from _branch_rows(detector)
    yield "fingerprint", detector.fingerprint
    yield "calibration", detector.calibration.fingerprint()
    yield (
        "  created",
        f"{description.created}, n = {description.images}, SHA-256 of the set {description.source_digest}",
    )
    clips = detector.calibration.clips
    if clips is not None:
        which = f"one frame every {clips.every:g} s" if clips.every else f"{clips.frames} frames"
        yield "  on videos", f"n counts videos, of which {which} are looked at; their columns are means and quantiles"
    for name, text in description_rows(description):
        yield f"  {name}", text
    features = detector.calibration.features
    yield "  features", features_text(None if features is None else features.info)
    if detector.calibration.computed is not None:
        yield "  computed", f"in {detector.calibration.computed.by}"


def _branch_rows(detector: Detector) -> Iterator[tuple[str, str]]:
    origin, spec = detector.provenance, detector.spec
    for branch in spec.branches:
        view, made = branch.view, origin.branches[branch.name]
        columns = [column for column in detector.columns if column.startswith(f"{branch.name}/")]
        count = f"{view.count} native crops" if view.kind == "crops" else _SEEN[view.kind]
        yield "branch", f"{branch.name}, encoder {branch.feature.encoder}, {count} at {view.size} px"
        yield "  columns", ", ".join(columns)
        yield "  modelled", _modelled(branch.feature)
        yield "  weights", f"{made.weights_origin}, SHA-256 {made.weights_sha256}"
        images = branch.target.images_per_average
        averages = "single images" if images == 1 else f"{branch.target.n_averages} averages of {images} images"
        yield (
            "  target",
            f"{branch.target.kind}, {averages}, "
            f"components {', '.join(map(str, made.components))}; score {branch.target.score_kind}",
        )
        yield (
            "  flow",
            f"{branch.flow.steps} steps, {made.epochs} epochs, best {made.best_epoch}; NLL per dimension: train "
            f"{made.train_nll:.4f}, validation {made.validation_nll:.4f}",
        )
        if made.stopped:
            yield "  training", made.stopped
        yield from selection_rows(made.selected)
