"""Gates of a continuous check: `macro_auc>=0.80`, `fpr[celebahq]<=0.07`, and no drop against an earlier report.

A gate without a name in brackets is about the worst case: the real source, or the pair of source and generator, with
the lowest value (for `fpr` the highest). Gates read a report's JSON, so that they judge what was written.
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

# A baseline may have the former schema, since the fields that a comparison reads have kept their names.
_SCHEMAS: Final = ("muflow.bench/1", "muflow.bench/2")

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_METRIC: Final = re.compile(r"\s*([a-z0-9_.]*)\s*")
_NAME: Final = re.compile(r"\[([^\]]*)\]\s*")
_COMPARISON: Final = re.compile(r"(>=|<=|>|<)\s*")

# Metrics that must not drop below an earlier report at any real source; `fpr` must not rise.
NOT_TO_DROP: Final = ("macro_auc", "macro_rule_auc", "macro_balanced_accuracy")


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition on a report.

    Attributes:
        text: as typed.
        metric: a name of METRICS, alone or after `macro_` or `pooled_`; or `fpr`.
        name: of the real source (`macro_`, `pooled_`, `fpr`), or of the generator or family; None = the worst.
        comparison: >=, <=, > or <.
        limit: the number that the metric is compared with, 0..1.
        column: where the name stands in the text, from 1.
    """

    text: str
    metric: str
    name: str | None
    comparison: str
    limit: float
    column: int = 1


@dataclass(frozen=True, slots=True)
class Checked:
    """One gate's outcome: its text, where it was measured, the value, the value that it needed, whether it held."""

    gate: str
    where: str
    value: float
    needed: str
    held: bool


def parse_gate(text: str) -> Gate:
    """METRIC[NAME]COMPARISON NUMBER -> gate.

    Raises:
        BadExpression: with the column of the first error.
    """
    match = _METRIC.match(text)
    metric, start, at = (match.group(1), match.start(1), match.end()) if match else ("", 0, 0)
    if metric.removeprefix("macro_").removeprefix("pooled_") not in METRICS and metric != "fpr":
        known = f"use fpr, or one of {', '.join(METRICS)}, alone or after macro_ or pooled_"
        raise _wrong(text, start, f"unknown metric {metric!r}", known)
    name, column = None, at + 2
    if text[at : at + 1] == "[":
        named = _NAME.match(text, at)
        if named is None:
            raise _wrong(text, at, "the bracket is not closed", "add ] after the name")
        name, at = named.group(1).strip(), named.end()
    compared = _COMPARISON.match(text, at)
    if compared is None:
        raise _wrong(text, at, "the comparison is missing", "use >=, <=, > or <")
    at = compared.end()
    try:
        limit = float(text[at:])
    except ValueError:
        raise _wrong(text, at, f"{text[at:]!r} is not a number", "use a number such as 0.80") from None
    if not 0 <= limit <= 1:
        raise _wrong(text, at, f"{text[at:]} is out of range", "use a number from 0 to 1, as every metric is")
    return Gate(text, metric, name, compared.group(1), limit, column)


def _wrong(text: str, offset: int, problem: str, remedy: str) -> BadExpression:
    return BadExpression("gate", text, offset + 1, problem, remedy)


def check_names(gates: Sequence[Gate], sources: Sequence[str], members: Sequence[str]) -> None:
    """Refuse a gate about a real source, generator or family that the data lack, before anything is scored.

    Raises:
        BadExpression: with the column of the name.
    """
    for gate in gates:
        known = members if _level(gate.metric)[0] == "each" else sources
        if gate.name is not None and gate.name not in known:
            names = ", ".join(sorted(set(known)))
            raise _wrong(gate.text, gate.column - 1, f"{gate.name!r} is not in the data", f"use one of {names}")


def check_gates(gates: Sequence[Gate], report: Report) -> list[Checked]:
    """Every gate's outcome on `report`.

    Raises:
        BadExpression: for a metric that these scores do not have.
    """
    checks = []
    for gate in gates:
        values = _values(gate, report)
        where, value = (max if gate.metric == "fpr" else min)(values.items(), key=lambda item: item[1])
        held = _COMPARISONS[gate.comparison](value, gate.limit)
        checks.append(Checked(gate.text, where, value, f"{gate.comparison} {gate.limit:g}", held))
    return checks


