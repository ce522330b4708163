"""Perturbed pictures: which are perturbed, and figures over the intensity of each operation. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from muflow_cli.bench.evaluate import Evaluation, Figure
from muflow_cli.bench.scores import Row
from muflow_cli.pictures.perturb import Perturbation


class On(StrEnum):
    """Which pictures are perturbed."""

    BOTH = "both"
    REALS = "reals"
    FAKES = "fakes"


@dataclass(frozen=True, slots=True)
class Condition:
    """One perturbation, of these pictures."""

    perturbation: Perturbation
    on: On


def mixed(clean: Sequence[Row], perturbed: Sequence[Row], on: On) -> list[Row]:
    """Rows of a condition: perturbed where `on` says so, clean elsewhere."""
    if on is On.BOTH:
        return list(perturbed)
    wanted = on is On.FAKES
    return [*(row for row in clean if row.fake is not wanted), *(row for row in perturbed if row.fake is wanted)]


@dataclass(frozen=True, slots=True)
class Point:
    """Macro AUCs at the worst source under one intensity: of the score, and of the rule's ranking."""

    intensity: float
    text: str
    macro_auc: Figure
    macro_rule_auc: Figure


@dataclass(frozen=True, slots=True)
class Curve:
    """One operation over the parameter that varies, ascending by it."""

    operation: str
    parameter: str
    on: On
    points: tuple[Point, ...]


def curves(measured: Sequence[tuple[Condition, Evaluation]]) -> list[Curve]:
    """One curve for every operation that was measured at two intensities or more, as in Fig. 4 of the paper.

    Where two parameters vary, the last one is the axis.
    """
    groups: dict[tuple[str, On], list[tuple[Condition, Evaluation]]] = {}
    for condition, evaluation in measured:
        groups.setdefault((condition.perturbation.name, condition.on), []).append((condition, evaluation))
    return [
        Curve(operation, parameter, on, tuple(sorted(points, key=lambda point: point.intensity)))
        for (operation, on), members in groups.items()
        for parameter, points in _series(members)
    ]


def _series(members: Sequence[tuple[Condition, Evaluation]]) -> Iterator[tuple[str, list[Point]]]:
    parameter = _varying([dict(condition.perturbation.parameters) for condition, _ in members])
    if not parameter:
        return
    points = [_point(condition, evaluation, parameter) for condition, evaluation in members]
    if len({point.intensity for point in points}) == len(points):
        yield parameter, points
        return
    # One intensity met twice: the other parameters tell the lines apart.
    lines: dict[str, list[Point]] = {}
    for (condition, _), point in zip(members, points, strict=True):
        others = ",".join(f"{name}={value:g}" for name, value in condition.perturbation.parameters if name != parameter)
        lines.setdefault(others, []).append(point)
    for others, line in lines.items():
        yield f"{parameter} ({others})", line


def _varying(settings: Sequence[dict[str, float]]) -> str:
    return next((name for name in reversed(settings[0]) if len({values[name] for values in settings}) > 1), "")


def _point(condition: Condition, evaluation: Evaluation, parameter: str) -> Point:
    intensity = dict(condition.perturbation.parameters)[parameter]
    macro = evaluation.sources[evaluation.worst_source].macro
    rule = min((against.macro["rule_auc"] for against in evaluation.sources.values()), key=lambda f: f.value)
    return Point(intensity, str(condition.perturbation), macro["auc"], rule)
