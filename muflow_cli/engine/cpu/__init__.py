"""Faster kernels for processors, behind one function. Without this folder, results are the same but slower."""

from muflow_cli.engine.cpu.accelerate import accelerate

__all__ = ["accelerate"]
