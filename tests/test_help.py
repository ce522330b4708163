"""Laws of the help: every option is found somewhere, and former spellings nowhere."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from muflow_cli import __version__
from muflow_cli.cli.app import app

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined] # a group has commands


def printed(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return done.output


def shown(text: str) -> set[str]:
    """The long options in the panels of a help text."""
    panels = "\n".join(line for line in text.splitlines() if line.lstrip().startswith(("│", "|")))
    return set(re.findall(r"^\s*[│|] \*?\s*(--[a-z0-9-]+)", panels, flags=re.MULTILINE))


def options(name: str, *, hidden: bool) -> set[str]:
    """Long options of a command: all that say what they do, or those of them that --help shows."""
    return {
        next(word for word in option.opts if word.startswith("--"))
        for option in COMMANDS[name].params
        if option.param_type_name == "option" and option.help and (hidden or not option.hidden)
    } | {"--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_all_shows_every_option_and_help_the_common_ones(name: str) -> None:
    common, everything = printed(name, "--help"), printed(name, "--help-all")
    assert shown(common) == options(name, hidden=False)
    assert shown(everything) == options(name, hidden=True)
    assert ("--help-all shows them too" in common) == (shown(common) != shown(everything))
    assert "--help-all" not in everything


def test_former_spellings_are_shown_nowhere() -> None:
    assert not {"--json-output", "--report", "--sarif-output"} & shown(printed("scan", "--help-all"))
    assert not {"--throughput", "--scores"} & shown(printed("bench", "--help-all"))


def test_a_rare_option_stands_in_its_own_panel() -> None:
    results = printed("scan", "--help-all").partition("─ Results ─")[2].partition("╰")[0]
    assert "--per " in results
    assert "--max-bytes" not in results


def test_help_all_after_the_end_of_options_is_a_name() -> None:
    done = CliRunner().invoke(app, ["info", "--", "--help-all"])
    assert "Show what a detector contains" not in done.output


def test_muflow_help_is_the_help_of_the_command() -> None:
    assert printed("help") == printed("--help")
    for name in COMMANDS:
        assert printed("help", name) == printed(name, "--help")
    failed = CliRunner().invoke(app, ["help", "scam"])
    assert str(failed.exception) == "there is no command 'scam': use muflow help scan"


def test_both_spellings_print_the_version() -> None:
    assert printed("--version") == printed("-V") == f"muflow {__version__}\n"
