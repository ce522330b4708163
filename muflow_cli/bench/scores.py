"""Scores of labelled images, as rows and as CSV: any detector's scores can be written, read back and compared."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from muflow_cli.bench.manifest import Label, read_table
from muflow_cli.errors import BadTable
from muflow_cli.output.inert import cell, uncell
from muflow_cli.records import Declared, Facts
from muflow_cli.specs import ContainerSpec

COLUMNS: Final = ("path", "label", "group", "source", "score", "column_scores", "p_value", "flagged", "sha256")
# The name of `column_scores` in files that were written with reports of schema "muflow.bench/1".
_FORMER: Final = "scale_scores"
_OTHER: Final = (*(name for name in COLUMNS if name not in {"path", "label", "group", "score"}), _FORMER)
_LABELS: Final = (*(name for name in COLUMNS if name not in {"path", "score"}), _FORMER)
_NEEDED: Final = {
    "score": "a finite number",
    "column_scores": "a JSON list of finite numbers",
    "p_value": "a number from 0 to 1",
    "flagged": "true or false",
}
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One scored image with its label.

    Attributes:
        path: as reported.
        label: real or fake.
        group: the generator of a fake, the folder or set of a real.
        source: the real source that a real counts for.
        score: by any detector; higher = more fake.
        column_scores: (S,) one score per column; empty where the detector has no columns.
        p_value: by the detector's rule; None where it gives none.
        suspicion: what the rule ranks by, higher = more suspicious; minus the p-value for scores read from a file, None
            where there is no rule.
        flagged: the detector's verdict; None where it gives none.
        sha256: of the bytes, where known.
        facts: custody facts, where the bytes were read here.
        declared: what the file says of its own origin, where the bytes were read here.
        near_hash: perceptual hash of the clean image, where it was decoded here.
    """

    path: str
    label: Label
    group: str
    source: str
    score: float
    column_scores: tuple[float, ...] = ()
    p_value: float | None = None
    suspicion: float | None = None
    flagged: bool | None = None
    sha256: str | None = None
    facts: Facts | None = None
    declared: Declared = field(default_factory=Declared)
    near_hash: int | None = None

    @property
    def fake(self) -> bool:
        """Whether the label is fake."""
        return self.label is Label.FAKE


def grouped(rows: Iterable[Row], *, fake: bool) -> dict[str, list[Row]]:
    """Generator of fakes, or real source of reals -> its rows, in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.fake is fake:
            groups.setdefault(row.group if fake else row.source, []).append(row)
    return groups


def data_digest(rows: Iterable[Row], container: ContainerSpec | None = None) -> str:
    """SHA-256 that names a labelled set of images in one container, or as found.

    It covers label, group, source and content (path where unknown) of each.
    """
    lines = [] if container is None else [f"container {container}"]
    lines += sorted("\0".join((row.label, row.group, row.source, row.sha256 or row.path)) for row in rows)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def scores_csv(rows: Iterable[Row]) -> bytes:
    """CSV of the rows: a header, CR LF, numbers in full precision, empty cells for what is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        columns = json.dumps(list(row.column_scores)) if row.column_scores else ""
        p_value = "" if row.p_value is None else repr(row.p_value)
        flagged = "" if row.flagged is None else str(row.flagged).lower()
        names = [cell(name) for name in (row.path, row.label.value, row.group, row.source)]
        writer.writerow([*names, repr(row.score), columns, p_value, flagged, row.sha256 or ""])
    return text.getvalue().encode()


def read_scores(path: str) -> list[Row]:
    """Rows of a complete scores file: path, label, group and score are needed, the other columns are optional.

    Raises:
        BadTable: with the line and column of the first wrong cell.
    """
    rows = []
    for line, cells in read_table(path, required=("path", "label", "group", "score"), optional=_OTHER):
        label, group = cells["label"].lower(), uncell(cells["group"])
        if label not in {"real", "fake"}:
            raise BadTable(path, line, "label", f"{cells['label']!r} is not a label", "use real or fake")
        source = uncell(cells.get("source", "")) or group
        named = Row(path=uncell(cells["path"]), label=Label(label), group=group, source=source, score=0.0)
        rows.append(_measured(named, path, line, cells))
    return rows


def compare_scores(path: str, rows: Sequence[Row]) -> list[Row]:
    """Another detector's scores of the same images; path and score needed.

    A line is that of the image with its path; else with its SHA-256, where it has one; else with its file name, where
    no other image has the same. Images without a line in the file are missing from the result.

    Raises:
        BadTable: with the line and column of the first wrong cell, or where no path matches.
    """
    # A file written here holds paths made inert; another tool's holds them as they are.
    own = {row.path: row for row in rows} | {cell(row.path): row for row in rows}
    by_hash = {row.sha256: row for row in rows if row.sha256}
    names = Counter(_file_name(row.path) for row in rows)
    by_name = {_file_name(row.path): row for row in rows if names[_file_name(row.path)] == 1}
    matched: dict[str, Row] = {}
    for line, cells in read_table(path, required=("path", "score"), optional=_LABELS):
        row = own.get(cells["path"]) or by_hash.get(cells.get("sha256", ""))
        row = row or by_name.get(_file_name(uncell(cells["path"])))
        if row is not None:
            matched[row.path] = _measured(replace(row, column_scores=()), path, line, cells)
    if not matched:
        remedy = "write paths or file names of these images, or a column sha256"
        raise BadTable(path, 2, "path", "no line is that of a scored image", remedy)
    return [matched[row.path] for row in rows if row.path in matched]


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _measured(row: Row, path: str, line: int, cells: Mapping[str, str]) -> Row:
    """`row` with the score, p-value and verdict that `cells` hold."""

    def read(column: str, convert: Callable[[str], _T]) -> _T | None:
        text = cells.get(column, "")
        try:
            return convert(text) if text else None
        except (ValueError, KeyError, TypeError):
            raise BadTable(path, line, column, f"{text!r} cannot be read", f"use {_NEEDED[column]}") from None

    cells = {"column_scores": cells.get(_FORMER, ""), **cells}
    p_value = read("p_value", _probability)
    return replace(
        row,
        score=read("score", _finite) or 0.0,
        column_scores=read("column_scores", lambda text: tuple(_finite(str(number)) for number in json.loads(text)))
        or row.column_scores,
        p_value=p_value,
        suspicion=None if p_value is None else -p_value,
        flagged=read("flagged", lambda text: _FLAGS[text.lower()]),
        sha256=cells.get("sha256") or row.sha256,
    )


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _probability(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise ValueError
    return number
