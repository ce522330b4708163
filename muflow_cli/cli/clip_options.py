"""Options on clips, which scan, calibrate and fit share, and what they mean beside a detector."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from muflow_cli.errors import IncompatibleOptions
from muflow_cli.output.writers import Per
from muflow_cli.run_specs import MOST_FRAMES, ClipSpec, InputSpec

if TYPE_CHECKING:
    from muflow_cli.calibration.calibration import Calibration
    from muflow_cli.calibration.clips import Sampling

_DEFAULTS = ClipSpec()

Frames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        max=MOST_FRAMES,
        metavar="N",
        help=f"Look at N frames of each video, {_DEFAULTS.frames} unless given.",
        hidden=True,
    ),
]
Every = Annotated[
    float | None,
    typer.Option(
        "--every", min=0.001, metavar="SECONDS", help="Look at a frame of each video every SECONDS.", hidden=True
    ),
]
Animations = Annotated[
    bool,
    typer.Option(
        "--animations",
        help="Score a whole GIF as one video; --all-frames gives each frame a result of its own.",
        hidden=True,
    ),
]
EmbeddedVideo = Annotated[
    bool,
    typer.Option(
        "--embedded-video",
        help="Score the video inside a motion photo too, as a video with a result of its own (photo.jpg#video).",
        hidden=True,
    ),
]
MaxClipBytes = Annotated[
    int,
    typer.Option("--max-clip-bytes", min=1, help="Report larger videos as errors, unread.", hidden=True),
]
PerOption = Annotated[
    Per,
    typer.Option(
        "--per",
        help="Rows of a CSV: one for each image, face or frame; with frame, frames of videos are judged as images.",
        rich_help_panel="Results",
        hidden=True,
    ),
]
MAX_CLIP_BYTES = _DEFAULTS.max_bytes


def reading(
    inputs: InputSpec, frames: int | None, every: float | None, animations: bool, max_bytes: int, own: Calibration
) -> InputSpec:
    """Inputs with clips among them, by the options and the calibration of the detector.

    Raises:
        IncompatibleOptions: where a GIF would be one clip and many images.
        MuflowError: as `clip_spec`.
    """
    if animations and inputs.all_frames:
        raise IncompatibleOptions("--animations", "--all-frames", "a GIF is then one video, or each frame an image")
    return replace(inputs, clips=clip_spec(frames, every, animations, max_bytes, own.clips))


def clip_spec(
    frames: int | None, every: float | None, animations: bool, max_bytes: int, calibrated: Sampling | None = None
) -> ClipSpec:
    """The options on clips as one spec; without them, clips are sampled as those of the calibration were.

    Args:
        frames: number of frames; None = not given.
        every: seconds between frames; None = not given.
        animations: whether a GIF is a clip.
        max_bytes: of a clip.
        calibrated: how the clips of the detector's calibration were sampled; None where it is on stills.

    Raises:
        IncompatibleOptions: for both options, or one that differs from the calibration.
    """
    if frames is not None and every is not None:
        raise IncompatibleOptions("--frames", "--every", "each says which frames of a video are looked at")
    asked = ClipSpec(frames=frames or _DEFAULTS.frames, every=every or 0.0, animations=animations, max_bytes=max_bytes)
    if calibrated is None:
        return asked
    as_calibrated = replace(asked, frames=calibrated.frames, every=calibrated.every)
    if (frames, every) != (None, None) and asked != as_calibrated:
        option = "--every" if frames is None else "--frames"
        was = f"--every {calibrated.every:g}" if calibrated.every else f"--frames {calibrated.frames}"
        raise IncompatibleOptions(option, "this detector", f"its calibration was made with {was}")
    return as_calibrated


def with_frames(inputs: InputSpec, frames: int | None, every: float | None) -> InputSpec:
    """Inputs with clips among them where one of the options asks for their frames."""
    if frames is None and every is None:
        return inputs
    return replace(inputs, clips=clip_spec(frames, every, animations=False, max_bytes=MAX_CLIP_BYTES))
