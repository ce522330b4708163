"""A contact sheet: thumbnails in a grid, with the boxes and the landmarks of the faces drawn on them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from PIL import Image, ImageDraw

from muflow_cli.output.inert import escape
from muflow_cli.records import Face

CELL: Final = 240
MOST_CELLS: Final = 1000
SUFFIXES: Final = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_COLUMNS: Final = 5
_CAPTION: Final = 18
_LINE: Final = (0, 220, 90)
_POINT: Final = (255, 210, 0)
_TEXT: Final = (230, 230, 230)
_GROUND: Final = (24, 24, 24)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One image of a sheet.

    Attributes:
        path: its last part is the caption.
        thumbnail: a JPEG of at most CELL pixels.
        width: of the image, in whose pixels the faces are given.
        faces: to be drawn.
    """

    path: str
    thumbnail: bytes
    width: int
    faces: Sequence[Face]


def contact_sheet(cells: Sequence[Cell], kind: str) -> bytes:
    """An image file with five cells a row.

    Args:
        cells: 1 to MOST_CELLS.
        kind: "JPEG" or "PNG".
    """
    rows = -(-len(cells) // _COLUMNS)
    columns = min(_COLUMNS, len(cells))
    sheet = Image.new("RGB", (columns * CELL, rows * (CELL + _CAPTION)), _GROUND)
    for index, cell in enumerate(cells):
        row, column = divmod(index, _COLUMNS)
        left, top = column * CELL, row * (CELL + _CAPTION)
        sheet.paste(_drawn(cell), (left, top))
        caption = f"{len(cell.faces)}  {escape(PurePath(cell.path).name)}"
        ImageDraw.Draw(sheet).text((left + 4, top + CELL + 2), caption[:38].encode("ascii", "replace").decode(), _TEXT)
    buffer = io.BytesIO()
    sheet.save(buffer, kind, quality=88)
    return buffer.getvalue()


def _drawn(cell: Cell) -> Image.Image:
    with Image.open(io.BytesIO(cell.thumbnail), formats=("JPEG",)) as opened:
        thumbnail = opened.convert("RGB")
    scale, draw = thumbnail.width / cell.width, ImageDraw.Draw(thumbnail)
    for face in cell.faces:
        draw.rectangle([scale * edge for edge in face.box], outline=_LINE, width=2)
        for x, y in face.landmarks:
            draw.circle((scale * x, scale * y), 1.5, fill=_POINT)
    return thumbnail
