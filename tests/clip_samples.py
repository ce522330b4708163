"""Clips as tests need them, encoded here: each frame is as bright as its number says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_face
from numpy.typing import NDArray

os.environ.setdefault("SVT_LOG", "-1")  # the AV1 encoder tells stderr about itself
av = pytest.importorskip("av")

SIDE = 64
RATE = 10
# Name of the file -> encoder, and what makes it fast.
KINDS = {
    "h264.mp4": ("libx264", {"preset": "ultrafast"}),
    "h264.ts": ("libx264", {"preset": "ultrafast"}),
    "h264.flv": ("libx264", {"preset": "ultrafast"}),
    "hevc.mov": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}),
    "vp8.webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "av1.mkv": ("libsvtav1", {"preset": "12"}),
    "mjpeg.avi": ("mjpeg", {}),
    "mpeg4.mp4": ("mpeg4", {}),
}


def level(number: int) -> int:
    """Grey level of a frame, by its number, 0 to 19."""
    return 30 + 10 * number


def plain(count: int) -> list[NDArray[np.uint8]]:
    """Frames of one grey level each."""
    return [np.full((SIDE, SIDE, 3), level(number), np.uint8) for number in range(count)]


def filmed(seed: int, count: int = 6) -> list[NDArray[np.uint8]]:
    """Frames in which something moves, with the statistics of an image."""
    generator = np.random.default_rng(seed)
    base = np.asarray(draw_face(generator, 80)).astype(float)
    moved = (np.roll(base, 2 * number, axis=1)[:SIDE, :SIDE] for number in range(count))
    return [(frame + generator.normal(scale=3, size=frame.shape)).clip(0, 255).astype(np.uint8) for frame in moved]


def write_clip(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    times: Sequence[int] | None = None,
    gop: int = 3,
    rotation: int = 0,
    transfer: int | None = None,
) -> Path:
    """A clip of these frames in the kind that its name ends with.

    Args:
        path: `anything.KIND`, KIND being a key of KINDS or its ending.
        frames: RGB, all of one size.
        times: of the frames, in tenths of a second; None = ten a second.
        gop: frames from one keyframe to the next.
        rotation: degrees counter-clockwise by which a player turns it.
        transfer: characteristics (H.273) that it names.
    """
    exact = [kind for kind in KINDS if path.name.endswith(kind)]
    encoder, options = KINDS[[*exact, *(kind for kind in KINDS if kind.endswith(path.suffix))][0]]
    height, width, _ = frames[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=RATE)
        stream.width, stream.height, stream.gop_size = width, height, gop
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.options = options
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, RATE)
        if transfer is not None:
            stream.codec_context.color_trc = transfer
        if rotation:
            stream.set_display_rotation(rotation)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file like a clip that holds sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
