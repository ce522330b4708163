"""Promises about a run of any command: who may write, which streams may be closed, and what a fault leaves."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import fit_arguments, write_faces
from scan_runs import begun, command, environment, lines, result_lines, run

from muflow_cli.cli.progress import ScanProgress
from muflow_cli.cli.streams import prepare
from muflow_cli.files import locked


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, 12, seed=7)
    return folder


# Each stage of a command stands on a function of a library or of Python, which breaks.
STAGES = [
    *(
        (command, stage)
        for command in ("scan", "calibrate")
        for stage in ("torch.from_numpy", "json.dumps", "os.fsync")
    ),
    *(
        (command, stage)
        for command in ("scan", "calibrate", "bench", "fit")
        for stage in ("hashlib.sha256", "os.scandir")
    ),
]


@pytest.mark.parametrize(("command", "stage"), STAGES)
def test_a_fault_at_any_stage_is_one_sentence_and_status_2_and_leaves_nothing(
    command: str,
    stage: str,
    tiny_bundle: Path,
    faces: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reals, tiny_weights = map(request.getfixturevalue, ("reals", "tiny_weights"))
    words = {
        "scan": ["scan", faces, "--detector", tiny_bundle, "-o", tmp_path / "a.json"],
        "calibrate": ["calibrate", tiny_bundle, faces, "-o", tmp_path / "a.safetensors", "--alpha", "0.2"],
        "bench": ["bench", tiny_bundle, "--real", faces, "--fake", faces, "-o", tmp_path / "a.json"],
        "fit": fit_arguments(reals, tiny_weights, tmp_path / "a.safetensors"),
    }[command]

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(stage, broken)
    status = begun([*words, "-q"], monkeypatch)
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (2, 1), said
    assert "muflow: unexpected ZeroDivisionError" in said
    assert "muflow --debug" in said
    # A work folder that cannot be listed cannot be removed either.
    assert {path.name for path in tmp_path.iterdir()} <= ({"a.safetensors.work"} if stage == "os.scandir" else set())


def test_results_before_a_fault_are_in_every_output(
    tiny_bundle: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def fault(*_: object) -> None:
        seen.append(1)
        if len(seen) == 9:
            raise ZeroDivisionError("a fault")

    monkeypatch.setattr(ScanProgress, "result", fault)
    outputs = [word for kind in ("json", "jsonl", "csv") for word in ("-o", tmp_path / f"a.{kind}")]
    words = ["scan", faces, "--detector", tiny_bundle, *outputs, "-q"]
    assert begun(words, monkeypatch) == 2
    document = json.loads((tmp_path / "a.json").read_bytes())
    assert document["summary"]["interrupted"]
    assert len(document["results"]) == len(result_lines(tmp_path / "a.jsonl")) == 8


def test_a_second_run_on_an_output_is_refused_and_an_input_is_never_replaced(
    tiny_bundle: Path, faces: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.json"
    words = ("scan", faces, "--detector", tiny_bundle, "--force", "-q")
    with locked(output):
        done = run(*words, "-o", output)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(f"muflow: cannot write {output} (another run is writing it): wait".encode())
    image = next(faces.iterdir())
    before = image.read_bytes()
    (tmp_path / "link.json").symlink_to(tiny_bundle)
    os.link(image, tmp_path / "hard.json")
    for name in ("link.json", "hard.json"):
        done = run(*words, "-o", tmp_path / name)
        assert done.returncode == 2
        assert done.stderr.startswith(f"muflow: the output {tmp_path / name} is an input of this run, also".encode())
    assert image.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hard.json", "link.json"]


def test_an_output_that_a_list_names_is_refused_before_anything_is_written(
    tiny_bundle: Path, faces: Path, tmp_path: Path
) -> None:
    output, names = tmp_path / "a.jsonl", tmp_path / "names.txt"
    output.write_bytes(b"evidence\n")
    names.write_text("\n".join(map(str, [*faces.iterdir(), output])))
    done = run("scan", "--files-from", names, "--detector", tiny_bundle, "--force", "-q", "-o", output)
    assert done.returncode == 2
    assert done.stderr.startswith(f"muflow: the output {output} is an input of this run".encode())
    assert output.read_bytes() == b"evidence\n"


# A fork for each, from one process that has loaded the libraries; Python itself has no object for a closed stream.
CLOSING = """
import os, sys
import muflow_cli.bundle, muflow_cli.engine.scoring, muflow_cli.images.loader, muflow_cli.scan.run
from muflow_cli.cli import main
report = os.dup(1)
for closed in ([2], [0, 1, 2], [0, 1]):
    if not os.fork():
        for number in closed:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)
        main()
    os.write(report, b"%d\\n" % os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_stream_that_is_closed_changes_no_status(tiny_bundle: Path, faces: Path) -> None:
    words = ["scan", next(faces.iterdir()), "--detector", tiny_bundle, "--exit-zero", "--format", "jsonl"]
    done = subprocess.run(
        [sys.executable, "-c", CLOSING, *words],
        capture_output=True,
        env=environment(COLUMNS="0"),
        timeout=60,
        check=False,
    )
    # The results are those of the run that had a place for them.
    *results, first, second, third = done.stdout.splitlines()
    assert (first, second, third) == (b"0", b"2", b"2")
    assert [one["type"] for one in lines(b"\n".join(results))] == ["run", "result", "summary"]
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"muflow: cannot write standard output")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that has no room")
def test_what_is_said_on_a_full_device_changes_no_status(tiny_bundle: Path, faces: Path) -> None:
    words = ("scan", next(faces.iterdir()), "--detector", tiny_bundle, "--exit-zero", "--format", "jsonl")
    with Path("/dev/full").open("wb") as full:
        done = run(*words, stdout=subprocess.PIPE, stderr=full, capture_output=False, env=environment(COLUMNS="0"))
    assert done.returncode == 0
    assert done.stdout.count(b'"type":"result"') == 1