def _values(gate: Gate, report: Report) -> dict[str, float]:
    """Value at each real source, or at each pair of generator and source, that the gate may be about."""
    sources = report["results"]["sources"]
    level, metric = _level(gate.metric)
    if level == "each":
        values = _each(sources, metric, gate.name)
    else:
        chosen = {name: against for name, against in sources.items() if gate.name in (None, name)}
        values = {name: value for name, against in chosen.items() if (value := _of(against, level, metric)) is not None}
    if not values:
        remedy = "use a metric that needs neither verdicts nor p-values, such as macro_auc"
        raise _wrong(gate.text, 0, f"these scores have no {gate.metric}", remedy)
    return values


def _level(metric: str) -> tuple[str, str]:
    """`macro_auc` -> ("macro", "auc"); `auc`, of each generator, -> ("each", "auc")."""
    for level in ("macro", "pooled"):
        if metric.startswith(f"{level}_"):
            return level, metric.removeprefix(f"{level}_")
    return ("fpr", "") if metric == "fpr" else ("each", metric)


def _of(against: Mapping[str, Any], level: str, metric: str) -> float | None:
    share = against["flagged"] if level == "fpr" else against[level].get(metric)
    return None if share is None else float(share["value"])


def _each(sources: Mapping[str, Any], metric: str, name: str | None) -> dict[str, float]:
    """`GENERATOR against SOURCE` -> value; of the generator or family `name` only, or of all generators."""
    values = {}
    for source, against in sources.items():
        members = {member: generator["figures"] for member, generator in against["generators"].items()}
        if name is not None:
            members = {**against["families"], **members}
        for member, figures in members.items():
            if name in (None, member) and metric in figures:
                values[f"{member} against {source}"] = float(figures[metric]["value"])
    return values


def read_baseline(path: Path, digest: str) -> Report:
    """An earlier report of the same data.

    Raises:
        BadData: where it is not a bench report, or was measured on other images.
    """
    report: Any = None
    try:
        report = json.loads(path.read_bytes())
        whole = report["schema"] in _SCHEMAS and isinstance(report["results"]["sources"], dict)
        earlier = str(report["data"]["digest"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        earlier = None
    if isinstance(report, dict) and report.get("schema") in _SCHEMAS and report.get("protocols"):
        raise BadData(
            f"{path} is a report by protocol (bench --protocol), so its figures are not of one detector",
            "give one that was measured without --protocol",
        )
    if earlier is None:
        raise BadData(f"{path} is not a JSON report of `muflow bench`", "give one that was written with the same data")
    if earlier != digest:
        raise BadData(
            f"{path} was measured on other images (data digest {earlier[:12]}, here {digest[:12]})",
            "compare with a report of the same data, groups and limit",
        )
    return dict(report)


def check_drop(before: Report, now: Report, max_drop: float) -> list[Checked]:
    """Whether any metric of NOT_TO_DROP fell by more than `max_drop` at a real source, or `fpr` rose by more.

    Raises:
        BadSpec: for a limit outside [0, 1].
    """
    if not 0 <= max_drop <= 1:
        raise BadSpec("--max-drop", max_drop, "from 0 to 1")
    checks = []
    for source, against in now["results"]["sources"].items():
        earlier = before["results"]["sources"][source]
        for name in (*NOT_TO_DROP, "fpr"):
            level, metric = _level(name)
            was, value = _of(earlier, level, metric), _of(against, level, metric)
            if was is None or value is None:
                continue
            rising = name == "fpr"
            limit = was + max_drop if rising else was - max_drop
            # A millionth of slack: 0.80 - 0.01 is not 0.79 in binary.
            held = value <= limit + 1e-6 if rising else value >= limit - 1e-6
            sign = "<=" if rising else ">="
            needed = f"{sign} {limit:.4f} ({was:.4f} before)"
            checks.append(Checked(f"{name}[{source}] against the baseline", source, value, needed, held))
    return checks
