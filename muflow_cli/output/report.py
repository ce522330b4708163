"""The HTML report of a scan: one self-contained file that loads nothing and runs only its own script."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from muflow_cli.errors import NotFinite
from muflow_cli.output.aliases import ALIASES
from muflow_cli.output.encode import detector_to_json, result_to_json, run_to_json, summary_to_json
from muflow_cli.output.histogram import histogram
from muflow_cli.output.inert import escape
from muflow_cli.output.shift_text import shift_text
from muflow_cli.output.strips import Strips, strips
from muflow_cli.records import Result, Scored, Unreadable
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary

_LOADER: Final = PackageLoader("muflow_cli.output", "templates")
# Groups with a plot, about 4 KB each: those with the smallest p-values.
PLOTTED: Final = 200


@dataclass(frozen=True)
class Exhibit:
    """What a report shows of one image.

    Attributes:
        thumbnail: a small JPEG, PNG or WebP of what was scored, as bytes; None = no image in the report.
        heatmap: (g, g) score per position, nats per dimension, row 0 at the top, covering the thumbnail from edge to
            edge; None where the detector has no map.
        faces: of the image, aligned, in the order of its result.
    """

    thumbnail: bytes | None
    heatmap: NDArray[np.float32] | None
    faces: Sequence[Exhibit] = ()


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
    """

    run: RunInfo
    detector: DetectorInfo
    summary: Summary
    results: Sequence[Result]
    calibration_scores: Sequence[float]
    exhibits: Mapping[int, Exhibit]


def render_report(data: ReportData) -> str:
    """The page; file names are escaped and encoded, and never markup.

    Raises:
        NotFinite: where a score or a heat map contains NaN or infinite values.
    """
    environment = Environment(loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(number=_number, count="{:,}".format, when=_when, inert=escape)
    style, script = (_LOADER.get_source(environment, name)[0] for name in ("report.css", "report.js"))
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    scores = [result.score for result in data.results if isinstance(result, Scored)]
    rows = [_row(result, data.exhibits.get(index)) for index, result in enumerate(data.results)]
    text = json.dumps({"columns": data.detector.columns, "rows": rows}, allow_nan=False, separators=(",", ":"))
    embedded = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    shift = data.summary.shift
    return environment.get_template("report.html.j2").render(
        # A Content-Security-Policy that runs this style and this script, by their digests, and loads nothing.
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'",
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        data=Markup(embedded),  # noqa: S704 - JSON whose <, > and & are escapes, so it cannot leave its element
        histogram=histogram(scores, data.calibration_scores),
        run=run_to_json(data.run),
        command=escape(shlex.join(data.run.argv)),
        detector=detector_to_json(data.detector),
        summary=summary_to_json(data.summary),
        shifted=None if shift is None or shift.alike else shift_text(shift, data.detector.alpha),
        atypical=(data.run.options or {}).get("atypical"),
        groups=data.summary.ranked_groups,
        strips=_strips(data),
        has_q=any(isinstance(result, Scored) and result.judgement.q_value is not None for result in data.results),
        has_adaptive=any(
            isinstance(result, Scored) and result.judgement.adaptive_p_value is not None for result in data.results
        ),
        has_weighted=any(
            isinstance(result, Scored) and result.judgement.weighted_p_value is not None for result in data.results
        ),
        shown=len(data.exhibits),
    )


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
        if exhibit.faces:
            shown = zip(own["faces"], exhibit.faces, strict=True)
            row["faces"] = [face | _shown(seen, result.path) for face, seen in shown]
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


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}".replace("-", "\u2212")


def _when(text: str | None) -> str:
    """`2026-03-01T09:00:00Z` -> `1 March 2026, 09:00:00 UTC`; any other text stays as it is."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return text or "not finished"
    return f"{time.day} {time:%B %Y, %H:%M:%S} UTC"
