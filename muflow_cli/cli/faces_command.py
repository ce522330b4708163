"""`muflow faces`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muflow_cli.cli import options
from muflow_cli.cli.progress import stderr_console
from muflow_cli.cli.scan_inputs import absent_arguments
from muflow_cli.cli.told import Told
from muflow_cli.errors import BadSpec
from muflow_cli.output.inert import inert
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import Damaged, Runtime
from muflow_cli.specs import FaceSpec

if TYPE_CHECKING:
    from muflow_cli.faces import FacesFound
    from muflow_cli.output.contact_sheet import Cell

_DEFAULT = FaceSpec()


def faces_command(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Images, folders, archives, addresses or globs.")
    ],
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE", help="Draw the faces on a contact sheet (.jpg or .png)."),
    ] = None,
    min_face: Annotated[
        int, typer.Option("--min-face", min=8, metavar="PIXELS", help="Leave out faces with a shorter side.")
    ] = _DEFAULT.min_side,
    detector: Annotated[
        str,
        typer.Option("--face-detector", metavar="NAME", help="What finds the faces; an unknown name lists all."),
    ] = _DEFAULT.detector,
    face_model: Annotated[
        Path | None,
        typer.Option("--face-model", metavar="FILE", help="Model file, for --face-detector yunet-file."),
    ] = None,
    workers: options.Workers = 0,
    exclude: options.Exclude = None,
    hidden: options.Hidden = False,
    follow_links: options.FollowLinks = False,
    max_bytes: options.MaxBytes = options.MAX_BYTES,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    damaged: options.DamagedOption = Damaged.REFUSE,
    max_seconds: options.MaxSeconds = options.MAX_SECONDS,
    no_archives: options.NoArchives = False,
    force: options.Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    quiet: options.Quiet = False,
) -> int:
    """Show which faces are found in images, without scoring them: a look before a long run.

    Exit status: 0 done; 2 no input, a PATH that does not exist, or wrong usage; 3 some inputs unreadable.

    **Example**

    ```sh
    muflow faces ./photos --sheet faces.jpg --json > faces.jsonl
    ```
    """
    inputs = options.input_spec(
        exclude, hidden, follow_links, max_bytes, max_pixels, damaged, max_seconds, no_archives, face_model
    )
    from muflow_cli.faces import FacesRequest, faces_of
    from muflow_cli.images.find import find
    from muflow_cli.output.contact_sheet import CELL, MOST_CELLS
    from muflow_cli.skipped import SkipCount, nothing_found, skipped_text

    if sheet is not None:
        _check_sheet(sheet, paths, force=force)
    request = FacesRequest(
        faces=FaceSpec(detector=detector, min_side=min_face),
        inputs=inputs,
        runtime=Runtime(workers=workers),
        thumbnail=0 if sheet is None else CELL,
    )
    absent = absent_arguments(paths, inputs, listed=False)
    skipped, console = SkipCount(), stderr_console(quiet)
    counts, cells = _listed(faces_of(find(paths, inputs, skipped), request.load_spec), as_json=as_json)
    if not counts:
        remedy = "give images, or folders that hold some"
        raise nothing_found(f"no image in {', '.join(paths)}", skipped.rows, remedy)
    console.print(", ".join(f"{counts[kind]} {kind}" for kind in _KINDS))
    if skipped.rows:
        console.print(f"skipped: {skipped_text(skipped.rows)}")
    if sheet is not None and not cells:
        console.print("no sheet was written, since no image can be read")
    elif sheet is not None:
        _write_sheet(sheet, cells, force=force)
        if counts.total() - counts["unreadable"] > len(cells):
            console.print(f"the sheet shows the first {MOST_CELLS} images")
    lacks_paths = Told(console, absent=absent).end()
    return 2 if lacks_paths else 3 if counts["unreadable"] else 0


def _listed(results: Iterable[FacesFound | Unreadable], *, as_json: bool) -> tuple[Counter[str], list[Cell]]:
    """Print each result; the number of each kind, and the first images for a sheet."""
    from muflow_cli.output.contact_sheet import MOST_CELLS

    counts: Counter[str] = Counter()
    cells: list[Cell] = []
    for result in results:
        counts[_kind(result)] += 1
        typer.echo(json.dumps(_to_json(result)) if as_json else inert(_text(result)))
        if len(cells) < MOST_CELLS and (cell := _cell(result)):
            cells.append(cell)
    return counts, cells


def _check_sheet(sheet: Path, paths: list[str], *, force: bool) -> None:
    from muflow_cli.claims import check_outputs
    from muflow_cli.output.contact_sheet import SUFFIXES

    if sheet.suffix.lower() not in SUFFIXES:
        raise BadSpec("--sheet", sheet, f"a name that ends with {', '.join(SUFFIXES)}")
    check_outputs([sheet], force=force, inputs=paths)


def _write_sheet(sheet: Path, cells: list[Cell], *, force: bool) -> None:
    from muflow_cli.files import write_whole
    from muflow_cli.output.contact_sheet import SUFFIXES, contact_sheet

    write_whole(sheet, contact_sheet(cells, SUFFIXES[sheet.suffix.lower()]), force=force)


_KINDS = ("without a face", "with one face", "with several faces", "unreadable")


def _kind(result: FacesFound | Unreadable) -> str:
    return _KINDS[3] if isinstance(result, Unreadable) else _KINDS[min(2, len(result.faces))]


def _to_json(result: FacesFound | Unreadable) -> dict[str, Any]:
    if isinstance(result, Unreadable):
        return {"path": result.path, "error": {"code": result.code, "message": result.message}}
    faces = [
        {
            "box": [round(edge, 2) for edge in face.box],
            "landmarks": [[round(x, 2), round(y, 2)] for x, y in face.landmarks],
            "side": round(face.side, 2),
            "confidence": round(face.confidence, 4),
        }
        for face in result.faces
    ]
    return {
        "path": result.path,
        "sha256": result.facts.sha256,
        "width": result.size[0],
        "height": result.size[1],
        "faces": faces,
        "faces_left_out": result.left_out,
    }


def _text(result: FacesFound | Unreadable) -> str:
    if isinstance(result, Unreadable):
        return f"unreadable  {result.path} ({result.code}, {result.message})"
    sizes = ", ".join(f"{face.side:.0f} px at {face.box[0]:.0f},{face.box[1]:.0f}" for face in result.faces)
    width, height = result.size
    smaller = f"  ({result.left_out} smaller left out)" if result.left_out else ""
    return f"{len(result.faces):>10}  {result.path} ({width}x{height}){f'  {sizes}' if sizes else ''}{smaller}"


def _cell(result: FacesFound | Unreadable) -> Cell | None:
    from muflow_cli.output.contact_sheet import Cell

    if isinstance(result, Unreadable) or result.thumbnail is None:
        return None
    return Cell(path=result.path, thumbnail=result.thumbnail, width=result.size[0], faces=result.faces)
