"""The video inside a motion photo: where it lies, and what becomes of it in a scan."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_samples import filmed, write_clip
from conftest import FP32
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_photos import google, google_in_elements, heif, in_box, micro_video, samsung, still, with_xmp
from scan_runs import result_lines

from muflow_cli.bundle import load
from muflow_cli.clip_records import JudgedBy
from muflow_cli.errors import CannotResume
from muflow_cli.images import clips as clips_module
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.embedded import embedded_video
from muflow_cli.images.error import ImageError
from muflow_cli.images.find import find
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, LoadSpec, load_with_clips
from muflow_cli.output.report_reader import read_head
from muflow_cli.output.writers import OutputFormat, Per
from muflow_cli.records import EMBEDDED, Result, Scored, Unjudged, Unreadable
from muflow_cli.run_specs import Atypical, ClipSpec, InputSpec
from muflow_cli.scan.comparison import group_name
from muflow_cli.scan.job import Job
from muflow_cli.scan.outputs import Destination
from muflow_cli.scan.resume import resumable
from muflow_cli.scan.run import run as scan_run
from muflow_cli.scan.settings import Comparison
from muflow_cli.scan.workflow import Scan, ScanRequest
from muflow_cli.specs import ViewSpec
from muflow_cli.verify import verify

WANTED = InputSpec(clips=ClipSpec(frames=3), embedded_video=True)
FTYP = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
SMALL = FTYP + b"\0\0\0\x08free"

Make = Callable[[bytes, bytes], bytes]
KINDS: dict[str, Make] = {
    "google": google,
    "google, elements": google_in_elements,
    "google, gain map": lambda jpeg, video: google(jpeg, video, still(9, 32)),
    "google, something unknown": lambda jpeg, video: google(jpeg, video, b"depth" * 9, behind=b"more" * 9),
    "micro video": micro_video,
    "micro video, padded": lambda jpeg, video: micro_video(jpeg + bytes(99), video),
    "samsung": samsung,
    "without metadata": lambda jpeg, video: jpeg + video,
    "without metadata, gain map": lambda jpeg, video: jpeg + still(9, 32) + video,
}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A clip of six frames."""
    return write_clip(tmp_path_factory.mktemp("video") / "v.mp4", filmed(1)).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_is_found_behind_a_jpeg(kind: str) -> None:
    data = KINDS[kind](still(), SMALL)
    span = embedded_video(data)
    assert span is not None
    assert data[span.start :].startswith(SMALL)
    if "without" not in kind and "micro" not in kind:
        assert data[span.start : span.end] == SMALL


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_a_video_is_found_in_its_box(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = heif(kind=kind)
    data = in_box(image, SMALL)
    assert data[slice(*(embedded_video(data) or (0, 0)))] == SMALL
    assert embedded_video(image) is None
    whole = in_box(image, SMALL, length=0)  # a box that reaches to the end of the file
    assert embedded_video(whole) == embedded_video(data)


@pytest.mark.parametrize(
    "data",
    [
        still(),
        still(kind="PNG") + SMALL,
        still() + b"trailer" * 9,
        google(still(), b"", length=4000),  # an editor has cut off the video and kept what names it
        micro_video(still(), b"", 1000),
        still()[:-400] + SMALL,  # an image without an end
        SMALL,
        b"",
    ],
)
def test_other_files_hold_no_video(data: bytes) -> None:
    assert embedded_video(data) is None


def test_a_video_is_looked_for_by_structure_and_not_by_its_first_bytes() -> None:
    jpeg = still()
    inside = jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(SMALL) + 2) + SMALL + jpeg[2:]  # in a comment
    assert embedded_video(inside + b"x" * 50) is None
    assert embedded_video(jpeg + b"x" * 50 + SMALL) is None
    with pytest.raises(ImageError, match="none at that place"):
        embedded_video(micro_video(inside, b"x" * 50, len(inside) + 50 - 6))


@pytest.mark.parametrize(
    "data",
    [
        google(still(), b"no video at all" * 9),
        google(still(), b"no video at all" * 9, length=10**17),
        google(still(), b"no video at all" * 9, length=0),
        micro_video(still(), b"no video at all" * 9, 10**12),
        samsung(still(), b"no video at all" * 9),
        samsung(still(), b"", back=2**32 - 1),
        samsung(still(), b"", length=2**32 - 1),
        in_box(heif(), b"no video at all" * 9),
        in_box(heif(), b""),
    ],
)
def test_a_place_without_a_video_is_an_error(data: bytes) -> None:
    with pytest.raises(ImageError, match="names a video inside it") as caught:
        embedded_video(data)
    assert caught.value.code == "no_video"


