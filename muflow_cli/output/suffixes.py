"""From a file's name to a row of a table of formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from muflow_cli.errors import BadSpec

Row = TypeVar("Row")


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
