"""The HTML report of a scan: one self-contained file that loads nothing and runs only its own script."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from muflow_cli.errors import NotFinite
from muflow_cli.output.aliases import ALIASES
from muflow_cli.output.clip_page import clip_of_page
from muflow_cli.output.encode import detector_to_json, result_to_json, run_to_json, summary_to_json
from muflow_cli.output.file_links import folder_of, link_to
from muflow_cli.output.histogram import histogram
from muflow_cli.output.inert import escape
from muflow_cli.output.overview import by_folder, by_format
from muflow_cli.output.shift_text import shift_text
from muflow_cli.output.strips import Strips, strips
from muflow_cli.records import Result, Scored, Unreadable
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary
from muflow_cli.skipped import skipped_text

_LOADER: Final = PackageLoader("muflow_cli.output", "templates")
# Groups with a plot, about 4 KB each: those with the smallest p-values.
PLOTTED: Final = 200
# Folders that the page lists, about 300 bytes each: those with the most flagged images.
LISTED: Final = 100
# Together they are one script, since they share the rows and what is shown of them.
_SCRIPTS: Final = ("rows.js", "notes.js", "table.js", "clip.js", "exhibit.js", "page.js")


@dataclass(frozen=True)
class Exhibit:
    """What a report shows of one image.

    Attributes:
        thumbnail: a small JPEG, PNG or WebP of what was scored, as bytes; None = no image in the report.
        heatmap: (g, g) score per position, nats per dimension, row 0 at the top, covering the thumbnail from edge to
            edge; None where the detector has no map.
        parts: the faces of the image, aligned, in the order of its result; of a clip its worst frames, in their order.
        is_clip: whether it is a clip, whose thumbnail is that of its worst frame.
    """

    thumbnail: bytes | None
    heatmap: NDArray[np.float32] | None
    parts: Sequence[Exhibit] = ()
    is_clip: bool = False

    @property
    def images(self) -> int:
        """How many images it takes of those that a page may show: faces come with their image."""
        return max(1, len(self.parts)) if self.is_clip else 1


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything a report shows.

    Attributes:
        run: with `finished`.
        detector: as in the JSON report.
        summary: counts of the run.
        results: in the order of the inputs.
        calibration_scores: of the real images that the rule was calibrated on, nats per dimension.
        exhibits: index of a result -> its exhibit; the caller decides how many (about 5 KB each).
        thresholds: mean scores below and above which the rule flags; None where no single one decides.
        printed: rows that are printed, "all" or "flagged".
        file: path of the page as the user gave it, which links to images start from; None = not known.
    """

    run: RunInfo
    detector: DetectorInfo
    summary: Summary
    results: Sequence[Result]
    calibration_scores: Sequence[float]
    exhibits: Mapping[int, Exhibit]
    thresholds: tuple[float | None, float | None] = (None, None)
    printed: str = "all"
    file: Path | None = None


