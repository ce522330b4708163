"""The HTML page of an ablation: every variant as a bar with its interval; it has no script and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from muflow_cli.output.chance import Standing, standing
from muflow_cli.output.inert import escape
from muflow_cli.output.sections import Section

Report = Mapping[str, Any]

_LOADER: Final = PackageLoader("muflow_cli.output", "templates")


@dataclass(frozen=True, slots=True)
class Bar:
    """One variant: AUC against its worst real source.

    Attributes:
        label: classifier and tail.
        value: the AUC.
        low: lower end of its interval.
        high: upper end of it.
        source: the worst real source.
        remark: what is to be said of it, such as "at chance"; else empty.
    """

    label: str
    value: float
    low: float
    high: float
    source: str
    remark: str


def bars(report: Report) -> dict[str, list[Bar]]:
    """Target and flow -> a bar for each classifier and tail, the highest first.

    An AUC does not depend on alpha but for classifiers that are fitted to it; the bar is that of the first alpha.
    """
    seen: set[tuple[str, ...]] = set()
    groups: dict[str, list[Bar]] = {}
    for row in report["table"]:
        key = (row["target"], row["flow"], row["classifier"], row["tail"])
        if key in seen or row["figures"] is None:
            continue
        seen.add(key)
        figure, where = row["figures"][row["worst_source"]]["auc"], ""
        if standing(figure) is not Standing.ABOVE:
            where = standing(figure).value
        label = f"{row['classifier']}, {'both tails' if row['tail'] == 'both' else 'upper tail'}"
        bar = Bar(label, figure["value"], figure["low"], figure["high"], row["worst_source"], where)
        groups.setdefault(f"target {row['target']}, {row['flow']}", []).append(bar)
    return {name: sorted(own, key=lambda bar: -bar.value) for name, own in groups.items()}


def render_ablation(report: Report, lead: Sequence[str], sections: Iterator[Section]) -> str:
    """The page; names are escaped and never markup.

    Args:
        report: schema "muflow.ablation/1".
        lead: what was fitted and measured, without full stops.
        sections: title, headings and rows of every table.
    """
    environment = Environment(loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["inert"] = escape
    style = "".join(_LOADER.get_source(environment, name)[0] for name in ("report.css", "bench.css"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("ablation.html.j2").render(
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # noqa: S704 - files of this package
        report=report,
        lead=lead,
        groups=bars(report),
        sections=list(sections),
        command=escape(shlex.join(report["run"]["argv"])),
    )
