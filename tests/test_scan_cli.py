"""`muflow scan` through a real process: exit statuses, streams, formats, hostile inputs, interruptions."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from conftest import write_faces
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from scan_runs import command, environment, forked, hostile, lines, result_lines, run, without_check

from muflow_cli.bundle import load
from muflow_cli.images.find import find
from muflow_cli.run_specs import InputSpec, Precision, Runtime
from muflow_cli.scan.workflow import Scan, ScanRequest

SCHEMAS = {
    name: json.loads((files("muflow_cli.output") / "schemas" / name).read_text())
    for name in ("scan-2.json", "scan-line-2.json")
}
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)
DOCUMENT = Draft202012Validator(SCHEMAS["scan-2.json"], registry=REGISTRY)
LINE = Draft202012Validator(SCHEMAS["scan-line-2.json"], registry=REGISTRY)


Begin = Callable[..., list[str]]


def state(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything about what is in `folder` but access times."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        seen = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_nlink, content)
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_faces(folder, 60, seed=7)
    return folder


@pytest.fixture(scope="module")
def by_flag(tiny_bundle: Path, photos: Path) -> dict[bool, Path]:
    """An image that is flagged and one that is not."""
    detector = load(tiny_bundle)
    request = ScanRequest(detector=detector, runtime=Runtime(device="cpu", precision=Precision.FP32))
    return {r.flagged: Path(r.path) for r in Scan(request).results(find([str(photos)], InputSpec()))}


@pytest.fixture(scope="module")
def hostile_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path
) -> tuple[subprocess.CompletedProcess[bytes], Path, dict[str, str], bool]:
    """One run over hostile inputs into every format: the process, its folder, what is expected, nothing changed."""
    base = tmp_path_factory.mktemp("hostile")
    expected = hostile(base / "in")
    # What even root may not read: another process's memory behind a regular file.
    arguments = ["in", "/proc/self/mem"]
    outputs = [word for kind in ("jsonl", "csv", "sarif", "html") for word in ("-o", f"out.{kind}")]
    before = state(base / "in")
    done = run(
        *("scan", *arguments, "--detector", tiny_bundle, "--json", "--precision", "fp32", *outputs),
        *("--workers", "3", "-v"),
        cwd=base,
    )
    return done, base, expected, state(base / "in") == before


def test_every_hostile_input_is_scored_or_one_error_record(hostile_run: Any) -> None:
    done, _, expected, _ = hostile_run
    results = json.loads(done.stdout)["results"]
    found = {r["path"].removeprefix("in/"): r.get("error", {}).get("code", "") for r in results}
    assert found == expected | {"/proc/self/mem": "read_error"}
    assert len(results) == len(found)
    assert done.returncode in (1, 3)


def test_nothing_near_the_inputs_changes(hostile_run: Any) -> None:
    assert hostile_run[3]


def test_json_and_json_lines_are_as_their_schemas_say(hostile_run: Any) -> None:
    done, base, _, _ = hostile_run
    document = json.loads(done.stdout)
    DOCUMENT.validate(document)
    found = lines((base / "out.jsonl").read_bytes())
    for one in found:
        LINE.validate(one)
    assert [{k: v for k, v in one.items() if k not in {"type", "check"}} for one in found[1:-1]] == document["results"]


def test_every_format_tells_of_every_input(hostile_run: Any) -> None:
    done, base, expected, _ = hostile_run
    with (base / "out.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(expected) + 1
    sarif = json.loads((base / "out.sarif").read_text())["runs"][0]
    flagged = json.loads(done.stdout)["summary"]["flagged"]
    assert len(sarif["results"]) >= flagged
    assert "truncated.jpg" in (base / "out.html").read_text()


def test_the_run_head_says_what_computed(hostile_run: Any) -> None:
    document = json.loads(hostile_run[0].stdout)
    used = {"torch", "torchvision", "pillow", "simplejpeg", "openjpeg", "libwebp", "numpy", "python", "muflow"}
    extras = {name for name in ("pillow-heif", "c2pa-python") if any(distributions(name=name))}
    assert used | extras <= set(document["run"]["versions"])
    assert any(name.startswith("libjpeg") for name in document["run"]["versions"])
    assert document["run"]["started"] <= document["run"]["finished"]
    assert document["run"]["precision"] == "fp32"


def test_the_digest_is_over_the_result_lines(hostile_run: Any) -> None:
    done, base, _, _ = hostile_run
    written = b"".join(without_check(one) + b"\n" for one in result_lines(base / "out.jsonl"))
    assert json.loads(done.stdout)["summary"]["results_sha256"] == hashlib.sha256(written).hexdigest()


def test_stderr_names_reasons_counts_and_the_bottleneck(hostile_run: Any) -> None:
    said = hostile_run[0].stderr.decode()
    assert "in/zero.png: the file is empty" in said
    assert "1 duplicate\n" in said
    assert "1 empty" in said
    assert "the bottleneck is" in said
    assert "\x1b" not in said
    assert "Traceback" not in said


def test_identical_bytes_are_reported_as_duplicates(hostile_run: Any) -> None:
    results = {r["path"]: r for r in json.loads(hostile_run[0].stdout)["results"]}
    copy, first = results["in/plain.jpg"], results["in/plain copy.jpg"]
    assert (first["duplicate_of"], copy["duplicate_of"]) == (None, "in/plain copy.jpg")
    assert copy["score"] == first["score"]


def test_verify_finds_what_differs_and_nothing_else(hostile_run: Any, tmp_path: Path) -> None:
    _, base, _, _ = hostile_run
    same = run("scan", "--verify", "out.jsonl", cwd=base)
    assert (same.returncode, same.stdout) == (0, b"")
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", base, copy], check=True)
    with (copy / "in" / "grey.jpg").open("ab") as file:
        file.write(b"!")
    (copy / "in" / "one.png").unlink()
    changed = run("scan", "--verify", "out.jsonl", "-q", cwd=copy)
    assert changed.returncode == 1
    assert sorted(line.split(b":")[0] for line in changed.stdout.splitlines()) == [b"in/grey.jpg", b"in/one.png"]
    assert changed.stderr == b""


def test_status_0_when_nothing_is_flagged_and_quiet_says_nothing(tiny_bundle: Path, by_flag: dict[bool, Path]) -> None:
    done = run("scan", by_flag[False], "--detector", tiny_bundle, "--precision", "fp32", "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")
    assert [one["type"] for one in lines(done.stdout)] == ["run", "result", "summary"]


def test_status_1_when_something_is_flagged(tiny_bundle: Path, by_flag: dict[bool, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").touch()
    paths = [by_flag[False], by_flag[True], tmp_path / "bad.jpg"]
    done = run("scan", *paths, "--detector", tiny_bundle, "--precision", "fp32", "--format", "csv", "-o", "-")
    assert done.returncode == 1
    assert [row["path"] for row in csv.DictReader(done.stdout.decode().splitlines())] == list(map(str, paths))


def test_status_3_when_only_some_are_unreadable(tiny_bundle: Path, by_flag: dict[bool, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").touch()
    given = b"\0".join(os.fsencode(path) for path in (by_flag[False], tmp_path / "bad.jpg"))
    words = ("scan", "--files-from", "-", "-0", "--precision", "fp32", "--format", "table")
    done = run(*words, input=given, env=environment(MUFLOW_DETECTOR=str(tiny_bundle)))
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 3
    assert b"unreadable" in done.stdout


WRONG = [
    (["--detector", "d"], "there is nothing to scan: give files"),
    (
        ["photos", "--detector", "d", "--json", "--format", "csv"],
        "--json cannot be combined with --format csv, because",
    ),
    (["photos", "--detector", "d", "--fields", "path,colour"], "colour"),
    (["photos", "--detector", "d", "--fdr", "1.5"], "--fdr is 1.5: use a rate between 0 and 1"),
    (["photos", "--detector", "d", "--resume"], "--resume needs one -o FILE.jsonl, because"),
    (["photos", "--detector", "d", "--resume", "-o", "a.csv"], "--resume needs one -o FILE.jsonl, because"),
    (["photos", "--resume", "-o", "a.jsonl", "-o", "b.jsonl"], "--resume needs one -o FILE.jsonl, because"),
    (
        ["photos", "--detector", "d", "--group-by", "account"],
        "--group-by needs --files-from FILE without PATH, because",
    ),
    (
        ["photos", "--detector", "d", "-o", "a.json", "-o", "a.groups.csv"],
        "-o a.groups.csv needs --groups or --group-by, because it is the table of the groups",
    ),
    (
        ["photos", "--detector", "d", "-o", "a.csv", "--print", "flagged"],
        "--print needs -o FILE.html, because it chooses what that page prints",
    ),
    (["photos", "--detector", "d", "--case", " "], "--case is ' ': use 1 to 200 printable characters"),
    (
        ["photos", "--detector", "d", "--examiner", "a\nb"],
        "--examiner is 'a\\nb': use 1 to 200 printable characters",
    ),
    (["photos", "--detector", "d", "--format", "groups"], "--format groups needs --groups or --group-by, because"),
    (
        ["photos", "--detector", "d", "--resume", "-o", "a.jsonl", "--fields", "path"],
        "--resume cannot be combined with --fields",
    ),
    (["photos", "--detector", "d", "-o", "there.json"], "--force"),
    (["photos", "--detector", "d", "-o", "a.json", "--csv-output", "./a.json"], "twice"),
    (["photos", "--detector", "d", "-o", "a.pdf"], "-o is a.pdf: use a name that ends in .txt, .json"),
    (["photos", "--csv-output", "."], "folder"),
    (["photos", "-o", "no/folder/a.json"], "cannot write no/folder/a.json"),
    (["photos", "--verify", "there.json"], "--verify cannot be combined with PATH, because"),
    (["--verify", "there.json", "-o", "a.csv"], "--verify cannot be combined with -o, because"),
    (["--verify", "there.json"], "report"),
    (["--verify", "missing.json"], "missing.json"),
    (["--no-such-option"], "no-such-option"),
]

# A fork for each, from one process that has loaded the commands, which must not load torch.
REFUSED = """
import contextlib, json, os, sys
import muflow_cli.verify
from muflow_cli.cli import app, main
sys.argv = ["muflow", "scan", "--no-such-option"]
with contextlib.redirect_stderr(open(os.devnull, "w")): app.run()
for number, words in enumerate(json.load(open("../wrong.json"))):
    if not os.fork():
        os.dup2(os.open(f"../{number}.err", os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = ["muflow", "scan", *words]
        try: main()
        finally: print('torch' in sys.modules, flush=True)
    print(os.waitstatus_to_exitcode(os.wait()[1]), os.listdir(), flush=True)
"""


def test_wrong_usage_is_one_sentence_status_2_and_loads_no_torch(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "there.json").write_text("{}")
    (tmp_path / "wrong.json").write_text(json.dumps([words for words, _ in WRONG]))
    words = [sys.executable, "-c", REFUSED]
    done = subprocess.run(words, capture_output=True, env=environment(), cwd=folder, timeout=60, check=False)
    assert done.stderr == b""
    answers = done.stdout.splitlines()
    assert len(answers) == 2 * len(WRONG)
    for number, (arguments, sentence) in enumerate(WRONG):
        assert answers[2 * number : 2 * number + 2] == [b"False", b"2 ['there.json']"], arguments
        said = (tmp_path / f"{number}.err").read_text()
        assert sentence in said, arguments
        assert "Traceback" not in said


def test_a_refusal_after_loading_touches_no_output(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.jsonl").write_text("kept\n")
    outputs = ("-o", "old.jsonl", "--force", "--csv-output", "new.csv", "--jsonl-output", "new.jsonl")
    done = run("scan", "empty", "--detector", tiny_bundle, *outputs, cwd=tmp_path)
    assert done.returncode == 2
    assert b"no image was found" in done.stderr
    assert (tmp_path / "old.jsonl").read_text() == "kept\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "old.jsonl"]


CLOSED = b"muflow: stopped, because the reader of the output closed the pipe\n"


def test_a_reader_that_goes_away_ends_the_run_with_2_and_a_sentence(tiny_bundle: Path, photos: Path) -> None:
    words = forked("scan", photos, "--detector", tiny_bundle, "--batch-size", "4", "--format", "table", "-q")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 2
    assert said == CLOSED


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that has no room")
def test_a_full_disk_is_one_sentence_and_status_2(tiny_bundle: Path, photos: Path) -> None:
    words = ("scan", photos, "--detector", tiny_bundle, "--quiet")
    with Path("/dev/full").open("wb") as stdout:
        done = run(*words, stdout=stdout, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"cannot write standard output (No space left on device)" in done.stderr


def started(words: list[str], output: Path, results: int) -> subprocess.Popen[bytes]:
    """A run that has written at least so many results."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if output.exists() and len(result_lines(output)) >= results:
            break
        time.sleep(0.002)
    return process


def slow(tiny_bundle: Path, photos: Path, output: Path, begin: Begin = forked) -> list[str]:
    """A run in small batches, so that there are many moments to end it."""
    settings = ("--precision", "fp32", "--batch-size", "1", "--workers", "1")
    return begin("scan", photos, "--detector", tiny_bundle, *settings, "-o", output, "--resume")


def test_the_older_output_options_still_work_and_leave_stdout_in_use(
    tiny_bundle: Path, by_flag: dict[bool, Path], tmp_path: Path
) -> None:
    kinds = ("json", "jsonl", "csv", "sarif")
    outputs = [word for kind in kinds for word in (f"--{kind}-output", tmp_path / f"{kind}.out")]
    words = ("scan", by_flag[False], "--detector", tiny_bundle, *outputs, "--report", tmp_path / "page.out")
    done = run(*words, "--precision", "fp32")
    assert done.returncode == 0
    assert [one["type"] for one in lines(done.stdout)] == ["run", "result", "summary"]
    assert json.loads((tmp_path / "json.out").read_bytes())["schema"] == "muflow.scan/2"
    assert result_lines(tmp_path / "jsonl.out")
    assert str(by_flag[False]) in (tmp_path / "csv.out").read_text()
    assert json.loads((tmp_path / "sarif.out").read_bytes())["version"] == "2.1.0"
    assert (tmp_path / "page.out").read_text().startswith("<!doctype html>")


def test_files_alone_leave_stdout_empty(tiny_bundle: Path, by_flag: dict[bool, Path], tmp_path: Path) -> None:
    outputs = ("-o", tmp_path / "a.json", "-o", tmp_path / "a.JSONL")
    done = run("scan", by_flag[False], "--detector", tiny_bundle, *outputs, "--precision", "fp32")
    assert (done.returncode, done.stdout) == (0, b"")
    (result,) = json.loads((tmp_path / "a.json").read_bytes())["results"]
    assert json.loads(result_lines(tmp_path / "a.JSONL")[0])["score"] == result["score"]


def test_a_run_that_is_to_outlive_its_terminal_ignores_the_hang_up(
    tiny_bundle: Path, photos: Path, tmp_path: Path, unbroken: list[bytes]
) -> None:
    output = tmp_path / "out.jsonl"
    with started(["nohup", *slow(tiny_bundle, photos, output, command)], output, 3) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate()
    assert process.returncode == 1
    assert result_lines(output) == unbroken


@pytest.fixture(scope="module")
def unbroken(tiny_bundle: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    output = tmp_path_factory.mktemp("unbroken") / "all.jsonl"
    subprocess.run(slow(tiny_bundle, photos, output), env=environment(), capture_output=True, timeout=240, check=False)
    found = result_lines(output)
    assert len(found) == 60
    return found


def test_a_report_that_finds_no_more_room_ends_with_a_whole_line(
    tiny_bundle: Path, photos: Path, tmp_path: Path, unbroken: list[bytes]
) -> None:
    output = tmp_path / "out.jsonl"

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = slow(tiny_bundle, photos, output, command)  # a fork has the limits of its server
    done = subprocess.run(
        words, env=environment(), capture_output=True, timeout=240, check=False, preexec_fn=little_room
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == f"muflow: cannot write {output} (File too large): choose a writable folder with enough free space\n".encode()
    )
    assert output.read_bytes().endswith(b"\n")
    found = result_lines(output)
    assert 10 < len(found) < 60
    assert found == unbroken[: len(found)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_finishes_the_batch_writes_the_summary_and_a_resumed_run_goes_on(
    number: signal.Signals, tiny_bundle: Path, photos: Path, tmp_path: Path, unbroken: list[bytes]
) -> None:
    output = tmp_path / "out.jsonl"
    with started(slow(tiny_bundle, photos, output), output, 3) as process:
        process.send_signal(number)
        said = process.communicate()[1].decode()
    assert process.returncode == 130
    assert "interrupted" in said
    found = lines(output.read_bytes())
    assert found[-1]["summary"]["interrupted"] is True
    assert found[-1]["summary"]["inputs"] == len(found) - 2 < 60
    words = slow(tiny_bundle, photos, output)
    done = subprocess.run(words, env=environment(), capture_output=True, timeout=240, check=False)
    assert done.returncode == 1
    assert result_lines(output) == unbroken
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_kill_at_any_moment_loses_and_doubles_nothing(
    tiny_bundle: Path, photos: Path, tmp_path: Path, unbroken: list[bytes]
) -> None:
    output = tmp_path / "out.jsonl"
    for results in (1, 30):
        with started(slow(tiny_bundle, photos, output), output, results) as process:
            process.kill()
            process.communicate()  # the fork ends after its caller
        assert result_lines(output)[:-1] == unbroken[: max(0, len(result_lines(output)) - 1)]
    subprocess.run(slow(tiny_bundle, photos, output), env=environment(), capture_output=True, timeout=240, check=False)
    assert result_lines(output) == unbroken


def test_false_discovery_rate_flags_by_q(tiny_bundle: Path, photos: Path) -> None:
    done = run("scan", photos, "--detector", tiny_bundle, "--precision", "fp32", "--fdr", "0.6", "--json", "-q")
    document = json.loads(done.stdout)
    DOCUMENT.validate(document)
    assert document["summary"]["fdr"] == 0.6
    assert all(r["flagged"] == (r["q_value"] <= 0.6) for r in document["results"])
    assert all(r["q_value"] >= r["p_value"] for r in document["results"])


def on_terminal(words: list[str], **more: str) -> bytes:
    """Everything that a command shows on a terminal of its own."""
    control, terminal = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while part := os.read(control, 2**16):
                shown.extend(part)
        except OSError:  # the terminal is gone
            return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        env = environment(TERM="xterm-256color", **more)
        subprocess.run(words, stdin=terminal, stdout=terminal, stderr=terminal, env=env, timeout=240, check=False)
    finally:
        os.close(terminal)
        reader.join(timeout=10)
        os.close(control)
    return bytes(shown)


def test_a_terminal_shows_a_table_in_colour_with_progress_and_no_colour_is_heeded(
    tiny_bundle: Path, photos: Path
) -> None:
    words = forked("scan", photos, "--detector", tiny_bundle, "--precision", "fp32", "--batch-size", "8")
    coloured = on_terminal(words)
    assert b"VERDICT" in coloured
    assert b"60/60" in coloured
    assert b" flagged, 0 unreadable" in coloured
    assert b"\x1b[1;31m" in coloured
    plain = on_terminal([*words, "--exclude", "00[1-5]*"], NO_COLOR="1")
    assert b"10/10" in plain
    assert not any(code in plain for code in (b"\x1b[1;31m", b"\x1b[31m", b"\x1b[38;5"))


def test_a_file_that_changes_or_vanishes_meanwhile_is_one_result(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    paths = write_faces(folder, 40, seed=9)
    output = tmp_path / "out.jsonl"
    with started(slow(tiny_bundle, folder, output), output, 1) as process:
        paths[38].unlink()
        paths[39].write_bytes(b"no longer an image")
        process.communicate()
    assert process.returncode in (1, 3)
    found = {Path(r["path"]).name: r.get("error", {}).get("code") for r in lines(output.read_bytes())[1:-1]}
    assert found.get("0038.jpg", "not_found") == "not_found"
    assert found["0039.jpg"] == "not_an_image"
    assert set(found.values()) <= {None, "not_found", "not_an_image"}


def test_help_is_fast_and_has_examples() -> None:
    spy = "import sys; from muflow_cli.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    words = [sys.executable, "-c", spy, "scan", "--help"]
    done = subprocess.run(words, capture_output=True, env=environment(), timeout=60, check=False)
    text = done.stdout.decode()
    assert done.returncode == 0
    assert text.endswith("False\n")
    text = " ".join(text.split())
    for word in ("Examples", "--resume", "--verify", "Exit status", "night.jsonl", "0 everything matches"):
        assert word in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_names_options(shell: str) -> None:
    asked = {
        "bash": {"COMP_WORDS": "muflow scan --fo", "COMP_CWORD": "2"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "muflow scan --fo"},
        "fish": {"_TYPER_COMPLETE_ARGS": "muflow scan --fo", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    muflow = Path(sys.executable).with_name("muflow")
    if not muflow.exists():
        pytest.skip("needs the installed command `muflow` beside the interpreter")
    env = environment(_MUFLOW_COMPLETE=f"complete_{shell}", **asked)
    done = subprocess.run([muflow], capture_output=True, env=env, timeout=60, check=False)
    assert b"--format" in done.stdout
    assert b"--force" in done.stdout
