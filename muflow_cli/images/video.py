"""A clip -> some of its frames, by seeking: decoded one after the other, never all of them and never all at once.

Runs in the decoding process only. PyAV loads with the first clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.images.clip_formats import ClipFormat
from muflow_cli.images.error import ImageError
from muflow_cli.images.frame_times import Part
from muflow_cli.images.hdr import BT2020, Transfer, to_sdr

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Transfer functions of HDR by their numbers in ITU-T H.273.
_HDR: Final = {16: Transfer.PQ, 18: Transfer.HLG}
_UNSPECIFIED: Final = 2
# Matrices of H.273 that swscale knows by another number, its own; unspecified is by convention that of the size.
_BT601, _BT709, _BT2020 = 5, 1, 9
_MATRICES: Final = {1: _BT709, 5: _BT601, 6: _BT601, 9: _BT2020, 10: _BT2020}
_HD_LINES: Final = 720
_ICTCP: Final = 14
_DOLBY_VISION: Final = ("dvh1", "dvhe")
# Where no index says where the keyframes are, decoding on is taken to be cheaper than seeking over so many seconds.
_NEAR_SECONDS: Final = 2.0
# The last parts of a clip may be empty: a container often says how long its sound is.
_TAIL_SHARE: Final = 0.07
_SEEKS: Final = 4
_TURNS: Final = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


def can_read_clips() -> bool:
    """Whether the library that decodes clips is installed."""
    return find_spec("av") is not None


@dataclass(frozen=True, slots=True)
class ClipFrame:
    """A frame, upright, in 8-bit RGB; `time` is seconds from the start of the clip."""

    time: float
    image: Image.Image


class OpenClip:
    """A clip whose headers were read.

    Args:
        source: of the file, which can seek.
        format_: of its container.
        max_pixels: a frame with more pixels is not converted.

    Attributes:
        width: of the frames as stored, pixels.
        height: likewise.
        codec: FFmpeg's name of the codec, upper case.
        rotation: degrees counter-clockwise that make the frames upright; known with the first frame.
        failed: number of frames that could not be decoded so far.
        converted_from: transfer function of HDR that the frames were converted from; None where they are SDR.

    Raises:
        ImageError: corrupt, no_video, unsupported, hdr, too_many_pixels.
    """

    def __init__(self, source: BinaryIO, format_: ClipFormat, max_pixels: int) -> None:
        import av

        self._max_pixels = max_pixels
        self._errors: tuple[type[Exception], ...] = (av.error.FFmpegError, ValueError, EOFError)
        try:
            # A container may name other files, none of which is opened.
            options = {"protocol_whitelist": "none"}
            self._container: InputContainer = av.open(source, "r", format=format_.demuxer, options=options)
        except (*self._errors, OSError) as error:
            raise ImageError("corrupt", f"it begins like {format_.name}, but cannot be read as one") from error
        self._stream = self._video_stream()
        self.width, self.height = self._stream.width, self._stream.height
        self.codec = self._stream.codec.canonical_name.upper()
        self.container = self._container.format.name
        self.rotation = self.failed = 0
        self.converted_from: Transfer | None = _HDR.get(self._stream.color_trc)
        self._start = float((self._stream.start_time or 0) * self._time_base)
        self._decoder: Iterator[VideoFrame] | None = self._container.decode(self._stream)
        self._ahead: VideoFrame | None = None  # decoded, but later than the part it was looked for in
        self._ended = False
        self._position = self._taken = -1.0  # seconds
        self._shown_until = 0.0

    def _video_stream(self) -> VideoStream:
        from av.stream import Disposition

        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise ImageError("no_video", "it has no video, only sound or data")
        stream = streams[0]
        if cast(Any, stream).codec_context is None:
            raise ImageError("unsupported", "its codec is none that the installed FFmpeg decodes")
        if stream.width * stream.height > self._max_pixels:
            raise _too_many(stream.width, stream.height, self._max_pixels)
        if stream.codec_context.codec_tag in _DOLBY_VISION and stream.color_trc == _UNSPECIFIED:
            raise ImageError("hdr", "it is a Dolby Vision video that no other decoder shows in its colours")
        stream.codec_context.thread_count = 1
        return stream

    @property
    def _time_base(self) -> Any:
        return self._stream.time_base or 1

    def close(self) -> None:
        """Close the container; the source stays open."""
        self._decoder = None
        self._container.close()

    def seconds(self) -> float:
        """Length of the clip as its stream or its container says, or else by its packets; 0 where none has a time."""
        if self._stream.duration:
            return max(0.0, float(self._stream.duration * self._time_base))
        if self._container.duration:
            return max(0.0, self._container.duration / 1_000_000)
        return self.measured_seconds()

    def measured_seconds(self) -> float:
        """Length of the clip by its packets, all of which are read and none decoded."""
        end = 0.0
        try:
            self._container.seek(0)
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * self._time_base) - self._start)
        except self._errors:
            pass  # what was read so far counts
        self._decoder, self._position, self._ended = None, -1.0, False
        return end

    def frames(self, parts: Sequence[Part]) -> Iterator[ClipFrame]:
        """A frame of each part, in order; none where a part has none. `failed` counts what could not be decoded.

        Raises:
            ImageError: hdr, too_many_pixels.
        """
        given, beyond = 0, 0
        for part in parts:
            try:
                frame = None if self._ended else self._frame_in(part)
            except self._errors:
                self.failed += 1
                self._decoder = self._ahead = None
                continue
            if frame is None:  # the frame before may be shown for longer than a part
                beyond += self._ended and part.start >= self._shown_until
                continue
            given += 1
            yield ClipFrame(self._taken, self._rgb(frame))
        if beyond > max(1, _TAIL_SHARE * len(parts)) and given:
            self.failed += beyond

    def _frame_in(self, part: Part) -> VideoFrame | None:
        """The first keyframe of the part, or else what is shown at its target; None where no frame begins in it."""
        if self._ahead is None and self._is_far(part.target):
            self._seek(part)
        before, damaged = None, False
        while (frame := self._next()) is not None:
            time = self._position
            if time <= self._taken or time < part.start:
                continue
            if time > part.target and (before is not None or time >= part.end > 0):
                self._ahead = frame
                break
            if frame.is_corrupt:
                damaged = True
                continue
            before, self._taken = frame, time
            if frame.key_frame or time >= part.target:
                break
        self.failed += damaged and before is None
        return before

    def _is_far(self, target: float) -> bool:
        """Whether to seek: a keyframe lies between here and the target, or one may."""
        if self._decoder is None:
            return True
        entries = self._stream.index_entries
        wanted = self._stamp(target)
        if len(entries) and entries[len(entries) - 1].timestamp >= wanted:
            found = entries.search_timestamp(wanted, backward=True)
            keyframe = float(entries[max(0, found)].timestamp * self._time_base) - self._start
            return keyframe > max(0.0, self._position)
        return target - self._position > _NEAR_SECONDS

    def _seek(self, part: Part) -> None:
        """Go to a keyframe before the target, or in the part.

        Containers are sought in by the order of decoding, or by where a time is guessed to lie, so that the first
        frame may be a later one.
        """
        back = 0.0
        for _ in range(_SEEKS):
            self._container.seek(self._stamp(max(0.0, part.target - back)), stream=self._stream, backward=True)
            self._decoder = self._container.decode(self._stream)
            self._ahead = next(self._decoder, None)
            late = 0.0 if self._ahead is None else self._time_of(self._ahead) - part.target
            if late <= 0 or part.target + late < part.end or back >= part.target:
                return
            back = 2 * back + late + self._interval

    def _stamp(self, seconds: float) -> int:
        # 62 bits: what a hostile container says may be any length.
        return max(-(2**62), min(2**62, int((seconds + self._start) / float(self._time_base))))

    def _next(self) -> VideoFrame | None:
        """The next frame, whose time is `_position` then; None at the end of the clip."""
        frame, self._ahead = self._ahead, None
        if frame is None:
            frame = None if self._decoder is None else next(self._decoder, None)
        if frame is None:
            self._ended = True
            return None
        self._position = self._time_of(frame)
        length = float(frame.duration * self._time_base) if frame.duration else self._interval
        self._shown_until = max(self._shown_until, self._position + length)
        return frame

    @property
    def _interval(self) -> float:
        """Seconds between two frames, by the rate that the stream names."""
        rate = self._stream.guessed_rate or self._stream.average_rate
        return 1 / float(rate) if rate else 0.04

    def _time_of(self, frame: VideoFrame) -> float:
        if frame.pts is None:
            return max(0.0, self._position + self._interval)
        return max(0.0, float(frame.pts * self._time_base) - self._start)

    def _rgb(self, frame: VideoFrame) -> Image.Image:
        if frame.width * frame.height > self._max_pixels:
            raise _too_many(frame.width, frame.height, self._max_pixels)
        # What the container says holds where the coded video is silent.
        transfer = self._stream.color_trc if frame.color_trc == _UNSPECIFIED else frame.color_trc
        pixels = _converted(frame, _HDR[transfer]) if transfer in _HDR else _pixels(frame)
        self.converted_from = _HDR.get(transfer, self.converted_from)
        self.rotation = frame.rotation % 360
        turn = _TURNS.get(self.rotation)
        image = Image.fromarray(pixels)
        return image if turn is None else image.transpose(turn)


def _too_many(width: int, height: int, allowed: int) -> ImageError:
    message = f"its {width} x {height} pixels are more than the {allowed} allowed; raise --max-pixels to read it"
    return ImageError("too_many_pixels", message)


def _pixels(frame: VideoFrame) -> NDArray[np.uint8]:
    """(H, W, 3) the frame as it is coded."""
    by_size = _BT709 if frame.height >= _HD_LINES else _BT601
    matrix = _MATRICES.get(frame.colorspace, by_size)
    return cast("NDArray[np.uint8]", frame.to_ndarray(format="rgb24", src_colorspace=matrix, threads=1))


def _converted(frame: VideoFrame, transfer: Transfer) -> NDArray[np.uint8]:
    """(H, W, 3) a frame of HDR as one of SDR."""
    if frame.colorspace == _ICTCP:
        raise ImageError("hdr", "it is an HDR video whose colours are coded as ICtCp, which is not read")
    matrix = _MATRICES.get(frame.colorspace, _BT2020)
    codes = cast("NDArray[np.uint16]", frame.to_ndarray(format="rgb48le", src_colorspace=matrix, threads=1))
    return to_sdr(codes, transfer, BT2020 if frame.color_primaries == _UNSPECIFIED else frame.color_primaries)
