"""The HTML report of a benchmark: one self-contained page that has no script and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.errors import NotFinite
from muflow_cli.output import bench_charts, bench_text
from muflow_cli.output.histogram import histogram
from muflow_cli.output.inert import escape

_LOADER: Final = PackageLoader("muflow_cli.output", "templates")
_HEAT_SIDE: Final = 160
# From black over violet and orange to pale yellow; lightness rises evenly, so that it also reads in grey.
_RAMP: Final = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float64)


@dataclass(frozen=True, slots=True)
class Roc:
    """One ROC curve on a grid of false-positive rates, with its band; all (G,) in [0, 1].

    Attributes:
        ranking: what the images were ranked by, "score" or "rule".
        fpr: ascending.
        tpr: share of fakes caught.
        low: lower end of its interval.
        high: upper end of it.
    """

    ranking: str
    fpr: Sequence[float]
    tpr: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, slots=True)
class Card:
    """One image that the report shows: its path, a caption, a thumbnail (JPEG), a heat map (g, g)."""

    path: str
    caption: str
    thumbnail: bytes | None
    heatmap: NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchPage:
    """Everything the page shows.

    Attributes:
        report: schema "muflow.bench/2".
        calibration_scores: of the reals that the detector was calibrated on.
        scores: "real NAME" or "fake NAME" -> scores of the group.
        rocs: generator -> curves against the worst real source.
        exhibits: title -> images.
    """

    report: Mapping[str, Any]
    calibration_scores: Sequence[float]
    scores: Mapping[str, Sequence[float]]
    rocs: Mapping[str, Sequence[Roc]]
    exhibits: Mapping[str, Sequence[Card]]


def render_bench(page: BenchPage) -> str:
    """The page; names are escaped and never markup.

    Raises:
        NotFinite: where a heat map contains NaN or infinite values.
    """
    environment = Environment(loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(
        inert=escape,
        figure=_figure,
        line=_line,
        band=lambda x, low, high: _line([*x, *reversed(x)], [*low, *reversed(high)]),
    )
    style = "".join(_LOADER.get_source(environment, name)[0] for name in ("report.css", "bench.css"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    report = page.report
    drawn = {name: histogram(scores, page.calibration_scores) for name, scores in page.scores.items()}
    return environment.get_template("bench.html.j2").render(
        # A Content-Security-Policy that admits this style by its digest, images in the page, and nothing else.
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # noqa: S704 - files of this package
        report=report,
        sentences=bench_text.sentences(report),
        sections=list(bench_text.sections(report)),
        command=escape(shlex.join(report["run"]["argv"])),
        histograms={name: plot for name, plot in drawn.items() if plot is not None},
        rocs=page.rocs,
        points=bench_charts.operating_points(report["results"]) if page.rocs else {},
        matrices=list(bench_charts.matrices(report["results"])) if report["results"] else [],
        curves=[_drawn(curve) for curve in report["robustness"]["curves"]],
        exhibits={title: [_card(card) for card in cards] for title, cards in page.exhibits.items() if cards},
    )


def _figure(cell: str) -> tuple[str, str]:
    """A cell's figure and its interval, which a page shows below it; the interval is empty where there is none."""
    value, bracket, interval = cell.partition(" [")
    return value, bracket.strip() + interval


def _line(x: Sequence[float], y: Sequence[float]) -> str:
    """Points of an SVG whose box is 100 x 100 with the origin at the lower left."""
    return " ".join(f"{100 * a:.2f},{100 - 100 * b:.2f}" for a, b in zip(x, y, strict=True))


def _drawn(curve: Mapping[str, Any]) -> dict[str, Any]:
    """A robustness curve with its intensities spread over [0, 1]."""
    points = curve["points"]
    least, greatest = points[0]["intensity"], points[-1]["intensity"]
    lines = {
        name: {end: [point[name][end] for point in points] for end in ("value", "low", "high")}
        for name in ("macro_auc", "macro_rule_auc")
    }
    x = [(point["intensity"] - least) / (greatest - least) for point in points]
    return {**curve, "x": x, "lines": lines, "least": f"{least:g}", "greatest": f"{greatest:g}"}


def _card(card: Card) -> dict[str, str | None]:
    thumbnail = None if card.thumbnail is None else _data_uri("jpeg", card.thumbnail)
    heat = None if card.heatmap is None else _data_uri("png", _heat(card.heatmap, card.path))
    return {"path": escape(card.path), "caption": escape(card.caption), "thumbnail": thumbnail, "heat": heat}


def _heat(heatmap: NDArray[np.float32], path: str) -> bytes:
    """A PNG of a heat map (g, g), coloured between its own least and greatest value."""
    grid = np.asarray(heatmap, np.float64)
    if not np.isfinite(grid).all():
        raise NotFinite(f"the heat map for {path!a} contains NaN or infinite values", "fit the detector again")
    level = (grid - grid.min()) / ((grid.max() - grid.min()) or 1)
    stops = np.linspace(0, 1, len(_RAMP))
    colours = np.stack([np.interp(level, stops, _RAMP[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((_HEAT_SIDE, _HEAT_SIDE), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