def render_report(data: ReportData) -> str:
    """The page; file names are escaped and encoded, and never markup.

    Raises:
        NotFinite: where a score or a heat map contains NaN or infinite values.
    """
    environment = Environment(loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(number=_number, count="{:,}".format, when=_when, inert=escape, words=_words)
    style = "".join(_LOADER.get_source(environment, name)[0] for name in ("report.css", "scan.css"))
    script = (
        '"use strict";\n(() => {\n' + "".join(_LOADER.get_source(environment, name)[0] for name in _SCRIPTS) + "})();\n"
    )
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    embedded = _embedded(data)  # which checks that scores are numbers
    shift = data.summary.shift
    return environment.get_template("report.html.j2").render(
        # A Content-Security-Policy that runs this style and this script, by their digests, and loads nothing.
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'",
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        data=embedded,
        **_plot(data),
        folders=by_folder(data.results),
        listed=LISTED,
        formats=by_format(data.results),
        printed=data.printed,
        run=run_to_json(data.run),
        case=data.run.case,
        examiner=data.run.examiner,
        command=escape(shlex.join(data.run.argv)),
        detector=detector_to_json(data.detector),
        summary=summary_to_json(data.summary),
        skipped=skipped_text(data.summary.skipped),
        shifted=None if shift is None or shift.alike else shift_text(shift, data.detector.alpha),
        atypical=(data.run.options or {}).get("atypical"),
        groups=data.summary.ranked_groups,
        strips=_strips(data),
        shown=len(data.exhibits),
        **_p_values(data),
    )


def _embedded(data: ReportData) -> Markup:
    """What the script reads: JSON whose <, > and & are escapes, so that it cannot leave its element."""
    folders = sorted({folder_of(result.path) for result in data.results})
    number = {name: index for index, name in enumerate(folders)}
    rows = []
    for index, result in enumerate(data.results):
        own: dict[str, Any] = {"folder": number[folder_of(result.path)]}
        link = None if isinstance(result, Unreadable) else link_to(result.path, data.file)
        rows.append(_row(result, data.exhibits.get(index)) | own | ({} if link is None else {"link": link}))
    value = {
        "columns": data.detector.columns,
        "folders": [escape(name) for name in folders],
        # What is noted on this page belongs to this report alone.
        "report": data.summary.report_sha256 or data.summary.results_sha256 or "",
        # Of a mean score; those of a clip judged as a whole are its own.
        "limits": data.thresholds,
        "rows": rows,
    }
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    embedded = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(embedded)  # noqa: S704 - see above


def _plot(data: ReportData) -> dict[str, Any]:
    """The histogram, the position and the score of each threshold on its axis, and where flagged images lie."""
    scored = [result for result in data.results if isinstance(result, Scored)]
    drawn = histogram([result.score for result in scored], data.calibration_scores)
    if drawn is None:
        return {"histogram": None, "limits": [], "flagged_at": []}
    low, high = drawn.ends
    inside = [score for score in data.thresholds if score is not None and low <= score <= high]
    return {
        "histogram": drawn,
        "limits": [(drawn.positions([score])[0], score) for score in inside],
        "flagged_at": drawn.positions(result.score for result in scored if result.flagged),
    }


def _p_values(data: ReportData) -> dict[str, bool]:
    """Which p-values beside the usual one any result has."""
    judged = [result.judgement for result in data.results if isinstance(result, Scored)]
    return {
        "has_q": any(judgement.q_value is not None for judgement in judged),
        "has_adaptive": any(judgement.adaptive_p_value is not None for judgement in judged),
        "has_weighted": any(judgement.weighted_p_value is not None for judgement in judged),
    }


def _strips(data: ReportData) -> Strips | None:
    """Plots of the groups that are most unlike the calibration; files with the same bytes count once."""
    scores: dict[str, list[float]] = {group.name: [] for group in data.summary.ranked_groups[:PLOTTED]}
    for result in data.results:
        if isinstance(result, Scored) and result.duplicate_of is None and result.group in scores:
            scores[result.group].append(result.score)
    return strips({name: own for name, own in scores.items() if own}, data.calibration_scores)


def _row(result: Result, exhibit: Exhibit | None) -> dict[str, object]:
    own = {key: value for key, value in result_to_json(result).items() if key not in ALIASES["Scored"]}
    row = {key: value for key, value in own.items() if value not in (None, []) and key != "declared"}
    if own["declared"]["marks"]:
        row["declared"] = own["declared"]
    row["path"] = escape(result.path)
    if isinstance(result, Scored):
        texts = {"duplicate_of": result.duplicate_of, "group": result.group}
        row |= {key: escape(text) for key, text in texts.items() if text is not None}
    elif isinstance(result, Unreadable):
        row["error"] = {"code": escape(result.code), "message": escape(result.message)}
    if exhibit is not None:
        row |= _shown(exhibit, result.path)
        if exhibit.parts and not exhibit.is_clip:
            shown = zip(own["faces"], exhibit.parts, strict=True)
            row["faces"] = [face | _shown(seen, result.path) for face, seen in shown]
    if own.get("clip"):
        parts = () if exhibit is None else exhibit.parts
        row["clip"] = clip_of_page(own["clip"], [_shown(part, result.path) for part in parts])
    return row


def _shown(exhibit: Exhibit, path: str) -> dict[str, object]:
    shown: dict[str, object] = {}
    image = exhibit.thumbnail
    if image:
        kind = "webp" if image[:4] == b"RIFF" else "png" if image[:4] == b"\x89PNG" else "jpeg"
        shown["thumbnail"] = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    return shown | ({"heat": _heat(exhibit.heatmap, path)} if exhibit.heatmap is not None else {})


def _heat(grid: NDArray[np.float32], path: str) -> dict[str, object]:
    """A map as one byte per position between its own least and greatest value, exact to 1/255 of its span."""
    low, high = float(grid.min()), float(grid.max())
    if not np.isfinite(grid).all():
        raise NotFinite(f"the heat map for {path!a} contains NaN or infinite values", "fit the detector again")
    levels = np.rint(255 * (grid - low) / ((high - low) or 1)).astype(np.uint8)
    return {"side": grid.shape[0], "low": low, "high": high, "levels": base64.b64encode(levels.tobytes()).decode()}


def _words(code: str) -> str:
    """A code for programs as words: `not_an_image` -> `not an image`."""
    return escape(code).replace("_", " ")


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}".replace("-", "\u2212")


def _when(text: str | None) -> str:
    """`2026-03-01T09:00:00Z` -> `1 March 2026, 09:00:00 UTC`; any other text stays as it is."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return text or "not finished"
    return f"{time.day} {time:%B %Y, %H:%M:%S} UTC"
