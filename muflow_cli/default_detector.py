"""Which detector a scan uses: --detector, MUFLOW_DETECTOR, the configuration file, or else the built-in demo."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import muflow_cli
from muflow_cli.errors import MuflowError, NothingToDo

LIMITS: Final = (
    "using the built-in demo detector: it misses most synthetic portraits and flags up to a quarter of the real ones "
    "of a source that it does not know (figures in weights/README.md); fit one to your own real images with `muflow "
    "fit` and pass it with --detector (--quiet hides this)"
)

_KEYS: Final = ("detector",)
_NAME: Final = "default.safetensors"


class BadConfig(MuflowError):
    """A configuration file that cannot be used."""

    def __init__(self, path: Path, what: str, remedy: str = 'write detector = "FILE" in it, or remove it') -> None:
        super().__init__(f"the configuration {path} {what}", remedy)


def find_detector(given: Path | None, note: Callable[[str], object] | None = None) -> Path:
    """The bundle to load.

    Args:
        given: the value of --detector, which Typer also reads from MUFLOW_DETECTOR.
        note: called with the limits of the built-in detector where that one is used.

    Raises:
        BadConfig: for a configuration file that cannot be used.
        NothingToDo: where no detector is named and this installation lacks the built-in one.
    """
    if given is not None:
        return given
    path = config_file()
    configured = None if path is None else configured_detector(path)
    if configured is not None:
        return configured
    embedded = embedded_detector()
    if note is not None:
        note(LIMITS)
    return embedded


def config_file() -> Path | None:
    """Path of the configuration file, which need not exist; None for a user without a home folder."""
    from platformdirs import user_config_path

    try:
        return user_config_path("muflow") / "config.toml"
    except RuntimeError:
        return None


def configured_detector(path: Path) -> Path | None:
    """The detector that the configuration at `path` names, relative to its folder; None without a file or an entry.

    Raises:
        BadConfig: for a file that cannot be read, is not TOML, or names no path.
    """
    entry = read_config(path).get("detector")
    if entry is None:
        return None
    if not isinstance(entry, str) or not entry:
        raise BadConfig(path, f"has detector = {entry!r}, which is not a file name")
    return path.parent / os.path.expanduser(entry)  # noqa: PTH111 - Path.expanduser fails where there is no home


def read_config(path: Path) -> dict[str, Any]:
    """What the configuration at `path` holds; nothing without a file.

    Raises:
        BadConfig: for a file that cannot be read or is not TOML.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # reading a pipe would wait for ever
            raise BadConfig(path, "is not a file")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise BadConfig(path, f"cannot be read ({error.strerror})") from None
    except RecursionError:
        raise BadConfig(path, "is nested too deeply") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise BadConfig(path, f"is not TOML ({str(error).replace(': ', ', ')})") from None


def embedded_detector() -> Path:
    """The built-in detector: inside an installed package, or beside the package in a clone.

    Raises:
        NothingToDo: where this installation lacks it.
    """
    package = Path(muflow_cli.__file__).parent
    for folder in (package, package.parent):
        path = folder / "weights" / _NAME
        if path.is_file():
            return path
    raise NothingToDo(
        "there is no detector, since this installation lacks the built-in one",
        "give --detector FILE, or install muflow-cli again",
    )
