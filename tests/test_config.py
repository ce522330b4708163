"""Laws of config.toml: a table of options stands before what is typed, and nothing in it is ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main
from scan_runs import run

from muflow_cli.cli.app import app
from muflow_cli.cli.config import with_config
from muflow_cli.default_detector import BadConfig

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined] # a group has commands


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("MUFLOW_DETECTOR", "MUFLOW_BACKEND"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "config.toml"


def test_options_stand_between_the_command_and_what_is_typed(file: Path) -> None:
    file.write_text(
        'detector = "d"\n[scan]\nfdr = 0.1\nworkers = 2\nexclude = ["*.tmp", "-x"]\nquiet = true\nforce = false\n'
        'detector = "other"\n[fit]\nseed = 3\n'
    )
    given = ["--fdr=0.1", "--workers=2", "--exclude=*.tmp", "--exclude=-x", "--quiet", "--detector=other"]
    typed = ["--debug", "scan", "fit", "--fdr", "0.2"]
    assert with_config(typed, COMMANDS, file) == ["--debug", "scan", *given, "fit", "--fdr", "0.2"]
    assert with_config(["info", "d"], COMMANDS, file) == ["info", "d"]


def test_without_a_file_a_table_or_a_command_nothing_changes(file: Path) -> None:
    assert with_config(["scan", "x"], COMMANDS, file) == ["scan", "x"]
    file.write_text("[fit]\nseed = 1\n")
    assert with_config(["scan", "x"], COMMANDS, file) == ["scan", "x"]
    assert with_config(["--version"], COMMANDS, file) == ["--version"]
    file.write_text("this is not TOML")
    for words in (["doctor"], ["help", "scan"], ["schema"], ["--help"]):
        assert with_config(words, COMMANDS, file) == words


def test_an_environment_variable_comes_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[scan]\ndetector = "d"\n')
    monkeypatch.setenv("MUFLOW_DETECTOR", "mine")
    assert with_config(["scan"], COMMANDS, file) == ["scan"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[scan]\nworker = 1\n", "has '[scan] worker', which is no option: did you mean workers?"),
        ("[scan]\nzzz = 1\n", "has '[scan] zzz', which is no option: use one of detector, output,"),
        ("[scan]\nmax_bytes = 1\n", "did you mean max-bytes?"),
        ("[scann]\nfdr = 1\n", "has 'scann', which is unknown: did you mean scan?"),
        ('detecter = "x"\n', "has 'detecter', which is unknown: did you mean detector?"),
        ("scan = 1\n", "has 'scan', which is not a table: write [scan] and its options below it"),
        ("[scan]\nquiet = 1\n", "has '[scan] quiet', whose value is of another kind: write true or false there"),
        ("[scan]\nfdr = [0.1]\n", "whose value is of another kind: write a text or a number there"),
        ("[scan]\nfdr = true\n", "whose value is of another kind"),
        ("[scan]\nexclude = [[1]]\n", "write a text, a number or a list of them there"),
        ('[scan]\n"a\\u001b[31m" = 1\n', "has '[scan] a\\x1b[31m', which is no option"),
    ],
)
def test_what_is_unknown_or_of_another_kind_is_refused_by_name(text: str, sentence: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(BadConfig) as caught:
        with_config(["scan"], COMMANDS, file)
    assert sentence in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["scan", "fit", "bench", "calibrate"])
def test_every_option_has_a_name_there(name: str, file: Path) -> None:
    for option in COMMANDS[name].params:
        long = next((word for word in option.opts if word.startswith("--")), None)
        if long is None:
            continue
        value = "true" if option.is_flag else '"1"'
        file.write_text(f"[{name}]\n{long.removeprefix('--')} = {value}\n")
        (given,) = with_config([name], COMMANDS, file)[1:]
        assert given.partition("=")[0] == long


def test_a_scan_obeys_the_file_and_its_report_says_so(tiny_bundle: Path, reals: Path, tmp_path: Path) -> None:
    from scan_runs import environment

    (tmp_path / "muflow").mkdir()
    config = tmp_path / "muflow" / "config.toml"
    config.write_text('[scan]\nexclude = ["*[1-9].jpg"]\nquiet = true\nformat = "json"\n')
    words = ["scan", reals, "--detector", tiny_bundle]
    done = run(*words, env=environment(XDG_CONFIG_HOME=str(tmp_path)))
    assert done.stderr == b""
    document = json.loads(done.stdout)
    assert document["summary"]["inputs"] == 8
    assert "--exclude=*[1-9].jpg" in document["run"]["argv"]
    config.write_text("[scan]\nworker = 1\n")
    done = run(*words, env=environment(XDG_CONFIG_HOME=str(tmp_path)))
    assert done.returncode == 2
    assert done.stderr.endswith(b"has '[scan] worker', which is no option: did you mean workers?\n")
    config.write_text('[scan]\nworkers = "many"\n')
    done = run(*words, env=environment(XDG_CONFIG_HOME=str(tmp_path)))
    assert done.returncode == 2
    assert b"Invalid value for '--workers'" in done.stderr
    assert done.stderr.endswith(f"The configuration file {config} adds options to the command.\n".encode())
