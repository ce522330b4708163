"""What computes the scores of a branch: torch, ONNX Runtime or OpenVINO. A new library is a row of RUNTIMES."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.engine.branch import Branch
from muflow_cli.engine.devices import Placement
from muflow_cli.engine.graphs import cached, graph_of, require_exporter
from muflow_cli.engine.inference import for_inference
from muflow_cli.errors import MissingExtra
from muflow_cli.run_specs import Backend

# ONNX Runtime would otherwise write an identifier of the device, and try to send events to its publisher.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Gives the outputs of a graph, in their order, of its inputs; called from several threads at a time.
Runner = Callable[[Sequence[NDArray[np.uint8]]], list[NDArray[np.float32]]]


class Compute(Protocol):
    """Computes a branch; called from several threads at a time."""

    def __call__(self, images: Tensor, *, features: bool) -> list[Tensor]:
        """The maps of the layers, one (B, g, g) each, and with `features` (B, F) after them.

        Args:
            images: (B, 3, H, W) uint8, on the processor.
            features: whether to give the channel statistics.
        """
        ...

    def ready(self) -> bool:
        """Whether the first call begins to compute at once, without a preparation that takes long."""
        ...


class TorchBranch:
    """A branch that torch computes, on any device.

    Args:
        branch: as it was fitted.
        placement: where and how to compute.
    """

    def __init__(self, branch: Branch, placement: Placement) -> None:
        self._device = placement.device
        self.branch = for_inference(branch, placement)

    @torch.inference_mode()
    def __call__(self, images: Tensor, *, features: bool) -> list[Tensor]:
        """As `Compute`, on the device."""
        placed = images.to(self._device, non_blocking=True)
        if not features:
            return self.branch.maps(placed)
        maps, statistics = self.branch.maps_and_features(placed)
        return [*maps, statistics]

    def ready(self) -> bool:
        """True."""
        return True


class GraphBranch:
    """A branch that another library computes, from a graph that is made, or read from the cache, at the first call.

    Args:
        branch: as it was fitted.
        placement: on a processor.

    Raises:
        MissingExtra: where the library is not installed.
    """

    def __init__(self, branch: Branch, placement: Placement) -> None:
        self._branch, self._backend = branch, placement.backend
        self._runner: Runner | None = None
        self._lock = threading.Lock()
        purpose = f"--backend {self._backend}"
        require_exporter(purpose, _EXTRAS[self._backend])
        imported(purpose, self._backend)

    def __call__(self, images: Tensor, *, features: bool) -> list[Tensor]:
        """As `Compute`.

        Raises:
            CannotExport: where the branch has no graph.
        """
        with self._lock:
            if self._runner is None:
                self._runner = RUNTIMES[self._backend](graph_of(self._branch), torch.get_num_threads())
        outputs = self._runner([images.permute(0, 2, 3, 1).contiguous().numpy()])
        return [torch.from_numpy(output) for output in (outputs if features else outputs[:-1])]

    def ready(self) -> bool:
        """Whether the graph exists."""
        path = cached(self._branch)
        return self._runner is not None or (path is not None and path.is_file())


def compute(branch: Branch, placement: Placement) -> Compute:
    """What computes `branch` in a placement."""
    return (TorchBranch if placement.backend is Backend.TORCH else GraphBranch)(branch, placement)


def library(backend: Backend) -> str:
    """Name and version of a backend's library, as a report names it."""
    return f"{backend} {torch.__version__ if backend is Backend.TORCH else version(backend)}"


def imported(purpose: str, backend: Backend) -> Any:
    """The library of a backend; MissingExtra where it is not installed, and `purpose` begins its sentence."""
    try:
        return importlib.import_module(backend)
    except ModuleNotFoundError as error:
        if error.name != backend:
            raise
        raise MissingExtra(purpose, _EXTRAS[backend]) from None


def onnxruntime(graph: bytes, cores: int) -> Runner:  # noqa: ARG001 - each call computes on the core that makes it
    """A runner of an ONNX model in ONNX Runtime, one core for each call."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    return lambda views: cast("list[NDArray[np.float32]]", session.run(None, dict(zip(names, views, strict=True))))


def openvino(graph: bytes, cores: int) -> Runner:
    """A runner of an ONNX model in OpenVINO, one core for each call; float32 where it would choose bfloat16."""
    runtime = importlib.import_module("openvino")
    core = runtime.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores}
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    own = threading.local()

    def run(views: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        results = own.request.infer(list(views))
        return [results[index] for index in range(len(compiled.outputs))]

    return run


RUNTIMES: Final[Mapping[Backend, Callable[[bytes, int], Runner]]] = {
    Backend.ONNXRUNTIME: onnxruntime,
    Backend.OPENVINO: openvino,
}
_EXTRAS: Final[Mapping[Backend, str]] = {Backend.ONNXRUNTIME: "onnx", Backend.OPENVINO: "openvino"}
