"""`muflow scan -`: standard input is one image or one archive."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from scan_runs import bomb, run

from muflow_cli.images.find import find
from muflow_cli.images.inputs import Input
from muflow_cli.images.read import read_input
from muflow_cli.images.stdin import spool
from muflow_cli.run_specs import InputSpec
from muflow_cli.verify import verify


@pytest.fixture(scope="module")
def image(reals: Path) -> bytes:
    return (reals / "0000.jpg").read_bytes()


def packed(kind: str, members: dict[str, bytes]) -> bytes:
    """An archive: `zip`, or a tar with this compression."""
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=stream, mode=f"w:{kind}") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def scanned(detector: Path, data: bytes, *words: object) -> tuple[int, list[dict[str, Any]]]:
    done = run("scan", "-", "--detector", detector, "--json", "-q", *words, input=data)
    return done.returncode, json.loads(done.stdout)["results"]


def test_an_image_from_a_pipe_has_the_result_of_its_file(tiny_bundle: Path, reals: Path, image: bytes) -> None:
    _, (piped, named) = scanned(tiny_bundle, image, reals / "0000.jpg")
    assert piped["path"] == "-"
    assert piped["sha256"] == hashlib.sha256(image).hexdigest()
    assert named["duplicate_of"] == "-"
    same = piped.keys() - {"path", "duplicate_of"}
    assert {name: piped[name] for name in same} == {name: named[name] for name in same}


@pytest.mark.parametrize("kind", ["zip", "", "gz", "bz2", "xz"])
def test_an_archive_from_a_pipe_is_read_like_a_file(kind: str, tmp_path: Path, image: bytes) -> None:
    argument = spool(io.BytesIO(packed(kind, {"a/one.jpg": image, "notes.txt": b"x"})), tmp_path, 10**6)
    (item,) = find([argument], InputSpec())
    assert isinstance(item, Input)
    assert item.path == "-!a/one.jpg"
    assert read_input(item, 10**6) == image


def test_what_is_no_image_is_a_record_named_like_the_input(tiny_bundle: Path) -> None:
    for data, code in ((bomb(), "too_many_pixels"), (packed("zip", {"a.jpg": b"x"})[:40], "corrupt_archive")):
        status, (result,) = scanned(tiny_bundle, data)
        assert (status, result["path"], result["error"]["code"]) == (3, "-", code)


def test_no_more_of_a_stream_is_kept_than_an_image_may_have(tmp_path: Path) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    argument = spool(Endless(), tmp_path, 100_000)  # type: ignore[arg-type] # a stream of bytes
    assert Path(argument.file).stat().st_size == 100_001


def test_groups_verification_and_temporary_files_know_the_name(
    tiny_bundle: Path, tmp_path: Path, image: bytes, reals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    data = packed("zip", {"a/one.jpg": image, "two.jpg": (reals / "0001.jpg").read_bytes()})
    report = tmp_path / "r.json"
    done = run("scan", "-", "--detector", tiny_bundle, "--groups", "-q", "-o", report, input=data)
    assert done.returncode in (0, 1), done.stderr
    assert {result["group"] for result in json.loads(report.read_text())["results"]} == {"-"}
    assert [each.message for each in verify(report).differences] == [
        "came from standard input, which cannot be read again"
    ] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--files-from", "-"],
            "PATH - cannot be combined with --files-from -, because standard input is either an image or a list",
        ),
        (
            ["--resume", "-o", "r.jsonl"],
            "--resume cannot be combined with PATH -, because standard input cannot be read again",
        ),
        (["-"], "PATH is - -: use - once, since standard input is one image"),
    ],
)
def test_stdin_is_read_for_one_thing_once(words: list[str], sentence: str, tmp_path: Path) -> None:
    done = run("scan", "-", *words, input=b"", cwd=tmp_path)
    assert (done.returncode, done.stderr.decode()) == (2, f"muflow: {sentence}\n")
