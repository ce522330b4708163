"""Live scans to one output: the second one gets a sentence, and what the first one writes is whole."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from conftest import write_faces
from fork_server import executable
from scan_runs import environment, run


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_faces(tmp_path_factory.mktemp("faces"), 5, seed=13)


def holds(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Whether a process comes to hold the lock of an output."""
    lock = path.with_name(f".{path.name}.lock")
    until = time.monotonic() + 120
    while process.poll() is None and not lock.exists() and time.monotonic() < until:
        time.sleep(0.005)
    return lock.exists()


def refused(done: subprocess.CompletedProcess[bytes], path: Path) -> bool:
    said = f"muflow: cannot write {path} (another run is writing it): wait until it has ended, or choose another name\n"
    return (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", said)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_a_second_scan_to_the_output_of_a_live_one_is_refused(
    suffix: str, tiny_bundle: Path, faces: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / f"x.{suffix}"
    words = [executable(), "scan", "--detector", tiny_bundle, "--exit-zero", "-q", "-o", output]
    with subprocess.Popen(
        [*words, "--files-from", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as first:  # which waits for names on stdin
        assert holds(first, output)
        assert refused(run(*words[1:], "--resume" if suffix == "jsonl" else "--force", *faces), output)
        _, said = first.communicate("".join(f"{face}\n" for face in faces).encode())
    assert (first.returncode, said) == (0, b"")
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    if suffix == "csv":
        assert output.read_bytes().count(b"\n") == 1 + len(faces)
    else:
        verified = run("scan", "--verify", output)
        assert (verified.returncode, verified.stderr) == (0, b"5 results, no differences\n")


def test_of_scans_that_begin_together_one_writes_and_the_others_are_refused(
    tiny_bundle: Path, faces: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "x.json"
    words = [executable(), "scan", *faces, "--detector", tiny_bundle, "--exit-zero", "-q", "-o", output]
    runs = [subprocess.Popen(words, stderr=subprocess.PIPE, env=environment()) for _ in range(3)]
    said = [process.communicate()[1] for process in runs]
    assert sorted(process.returncode for process in runs) == [0, 2, 2]
    assert sorted(text.count(b"\n") for text in said) == [0, 1, 1]
    assert run("scan", "--verify", output).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
