"""Tables of a report for people: on a console of any width, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from muflow_cli.output.inert import inert

# Title, headings, rows.
Section = tuple[str, Sequence[str], list[list[str]]]

_GAP: Final = 3  # between two columns
_LEAST_NAME: Final = 16


def print_sections(lead: Sequence[str], sections: Iterable[Section], console: Console) -> None:
    """Print a report; a table that is too wide for the console is continued below itself.

    Args:
        lead: sentences before the tables, the first one emphasised.
        sections: the tables; rows that begin with FAILED are red.
        console: where to print.
    """
    for number, sentence in enumerate(lead):
        console.print(inert(sentence), style="bold" if number == 0 else "")
    for title, headings, rows in sections:
        for number, columns in enumerate(_side_by_side(headings, rows, console.width)):
            whole = title if number == 0 else f"{title}, continued"
            table = Table(title=whole, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
            for column in columns:
                table.add_column(inert(headings[column]), overflow="fold")
            for row in rows:
                table.add_row(
                    *(inert(row[column]) for column in columns), style="bold red" if row[0] == "FAILED" else ""
                )
            console.print(table)


def _side_by_side(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[list[int]]:
    """Columns of tables no wider than `width` that together show every column, each table with the first column."""
    widths = [max(cell_len(row[column]) for row in (headings, *rows)) + _GAP for column in range(len(headings))]
    widths[0] = min(widths[0], max(_LEAST_NAME, width // 3))  # long names are folded
    columns, taken = [0], widths[0]
    for column in range(1, len(headings)):
        if taken + widths[column] > width and len(columns) > 1:
            yield columns
            columns, taken = [0], widths[0]
        columns.append(column)
        taken += widths[column]
    yield columns


def markdown_sections(lead: Sequence[str], sections: Iterable[Section]) -> str:
    """A report in Markdown; arguments as in `print_sections`."""
    lines = []
    for number, sentence in enumerate(lead):
        lines += [f"**{_inline(sentence)}**" if number == 0 else _inline(sentence), ""]
    for title, headings, rows in sections:
        lines += [f"### {_inline(title)}", "", _line(headings), _line(["---"] * len(headings))]
        lines += [*map(_line, rows), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_inline(text) for text in cells) + " |"


def _inline(text: str) -> str:
    for mark in "\\`*_|<>":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return text
