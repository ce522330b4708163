"""What a benchmark scores outlives an interruption and a crash, and `--resume` gives the report of an unbroken run."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import FP32, write_faces
from scan_runs import environment, forked

from muflow_cli.bench import BenchRequest, bench
from muflow_cli.bench.datasets import data_arguments
from muflow_cli.bench.intervals import BootstrapSpec
from muflow_cli.bench.kept import Kept, is_kept, kept_path
from muflow_cli.bench.robustness import Condition, On
from muflow_cli.errors import CannotResume
from muflow_cli.images.perturb import parse
from muflow_cli.run_specs import Precision

Run = Callable[..., Any]


class Interrupted(Exception):
    """Ends a run in the middle, as a fault would."""


class Advances:
    """A listener that counts images, and ends the run at one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.seen, self._last = 0, last

    def stage(self, name: str, total: int | None) -> None:
        """Every stage is fine."""

    def advance(self, steps: int = 1) -> None:
        self.seen += steps
        if self.seen == self._last:
            raise Interrupted


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_faces(root / "real", 8, seed=41)
    write_faces(root / "fake", 8, seed=42)
    return root


@pytest.fixture
def request_of(tiny_bundle: Path, data: Path) -> BenchRequest:
    return BenchRequest(
        detector=tiny_bundle,
        data=data_arguments([str(data / "real")], [str(data / "fake")], []),
        runtime=replace(FP32, batch_size=4, workers=1),
        bootstrap=BootstrapSpec(resamples=20),
        conditions=(Condition(parse("noise:std=0.1"), On.BOTH), Condition(parse("jpeg:q=50"), On.FAKES)),
    )


def figures(document: dict[str, Any]) -> dict[str, Any]:
    """A report without what changes from run to run."""
    return {**document, "run": {name: document["run"][name] for name in ("version", "device", "precision")}}


def broken_off(request: BenchRequest, path: Path, last: int) -> None:
    with Kept(path, resume=True) as kept, pytest.raises(Interrupted):
        bench(request, Advances(last), kept)


def resumed(request: BenchRequest, path: Path) -> tuple[dict[str, Any], list[str], list[bytes]]:
    """The figures of a run that continues another, what it said, and the lines that it added."""
    before, said = path.read_bytes(), list[str]()
    with Kept(path, resume=True, note=said.append) as kept:
        document = bench(request, None, kept).document
    after = path.read_bytes()
    old = set(before.splitlines())
    return figures(document), said, [line for line in after.splitlines() if line not in old]


def test_a_resumed_run_scores_only_what_is_missing_and_gives_the_report_of_an_unbroken_one(
    request_of: BenchRequest, tmp_path: Path
) -> None:
    unbroken = figures(bench(request_of).document)
    path = tmp_path / "kept"
    broken_off(request_of, path, 5)
    first = path.read_bytes()
    assert first.count(b'"type":"score"') == 4
    broken_off(request_of, path, 16 + 7)
    assert path.read_bytes().startswith(first)
    assert path.read_bytes().count(b'"type":"score"') == 16 + 6
    document, said, added = resumed(request_of, path)
    assert (document, said) == (unbroken, [])
    assert len(added) == 10 + 8
    # A change of the seed changes the noise, and nothing that is clean.
    other = replace(request_of, bootstrap=replace(request_of.bootstrap, seed=1))
    document, _, added = resumed(other, path)
    assert document == figures(bench(other).document)
    assert {json.loads(line)["view"] for line in added} == {"noise:std=0.1 seed=1", "jpeg:q=50 seed=1"}