def test_no_columns_are_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    prepare()
    assert "COLUMNS" not in os.environ


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_a_random_moment_is_one_line_and_leaves_whole_outputs(
    number: signal.Signals, tiny_bundle: Path, faces: Path, tmp_path: Path
) -> None:
    outputs = [word for kind in ("jsonl", "json", "csv", "html") for word in ("-o", f"a.{kind}")]
    words = command("scan", faces, "--detector", tiny_bundle, *outputs, "-q")
    if number is signal.SIGINT:
        words = command("calibrate", tiny_bundle, faces, "-o", "a.safetensors", "--alpha", "0.2", "-q")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd=tmp_path
    ) as process:
        time.sleep(random.uniform(0.1, 1))
        process.send_signal(number)
        said = process.communicate()[1]
    if process.returncode != -number:  # Python itself had not yet come to muflow's first line
        assert (process.returncode, said.count(b"muflow: interrupted"), said.count(b"\n")) == (130, 1, 1)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".jsonl", ".json", ".csv", ".html", ".safetensors"}


def test_a_second_signal_ends_a_scan_at_once_while_a_thread_is_busy_with_an_image(
    tiny_bundle: Path, faces: Path, tmp_path: Path
) -> None:
    code = (
        "import time\n"
        "import muflow_cli.images.loader as loader\n"
        "from muflow_cli.cli import main\n"
        "def slow(*_, **__):\n"
        "    print('reading', flush=True)\n"
        "    time.sleep(600)\n"
        "loader.read_input = slow\n"
        "main()\n"
    )
    words = [sys.executable, "-c", code, "scan", faces, "--detector", tiny_bundle, "-o", "a.json", "--force", "-q"]
    (tmp_path / "a.json").write_bytes(b"before")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, b"muflow: interrupted\n")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"before")]
