"""Options from the configuration file: the table of a command, such as `[scan]`, holds options by their long names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from typer.core import TyperGroup

from muflow_cli.default_detector import BadConfig, config_file, read_config

# They must work, or show what is wrong, whatever the file holds.
_WITHOUT: Final = frozenset({"help", "doctor", "schema"})
_TOP: Final = "detector"


class Group(TyperGroup):
    """The command `muflow`, whose command line begins with the options of the configuration file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As any group, with the options of the file; they stand in `sys.argv` too, which reports repeat."""
        words = with_config(args, self.commands)
        if words != args:
            sys.argv[1:] = words
        return super().parse_args(ctx, words)


def with_config(words: Sequence[str], commands: Mapping[str, Any], file: Path | None = None) -> list[str]:
    """A command line in which the options of the configuration file stand before those that were typed.

    So what was typed counts where an option has one value, and a report names both. An option whose environment
    variable is set is left to it.

    Args:
        words: of the command line, without the program's name.
        commands: name -> command of muflow.
        file: the configuration file; None = the user's own.

    Raises:
        BadConfig: for a file that cannot be used, an unknown table or option, or a value of another kind.
    """
    at = next((index for index, word in enumerate(words) if word in commands), None)
    path = file or config_file()
    if at is None or path is None or words[at] in _WITHOUT:
        return [*words]
    tables = read_config(path)
    for name, table in tables.items():
        if name in commands and name not in _WITHOUT and not isinstance(table, Mapping):
            raise BadConfig(path, f"has {name!a}, which is not a table", f"write [{name}] and its options below it")
        if name != _TOP and (name not in commands or name in _WITHOUT):
            known = [_TOP, *(f"[{command}]" for command in commands if command not in _WITHOUT)]
            raise BadConfig(path, f"has {name!a}, which is unknown", _instead(name, [_TOP, *commands], known))
    command = words[at]
    given = [*_options(path, tables.get(command, {}), commands[command])]
    return [*words[: at + 1], *given, *words[at + 1 :]]


def _options(path: Path, table: Mapping[str, Any], command: Any) -> Iterator[str]:
    """The options of one table as words."""
    options = {
        word.removeprefix("--"): option
        for option in command.params
        if option.param_type_name == "option"
        for word in option.opts
        if word.startswith("--")
    }
    for name, value in table.items():
        where = f"[{command.name}] {name}"
        if name not in options:
            shown = [known for known, option in options.items() if not option.hidden]
            raise BadConfig(path, f"has {where!a}, which is no option", _instead(name, [*options], shown))
        option = options[name]
        if isinstance(option.envvar, str) and os.environ.get(option.envvar):
            continue
        if option.is_flag:
            yield from _flag(path, where, name, value)
            continue
        for one in value if option.multiple and isinstance(value, list) else [value]:
            if isinstance(one, bool) or not isinstance(one, str | int | float):
                what = "a text, a number or a list of them" if option.multiple else "a text or a number"
                raise BadConfig(path, f"has {where!a}, whose value is of another kind", f"write {what} there")
            yield f"--{name}={one}"


def _flag(path: Path, where: str, name: str, value: object) -> Iterator[str]:
    if not isinstance(value, bool):
        raise BadConfig(path, f"has {where!a}, whose value is of another kind", "write true or false there")
    if value:
        yield f"--{name}"


def _instead(name: str, names: Sequence[str], shown: Sequence[str]) -> str:
    """What to write in the place of an unknown name."""
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else f"use one of {', '.join(shown)}"
