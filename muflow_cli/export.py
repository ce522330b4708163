"""Detector -> a file for other programs: an ONNX model or an OpenVINO model (.xml with its .bin beside it).

The model takes views, not files: decoding, faces, the container, crops and verdicts stay with muflow. What was written
is computed once and compared with torch before it gets its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from muflow_cli import __version__
from muflow_cli.canonical import to_json
from muflow_cli.claims import claimed
from muflow_cli.detector import Detector
from muflow_cli.engine.backends import RUNTIMES, imported
from muflow_cli.engine.graphs import Columns, exportable, require_exporter, to_onnx
from muflow_cli.engine.probes import probe_images
from muflow_cli.errors import BadSpec, CannotExport
from muflow_cli.files import temporary_folder, write_whole
from muflow_cli.run_specs import Backend

# Largest difference of a column from torch in float32, in nats per dimension, relative to scores above 1.
TOLERANCE: Final = 1e-4
_PREFIX: Final = "muflow."


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        files: the model first.
        inputs: name of each input -> its shape; B is any number of views.
        outputs: name of each output -> its columns.
        deviation: largest difference of a column from torch on the probe images, nats per dimension.
    """

    files: tuple[str, ...]
    inputs: dict[str, str]
    outputs: dict[str, tuple[str, ...]]
    deviation: float


def export(detector: Detector, output: Path, *, force: bool = False) -> Exported:
    """Write `detector` as a model that other programs compute, in the format that the suffix of `output` names.

    Args:
        detector: to export, in float32.
        output: a name that ends in .onnx or .xml; beside FILE.xml, FILE.bin holds the weights.
        force: replace existing files.

    Raises:
        BadSpec: for another suffix.
        MissingExtra: where what the format needs is not installed.
        CannotExport: where torch cannot express the detector, or the model gives other scores.
        OutputExists, CannotWrite: as `files.write_whole`.
    """
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        raise BadSpec("-o", output, f"a name that ends in {' or '.join(FORMATS)}")
    backend, write = FORMATS[suffix]
    extra = "onnx" if backend is Backend.ONNXRUNTIME else "openvino"
    purpose = f"muflow export -o {output.name}"
    require_exporter(purpose, extra)
    imported(purpose, backend)
    files = (output,) if suffix == ".onnx" else (output, output.with_suffix(".bin"))
    with claimed(files, force=force):
        graph, deviation = _graph(detector, backend)
        write(graph, output)
    sides = {f"views.{name}": view.size for name, view in detector.views.items()}
    return Exported(
        files=tuple(map(str, files)),
        inputs={name: f"uint8 (B, {side}, {side}, 3)" for name, side in sides.items()},
        outputs={f"columns.{name}": branch.columns for name, branch in detector.branches.items()},
        deviation=deviation,
    )


def metadata(detector: Detector) -> dict[str, str]:
    """What the model says of itself: whose it is, how images become its views, and what its outputs are."""
    return {
        f"{_PREFIX}version": __version__,
        f"{_PREFIX}fingerprint": detector.fingerprint,
        f"{_PREFIX}calibration_fingerprint": detector.calibration.fingerprint(),
        f"{_PREFIX}views": json.dumps({name: to_json(view) for name, view in detector.views.items()}),
        f"{_PREFIX}columns": json.dumps({name: branch.columns for name, branch in detector.branches.items()}),
        f"{_PREFIX}container": json.dumps(None if detector.spec.container is None else str(detector.spec.container)),
        f"{_PREFIX}faces": json.dumps(None if detector.spec.faces is None else to_json(detector.spec.faces)),
    }


def _graph(detector: Detector, backend: Backend) -> tuple[bytes, float]:
    """The ONNX model, and its largest difference from torch in the library that will read it."""
    names, branches = list(detector.branches), [exportable(branch) for branch in detector.branches.values()]
    module = Columns(branches)
    sizes = {f"views.{name}": detector.views[name].size for name in names}
    graph = to_onnx(module, sizes, [f"columns.{name}" for name in names], metadata(detector))
    probes = [probe_images(side) for side in sizes.values()]
    with torch.inference_mode():
        expected = [columns.numpy() for columns in module(*map(torch.from_numpy, probes))]
    given = RUNTIMES[backend](graph, 1)(probes)
    deviation, allowed = 0.0, True
    for own, other in zip(expected, given, strict=True):
        gaps = np.abs(own - other)
        deviation = max(deviation, float(gaps.max()))
        allowed &= bool((gaps <= TOLERANCE * np.maximum(1, np.abs(own))).all())
    if not allowed:
        raise CannotExport(f"its scores in {backend} differ from those of torch by up to {deviation:.2g}")
    return graph, deviation


def _write_onnx(graph: bytes, output: Path) -> None:
    write_whole(output, graph)


def _write_openvino(graph: bytes, output: Path) -> None:
    """The same model in OpenVINO's own format; the weights come first, since a reader begins with the .xml."""
    runtime = imported("", Backend.OPENVINO)
    model = runtime.Core().read_model(graph)
    with temporary_folder("muflow-export-") as folder:
        runtime.save_model(model, folder / "model.xml", compress_to_fp16=False)
        write_whole(output.with_suffix(".bin"), (folder / "model.bin").read_bytes())
        write_whole(output, (folder / "model.xml").read_bytes())


FORMATS: Final[Mapping[str, tuple[Backend, Callable[[bytes, Path], None]]]] = {
    ".onnx": (Backend.ONNXRUNTIME, _write_onnx),
    ".xml": (Backend.OPENVINO, _write_openvino),
}
