"""Laws of what is not read: nothing in a folder or an archive goes unsaid, and its kind is that of its bytes."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scan_runs import run

from muflow_cli.errors import NoSuchInput
from muflow_cli.images.find import check_present, find, missing
from muflow_cli.images.inputs import Input
from muflow_cli.images.kinds import kind_of
from muflow_cli.run_specs import InputSpec
from muflow_cli.skipped import SkipCount, Skipped, Why, skipped_text

MP4 = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41"
PDF = b"%PDF-1.4\n"
OTHERS = {"clip.dat": MP4, "paper": PDF, "notes.md": b"# notes\n", "empty": b""}
KINDS = {"clip.dat": "MP4 video", "paper": "PDF document", "notes.md": "text file", "empty": "empty file"}


def told(*arguments: object, spec: InputSpec | None = None) -> tuple[list[str], dict[str, tuple[str, Why]]]:
    """Paths of the inputs, and kind and reason of everything else."""
    skipped: list[Skipped] = []
    inputs = [item.path for item in find(map(str, arguments), spec or InputSpec(), skipped.append)]
    assert len({item.path for item in skipped}) == len(skipped), "each once"
    return inputs, {item.path: (item.kind, item.why) for item in skipped}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    (folder / ".git").mkdir(parents=True)
    for name, data in OTHERS.items():
        (folder / name).write_bytes(data)
    (folder / "a.jpg").write_bytes(b"an image by its name")
    (folder / ".b.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "c.tmp").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "link.jpg").symlink_to("a.jpg")
    os.mkfifo(folder / "pipe")
    return folder


def test_every_entry_of_a_folder_is_an_input_or_told(mixed):
    inputs, skipped = told(mixed, spec=InputSpec(exclude=("*.tmp",)))
    assert {*inputs, *skipped} == {str(path) for path in mixed.iterdir()}
    assert inputs == [str(mixed / "a.jpg")]
    assert skipped == {
        **{str(mixed / name): (kind, Why.NOT_AN_IMAGE) for name, kind in KINDS.items()},
        str(mixed / ".git"): ("folder", Why.HIDDEN),
        str(mixed / ".b.jpg"): ("JPEG image", Why.HIDDEN),
        str(mixed / "c.tmp"): ("PNG image", Why.EXCLUDED),
        str(mixed / "link.jpg"): ("symbolic link", Why.LINK),
        str(mixed / "pipe"): ("special file", Why.SPECIAL),
    }


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_every_member_of_an_archive_is_an_input_or_told(tmp_path, suffix):
    path, members = tmp_path / f"a{suffix}", {**OTHERS, "x.jpg": b"", "d/.hidden": PDF}
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    inputs, skipped = told(tmp_path)
    assert inputs == [f"{path}!x.jpg"]
    hidden = {f"{path}!d/.hidden": ("PDF document", Why.HIDDEN)}
    assert skipped == {f"{path}!{name}": (kind, Why.NOT_AN_IMAGE) for name, kind in KINDS.items()} | hidden
    assert told(tmp_path, spec=InputSpec(archives=False))[1][str(path)][1] is Why.ARCHIVE


def test_what_was_skipped_in_a_folder_is_still_read_by_its_name(mixed):
    inputs, _ = told(mixed, mixed / ".b.jpg")
    assert inputs == [str(mixed / name) for name in ("a.jpg", "c.tmp", ".b.jpg")]


def test_a_pattern_tells_of_files_that_it_matches_and_that_are_no_images(mixed):
    inputs, skipped = told(f"{mixed}/[cn]*")
    assert inputs == [str(mixed / "c.tmp")]
    assert [*skipped] == [str(mixed / "clip.dat"), str(mixed / "notes.md")]


@given(st.binary(max_size=600))
def test_any_bytes_have_a_kind(data):
    assert kind_of(data)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x14ftypqt  ", "QuickTime video"),
        (b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x1f\x42\x82\x84webm", "WebM video"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI video"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP image"),
        (b"PK\3\4" + bytes(26) + b"[Content_Types].xml", "Office document"),
        (b"PK\3\4" + bytes(26) + b"x.txt", "zip archive"),
        (bytes(257) + b"ustar\0", "tar archive"),
        (b'<?xml version="1.0"?>\n<svg xmlns="', "SVG drawing"),
        ("Grüße\n".encode("utf-16"), "text file"),
        (bytes(100), "file of unknown kind"),
    ],
)
def test_kinds_are_known_by_their_first_bytes(head, kind):
    assert kind_of(head) == kind


def test_the_counts_read_as_a_sentence():
    count = SkipCount()
    for kind in ["MP4 video"] * 2 + ["file of unknown kind"] * 2 + ["SQLite database"]:
        count(Skipped("x", kind, Why.NOT_AN_IMAGE))
    count(Skipped("x", "PDF document", Why.EXCLUDED))
    count(Skipped("x", "text file", Why.HIDDEN))
    assert skipped_text(count.rows) == (
        "2 MP4 videos, 2 files of unknown kind, 1 SQLite database, 1 text file (hidden), 1 PDF document (excluded)"
    )


def test_an_argument_is_missing_if_it_names_nothing(mixed, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.jpg", b"")
    there = [mixed, mixed / "paper", tmp_path / "a.zip!x.jpg", f"{mixed}/*.jpg", "http://example.org/a.jpg"]
    absent = [f"{mixed}2", f"{mixed}/*.heic", f"{tmp_path}/a.zip!y.jpg", "\0"]
    assert missing([*map(str, there), *absent], InputSpec()) == absent
    check_present(map(str, there), InputSpec())
    with pytest.raises(NoSuchInput, match=r"'.*2', '.*heic', '.*y.jpg' and 1 more do not exist"):
        check_present(absent, InputSpec())


def test_a_scan_counts_and_names_what_it_skips(mixed, tiny_bundle, tmp_path, reals):
    image = next(reals.iterdir())
    (mixed / "a.jpg").write_bytes(image.read_bytes())
    (mixed / ".b.jpg").unlink()
    (mixed / "c.tmp").unlink()
    (mixed / "clip.dat").unlink()  # an input where the extra video is installed
    report = tmp_path / "r.json"
    arguments = ["scan", mixed, "--detector", tiny_bundle, "-o", report, "--list-skipped", "--fail-on", "error"]
    done = run(*arguments)
    assert done.returncode == 0
    rows = json.loads(report.read_bytes())["summary"]["skipped"]
    assert {"kind": "PDF document", "reason": "not_an_image", "count": 1} in rows
    assert sum(row["count"] for row in rows) == len(list(mixed.iterdir())) - 1
    assert "skipped: 1 PDF document, 1 empty file, 1 text file, 1 folder (hidden)" in done.stderr.decode()
    assert f"skipped {mixed / 'paper'} (PDF document; it is not an image)" in done.stderr.decode()


def test_a_mistyped_path_is_status_2_and_the_others_are_scanned(tiny_bundle, tmp_path, reals):
    image, report = next(reals.iterdir()), tmp_path / "r.json"
    alone = run("scan", "phtos", "--detector", tiny_bundle, "-o", report)
    assert alone.returncode == 2
    assert alone.stderr.decode() == "muflow: 'phtos' does not exist: check the spelling and the folder\n"
    assert not report.exists()
    beside = run("scan", image, "phtos", "--detector", tiny_bundle, "-o", report, "-q", "--exit-zero")
    assert beside.returncode == 2
    assert beside.stderr.decode() == alone.stderr.decode()
    results = json.loads(report.read_bytes())["results"]
    assert [row.get("error", {}).get("code") for row in results] == [None, "not_found"]


def test_a_folder_of_videos_says_so(tmp_path):
    (tmp_path / "a.jpeg.mov").write_bytes(MP4)
    # The output's lock, in the same folder, is nothing that was skipped.
    done = run("fit", "-o", tmp_path / "x.safetensors", tmp_path)
    assert done.returncode == 2
    assert "only 1 MP4 video: videos need pip install 'muflow-cli[video]'" in done.stderr.decode()
    assert "muflow fit takes their frames with --frames N" in done.stderr.decode()


def test_inputs_are_found_alike_whether_or_not_anybody_listens(mixed):
    inputs, _ = told(mixed)
    assert [item.path for item in find([str(mixed)], InputSpec()) if isinstance(item, Input)] == inputs
