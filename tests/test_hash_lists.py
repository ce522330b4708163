"""Laws of `--known`: every usual kind of list is read, and a listed file is counted, not scored."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FP32
from hypothesis import given
from hypothesis import strategies as st

from muflow_cli.bundle import load
from muflow_cli.detector import Detector
from muflow_cli.errors import BadList, CannotResume
from muflow_cli.images.hash_lists import KINDS, HashLists
from muflow_cli.output.report_reader import read_report
from muflow_cli.output.writers import OutputFormat
from muflow_cli.run_records import Summary
from muflow_cli.scan.job import Job
from muflow_cli.scan.outputs import Destination
from muflow_cli.scan.run import run

DATA, OTHER = b"a known file", b"another file"


def digest(kind: str) -> str:
    return hashlib.new(kind, DATA).hexdigest()


def database(
    path: Path, table: str = "FILE", columns: str = "sha256, sha1, md5", change: Callable[[str], str] = str.upper
) -> None:
    """As NSRL lays out its reference data set, version 3."""
    names = columns.split(", ")
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE {table} ({columns}, file_name, PRIMARY KEY ({columns}))")
        values = [*(change(digest(name)) for name in names), "a.jpg"]
        connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608 - names of this test
    connection.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "line",
    [
        "{0}\n",
        "# ours\r\n\r\n{1}\r\n",
        "\ufeff{0}\n",
        "{0}  a b.jpg\n",
        "{0} *a.jpg\n",
        "\\{0}  a\\nb.jpg\n",
        "TAGGED (a (1).jpg) = {0}\n",
    ],
)
def test_a_hash_is_found_in_every_usual_list(kind: str, line: str, tmp_path: Path) -> None:
    text = line.format(digest(kind), digest(kind).upper()).replace("TAGGED", kind.upper())
    path = tmp_path / "list"
    for encoding in ("utf-8", *(["utf-16"] if "\ufeff" not in text else [])):
        path.write_text(text, encoding=encoding)
        hashes = HashLists([path])
        assert DATA in hashes
        assert OTHER not in hashes


@pytest.mark.parametrize("columns", ["size,md5,sha256,filename", "size,sha1,tiger,filename", "size,md5,filename"])
def test_hashdeep_output_is_read_by_its_header(columns: str, tmp_path: Path) -> None:
    cells = {
        "size": "12",
        "tiger": "f" * 48,
        "filename": f'a,"{"0" * 64}.jpg',
        **{kind: digest(kind) for kind in KINDS},
    }
    row = ",".join(cells[name] for name in columns.split(","))
    path = tmp_path / "list"
    path.write_text(f"%%%% HASHDEEP-1.0\n%%%% {columns}\n## Invoked from: /\n## $ hashdeep\n##\n{row}\n")
    assert DATA in HashLists([path])
    assert OTHER not in HashLists([path])


def test_the_output_of_sha256sum_is_read(tmp_path: Path) -> None:
    (tmp_path / "a\nb.jpg").write_bytes(DATA)
    done = subprocess.run(["sha256sum", "a\nb.jpg"], cwd=tmp_path, capture_output=True, check=True)
    (tmp_path / "list").write_bytes(done.stdout)
    assert DATA in HashLists([tmp_path / "list"])


@pytest.mark.parametrize(
    ("table", "columns", "change"),
    [
        ("FILE", "sha256, sha1, md5", str.upper),
        ("METADATA", "sha1, md5", str.upper),
        ("FILE", "sha256, md5", str.lower),
    ],
)
def test_a_database_is_asked_and_not_changed(
    table: str, columns: str, change: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "RDS ?#.db"
    database(path, table, columns, change)
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    before = path.read_bytes()
    try:
        hashes = HashLists([path])
        assert DATA in hashes
        assert OTHER not in hashes
        assert [each.name for each in tmp_path.iterdir()] == [path.name]
    finally:
        tmp_path.chmod(0o700)
    assert path.read_bytes() == before


@given(name=st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1))
def test_no_name_in_a_list_counts_as_a_hash(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("names") / "list"
    path.write_text(
        f"{hashlib.sha256(name.encode()).hexdigest()}  {digest('sha256')} {name}\n", encoding="utf-8", newline="\n"
    )
    assert DATA not in HashLists([path])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"d41d8cd98f00b204e9800998ecf8427e\nx.jpg\n", "line 2 of .* holds no hash: give one MD5"),
        (b"d41d8cd98f00b204e9800998ecf842\n", "line 1 of .* holds no hash"),
        (b"%%%% HASHDEEP-1.0\n%%%% size,tiger,filename\n12,ff,a\n", "line 3 of .* holds no hash"),
        (b"SQLite format 3\0" + b"\0" * 2000, "is a damaged SQLite database"),
    ],
)
def test_what_is_no_list_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(BadList, match=sentence):
        HashLists([tmp_path / "list"])
    with pytest.raises(BadList, match="cannot read the list"):
        HashLists([tmp_path / "gone"])


def test_a_listed_file_is_counted_and_not_scored_and_the_report_names_the_lists(
    tiny_bundle: Path, reals: Path, tmp_path: Path
) -> None:
    detector, paths = load(tiny_bundle), sorted(reals.iterdir())[:4]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(DATA)
    (tmp_path / "list").write_text(f"{digest('md5')}\n{hashlib.sha256(paths[1].read_bytes()).hexdigest()}\n")
    hashes = HashLists([tmp_path / "list"])
    file = tmp_path / "r.jsonl"

    def scan(given: HashLists | None, *, resumed: bool = False) -> Summary:
        return scanned(detector, [str(broken), *map(str, paths)], file, given, resumed=resumed)

    summary = scan(hashes)
    assert (summary.inputs, summary.scored, summary.unreadable, summary.known) == (3, 3, 0, 2)
    assert [result.path for result in read_report(file).results] == [str(paths[i]) for i in (0, 2, 3)]
    assert (read_report(file).run.options or {})["known"] == hashes.digest
    assert scan(hashes, resumed=True).known == 2
    with pytest.raises(CannotResume, match="another --known"):
        scan(None, resumed=True)


def scanned(
    detector: Detector, arguments: list[str], file: Path, hashes: HashLists | None, *, resumed: bool
) -> Summary:
    destination = Destination(OutputFormat.JSONL, file, resumed=resumed)
    job = Job(
        detector=detector,
        detector_path="d",
        arguments=arguments,
        destinations=[destination],
        runtime=FP32,
        hash_lists=hashes,
    )
    return run(job)


def test_a_list_that_would_never_end_is_refused(tmp_path: Path) -> None:
    view = tmp_path / "view.db"
    with sqlite3.connect(view) as connection:
        endless = "WITH RECURSIVE t(n, sha256) AS (SELECT 1, 'x' UNION ALL SELECT n + 1, 'x' FROM t) SELECT * FROM t"
        connection.execute(f"CREATE VIEW FILE AS {endless}")
    connection.close()
    with pytest.raises(BadList, match="no table FILE or METADATA"):
        HashLists([view])
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadList, match="not a regular file"):
        HashLists([tmp_path / "fifo"])


def test_a_row_of_any_length_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("%%%% HASHDEEP-1.0\n%%%% size,sha256,filename\n1," + "x" * 200_000 + ",a\n")
    with pytest.raises(BadList, match=r"line 3 .* holds no hash"):
        HashLists([path])
