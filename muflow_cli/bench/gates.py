"""Gates of a continuous check: `macro_auc>=0.80`, `fpr[celebahq]<=0.07`, and no drop against an earlier report.

A gate without a name in brackets is about the worst there is: the real source, or the pair of source and generator,
with the least value (for `fpr` the greatest). Gates read a report's JSON, so that they judge what was written.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from muflow_cli.bench.evaluate import METRICS
from muflow_cli.errors import BadData, BadExpression, BadSpec

Report = Mapping[str, Any]

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_QUANTITY: Final = re.compile(r"\s*([a-z0-9_.]*)\s*")
_NAME: Final = re.compile(r"\[([^\]]*)\]\s*")
_COMPARISON: Final = re.compile(r"(>=|<=|>|<)\s*")

# What of an earlier report must not drop, at every real source; `fpr` must not rise.
NOT_TO_DROP: Final = ("macro_auc", "macro_rule_auc", "macro_balanced_accuracy")


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition on a report.

    Attributes:
        text: as typed.
        quantity: `macro_`METRIC, `pooled_`METRIC, METRIC or `fpr`.
        name: the real source (macro, pooled, fpr), or the generator or family (METRIC); None = the worst.
        comparison: a key of the table of comparisons.
        limit: the number that it is compared with.
        column: where the name stands in the text, from 1.
    """

    text: str
    quantity: str
    name: str | None
    comparison: str
    limit: float
    column: int = 1


@dataclass(frozen=True, slots=True)
class Checked:
    """One gate's outcome: what was asked, where the value was found, the value, what it had to be, whether it held."""

    gate: str
    where: str
    value: float
    needed: str
    held: bool


def parse_gate(text: str) -> Gate:
    """QUANTITY[NAME]COMPARISON NUMBER -> gate.

    Raises:
        BadExpression: naming the column of the first thing that is wrong.
    """
    found = _QUANTITY.match(text)
    quantity, at = (found.group(1), found.end()) if found else ("", 0)
    if quantity.removeprefix("macro_").removeprefix("pooled_") not in METRICS and quantity != "fpr":
        start = found.start(1) if found else 0
        raise _wrong(text, start, f"{quantity!r} is no quantity; there are fpr, and with macro_, pooled_ or alone: "
                     + ", ".join(METRICS))  # fmt: skip  # the list reads as one
    name, column = None, at + 2
    if text[at : at + 1] == "[":
        named = _NAME.match(text, at)
        if named is None:
            raise _wrong(text, at, "this bracket is not closed")
        name, at = named.group(1).strip(), named.end()
    compared = _COMPARISON.match(text, at)
    if compared is None:
        raise _wrong(text, at, "a comparison belongs here: >=, <=, > or <")
    return Gate(text, quantity, name, compared.group(1), _number(text, compared.end()), column)


def _number(text: str, at: int) -> float:
    try:
        number = float(text[at:])
    except ValueError:
        raise _wrong(text, at, "a number belongs here, as in 0.80") from None
    if not 0 <= number <= 1:
        raise _wrong(text, at, "the number must be from 0 to 1, as every quantity is")
    return number


def _wrong(text: str, offset: int, problem: str) -> BadExpression:
    return BadExpression("gate", text, offset + 1, problem)


def check_names(gates: Sequence[Gate], sources: Sequence[str], members: Sequence[str]) -> None:
    """Refuse a gate about a real source, generator or family that is not there, before anything is scored.

    Raises:
        BadExpression: naming the column of the name.
    """
    for gate in gates:
        known = members if _level(gate.quantity)[0] == "each" else sources
        if gate.name is not None and gate.name not in known:
            there = ", ".join(sorted(set(known)))
            raise _wrong(gate.text, gate.column - 1, f"{gate.name!r} is not in this data; there are {there}")


