"""Laws of progress where no terminal is: plain lines at intervals, and a log of everything that was said."""

import io
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scan_runs import run

from muflow_cli.cli import log_file
from muflow_cli.cli.heartbeat import Heartbeat, duration, progress_text
from muflow_cli.cli.progress import ScanProgress, StageProgress
from muflow_cli.records import Unreadable
from muflow_cli.scan.tally import Tally

STAMPED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S.*")


def console(stream: io.StringIO, *, quiet: bool = False) -> Console:
    return Console(file=stream, quiet=quiet, width=200, highlight=False, soft_wrap=True)


def spoken(stream: io.StringIO, what: str) -> list[str]:
    """The lines once one of them holds `what`; at most 20 s later."""
    end = time.monotonic() + 20
    while what not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.005)
    return stream.getvalue().splitlines()


def test_a_stage_is_told_in_plain_lines_where_no_terminal_is():
    stream = io.StringIO()
    with StageProgress(console(stream), every=0.01) as progress:
        assert not spoken(stream, "") or stream.getvalue() == ""
        progress.stage("train", 100)
        progress.advance(25)
        lines = spoken(stream, "25 of 100")
    assert re.fullmatch(r"progress: train, 25 of 100 \(25 %\), [\d,.]+/s, .* left", lines[-1])
    said = stream.getvalue()
    time.sleep(0.05)
    assert stream.getvalue() == said, "nothing is said after the end"


def test_quiet_says_nothing():
    stream = io.StringIO()
    with StageProgress(console(stream, quiet=True), every=0.001) as progress:
        progress.stage("train", 100)
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_a_scan_learns_its_total_only_when_it_takes_long():
    stream, asked = io.StringIO(), []

    def listing() -> list[int]:
        asked.append(True)
        return [1, 2, 3, 4]

    with ScanProgress(console(stream), listing):
        pass
    assert not asked
    with ScanProgress(console(stream), listing, every=0.01) as progress:
        tally, result = Tally(), Unreadable(path="a", code="empty", message="the file is empty")
        tally.add(result)
        progress.result(result, tally)
        lines = spoken(stream, "1 of 4")
    assert re.fullmatch(r"progress: scan, 1 of 4 \(25 %\), .* left, 0 flagged, 1 unreadable", lines[-1])
    assert asked == [True]


@given(st.integers(0, 10**6), st.none() | st.integers(0, 10**6), st.floats(0, 10**6))
def test_any_progress_is_one_line(done, total, seconds):
    text = progress_text("train", done, total, seconds)
    assert text.startswith("progress: train, ")
    assert text.isprintable()
    assert text.count(": ") == 1


def test_times_are_told_in_two_units():
    assert [duration(s) for s in (0.2, 59.6, 61, 3599, 3600, 90_000)] == [
        *("0 s", "1 min 0 s", "1 min 1 s", "59 min 59 s", "1 h 0 min", "25 h 0 min"),
    ]


def test_a_heartbeat_that_never_began_can_stop():
    Heartbeat(lambda: None, 1.0).stop()


def test_the_log_holds_what_stderr_says_and_grows(tiny_bundle, reals, tmp_path):
    log, image = tmp_path / "muflow.log", sorted(reals.iterdir())[0]
    scan = ("scan", image, "--detector", tiny_bundle, "-o", tmp_path / "r.json", "--force", "--log-file", log)
    said = run(*scan).stderr.decode().splitlines()
    lines = log.read_text().splitlines()
    assert all(STAMPED.fullmatch(line) for line in lines)
    assert [line.partition(" ")[2] for line in lines] == ["muflow scan", *said]
    quiet = run(*scan, "--quiet")
    assert quiet.stderr == b""
    assert log.read_text().splitlines()[: len(lines)] == lines
    assert log.read_text().count(" 1 input, 1 scored") == 2
    failed = run("calibrate", tiny_bundle, tmp_path / "nothere", "--log-file", log)
    assert log.read_text().splitlines()[-1].partition(" ")[2] == failed.stderr.decode().strip()


def test_nothing_but_a_log_is_appended_to(tiny_bundle, reals, tmp_path):
    image = sorted(reals.iterdir())[0]
    before = image.read_bytes()
    done = run("scan", image, "--detector", tiny_bundle, "--log-file", image)
    assert done.returncode == 2
    assert b"it is not a log of muflow): choose another name for --log-file" in done.stderr
    assert image.read_bytes() == before
    log = tmp_path / "a.jsonl"
    done = run("scan", image, "--detector", tiny_bundle, "--log-file", log, "-o", log, "--force")
    assert done.returncode == 2
    assert b"it is the log file of this run" in done.stderr


@pytest.mark.parametrize("command", ["fit", "calibrate", "scan", "bench"])
def test_the_long_commands_have_a_log(command):
    from typer.main import get_command

    from muflow_cli.cli.app import app

    options = {name for parameter in get_command(app).commands[command].params for name in parameter.opts}  # type: ignore[attr-defined]
    assert "--log-file" in options


def test_no_log_is_open_without_the_option(tmp_path: Path):
    assert not log_file.is_open()
    log_file.note("nothing")
    assert list(tmp_path.iterdir()) == []
