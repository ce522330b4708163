"""CSV manifests of labelled pictures: path,label,group[,source]; a wrong cell is named by line and column."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from muflow_cli.errors import BadTable


class Label(StrEnum):
    """What a picture is."""

    REAL = "real"
    FAKE = "fake"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a manifest; `path` is absolute or relative to the manifest's own folder."""

    path: str
    label: Label
    group: str
    source: str


_LABELS: Final = {"real": Label.REAL, "0": Label.REAL, "fake": Label.FAKE, "1": Label.FAKE}


def read_manifest(path: str) -> list[Row]:
    """Rows in their order; `source` is the group where the column is absent or its cell empty.

    Raises:
        BadTable: naming line and column of the first cell that is wrong, or of a picture that is not there.
    """
    rows, lines = [], dict[str, int]()
    for line, cells in read_table(path, required=("path", "label", "group"), optional=("source",)):
        row = _row(path, line, cells)
        if lines.setdefault(row.path, line) != line:
            raise BadTable(path, line, "path", f"{cells['path']} is on line {lines[row.path]} already")
        rows.append(row)
    return rows


def read_table(
    path: str, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, column -> cell without outer spaces) of each line below the header that is not blank.

    Raises:
        BadTable: if the file cannot be read, a required column or cell is missing, or a column is unknown.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(lines, [])]
            _check_header(path, header, required, optional)
            for cells in lines:
                if any(cell.strip() for cell in cells):
                    yield lines.line_num, _cells(path, lines.line_num, header, cells, required)
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadTable(path, 1, ",".join(required), f"the file cannot be read as CSV ({reason})") from error


def _check_header(path: str, header: list[str], required: Sequence[str], optional: Sequence[str]) -> None:
    for name in required:
        if name not in header:
            raise BadTable(path, 1, name, f"the header lacks it; it needs {','.join(required)}")
    for name in header:
        if name not in (*required, *optional) or header.count(name) > 1:
            # A misspelt optional column would otherwise be dropped in silence.
            raise BadTable(path, 1, name, f"unknown or given twice; columns are {','.join((*required, *optional))}")


def _cells(path: str, line: int, header: list[str], cells: list[str], required: Sequence[str]) -> dict[str, str]:
    if len(cells) > len(header):
        raise BadTable(
            path, line, header[-1], f"{len(cells)} cells under {len(header)} columns: quote a comma in a cell"
        )
    row = {name: cell.strip() for name, cell in zip(header, [*cells, *[""] * len(header)], strict=False)}
    for name in required:
        if not row[name]:
            raise BadTable(path, line, name, "the cell is empty")
    return row


def _row(manifest: str, line: int, cells: dict[str, str]) -> Row:
    label = _LABELS.get(cells["label"].lower())
    if label is None:
        raise BadTable(manifest, line, "label", f"{cells['label']!r} is none of real, fake, 0 (real), 1 (fake)")
    path = Path(manifest).parent / cells["path"]
    if not path.is_file():
        raise BadTable(manifest, line, "path", f"there is no file {path}")
    return Row(path=str(path), label=label, group=cells["group"], source=cells.get("source") or cells["group"])
