"""From a file's name to a row of a table of formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from muflow_cli.errors import BadSpec

Row = TypeVar("Row")

# Suffixes of what this program writes elsewhere, or not at all, and which a reader would take for that.
_FOREIGN: Final = frozenset(
    (
        *(".json", ".jsonl", ".csv", ".html", ".htm", ".txt", ".sarif", ".xml", ".md", ".pdf", ".doc", ".docx", ".odt"),
        *(".xls", ".xlsx", ".ods", ".png", ".jpg", ".jpeg", ".svg", ".onnx", ".pt", ".pth", ".ckpt", ".zip", ".toml"),
    )
)


def check_suffix(option: str, path: Path, own: Sequence[str]) -> None:
    """Refuse a file whose name says that it holds something else than `own`, the suffixes that fit; any other may do.

    Raises:
        BadSpec: naming those that fit.
    """
    suffix = path.suffix.lower()
    if suffix in _FOREIGN and suffix not in own:
        raise BadSpec(option, path, f"a name that ends in {' or '.join(own)}")


def longest_match(path: Path, suffixes: Mapping[Row, Iterable[str]]) -> Row:
    """The row with the longest suffix that ends the name of `path` in any case, as `.scores.csv` before `.csv`.

    Raises:
        BadSpec: naming all suffixes, if none of them fits.
    """
    name = path.name.lower()
    matches = [(len(suffix), row) for row, group in suffixes.items() for suffix in group if name.endswith(suffix)]
    if not matches:
        *others, last = (suffix for group in suffixes.values() for suffix in group)
        raise BadSpec("-o", path, f"a name that ends in {', '.join(others)} or {last}")
    return max(matches, key=lambda match: match[0])[1]
