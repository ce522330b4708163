"""Options that several commands share, each described once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from muflow_cli.cli.log_file import open_log
from muflow_cli.output.inert import escape
from muflow_cli.run_records import SkippedFiles
from muflow_cli.run_specs import Atypical, Backend, Damaged, InputSpec, OnNoFace, Precision, Runtime
from muflow_cli.skipped import skipped_text

_DEFAULTS = InputSpec()
_LISTED = 20

Device = Annotated[
    str, typer.Option("--device", help="auto (a CUDA device if there is one), cpu, cuda or cuda:N.", show_default=True)
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="Arithmetic of the convolutions; auto uses bf16 where it is native.")
]
BackendOption = Annotated[
    Backend,
    typer.Option(
        "--backend",
        help="Library that computes; all but torch are extras, for processors.",
        envvar="MUFLOW_BACKEND",
        hidden=True,
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Stop where this run does not compute the scores of the calibration.", hidden=True),
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Threads that decode, or processes on many cores; 0 = one per core.")
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="local, or ray or ray:ADDRESS for a cluster; --workers is then the cores of a worker.",
        hidden=True,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Skip paths, names and folders that match (repeatable)."),
]
Hidden = Annotated[bool, typer.Option("--hidden", help="Also read files and folders whose names begin with a dot.")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Follow symbolic links inside folders.")]
MaxBytes = Annotated[
    int, typer.Option("--max-bytes", min=1, help="Report larger files as errors, unread.", hidden=True)
]
MaxPixels = Annotated[
    int, typer.Option("--max-pixels", min=1, help="Report larger images as errors, undecoded.", hidden=True)
]
DamagedOption = Annotated[
    Damaged,
    typer.Option(
        "--damaged",
        help="Report images whose coded data is damaged or cut as errors, or score what can be decoded and mark it.",
    ),
]
MaxSeconds = Annotated[
    float,
    typer.Option("--max-seconds", min=0.1, help="Report images as errors that take longer to decode.", hidden=True),
]
NoArchives = Annotated[
    bool, typer.Option("--no-archives", help="Do not open zip and tar archives inside folders.", hidden=True)
]
MaxFaces = Annotated[
    int,
    typer.Option("--max-faces", min=1, help="Score at most so many faces of an image, the largest first.", hidden=True),
]
OnNoFaceOption = Annotated[
    OnNoFace,
    typer.Option(
        "--on-no-face",
        help="With a detector of faces, give an image without one a result, score it whole, or skip it.",
        hidden=True,
    ),
]
FaceModel = Annotated[
    Path | None,
    typer.Option("--face-model", metavar="FILE", help="Model of a face detector that brings none.", hidden=True),
]
Container = Annotated[
    str | None,
    typer.Option(
        "--container",
        metavar="SPEC",
        help="Store every image alike before looking at it, such as square,resize=256,jpeg=90.",
    ),
]
AtypicalOption = Annotated[
    Atypical,
    typer.Option(
        "--atypical",
        help="What to do with images whose format, size or quality no calibration image has.",
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log-file",
        metavar="FILE",
        callback=open_log,
        is_eager=True,
        hidden=True,
        help="Append warnings, progress and the summary to FILE, each line with its time in UTC.",
    ),
]
AllFrames = Annotated[
    bool,
    typer.Option(
        "--all-frames",
        help="Score each frame of GIF, PNG, WebP and page of TIFF as an image (--animations: a GIF as one video).",
        hidden=True,
    ),
]
ListSkipped = Annotated[
    bool, typer.Option("--list-skipped", help="Name on stderr everything in folders that is not read.", hidden=True)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing on stderr but errors.")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing output files.")]
AllowDeclared = Annotated[
    bool, typer.Option("--allow-declared", help="Keep images whose files declare themselves synthetic.")
]
DetectorArgument = Annotated[Path, typer.Argument(metavar="DETECTOR", help="A detector bundle (.safetensors).")]

MAX_BYTES = _DEFAULTS.max_bytes
MAX_PIXELS = _DEFAULTS.max_pixels
MAX_SECONDS = _DEFAULTS.max_seconds
MAX_FACES = _DEFAULTS.max_faces


def input_spec(
    exclude: list[str] | None,
    hidden: bool,
    follow_links: bool,
    max_bytes: int,
    max_pixels: int,
    damaged: Damaged,
    max_seconds: float,
    no_archives: bool,
    face_model: Path | None = None,
) -> InputSpec:
    """The options on inputs as one spec."""
    return InputSpec(
        exclude=tuple(exclude or ()),
        hidden=hidden,
        follow_links=follow_links,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        damaged=damaged,
        max_seconds=max_seconds,
        archives=not no_archives,
        face_model=None if face_model is None else str(face_model),
    )


def declared_rows(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and text of the summary's rows on images that were left out because they declare themselves synthetic."""
    if not paths:
        return
    images = "image declares itself" if len(paths) == 1 else "images declare themselves"
    yield "left out", f"{len(paths)} {images} synthetic; keep them with --allow-declared"
    for path in paths[:_LISTED]:
        yield "", escape(path)
    if len(paths) > _LISTED:
        yield "", f"and {len(paths) - _LISTED} more"


def skipped_rows(skipped: Sequence[SkippedFiles]) -> Iterator[tuple[str, str]]:
    """Name and text of the summary's row on what folders held that was not read."""
    if skipped:
        yield "skipped", skipped_text(skipped)


def runtime(
    device: str, precision: Precision, workers: int, batch_size: int = 0, backend: Backend = Backend.TORCH
) -> Runtime:
    """The options that decide where and how fast to compute as one spec; BadSpec for a number out of range."""
    return Runtime(device=device, precision=precision, batch_size=batch_size, workers=workers, backend=backend)
