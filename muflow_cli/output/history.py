"""The history of a fit: a CSV table of every epoch, and a self-contained page that draws it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from muflow_cli.output.inert import cell, escape
from muflow_cli.output.suffixes import longest_match

_LOADER: Final = PackageLoader("muflow_cli.output", "templates")
# Share of a line's epochs whose losses the plot shows; the first ones are often many times larger than all others.
_SHOWN: Final = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One epoch of one training run; NLLs in nats per dimension.

    Attributes:
        branch: its name.
        stage: "select" where sources were left out, "train" for the flow that the bundle holds.
        left_out: names of the sources that were left out.
        steps: of the flow.
        epoch: passes over the training reals so far.
        learning_rate: of the pass.
        train_nll: during the pass.
        validation_nll: of held-out reals of the sources that were trained on, after it.
        left_out_nll: of reals of the left-out sources; None without any.
        left_out_rate: share of them that held-out reals of the other sources would flag at a nominal 20 %.
    """

    branch: str
    stage: str
    left_out: str
    steps: int
    epoch: int
    learning_rate: float
    train_nll: float
    validation_nll: float
    left_out_nll: float | None
    left_out_rate: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What a fit trained.

    Attributes:
        title: of the page, such as the name of the bundle.
        reasons: branch -> why its training ended.
        epochs: of all branches, in order.
    """

    title: str
    reasons: Mapping[str, str]
    epochs: Sequence[Epoch]


@dataclass(frozen=True, slots=True)
class _Panel:
    """Two lines over epochs, as points of a box of 100 x 100, and the ends of the axes."""

    title: str
    solid: str
    dashed: str
    solid_name: str
    dashed_name: str
    low: float
    high: float
    last: int


def _csv(history: History) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Epoch)])
    for epoch in history.epochs:
        writer.writerow([cell(value) if isinstance(value, str) else value for value in asdict(epoch).values()])
    return text.getvalue().encode()


def _page(history: History) -> bytes:
    environment = Environment(loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["inert"] = escape
    style = "".join(_LOADER.get_source(environment, name)[0] for name in ("report.css", "bench.css"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.get_template("fit.html.j2").render(
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # noqa: S704 - files of this package
        title=history.title,
        branches=[(name, reason, _panels(name, history.epochs)) for name, reason in history.reasons.items()],
    )
    return page.encode()


def _panels(branch: str, epochs: Sequence[Epoch]) -> list[_Panel]:
    """The final training, then for each number of steps the mean over the rounds of leaving out."""
    own = [epoch for epoch in epochs if epoch.branch == branch]
    final = [epoch for epoch in own if epoch.stage == "train"]
    panels = [
        _panel(
            f"final training, {final[-1].steps} steps",
            ("training reals", [epoch.train_nll for epoch in final]),
            ("held-out reals", [epoch.validation_nll for epoch in final]),
        )
    ]
    tried = [epoch for epoch in own if epoch.left_out_nll is not None]
    for steps in sorted({epoch.steps for epoch in tried}):
        of_steps = [epoch for epoch in tried if epoch.steps == steps]
        panels.append(
            _panel(
                f"sources left out, {steps} steps",
                ("left-out reals", _means(of_steps, lambda epoch: epoch.left_out_nll or 0.0)),
                ("held-out reals of the others", _means(of_steps, lambda epoch: epoch.validation_nll)),
            )
        )
    return panels


def _means(epochs: Sequence[Epoch], value: Callable[[Epoch], float]) -> list[float]:
    """Mean over the rounds of each epoch; a round that has ended counts with its last one."""
    rounds: dict[str, list[float]] = {}
    for epoch in epochs:
        rounds.setdefault(epoch.left_out, []).append(value(epoch))
    longest = max(map(len, rounds.values()))
    return [sum(line[min(i, len(line) - 1)] for line in rounds.values()) / len(rounds) for i in range(longest)]


def _panel(title: str, solid: tuple[str, list[float]], dashed: tuple[str, list[float]]) -> _Panel:
    values = sorted(solid[1] + dashed[1])
    low, high = values[0], values[max(0, math.ceil(_SHOWN * len(values)) - 1)]
    span, last = (high - low) or 1.0, len(solid[1]) - 1

    def points(line: Sequence[float]) -> str:
        return " ".join(
            f"{100 * i / max(1, last):.2f},{95 - 90 * min(1.1, (value - low) / span):.2f}"
            for i, value in enumerate(line)
        )

    return _Panel(title, points(solid[1]), points(dashed[1]), solid[0], dashed[0], low, high, last)


# Suffix -> what writes a history to a file of that name.
HISTORY_WRITERS: Final[Mapping[str, Callable[[History], bytes]]] = {".csv": _csv, ".html": _page}


def history_suffix(path: Path) -> str:
    """The row of HISTORY_WRITERS that the name of `path` asks for.

    Raises:
        BadSpec: naming the suffixes.
    """
    return longest_match(path, {suffix: (suffix,) for suffix in HISTORY_WRITERS})