@pytest.mark.parametrize("length", [0, 1, 10**15])
def test_a_false_length_does_not_hide_a_video_that_follows_the_image(length: int) -> None:
    data = google(still(), SMALL, length=length)
    span = embedded_video(data)
    assert span is not None
    assert data[span.start :] == SMALL


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([google, samsung, micro_video, in_box]), st.data())
def test_hostile_bytes_give_a_place_inside_the_file_or_one_error(make: Make, data: st.DataObject) -> None:
    image = heif() if make is in_box else still(side=16)
    file = bytearray(make(image, SMALL))
    places = st.integers(max(0, len(file) - 200), len(file) - 1) | st.integers(0, len(file) - 1)
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        file[at] = value
    with suppress(ImageError):
        span = embedded_video(bytes(file))
        assert span is None or 0 <= span.start < span.end <= len(file)


def test_endless_boxes_markers_and_entries_end() -> None:
    boxes = heif() + b"\0\0\0\x08free" * 100_000
    assert embedded_video(in_box(boxes, SMALL)) is None
    markers = still()[:-2] + b"\xff\x01" * 200_000 + b"\xff\xd9"
    assert embedded_video(markers + SMALL) is None
    directory = b"SEFH" + struct.pack("<II", 106, 2**32 - 1)
    assert embedded_video(still() + b"x" * 99 + directory + struct.pack("<I", len(directory)) + b"SEFT") is None
    doctype = "<!DOCTYPE a [<!ENTITY b 'c'>]><x:xmpmeta xmlns:x='adobe:ns:meta/'>&b;</x:xmpmeta>"
    assert embedded_video(with_xmp(still(), doctype) + b"x" * 99) is None


def items(*paths: Path, inputs: InputSpec = WANTED) -> list[object]:
    spec = LoadSpec(views={"main": ViewSpec(size=32)}, inputs=inputs, workers=1, ahead=2)
    return list(load_with_clips(find(map(str, paths), inputs), spec))


