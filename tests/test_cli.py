"""Laws of the command line as a whole: options, help texts, sentences of errors, closed pipes, interruptions."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
from scan_runs import begun, environment, forked, run

from muflow_cli.bundle import load, save
from muflow_cli.cli.app import app
from muflow_cli.cli.info_command import info_command
from muflow_cli.presets import PRESETS

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined] # a group has commands
EXAMPLES = Path(__file__).parents[1] / "examples"
CLOSED = b"muflow: stopped, because the reader of the output closed the pipe\n"


SELDOM = {"max_bytes", "max_pixels", "max_seconds", "no_archives"}


def visible(name: str) -> list[str]:
    """Options that --help shows, but --help itself."""
    shown = (p for p in COMMANDS[name].params if p.param_type_name == "option" and not p.hidden)
    return [option.name for option in shown if option.name != "help"]


def help_texts() -> Iterator[tuple[str, str]]:
    for name, each in COMMANDS.items():
        for parameter in each.params:
            if not getattr(parameter, "hidden", False):
                yield f"{name} {parameter.name}", parameter.help or ""


def test_a_scan_has_at_most_22_visible_options() -> None:
    assert len(visible("scan")) <= 22


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (
            "scan",
            {"json_output", "jsonl_output", "csv_output", "sarif_output", "report", "verbose"}
            | {"batch_size", "c2pa_trust", "exit_zero", "group_by", "reweight", "sign", "signers"}
            | {"only", "sort", "copy_flagged", "known", "shard", "csv_bom"}
            | {"case", "examiner", "print_", "all_frames", "list_skipped", "_log_file"}
            | {"animations", "embedded_video", "every", "frames", "max_clip_bytes"}
            | {"max_faces", "on_no_face", "face_model", "follow_links", "per", "backend", "strict", "engine"}
            | SELDOM,
        ),
        (
            "fit",
            {"mean_size", "means", "face_detector", "face_model", "_log_file", "every", "frames", "engine"} | SELDOM,
        ),
    ],
)
def test_older_spellings_and_rare_options_are_hidden(name: str, hidden: set[str]) -> None:
    assert {p.name for p in COMMANDS[name].params if getattr(p, "hidden", False)} == hidden


@pytest.mark.parametrize(("place", "text"), list(help_texts()), ids=lambda value: value if len(value) < 40 else "")
def test_every_help_text_is_a_short_sentence_in_plain_english(place: str, text: str) -> None:
    del place  # names the case
    assert text
    assert not text.startswith("Of ")
    assert text.endswith((".", ")"))
    assert len(text) <= 110


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_shows_an_example(name: str) -> None:
    text = COMMANDS[name].help
    assert re.match(r"[A-Z][a-z]+ .*[.;:]", text)
    assert f"muflow {name}" in text


def test_help_loads_no_library_that_computes() -> None:
    code = (
        "import sys; from muflow_cli.cli import main\ntry: main()\n"
        "finally: print(*(n for n in ('torch', 'sklearn', 'scipy', 'jinja2', 'PIL') if n in sys.modules))"
    )
    words = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["fit", "r", "-o", "d", "--preset", "heavy"],
            f"--preset is heavy: use one of {', '.join(PRESETS)}",
        ),
        (["fit", "r", "-o", "d", "--components", "0"], "--components is 0: use a whole number above 0, or auto"),
        (["fit", "r", "-o", "d", "--branch", "whole"], "--branch is whole: use NAME=ENCODER[,SETTING=VALUE...]"),
        (
            ["fit", "r", "-o", "d", "--branch", "a=forensic", "--encoder", "resnet18"],
            "--encoder cannot be combined with --branch, because each branch names its own encoder",
        ),
        (
            ["fit", "r", "-o", "d", "--branch", "a=forensic", "--branch", "a=resnet18"],
            "branches is a, a: use one branch or several with different names",
        ),
        (
            ["fit", "r", "-o", "d", "--branch", "a=resnet18,view.size=big"],
            "view.size is big: use a whole number",
        ),
        (
            ["fit", "r", "-o", "d", "--encoder", "forensic", "--encoder-weights", "w.pth"],
            "--encoder-weights cannot be combined with the encoder forensic, because that encoder has no learned "
            "weights",
        ),
        (
            ["fit", "r", "-o", "d", "--branch", "a=resnet18", "--branch", "b=resnet50", "--encoder-weights", "w.pth"],
            "--encoder-weights is w.pth: use BRANCH=FILE, since the encoders of a and b learn weights",
        ),
        (
            ["fit", "r", "-o", "d", "--branch", "a=resnet18", "--encoder-weights", "c=w.pth"],
            "--encoder-weights is c=w.pth: use the name of a branch, a",
        ),
        (["scan", "x", "--detector", "none"], "'x' does not exist: check the spelling and the folder"),
        (["scan", ".", "--detector", "none"], "none is not a file: check the name of the detector"),
        (
            ["scan", "x", "--adaptive"],
            "--adaptive needs --fdr RATE, because it flags at a false discovery rate",
        ),
        (
            ["scan", "x", "--reweight", "--fdr", "0.1"],
            "--reweight cannot be combined with --fdr, because Benjamini-Hochberg needs p-values that do not work "
            "against each other, and weighted ones may",
        ),
        (["scan", "x", "--engine", "spark"], "--engine is spark: use local, ray or ray:ADDRESS"),
        (
            ["scan", "-", "--engine", "ray"],
            "--engine ray cannot be combined with PATH -, because other machines cannot read the standard input of "
            "this one",
        ),
        (["calibrate", "none"], "nothing to calibrate: give real face images, or a rule for the stored scores"),
        (
            ["calibrate", "none", "--band", "1"],
            "--band is 1: use two p-values LO,HI, or none",
        ),
        (["info", "none"], "none is not a file: check the name of the detector"),
    ],
)
def test_a_mistake_is_one_sentence_with_a_remedy_and_status_2(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert begun(arguments, monkeypatch) == 2
    assert capsys.readouterr() == ("", f"muflow: {sentence}\n")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_rule_lists_those_there_are(tiny_bundle: Path, tmp_path: Path) -> None:
    for words in (("fit", "r"), ("calibrate", tiny_bundle)):
        done = run(*words, "--method", "guess", "-o", "out", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(b"muflow: method is guess: use one of conformal, gaussian, fisher, cauchy")


# Long enough for `head -1` to be gone before the end.
PIPES = {
    "scan": ["scan", EXAMPLES, "-q"],
    "info": ["info"],
    "help": ["scan", "--help"],
    "doctor": ["doctor"],
    "calibrate": ["calibrate", "--alpha", "0.2", "--json", "-q", "-o", "out"],
}


@pytest.mark.parametrize("name", PIPES)
def test_a_closed_pipe_is_status_2_and_one_line_for_every_command(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    words = forked(*PIPES[name])
    if name in ("info", "calibrate"):
        words.insert(2, str(tiny_bundle))
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (2, CLOSED)


def test_an_interruption_while_libraries_load_is_one_line() -> None:
    for wait in (0.05, 0.3, 0.6):
        code = "from muflow_cli.cli import main; print('up', flush=True); main()"
        words = [sys.executable, "-c", code, "info", "none"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(wait)
            process.send_signal(signal.SIGINT)
            said = process.communicate()[1]
        assert (process.returncode, said) in (
            (130, b"muflow: interrupted\n"),
            (2, b"muflow: none is not a file: check the name of the detector\n"),
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_that_a_loading_library_swallows_still_ends_the_run(number: signal.Signals) -> None:
    code = (
        "import os, sys\n"
        "from muflow_cli.cli import main\n"
        "class Library:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'muflow_cli.bundle':\n"
        f"            try: os.kill(os.getpid(), {number.value})\n"
        "            except BaseException: pass\n"
        "sys.meta_path.insert(0, Library())\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "info", "none"], capture_output=True, env=environment(), timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"muflow: interrupted\n")


def test_every_signal_interrupts_a_calibration(tiny_bundle: Path, tmp_path: Path) -> None:
    # A fork for each signal, from one process that has loaded the libraries.
    code = (
        "import os, signal\n"
        "import muflow_cli.bundle, muflow_cli.calibrate.workflow\n"
        "from muflow_cli.cli import main\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "    if not os.fork():\n"
        "        os.fsync = lambda _: os.kill(os.getpid(), number)\n"
        "        main()\n"
        "    print(os.waitstatus_to_exitcode(os.wait()[1]), os.listdir(), flush=True)\n"
    )
    words = [sys.executable, "-c", code, "calibrate", tiny_bundle, "--alpha", "0.2", "-o", "out", "-q"]
    done = subprocess.run(words, capture_output=True, env=environment(), cwd=tmp_path, timeout=60, check=False)
    assert done.stdout == 3 * b"130 []\n"
    assert done.stderr == 3 * b"muflow: interrupted\n"


def test_a_bug_is_one_sentence_a_status_that_does_not_mean_flagged_and_a_traceback_on_request() -> None:
    code = (
        "import muflow_cli.cli.app as app\n"
        "from muflow_cli.cli import main\n"
        "def broken(**_): raise RuntimeError('a bug')\n"
        "app.app = broken\n"
        "main()\n"
    )
    for more in ({}, {"MUFLOW_DEBUG": "1"}):
        words, env = [sys.executable, "-c", code], environment(**more)
        done = subprocess.run(words, capture_output=True, env=env, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, b"")
        *trace, sentence = done.stderr.splitlines()
        assert sentence.startswith(b"muflow: unexpected RuntimeError in <string>, line 3 (a bug): ")
        assert (trace[-1:] == [b"RuntimeError: a bug"]) == bool(more)


def test_a_user_without_a_home_gets_the_built_in_detector() -> None:
    code = (
        "import os; os.environ.pop('HOME', None); os.environ.pop('XDG_CONFIG_HOME', None)\n"
        "import pwd\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from muflow_cli.default_detector import find_detector; print(find_detector(None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.endswith("default.safetensors\n"), done.stderr


def test_nothing_from_outside_reaches_a_terminal_as_a_command(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = load(tiny_bundle)
    versions = {**detector.provenance.versions, "\x1b[31mtorch": "\x1b]0;title\x07"}
    hostile = tmp_path / "name\x1b[2J\u202e.safetensors"
    save(replace(detector, provenance=replace(detector.provenance, versions=versions)), hostile)
    info_command(hostile)
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines())
    assert "\\u001b[31mtorch \\u001b]0;title\\u0007" in shown
    for words in (["scan", "photos", "--detector"], ["bench"], ["info"], ["calibrate"]):
        done = run(*words, tmp_path / "gone\x1b[31m", *(["photos"] if words == ["calibrate"] else []))
        assert done.returncode == 2
        assert done.stderr.decode().rstrip("\n").isprintable()
