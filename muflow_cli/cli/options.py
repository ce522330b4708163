"""Options that several commands share, each said once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from muflow_cli.specs import InputSpec, Precision

_DEFAULTS = InputSpec()

Device = Annotated[
    str, typer.Option("--device", help="auto (a CUDA device if there is one), cpu, cuda or cuda:N.", show_default=True)
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="Arithmetic of the convolutions; auto takes bf16 where it is native.")
]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Decoding threads; 0 = one per core.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Leave out what matches, by name, path or any folder (repeatable)."),
]
Hidden = Annotated[bool, typer.Option("--hidden", help="Also read names that begin with a dot.")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Follow symbolic links inside folders.")]
MaxBytes = Annotated[int, typer.Option("--max-bytes", min=1, help="A larger file is reported, not read.")]
MaxPixels = Annotated[int, typer.Option("--max-pixels", min=1, help="A larger picture is reported, not decoded.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
DetectorArgument = Annotated[Path, typer.Argument(metavar="DETECTOR", help="A detector bundle (.safetensors).")]

MAX_BYTES = _DEFAULTS.max_bytes
MAX_PIXELS = _DEFAULTS.max_pixels


def input_spec(
    exclude: list[str] | None, hidden: bool, follow_links: bool, max_bytes: int, max_pixels: int
) -> InputSpec:
    """The options on inputs as one spec."""
    return InputSpec(
        exclude=tuple(exclude or ()),
        hidden=hidden,
        follow_links=follow_links,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
    )


def worker_count(workers: int) -> int:
    """How many decoding threads `--workers` means."""
    return workers or len(os.sched_getaffinity(0))
