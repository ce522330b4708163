"""Laws of `--copy-flagged`: copies are what was scored, originals stay, and no file is replaced."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from output_samples import HOSTILE_NAMES, scored, unreadable

from muflow_cli.claims import check_new_folder
from muflow_cli.errors import CannotWrite, OutputIsInput
from muflow_cli.images.stdin import spool
from muflow_cli.output.inert import uncell
from muflow_cli.records import Scored, Verdict
from muflow_cli.scan.copies import MANIFEST, SUMS, open_copies, safe_name


def flagged(path: object, data: bytes) -> Scored:
    """A flagged result of an input with these bytes."""
    from dataclasses import replace

    result = scored(str(path), verdict=Verdict.FLAGGED)
    return replace(result, facts=replace(result.facts, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)))


def copied(folder: Path, *results: object, stdin: str = "") -> tuple[list[dict[str, str]], list[str]]:
    """Rows of the manifest, and what was noted."""
    notes: list[str] = []
    with open_copies(folder, 10**6, notes.append) as copies:
        assert copies is not None
        copies.again.stdin = stdin
        for result in results:
            copies.add(result)  # type: ignore[arg-type] # results of all kinds
    return [*csv.DictReader(io.StringIO((folder / MANIFEST).read_text("utf-8")))], notes


def test_flagged_images_alone_are_copied_and_their_originals_stay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    paths = [tmp_path / "a" / "x.jpg", tmp_path / "x.jpg", tmp_path / "copy.jpg"]
    contents = [b"one", b"two", b"one"]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    others = [scored(str(paths[1])), unreadable(str(paths[1]))]
    rows, notes = copied(tmp_path / "out", *others, *map(flagged, paths, contents))
    assert notes == []
    assert [uncell(row["source"]) for row in rows] == [*map(str, paths)]
    # Two files of one name are two copies, and two files of one content are one.
    assert rows[0]["copy"] == rows[2]["copy"] != rows[1]["copy"]
    assert {row["copy"].partition("-")[2] for row in rows} == {"x.jpg"}
    for row, data in zip(rows, contents, strict=True):
        assert (tmp_path / "out" / row["copy"]).read_bytes() == data
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
    assert [path.read_bytes() for path in paths] == contents
    checked = subprocess.run(["sha256sum", "-c", SUMS], cwd=tmp_path / "out", capture_output=True, check=True)
    assert checked.stdout.count(b": OK") == 2
    assert len([*(tmp_path / "out").iterdir()]) == 4


def test_members_of_archives_and_standard_input_are_copied(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/one.jpg", b"one")
        archive.writestr("../two.jpg", b"two")
    (tmp_path / "z.zip").write_bytes(stream.getvalue())
    (tmp_path / "in").mkdir()
    kept = spool(io.BytesIO(stream.getvalue()), tmp_path / "in", 10**6).file
    results = [flagged(f"{tmp_path}/z.zip!a/one.jpg", b"one"), flagged("-!../two.jpg", b"two")]
    rows, _ = copied(tmp_path / "out", *results, stdin=kept)
    assert [(tmp_path / "out" / row["copy"]).read_bytes() for row in rows] == [b"one", b"two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "z.zip"]


def test_what_has_changed_or_gone_since_it_was_scored_is_named_and_not_copied(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"now")
    results = [flagged(tmp_path / "x.jpg", b"then"), flagged(tmp_path / "gone.jpg", b"then")]
    rows, notes = copied(tmp_path / "out", *results)
    assert [row["problem"] for row in rows] == ["its content is no longer what was scored", "no such file or folder"]
    assert [row["copy"] for row in rows] == ["", ""]
    assert len(notes) == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MANIFEST, SUMS}


def test_a_video_may_be_longer_than_an_image(tmp_path: Path) -> None:
    content = b"0123456789" * 300_000
    (tmp_path / "x.mp4").write_bytes(content)
    with open_copies(tmp_path / "out", 1000, lambda _: None) as copies:
        assert copies is not None
        copies.add(flagged(tmp_path / "x.mp4", content))
    (copy,) = (tmp_path / "out").glob("*.mp4")
    assert copy.read_bytes() == content


def test_no_file_is_ever_replaced(tmp_path: Path) -> None:
    folder, image = tmp_path / "out", tmp_path / "x.jpg"
    image.write_bytes(b"one")
    result = flagged(image, b"one")
    with open_copies(folder, 10**6, lambda _: None) as copies:
        taken = folder / f"{result.facts.sha256[:16]}-x.jpg"
        taken.write_bytes(b"mine")
        assert copies is not None
        copies.add(result)
    assert taken.read_bytes() == b"mine"
    with pytest.raises(CannotWrite, match="it is not empty"), open_copies(folder, 1, lambda _: None):
        pass
    with pytest.raises(CannotWrite, match="it is no folder"):
        check_new_folder(image, ())
    with pytest.raises(OutputIsInput):
        check_new_folder(tmp_path / "new", [str(tmp_path)])
    check_new_folder(tmp_path / "new", [str(folder), str(image)])


@given(name=st.one_of(st.sampled_from(HOSTILE_NAMES), st.text(), st.text(min_size=200)))
def test_a_copy_s_name_is_one_harmless_part_of_a_path(name: str) -> None:
    safe = f"0-{safe_name('folder/' + name)}"
    assert safe.isprintable()
    assert not set(safe) & set('/\\:*?"<>|\0')
    assert len(safe.encode()) <= 122
    assert Path(safe).name == safe
    assert not safe.endswith((".", " "))
