"""What a file holds besides its first picture: frames of an animation, pages of a document, the video of a photo."""

from __future__ import annotations

from typing import Final

from muflow_cli.images.containers import gif, png, riff
from muflow_cli.images.containers.tiff import TIFF_SIGNATURES
from muflow_cli.images.tiff import page_count
from muflow_cli.records import EMBEDDED

# Frames of one file that are inputs of their own; each takes a decoding of those before it.
MOST_FRAMES: Final = 1000

_FRAME: Final = "#frame="
_VIDEO: Final = "#video"


def frame_count(data: bytes) -> int:
    """Number of frames of a GIF, PNG or WebP, or of pages of full resolution of a TIFF; 1 for anything else."""
    if data.startswith((b"GIF87a", b"GIF89a")):
        return max(1, gif.frame_count(data))
    if data.startswith(png.PNG_SIGNATURE):
        return _png_frames(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return max(1, sum(chunk.name == b"ANMF" for chunk in riff.chunks(data)))
    return page_count(data) if data.startswith(TIFF_SIGNATURES) else 1


def _png_frames(data: bytes) -> int:
    """Frames of an animated PNG, its still image included where that is no frame (PNG, third edition, 11.3.6)."""
    announced, still = 0, 1
    for name, _, start, end in png.chunks(data):
        if name == b"acTL" and end - start == 8:
            announced = int.from_bytes(data[start : start + 4], "big")
        elif name == b"fcTL":
            still = 0
        elif name == b"IDAT":
            break
    return max(1, announced + still) if announced else 1


def frame_path(path: str, frame: int) -> str:
    """How a frame of a file is reported: the first as the file, others as `path#frame=2`, its video as `path#video`."""
    if frame == EMBEDDED:
        return path + _VIDEO
    return path if frame == 1 else f"{path}{_FRAME}{frame}"


def without_frame(path: str) -> str:
    """The path of the file to which `frame_path` belongs."""
    if path.endswith(_VIDEO):
        return path.removesuffix(_VIDEO)
    name, mark, number = path.rpartition(_FRAME)
    return name if mark and number.isdecimal() else path
