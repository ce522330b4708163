"""CSV for spreadsheets (results, or groups) and aligned lines for people, all streamed."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import IO, Any, BinaryIO, Final, cast

from rich.console import Console
from rich.text import Text

from muflow_cli.output.encode import CSV_PARTS, FIELDS, check_fields, result_to_json, select
from muflow_cli.output.inert import cell, escape
from muflow_cli.records import Origin, Result, Verdict
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary

FACE_COLUMNS: Final = ("face", "left", "top", "right", "bottom", "confidence")
FRAME_COLUMNS: Final = ("time", "track")


_GROUP_COLUMNS: Final = (
    *("name", "images", "flagged", "share_flagged"),
    *("p_value", "q_value", "unlike_calibration", "tail", "atypical"),
)

_TABLE_FIELDS: Final = ("verdict", "tail", "p_value", "score", "declared", "path")
_TABLE_FIELDS_BY_RATE: Final = ("verdict", "q_value", "tail", "p_value", "score", "declared", "path")

# Widths in characters that hold nearly every value; the last column is never padded, so long paths break nothing.
_WIDTHS: Final = {
    "path": 40,
    "sha256": 64,
    "bytes": 10,
    "format": 6,
    "width": 6,
    "height": 6,
    "jpeg_quality": 12,
    "sharpness": 9,
    "damaged": 7,
    "missing": 7,
    "score": 10,
    "column_scores": 32,
    "p_value": 8,
    "flagged": 7,
    "tail": 4,
    "verdict": 12,
    "calibration": 12,
    "stratum": 16,
    "atypical_input": 16,
    "heaviest": 16,
    "q_value": 8,
    "adaptive_p_value": 16,
    "weighted_p_value": 16,
    "declared": 9,
    "duplicate_of": 40,
    "group": 24,
    "faces": 5,
    "faces_left_out": 14,
    "face_side": 9,
    "face_tilt": 9,
    "frame": 5,
    "frames": 6,
    "clip": 4,
    "error": 40,
}

_STYLES: Final = {"flagged": "bold red", "inconclusive": "yellow", "unreadable": "magenta"}


class Per(StrEnum):
    """What a row of a CSV is."""

    IMAGE = "image"
    FACE = "face"
    FRAME = "frame"


def csv_columns(fields: Sequence[str] | None, scores: Sequence[str]) -> tuple[str, ...]:
    """Header of the CSV: the fields, `declared` and `error` being two columns each, `column_scores` one for each score.

    Args:
        fields: to write; None = all.
        scores: (S,) names of the detector's columns.
    """
    parts = {name: [f"{name}_{part}" for part in keys] for name, keys in CSV_PARTS.items()}
    parts["column_scores"] = [_score_column(score) for score in scores]
    names = FIELDS if fields is None else tuple(fields)
    return tuple(column for name in names for column in parts.get(name, [name]))


def _score_column(name: str) -> str:
    return cell(f"score_{name}")


def _marks_text(marks: Sequence[Mapping[str, Any]]) -> str:
    """What a file says of its own origin, in words; JSON has every part by its name."""
    said = []
    for mark in marks:
        detail = ", ".join(f"{name} {value}" for name, value in mark["detail"].items())
        said.append(f"{mark['kind']} ({mark['claim']}, {mark['trust']}){': ' if detail else ''}{detail}")
    return " | ".join(said)


def _face_rows(value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A result's object once for each of its faces, with that face's own score and verdict; itself without a face."""
    if not value.get("faces"):
        yield dict(value)
    for number, face in enumerate(value.get("faces", ()), start=1):
        left, top, right, bottom = face["box"]
        place = {"left": left, "top": top, "right": right, "bottom": bottom}
        side = {"face_side": min(right - left, bottom - top), "face_tilt": face["tilt"]}
        own = {name: item for name, item in face.items() if name in value or name == "confidence"}
        yield {**value, **own, **place, **side, "face": number, "flagged": face["verdict"] == Verdict.FLAGGED}


def _frame_rows(value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A result's object once for each frame of its clip, with that frame's own score and verdict; itself without."""
    clip = value.get("clip")
    if clip is None:
        yield dict(value)
        return
    for frame in clip["frames"]:
        own = {name: item for name, item in frame.items() if name in {*value, *FRAME_COLUMNS}}
        # A frame of a clip that was judged as a whole has no verdict of its own.
        yield {**value, **own, "flagged": frame["verdict"] == Verdict.FLAGGED if frame["verdict"] else None}


def _csv_cell(value: object) -> object:
    if isinstance(value, str):
        return cell(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):  # of names
        return cell("; ".join(map(str, value)))
    return value


def _counted(value: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Fields of a result that a table shows by their number, and what they hold."""
    if "faces" in value:
        yield "faces", value["faces"]
    if value.get("clip") is not None:
        yield "clip", value["clip"]["frames"]


_ROWS: Final[Mapping[Per, Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]]]] = {
    Per.IMAGE: lambda value: [value],
    Per.FACE: _face_rows,
    Per.FRAME: _frame_rows,
}
_MORE_COLUMNS: Final[Mapping[Per, tuple[str, ...]]] = {
    Per.IMAGE: (),
    Per.FACE: FACE_COLUMNS,
    Per.FRAME: FRAME_COLUMNS,
}


