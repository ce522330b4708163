"""`scan` by groups through the command: a list's column names them, every format tells of them, the page is right."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import write_faces
from fork_server import executable
from scan_runs import environment, run

PAGE = (Path(__file__).parents[1] / "docs" / "batch.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two accounts in one folder, and the list that tells them apart."""
    folder = tmp_path_factory.mktemp("accounts")
    paths = write_faces(folder / "avatars", 8, seed=21)
    with (folder / "list.csv").open("w", newline="") as file:
        rows = [(path.relative_to(folder), "ann" if index % 2 else "=bob, the 2nd") for index, path in enumerate(paths)]
        csv.writer(file).writerows([("path", "account"), *rows])
    return folder


def test_a_column_of_a_list_names_the_groups(tiny_bundle: Path, accounts: Path) -> None:
    words = ("--files-from", "list.csv", "--group-by", "account", "--fail-on", "error", "--precision", "fp32", "-q")
    outputs = ("-o", "r.json", "-o", "r.html", "--format", "groups")
    done = run("scan", "--detector", tiny_bundle, *words, *outputs, cwd=accounts)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((accounts / "r.json").read_text())
    assert {(r["path"], r["group"]) for r in report["results"]} == {
        (f"avatars/{index:04}.jpg", "ann" if index % 2 else "=bob, the 2nd") for index in range(8)
    }
    groups = report["summary"]["groups"]
    assert [(group["name"], group["images"]) for group in groups] == [("=bob, the 2nd", 4), ("ann", 4)]
    assert all(0 < group["p_value"] <= group["q_value"] <= 1 for group in groups)
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode(), newline="")))
    assert [row["name"] for row in rows] == ["'=bob, the 2nd", "ann"]
    assert [float(row["p_value"]) for row in rows] == [group["p_value"] for group in groups]
    assert "=bob, the 2nd" in (accounts / "r.html").read_text()


def test_a_list_without_the_column_is_one_sentence_and_no_output(tiny_bundle: Path, accounts: Path) -> None:
    words = ("--files-from", "list.csv", "--group-by", "user", "-o", "u.groups.csv")
    done = run("scan", "--detector", tiny_bundle, *words, "--precision", "fp32", "-q", cwd=accounts)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"muflow: the first line of the list names no column user")
    assert done.stderr.count(b"\n") == 1
    assert not (accounts / "u.groups.csv").exists()


def test_every_command_of_the_page_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "faces.safetensors").write_bytes(tiny_bundle.read_bytes())
    write_faces(tmp_path / "reals", 40, seed=31)
    for seed, account in enumerate(("ann", "bob"), start=32):
        write_faces(tmp_path / "avatars" / account, 3, seed=seed)
    (table,) = re.findall(r"```text\n(path,.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "list.csv").write_text(table.replace("0001", "0002"))
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        path = os.pathsep.join((str(executable().parent), os.environ["PATH"]))
        done = subprocess.run(
            ["bash", "-c", block],
            cwd=tmp_path,
            env=environment(PATH=path),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        assert "muflow: " not in done.stderr
    assert (tmp_path / "accounts.groups.csv").read_text().splitlines()[1].startswith("ann,1,")
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    head, summary = json.loads(lines[0]), json.loads(lines[-1])["summary"]
    assert [group["name"] for group in summary["groups"]] == ["avatars/ann", "avatars/bob"]
    assert summary["adaptive"]["training"] + summary["adaptive"]["nulls"] == head["detector"]["calibration_images"]
    assert not (tmp_path / "run.jsonl.batch").exists()
