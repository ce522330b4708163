"""Laws of files with several frames: they are counted, and with --all-frames each is an image of its own."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_face
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_photos import google, still
from PIL import Image
from scan_runs import run

from muflow_cli.images.decode import decode
from muflow_cli.images.error import ImageError
from muflow_cli.images.find import find
from muflow_cli.images.frames import MOST_FRAMES, frame_count, frame_path, without_frame
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec

KINDS = {"GIF": "a.gif", "PNG": "a.png", "WEBP": "a.webp", "TIFF": "a.tif"}
LIMIT = 10**8


def frames(count: int, seed: int = 0, side: int = 72) -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    return [draw_face(generator, side) for _ in range(count)]


def several(images: list[Image.Image], kind: str) -> bytes:
    stream = io.BytesIO()
    how = {"lossless": True} if kind == "WEBP" else {}
    images[0].save(stream, kind, save_all=True, append_images=images[1:], **how)
    return stream.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 6))
def test_frames_are_counted_as_pillow_counts_them(kind, count):
    data = several(frames(count, side=16), kind)
    with Image.open(io.BytesIO(data)) as image:
        assert frame_count(data) == getattr(image, "n_frames", 1) == count


def test_a_still_image_before_an_animation_is_a_frame():
    stream, (still, *rest) = io.BytesIO(), frames(4, side=16)
    still.save(stream, "PNG", save_all=True, append_images=rest, default_image=True)
    with Image.open(io.BytesIO(stream.getvalue())) as image:
        assert frame_count(stream.getvalue()) == image.n_frames == 4


@given(st.sampled_from([b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0"]), st.binary(max_size=200))
def test_any_file_has_a_frame(head, rest):
    assert frame_count(head + rest) >= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])  # the lossless ones
def test_each_frame_has_its_own_pixels(kind):
    images = frames(3)
    data = several(images, kind)
    for number, image in enumerate(images, 1):
        decoded = decode(data, LIMIT, frame=number)
        assert (decoded.facts.frame, decoded.facts.frames) == (number, 3)
        assert decoded.facts.sha256 == hashlib.sha256(data).hexdigest()
        np.testing.assert_array_equal(np.asarray(decoded.image), np.asarray(image))
    with pytest.raises(ImageError):
        decode(data, LIMIT, frame=4)


def test_keys_of_frames_differ_and_the_first_is_the_hash_of_the_file():
    data = several(frames(3), "TIFF")
    facts = [decode(data, LIMIT, frame=number).facts for number in (1, 2, 3)]
    assert facts[0].key == facts[0].sha256
    assert len({each.key for each in facts}) == 3
    assert all(len(bytes.fromhex(each.key)) == 32 for each in facts)


@given(st.text(min_size=1), st.integers(0, 10**6))
def test_the_path_of_a_frame_leads_back_to_the_file(path, frame):
    assert frame == 1 or without_frame(frame_path(path, frame)) == path
    assert frame_path(path, 1) == path


def test_frames_beyond_the_limit_are_one_record(tmp_path, monkeypatch):
    (tmp_path / "a.gif").write_bytes(several(frames(5, side=8), "GIF"))
    monkeypatch.setattr("muflow_cli.images.find.MOST_FRAMES", 3)
    *inputs, last = find([str(tmp_path)], InputSpec(all_frames=True))
    assert [each.frame for each in inputs] == [1, 2, 3]
    assert isinstance(last, Unreadable)
    assert last.code == "too_many_frames"
    assert MOST_FRAMES == 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "animated"
    folder.mkdir()
    for number, (kind, name) in enumerate(KINDS.items()):
        (folder / name).write_bytes(several(frames(3, number), kind))
    (folder / "copy.gif").write_bytes((folder / "a.gif").read_bytes())
    return folder


def test_a_scan_says_how_many_frames_it_left_out_or_scores_each(folder, tiny_bundle, tmp_path):
    scan = ("scan", folder, "--detector", tiny_bundle, "--fail-on", "error", "--atypical", "report")
    report = tmp_path / "r.json"
    done = run(*scan, "-o", report)
    assert b"10 frames were not scored" in done.stderr
    summary = json.loads(report.read_bytes())["summary"]
    assert (summary["inputs"], summary["frames_left_out"]) == (5, 10)

    lines = tmp_path / "r.jsonl"
    done = run(*scan, "-o", lines, "--all-frames")
    assert done.returncode == 0
    assert b"not scored" not in done.stderr
    rows = [json.loads(line) for line in lines.read_bytes().splitlines()[1:-1]]
    names = [Path(row["path"]).name for row in rows]
    assert names[:4] == ["a.gif", "a.gif#frame=2", "a.gif#frame=3", "a.png"]
    assert len(rows) == 15
    assert all(row["sha256"] == hashlib.sha256((folder / name.split("#")[0]).read_bytes()).hexdigest()
               for row, name in zip(rows, names, strict=True))  # fmt: skip
    assert len({row["score"] for row in rows}) == 12
    copies = [row["duplicate_of"] for row in rows if Path(row["path"]).name.startswith("copy.gif")]
    assert [Path(path).name for path in copies] == names[:3]

    whole = lines.read_bytes()
    lines.write_bytes(b"".join(whole.splitlines(keepends=True)[:6]))
    other = run(*scan, "-o", lines, "--resume")
    assert (other.returncode, b"another --all-frames" in other.stderr) == (2, True), other.stderr
    done = run(*scan, "-o", lines, "--all-frames", "--resume")
    assert lines.read_bytes().splitlines()[:-1] == whole.splitlines()[:-1]
    assert run("scan", "--verify", lines).returncode == 0
    (folder / "a.webp").write_bytes(several(frames(3, 9), "WEBP"))
    done = run("scan", "--verify", lines)
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count(b"has other content") == 3


def test_a_gif_is_one_video_or_many_images(folder, tiny_bundle):
    done = run("scan", folder, "--detector", tiny_bundle, "--all-frames", "--animations")
    assert done.returncode == 2
    assert b"--animations cannot be combined with --all-frames" in done.stderr


def test_the_video_of_a_motion_photo_is_an_input_where_it_is_asked_for(tmp_path, tiny_bundle):
    (tmp_path / "photo.jpg").write_bytes(google(still(), b"no video" * 9))
    scan = ("scan", tmp_path, "--detector", tiny_bundle, "--json", "--fail-on", "flagged")
    for options, names in (((), ["photo.jpg"]), (("--embedded-video",), ["photo.jpg", "photo.jpg#video"])):
        results = json.loads(run(*scan, *options).stdout)["results"]
        assert [Path(row["path"]).name for row in results] == names