def test_what_does_not_match_its_check_is_scored_again_and_said_once(request_of: BenchRequest, tmp_path: Path) -> None:
    clean = replace(request_of, conditions=())
    unbroken, path = figures(bench(clean).document), tmp_path / "kept"
    broken_off(clean, path, 13)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"columns":[', b'"columns":[1')  # a rotten digit
    lines[5] = lines[5].replace(b'"bytes":', b'"bytes":1')
    lines[7] = b"rubbish\n"
    path.write_bytes(b"".join(lines) + lines[9][:40])
    document, said, added = resumed(clean, path)
    assert document == unbroken
    assert said == [f"3 scores do not match the check in {path}, so their images are scored again"]
    assert len(added) == 4 + 3
    assert resumed(clean, path) == (unbroken, [], [])


def test_scores_that_were_made_differently_are_refused(request_of: BenchRequest, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    broken_off(request_of, path, 3)
    before = path.read_bytes()
    for other, why in (
        (replace(request_of, runtime=replace(FP32, precision=Precision.BF16)), "another precision"),
        (replace(request_of, inputs=replace(request_of.inputs, max_pixels=10**6)), "another --max-pixels:"),
        (replace(request_of, inputs=replace(request_of.inputs, max_seconds=1)), "another --max-seconds:"),
    ):
        with Kept(path, resume=True) as kept, pytest.raises(CannotResume, match=why):
            bench(other, None, kept)
    assert path.read_bytes() == before
    path.write_bytes(before.replace(b'"torch":"', b'"torch":"0'))
    with Kept(path, resume=True) as kept, pytest.raises(CannotResume, match="another torch"):
        bench(request_of, None, kept)
    path.write_bytes(b"dear diary\n")
    with Kept(path, resume=True) as kept, pytest.raises(CannotResume, match="does not hold the scores"):
        bench(request_of, None, kept)


def test_a_run_that_ends_before_its_first_score_leaves_no_file(request_of: BenchRequest, tmp_path: Path) -> None:
    broken_off(request_of, tmp_path / "kept", 1)
    assert list(tmp_path.iterdir()) == []


def stopped(words: list[Any], folder: Path, number: signal.Signals, scores: int) -> tuple[int, bytes]:
    """Start a run, send it a signal once it has kept so many scores, and return its status and what it said."""
    path = kept_path(folder / "a.json")
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment(), cwd=folder) as process:
        while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") <= scores):
            time.sleep(0.001)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    return process.returncode, said


def test_a_signal_and_a_kill_lose_nothing_and_the_next_run_continues(
    muflow: Run, tiny_bundle: Path, data: Path, tmp_path: Path
) -> None:
    words = ["bench", tiny_bundle, "--real", data / "real", "--fake", data / "fake", "--perturb", "jpeg:q=50"]
    words += ["--precision", "fp32", "--batch-size", "1", "--workers", "1", "--resamples", "20"]
    whole = muflow(*words, "-o", tmp_path / "whole.json")
    assert whole.returncode == 0, whole.stderr
    path = kept_path(tmp_path / "a.json")
    begun = forked(*words, "-o", "a.json", "-q")
    status, said = stopped(begun, tmp_path, signal.SIGTERM, 5)
    assert status == 130
    assert said == b"muflow: interrupted; what was scored is kept in a.json.scores.jsonl, continue with --resume\n"
    kept = path.read_bytes()
    # Without --resume it is refused, so that nobody loses the scores by habit.
    refused = muflow(*words, "-o", tmp_path / "a.json")
    assert (refused.returncode, refused.stderr.count(b"\n")) == (2, 1)
    assert b"holds the scores of a run that did not end" in refused.stderr
    # The run itself is a fork, which is killed once its caller is.
    resume = forked(*words, "-o", "a.json", "-q", "--resume")
    assert stopped(resume, tmp_path, signal.SIGKILL, kept.count(b"\n") + 5) == (-signal.SIGKILL, b"")
    assert path.read_bytes().startswith(kept)
    done = muflow(*words, "-o", tmp_path / "a.json", "--resume")
    assert done.returncode == 0, done.stderr
    documents = [figures(json.loads((tmp_path / name).read_bytes())) for name in ("a.json", "whole.json")]
    assert documents[0] == documents[1]
    assert {file.name for file in tmp_path.iterdir()} <= {"a.json", "whole.json", ".a.json.lock", f".{path.name}.lock"}
    assert not path.exists()


def test_without_an_output_there_is_nothing_to_resume(muflow: Run, tiny_bundle: Path, data: Path) -> None:
    done = muflow("bench", tiny_bundle, "--real", data / "real", "--fake", data / "fake", "--resume")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"muflow: --resume needs -o FILE, because scores are kept beside the first output\n"


def test_nothing_of_another_program_is_taken_for_kept_scores(tmp_path: Path) -> None:
    path, other = tmp_path / "o.json.scores.jsonl", tmp_path / "other"
    other.write_bytes(b"")
    assert not is_kept(path)
    path.symlink_to(other)
    assert not is_kept(path)
    path.unlink()
    path.write_bytes(b"notes")
    assert not is_kept(path)
    path.write_bytes(b"")
    assert is_kept(path)
    path.write_bytes(b'{"type":"scores","schema":"muflow.bench-scores/1","detector":')
    assert is_kept(path)
