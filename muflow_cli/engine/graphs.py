"""Branches as ONNX graphs: uint8 views in, scores out. The exporter is torch's; only its rough edges are smoothed here.

An export takes from ten seconds to a minute, so graphs that a run makes for itself are kept in the user's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from muflow_cli import __version__
from muflow_cli.canonical import to_json
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.devices import Placement
from muflow_cli.engine.inference import for_inference
from muflow_cli.errors import CannotExport, MissingExtra, MuflowError
from muflow_cli.files import write_whole
from muflow_cli.run_specs import Precision
from muflow_cli.tensor_file import hash_tensors

# Packages that torch's exporter imports.
_PACKAGES: Final = ("onnx", "onnxscript")
# Graphs that the cache holds; those not used for the longest time are removed.
_KEPT: Final = 16
# A graph in the cache stands behind its SHA-256.
_SUFFIX: Final = ".graph"
_DIGEST: Final = 32
# More than one image, since an export takes the sizes 0 and 1 for constants.
_IMAGES: Final = 3


class Columns(nn.Module):
    """The columns of several branches, each of its own views: what an exported detector computes.

    Args:
        branches: in the order of the views.
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, *views: Tensor) -> tuple[Tensor, ...]:
        """(B, S) for each branch, nats per dimension, of its views (B, H, W, 3) uint8."""
        return tuple(branch(own)[0] for branch, own in zip(self.branches, views, strict=True))


class Maps(nn.Module):
    """The position scores of a branch, and its channel statistics, which cost next to nothing: what a run needs."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, views: Tensor) -> tuple[Tensor, ...]:
        """One (B, g, g) for each layer, then (B, F), of views (B, H, W, 3) uint8."""
        maps, features = self.branch.maps_and_features(views.permute(0, 3, 1, 2))
        return (*maps, features)


def exportable(branch: Branch) -> Branch:
    """A copy in float32 for a processor, without kernels that only torch has."""
    placement = Placement(torch.device("cpu"), Precision.FP32, 1)
    return for_inference(branch, placement, faster=False).requires_grad_(False)


def require_exporter(purpose: str, extra: str) -> None:
    """MissingExtra where what torch exports with is not installed; `purpose` begins the sentence."""
    if any(importlib.util.find_spec(package) is None for package in _PACKAGES):
        raise MissingExtra(purpose, extra)


def to_onnx(module: nn.Module, sizes: Mapping[str, int], outputs: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """The ONNX model of a module whose arguments are views: (B, H, W, 3) uint8, any B for each of them.

    Args:
        module: in float32 on a processor.
        sizes: name of each argument -> side of its views in pixels.
        outputs: names of the results.
        metadata: of the model.

    Raises:
        CannotExport: where torch cannot express the module in ONNX.
    """
    views = tuple(torch.zeros(_IMAGES, side, side, 3, dtype=torch.uint8) for side in sizes.values())
    batches = tuple({0: torch.export.Dim(f"images_{index}", min=1)} for index in range(len(views)))
    # A module that takes any number of arguments has one argument, a tuple, in the exporter's eyes.
    shapes = (batches,) if isinstance(module, Columns) else batches
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(module.eval(), views, dynamic_shapes=shapes, strict=False)
            exported = cast("Any", torch.onnx).export(
                program, input_names=list(sizes), output_names=list(outputs), dynamo=True, verbose=False
            )
            model = exported.model_proto
        except MuflowError:
            raise
        except Exception as error:  # whatever torch's tracer and its many converters raise
            raise CannotExport(" ".join(str(error).replace(": ", ", ").split())[:200]) from error
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())


def cached(branch: Branch) -> Path | None:
    """Where the graph of a branch is or will be kept; None for a user without a cache."""
    from platformdirs import user_cache_path

    made_by = {"spec": to_json(branch.spec), "muflow": __version__, "torch": torch.__version__}
    try:
        folder = user_cache_path("muflow") / "graphs"
    except RuntimeError:
        return None
    return folder / f"{hash_tensors(branch.state_dict(), made_by)}{_SUFFIX}"


def is_kept(branch: Branch) -> bool:
    """Whether the graph of a branch is in the cache, or could be kept there."""
    path = cached(branch)
    if path is None:
        return False
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    return os.access(nearest, os.R_OK if nearest == path else os.W_OK) and (nearest == path or nearest.is_dir())


def _kept(path: Path) -> bytes | None:
    """The graph that lies at `path`; None where there is none, or it is not as it was written."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    graph = data[_DIGEST:]
    if hashlib.sha256(graph).digest() != data[:_DIGEST]:
        return None
    with contextlib.suppress(OSError):
        path.touch()
    return graph


def graph_of(branch: Branch) -> bytes:
    """The ONNX model of `Maps`, with the input `views`: from the cache, or made now and kept there if possible.

    Raises:
        CannotExport: as `to_onnx`.
    """
    path = cached(branch)
    if path is not None and (kept := _kept(path)) is not None:
        return kept
    outputs = [*(f"map.{index}" for index in range(len(branch.columns))), "features"]
    graph = to_onnx(Maps(exportable(branch)), {"views": branch.spec.view.size}, outputs, {})
    if path is not None:
        with contextlib.suppress(OSError, MuflowError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, hashlib.sha256(graph).digest() + graph)
            for old in sorted(path.parent.glob(f"*{_SUFFIX}"), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
                old.unlink(missing_ok=True)
    return graph
