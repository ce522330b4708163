"""CSV manifests of labelled images, path,label,group[,source]; an error names the line and the column."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from muflow_cli.errors import BadTable


class Label(StrEnum):
    """What a labelled image is."""

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
    """The rows in the order of the file; `source` is the group if its column is missing or its cell empty.

    Raises:
        BadTable: with the line and column of the first wrong cell or missing image.
    """
    rows, lines = [], dict[str, int]()
    for line, cells in read_table(path, required=("path", "label", "group"), optional=("source",)):
        label = _LABELS.get(cells["label"].lower())
        if label is None:
            problem = f"{cells['label']!r} is not a label"
            raise BadTable(path, line, "label", problem, "use real, fake, 0 (real) or 1 (fake)")
        image = Path(path).parent / cells["path"]
        if not image.is_file():
            remedy = "correct the path, which starts from the manifest's folder"
            raise BadTable(path, line, "path", f"there is no file {image}", remedy)
        group = cells["group"]
        row = Row(path=str(image), label=label, group=group, source=cells.get("source") or group)
        if lines.setdefault(row.path, line) != line:
            problem = f"{cells['path']} is already on line {lines[row.path]}"
            raise BadTable(path, line, "path", problem, "remove one of the lines")
        rows.append(row)
    return rows


def read_table(
    path: str, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, column -> cell without surrounding spaces) of each line below the header that is not blank.

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
        raise BadTable(
            path, 1, ",".join(required), f"the file cannot be read as CSV ({reason})", "give a CSV file"
        ) from error


def _check_header(path: str, header: list[str], required: Sequence[str], optional: Sequence[str]) -> None:
    for name in required:
        if name not in header:
            raise BadTable(path, 1, name, "is missing in the header", f"add it, since {','.join(required)} are needed")
    for name in header:
        if name not in (*required, *optional) or header.count(name) > 1:
            # A misspelt optional column would otherwise be ignored in silence.
            remedy = f"use each of {','.join((*required, *optional))} at most once"
            raise BadTable(path, 1, name, "is unknown or given twice", remedy)


def _cells(path: str, line: int, header: list[str], cells: list[str], required: Sequence[str]) -> dict[str, str]:
    if len(cells) > len(header):
        problem = f"there are {len(cells)} cells for {len(header)} columns"
        raise BadTable(path, line, header[-1], problem, "quote a cell that contains a comma")
    row = {name: cell.strip() for name, cell in zip(header, [*cells, *[""] * len(header)], strict=False)}
    for name in required:
        if not row[name]:
            raise BadTable(path, line, name, "the cell is empty", "fill it in")
    return row