def test_a_video_is_an_input_of_its_own_only_where_it_is_asked_for(tmp_path: Path, video: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(google(still(), video))
    (tmp_path / "plain.jpg").write_bytes(still(2))
    named = [str(path), f"{path}#video", str(tmp_path / "plain.jpg")]
    assert [item.path for item in find([str(tmp_path)], WANTED)] == named
    assert [item.path for item in find([str(tmp_path)], replace(WANTED, embedded_video=False))] == named[::2]
    assert [item.path for item in find([str(tmp_path)], replace(WANTED, clips=None))] == named[::2]
    photo, clip, plain = items(tmp_path)
    assert isinstance(photo, Loaded)
    assert isinstance(plain, Loaded)
    assert isinstance(clip, LoadedClip)


def test_the_custody_of_a_video_is_the_file_and_its_place(tmp_path: Path, video: bytes) -> None:
    path, alone = tmp_path / "photo.jpg", tmp_path / "alone.mp4"
    data = google(still(), video)
    path.write_bytes(data)
    alone.write_bytes(video)
    photo, clip, same = items(path, alone)
    assert isinstance(photo, Loaded)
    assert isinstance(clip, LoadedClip)
    assert isinstance(same, LoadedClip)
    assert clip.facts.sha256 == photo.facts.sha256 == hashlib.sha256(data).hexdigest()
    assert (clip.facts.bytes, clip.facts.frame, clip.facts.format) == (len(data), EMBEDDED, "H264")
    assert clip.facts.key not in (photo.facts.key, same.facts.key)
    place = clip.clip.embedded
    assert place is not None
    assert data[place.offset : place.offset + place.bytes] == video
    assert place.sha256 == same.facts.sha256
    assert same.clip.embedded is None
    assert [frame.time for frame in clip.frames] == [frame.time for frame in same.frames]
    for own, other in zip(clip.frames, same.frames, strict=True):
        assert own.facts.sha256 == clip.facts.sha256
        np.testing.assert_array_equal(own.views["main"], other.views["main"])


def test_what_follows_a_video_does_not_hinder_it(tmp_path: Path, video: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(still() + video + b"LIVE_36263310".ljust(60))  # as Huawei ends its files
    _, clip = items(path)
    assert isinstance(clip, LoadedClip), clip
    assert len(clip.frames) == 3


def test_a_box_that_is_longer_than_the_file_ends_with_it(tmp_path: Path, video: bytes) -> None:
    path = tmp_path / "photo.avif"
    path.write_bytes(in_box(heif(), video, length=2**31))
    *_, clip = items(path)
    assert isinstance(clip, LoadedClip), clip


def test_members_of_archives_have_videos_too(tmp_path: Path, video: bytes) -> None:
    path = tmp_path / "album.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/photo.jpg", samsung(still(), video))
        archive.writestr("a/photo.avif", in_box(heif(), video))
    found = items(path)
    assert {group_name(item) for item in find([str(path)], WANTED) if isinstance(item, Input)} == {str(path)}
    assert [item.path.removeprefix(f"{path}!") for item in found] == [  # type: ignore[attr-defined]
        *("a/photo.jpg", "a/photo.jpg#video", "a/photo.avif", "a/photo.avif#video")
    ]
    assert [isinstance(item, LoadedClip) for item in found] == [False, True, False, True]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda video: google(still(), SMALL + video[:0]), "corrupt"),
        (lambda video: google(still(), video[: len(video) // 3]), "corrupt"),
        (lambda video: google(still(), b"no video" * 9 + video[:0]), "no_video"),
    ],
)
def test_a_video_that_cannot_be_read_is_one_record_beside_its_photo(
    tmp_path: Path, video: bytes, make: Callable[[bytes], bytes], code: str
) -> None:
    path = tmp_path / "photo"
    path.write_bytes(make(video))
    photo, record = items(path)
    assert isinstance(photo, Loaded)
    assert isinstance(record, Unreadable)
    assert (record.path, record.code) == (f"{path}#video", code)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_limits_and_a_missing_decoder_give_records(
    tmp_path: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(google(still(), video))
    _, record = items(path, inputs=replace(WANTED, clips=ClipSpec(max_bytes=100)))
    assert isinstance(record, Unreadable)
    assert record.code == "too_large"
    monkeypatch.setattr(clips_module, "can_read_clips", lambda: False)
    _, record = items(path)
    assert isinstance(record, Unreadable)
    assert record.code == "needs_video"


def scanned(bundle: Path, folder: Path, *, per_frame: bool) -> list[Result]:
    request = ScanRequest(
        detector=load(bundle), runtime=FP32, inputs=WANTED, atypical=Atypical.REPORT, per_frame=per_frame
    )
    return list(Scan(request).results(find([str(folder)], WANTED)))


def test_a_video_is_judged_as_a_video_and_once_for_each_content(
    tmp_path: Path, video: bytes, tiny_bundle: Path
) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(google(still(), video))
    photo, clip, *copies = scanned(tiny_bundle, tmp_path, per_frame=False)
    assert isinstance(photo, Scored)
    assert isinstance(clip, Unjudged)
    assert [copy.duplicate_of for copy in copies if not isinstance(copy, Unreadable)] == [photo.path, clip.path]
    _, judged, *_ = scanned(tiny_bundle, tmp_path, per_frame=True)
    assert isinstance(judged, Scored)
    assert judged.clip is not None
    assert judged.clip.judged_by is JudgedBy.FRAME
    assert judged.score in [frame.score for frame in judged.clip.frames]


def test_a_scan_goes_on_verifies_and_copies_videos(tmp_path: Path, video: bytes, tiny_bundle: Path) -> None:
    folder, report, copies = tmp_path / "photos", tmp_path / "r.jsonl", tmp_path / "copies"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(google(still(number), video))
    job = Job(
        detector=load(tiny_bundle),
        detector_path=str(tiny_bundle),
        arguments=[str(folder)],
        destinations=[Destination(OutputFormat.JSONL, report)],
        inputs=WANTED,
        runtime=FP32,
        atypical=Atypical.FLAG,
        per=Per.FRAME,
        copy_flagged=copies,
    )
    summary = scan_run(job)
    assert (summary.scored, summary.clips, summary.frames_left_out) == (4, 2, 0)
    rows = [json.loads(line) for line in result_lines(report)]
    assert [Path(row["path"]).name for row in rows] == ["0.jpg", "0.jpg#video", "1.jpg", "1.jpg#video"]
    assert [row["frame"] for row in rows] == [1, 0, 1, 0]
    assert rows[1]["clip"]["facts"]["embedded"]["bytes"] == len(video)
    sums = (copies / "SHA256SUMS").read_text().split()
    assert {rows[1]["sha256"], rows[3]["sha256"]} <= set(sums)
    assert all(name.endswith(".jpg") for name in sums[1::2])

    whole = result_lines(report)
    report.write_bytes(b"".join(report.read_bytes().splitlines(keepends=True)[:3]))
    head = read_head(report)
    assert head is not None
    assert len(resumable(report, head.run, head.detector)) == 2
    without = {name: value for name, value in (head.run.options or {}).items() if name != "embedded_video"}
    with pytest.raises(CannotResume, match="another --embedded-video"):
        resumable(report, replace(head.run, options=without), head.detector)
    destinations = [Destination(OutputFormat.JSONL, report, resumed=True)]
    scan_run(replace(job, destinations=destinations, copy_flagged=None))
    assert result_lines(report) == whole

    compared = replace(job, comparison=Comparison(fdr=0.5), destinations=[Destination(OutputFormat.JSON, copies / "r")])
    assert scan_run(replace(compared, copy_flagged=None)).scored == 4

    (folder / "1.jpg").write_bytes(still(3))
    differences = list(verify(report).differences)
    assert [Path(one.path).name for one in differences] == ["1.jpg", "1.jpg#video"]
    assert all("has other content" in one.message for one in differences)