def check_gates(gates: Sequence[Gate], report: Report) -> list[Checked]:
    """Every gate's outcome on `report`.

    Raises:
        BadExpression: for a quantity that these scores do not have.
    """
    return [_check(gate, report) for gate in gates]


def _check(gate: Gate, report: Report) -> Checked:
    values = _values(gate, report)
    pick = max if gate.quantity == "fpr" else min
    where = pick(values, key=lambda place: values[place])
    held = _COMPARISONS[gate.comparison](values[where], gate.limit)
    return Checked(gate.text, where, values[where], f"{gate.comparison} {gate.limit:g}", held)


def _values(gate: Gate, report: Report) -> dict[str, float]:
    """Place -> value, of every place that the gate may be about."""
    sources = report["results"]["sources"]
    level, metric = _level(gate.quantity)
    if level == "each":
        found = _each(sources, metric, gate.name)
    else:
        chosen = {name: against for name, against in sources.items() if gate.name in (None, name)}
        found = {name: value for name, against in chosen.items() if (value := _of(against, level, metric)) is not None}
    if not found:
        raise _wrong(gate.text, 0, f"these scores have no {gate.quantity}: it needs verdicts or p-values")
    return found


def _level(quantity: str) -> tuple[str, str]:
    for level in ("macro", "pooled"):
        if quantity.startswith(f"{level}_"):
            return level, quantity.removeprefix(f"{level}_")
    return ("fpr", "") if quantity == "fpr" else ("each", quantity)


def _of(against: Mapping[str, Any], level: str, metric: str) -> float | None:
    share = against["flagged"] if level == "fpr" else against[level].get(metric)
    return None if share is None else float(share["value"])


def _members(against: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Generator or family -> its figures."""
    generators = {name: generator["figures"] for name, generator in against["generators"].items()}
    return {**against["families"], **generators}


def _each(sources: Mapping[str, Any], metric: str, name: str | None) -> dict[str, float]:
    found = {}
    for source, against in sources.items():
        members = _members(against) if name is not None else {k: v["figures"] for k, v in against["generators"].items()}
        for member, figures in members.items():
            if name in (None, member) and metric in figures:
                found[f"{member} against {source}"] = float(figures[metric]["value"])
    return found


def read_baseline(path: Path, digest: str) -> Report:
    """An earlier report of the same data.

    Raises:
        BadData: where it is no bench report, or was measured on other pictures.
    """
    try:
        report = json.loads(path.read_bytes())
        found = report["data"]["digest"] if report["schema"] == "muflow.bench/1" else None
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found is None:
        raise BadData(f"{path} is no report of `muflow bench --json`: give one, written with the same data")
    if found != digest:
        raise BadData(
            f"{path} was measured on other pictures (data digest {found[:12]}, here {digest[:12]}): compare figures of "
            "the same data, groups and limit only"
        )
    return dict(report)


def check_drop(before: Report, now: Report, max_drop: float) -> list[Checked]:
    """What may have dropped since `before`, at every real source; each by at most `max_drop` (`fpr`: risen).

    Raises:
        BadSpec: for a limit outside [0, 1].
    """
    if not 0 <= max_drop <= 1:
        raise BadSpec("--max-drop", max_drop, "from 0 to 1")
    checks = []
    for source, against in now["results"]["sources"].items():
        earlier = before["results"]["sources"][source]
        for quantity in (*NOT_TO_DROP, "fpr"):
            level, metric = _level(quantity)
            was, value = _of(earlier, level, metric), _of(against, level, metric)
            if was is None or value is None:
                continue
            rising = quantity == "fpr"
            limit = was + max_drop if rising else was - max_drop
            # A millionth of slack: 0.80 - 0.01 is not 0.79 in binary.
            held = value <= limit + 1e-6 if rising else value >= limit - 1e-6
            sign = "<=" if rising else ">="
            needed = f"{sign} {limit:.4f} ({was:.4f} before)"
            checks.append(Checked(f"{quantity}[{source}] against the baseline", source, value, needed, held))
    return checks