class CsvWriter:
    """RFC 4180, UTF-8, lines ending in CR LF, a header row; numbers in full precision, an empty cell for null.

    Text cells are made inert and stay recoverable (`output.inert.cell`). No cell holds JSON: each score has a column of
    its own, marks are told in words, names are separated by semicolons, `faces` is their number, and `clip` that of the
    frames.

    Args:
        stream: of the file.
        fields: to write, in this order; None = all.
        per: one row for each image; for each face, with the columns FACE_COLUMNS at the end; or for each frame of a
            clip, with FRAME_COLUMNS.
        mark: begin with a byte order mark, by which a spreadsheet knows UTF-8.
    """

    def __init__(
        self, stream: BinaryIO, fields: tuple[str, ...] | None, *, per: Per = Per.IMAGE, mark: bool = False
    ) -> None:
        check_fields(fields)
        self._stream, self._fields, self._per, self._mark = stream, fields, per, mark
        self._scores: list[str] = []
        self._columns: tuple[str, ...] = ()

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:  # noqa: ARG002 - a CSV has rows only
        """Write the header row."""
        self._scores = [_score_column(name) for name in detector.columns]
        self._columns = csv_columns(self._fields, detector.columns) + _MORE_COLUMNS[self._per]
        self._stream.write(codecs.BOM_UTF8 if self._mark else b"")
        write_row(self._stream, self._columns)

    def write(self, result: Result) -> None:
        """Write one row, or one for each face or frame."""
        value = result_to_json(result)
        parts = {f"{name}_{key}": value[name][key] for name in CSV_PARTS if name in value for key in CSV_PARTS[name]}
        parts["declared_marks"] = _marks_text(parts["declared_marks"])
        count = {name: len(frames) for name, frames in _counted(value)}
        for row in _ROWS[self._per](value):
            scores = dict(zip(self._scores, row.get("column_scores", ()), strict=False))
            cells = {**row, **parts, **count, **scores}
            write_row(self._stream, [_csv_cell(cells.get(column)) for column in self._columns])

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Do nothing: a CSV has rows only."""


class GroupsWriter:
    """CSV like that of the results, with one row for each group of the run, ordered by name.

    It knows no fields: `--fields` chooses among those of a result.
    """

    def __init__(self, stream: BinaryIO, *, mark: bool = False) -> None:
        self._stream, self._mark = stream, mark

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:  # noqa: ARG002 - a CSV has rows only
        """Write the header row."""
        self._stream.write(codecs.BOM_UTF8 if self._mark else b"")
        write_row(self._stream, _GROUP_COLUMNS)

    def write(self, result: Result) -> None:
        """Do nothing: the groups come with the end of the run."""

    def end(self, run: RunInfo, summary: Summary) -> None:  # noqa: ARG002 - a CSV has rows only
        """Write one row per group."""
        for group in summary.groups:
            write_row(self._stream, [_csv_cell(getattr(group, column)) for column in _GROUP_COLUMNS])


def write_row(stream: BinaryIO, cells: Sequence[object]) -> None:
    """Write one row of a CSV; text from outside must have gone through `inert.cell`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    stream.write(text.getvalue().encode("utf-8"))
    stream.flush()


def _show(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if name == "sharpness" else f"{value:.4f}"
    if isinstance(value, list):
        return " ".join(_show(name, item) for item in value) or "-"
    if isinstance(value, Mapping):
        declared = name == "declared"
        text = value["origin"].replace(Origin.NONE, "-") if declared else f"{value['code']}, {value['message']}"
        return escape(text)
    return escape(str(value))


class _Console(Console):
    """A console that leaves a closed pipe to the caller; Rich's own would end the program with status 1."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 - Rich calls this while it handles the BrokenPipeError


class TableWriter:
    """Aligned columns, one result a line, the path last; colours only on a terminal (NO_COLOR is heeded).

    A name's control characters, direction overrides and bytes that are not UTF-8 are written out as escapes,
    and nothing in it is taken for markup.
    """

    def __init__(self, stream: BinaryIO, fields: tuple[str, ...] | None, *, q_values: bool = False) -> None:
        check_fields(fields)
        self._fields = fields or (_TABLE_FIELDS_BY_RATE if q_values else _TABLE_FIELDS)
        # codecs' writer, unlike io.TextIOWrapper, leaves the stream open when it is collected.
        text = cast(IO[str], codecs.getwriter("utf-8")(stream))
        self._console = _Console(file=text, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._stream = stream

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:  # noqa: ARG002 - a table has rows only
        """Write the column titles."""
        self._put([name.upper() for name in self._fields], "bold")

    def write(self, result: Result) -> None:
        """Write one line; after the path stands why an input could not be read, or what is wrong with an image."""
        value = result_to_json(result)
        value |= {name: len(parts) for name, parts in _counted(value)}
        error = value.get("error")
        shown = select({"verdict": "unreadable", **value} if error else value, self._fields)
        cells = [_show(name, item) for name, item in shown.items()]
        if error and "error" not in self._fields:
            cells[-1] += f"  ({_show('error', error)})"
        if value.get("damaged") and "damaged" not in self._fields:
            cells[-1] += "  (damaged)"
        if value.get("atypical_input") and "atypical_input" not in self._fields:
            cells[-1] += f"  (atypical {', '.join(map(escape, value['atypical_input']))})"
        self._put(cells, _STYLES.get(str(shown.get("verdict")), ""))

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Do nothing: the summary goes to stderr."""

    def _put(self, cells: Sequence[str], style: str) -> None:
        padded = [text.ljust(_WIDTHS[name]) for text, name in zip(cells[:-1], self._fields, strict=False)]
        self._console.print(Text("  ".join([*padded, cells[-1]]), style=style), soft_wrap=True)
        self._stream.flush()
