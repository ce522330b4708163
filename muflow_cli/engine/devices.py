"""Where and how to compute. The only file that knows devices and precisions by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch

from muflow_cli.errors import BadSpec
from muflow_cli.run_specs import Backend, Precision, Runtime

# Views in a piece of work. On processors, small pieces, one per core, stay in the caches (see benchmarks/README.md).
CPU_PIECE: Final = 4
GPU_PIECE: Final = 256


@dataclass(frozen=True, slots=True)
class Placement:
    """Device, arithmetic of the convolutions, views per batch (shared between the cores), library; none is `auto`."""

    device: torch.device
    precision: Precision
    batch_size: int
    backend: Backend = Backend.TORCH

    @property
    def computed_by(self) -> tuple[str, str]:
        """Type of the device and precision: what the last digits of a feature depend on."""
        return self.device.type, self.precision.value


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU; BadSpec where the device is not available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadSpec("device", name, "auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):  # torch knows more, none of which muflow is tested on
        raise BadSpec("device", name, "auto, cpu, cuda or cuda:N")
    devices = torch.cuda.device_count()
    if device.type == "cuda" and not devices:
        raise BadSpec("device", name, "cpu or auto, since no CUDA device is available")
    if device.type == "cuda" and (device.index or 0) >= devices:
        raise BadSpec("device", name, f"cuda:0 to cuda:{devices - 1}, the CUDA devices of this machine")
    if device.type not in ("cpu", "cuda"):
        raise BadSpec("device", name, "auto, cpu, cuda or cuda:N")
    return device


def has_native_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware (AVX-512 BF16 or AMX; CUDA compute capability 8)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def instructions_of(device: torch.device) -> str:
    """The instruction set that torch uses on a processor, such as "AVX2", or the name of the GPU."""
    if device.type == "cpu":
        return str(torch.backends.cpu.get_cpu_capability())
    return str(torch.cuda.get_device_name(device))


def place(runtime: Runtime | None = None) -> Placement:
    """The placement of a runtime with every `auto` decided.

    Raises:
        BadSpec: as `choose_device`; and for another device than a processor, or another precision than fp32, where not
            torch computes.
    """
    runtime = runtime or Runtime()
    if runtime.backend is Backend.AUTO:
        runtime = replace(runtime, backend=Backend.TORCH)
    if runtime.backend is not Backend.TORCH:
        runtime = _on_processor(runtime)
    device, precision = choose_device(runtime.device), runtime.precision
    if precision is Precision.AUTO:
        precision = Precision.BF16 if has_native_bf16(device) else Precision.FP32
    own_batch = CPU_PIECE * torch.get_num_threads() if device.type == "cpu" else GPU_PIECE
    return Placement(device, precision, runtime.batch_size or own_batch, runtime.backend)


def _on_processor(runtime: Runtime) -> Runtime:
    """The same with the only device and precision of the other backends."""
    if runtime.device not in ("auto", "cpu"):
        raise BadSpec("device", runtime.device, f"cpu with --backend {runtime.backend}, or --backend torch")
    if runtime.precision is Precision.BF16:
        raise BadSpec("precision", runtime.precision, f"fp32 with --backend {runtime.backend}, or --backend torch")
    return replace(runtime, device="cpu", precision=Precision.FP32)
