"""Which detector a scan uses: the option, MUFLOW_DETECTOR, the configuration's entry, else the embedded default."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import muflow_cli
from muflow_cli.errors import MuflowError, NothingToDo

LIMITS: Final = (
    "the embedded default detector judges: it seldom flags real portraits and misses most synthetic ones (measured in "
    "weights/README.md); fit one to your own reals with `muflow fit` and name it with --detector; --quiet hides this"
)

_NAME: Final = "default.safetensors"


class BadConfig(MuflowError):
    """A configuration file that cannot be used."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f'the configuration {path} {what}: write detector = "FILE" in it, or remove it')


def find_detector(given: Path | None, say: Callable[[str], object] | None = None) -> Path:
    """The bundle to load; `say` hears of the embedded default's limits where that one is taken.

    Args:
        given: the value of --detector, which Typer also reads from MUFLOW_DETECTOR.
        say: told one sentence.

    Raises:
        BadConfig: where the configuration file is there and cannot be used.
        NothingToDo: where nothing is named and this installation lacks the embedded default.
    """
    if given is not None:
        return given
    configured = configured_detector(config_file())
    if configured is not None:
        return configured
    embedded = embedded_detector()
    if say is not None:
        say(LIMITS)
    return embedded


def config_file() -> Path:
    """Where the configuration is looked for; XDG_CONFIG_HOME counts where it is an absolute path, as XDG asks."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (home if home.is_absolute() else Path("~/.config").expanduser()) / "muflow" / "config.toml"


def configured_detector(path: Path) -> Path | None:
    """The detector that the configuration at `path` names, relative to its folder; None without a file or an entry.

    Raises:
        BadConfig: for a file that cannot be read, is not TOML, or names no path.
    """
    entry = _read(path).get("detector")
    if entry is None:
        return None
    if not isinstance(entry, str) or not entry:
        raise BadConfig(path, f"has detector = {entry!r}, which is not a file name")
    return path.parent / Path(entry).expanduser()


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise BadConfig(path, f"cannot be read ({error.strerror})") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise BadConfig(path, f"is not TOML ({error})") from None


def embedded_detector() -> Path:
    """The default detector: inside an installed package, or beside the package in a clone.

    Raises:
        NothingToDo: where this installation lacks it.
    """
    package = Path(muflow_cli.__file__).parent
    places = (package / "weights" / _NAME, package.parent / "weights" / _NAME)
    for place in places:
        if place.is_file():
            return place
    raise NothingToDo(
        "no detector: this installation lacks the embedded default; give --detector FILE, or install muflow-cli again"
    )
