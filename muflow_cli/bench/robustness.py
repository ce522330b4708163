"""Perturbed images: which ones are perturbed, and figures over the intensity of each operation. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from muflow_cli.bench.evaluate import Evaluation, Figure
from muflow_cli.bench.scores import Row
from muflow_cli.images.perturb import Perturbation


class On(StrEnum):
    """Which images are perturbed."""

    BOTH = "both"
    REALS = "reals"
    FAKES = "fakes"


@dataclass(frozen=True, slots=True)
class Condition:
    """One perturbation, and the images that it is applied to."""

    perturbation: Perturbation
    on: On


def mixed(clean: Sequence[Row], perturbed: Sequence[Row], on: On) -> list[Row]:
    """Rows of a condition: perturbed where `on` says so, clean elsewhere."""
    if on is On.BOTH:
        return list(perturbed)
    fakes = on is On.FAKES
    return [*(row for row in clean if row.fake is not fakes), *(row for row in perturbed if row.fake is fakes)]


@dataclass(frozen=True, slots=True)
class Point:
    """Macro AUCs at the worst source under one intensity: by the score, and as the rule ranks."""

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
    """One curve for every operation that was measured at two intensities or more.

    Where two parameters vary, the last one is the axis.

    Source: Pontorno et al. 2026, Fig. 4.
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
    settings = [dict(condition.perturbation.parameters) for condition, _ in members]
    varying = (name for name in reversed(settings[0]) if len({values[name] for values in settings}) > 1)
    parameter = next(varying, None)
    if parameter is None:
        return
    points = []
    for (condition, evaluation), values in zip(members, settings, strict=True):
        macro = evaluation.sources[evaluation.worst_source].macro
        rule = min((against.macro["rule_auc"] for against in evaluation.sources.values()), key=lambda f: f.value)
        points.append(Point(values[parameter], str(condition.perturbation), macro["auc"], rule))
    if len({point.intensity for point in points}) == len(points):
        yield parameter, points
        return
    # An intensity that occurs twice: the other parameters tell the lines apart.
    lines: dict[str, list[Point]] = {}
    for (condition, _), point in zip(members, points, strict=True):
        others = ",".join(f"{name}={value:g}" for name, value in condition.perturbation.parameters if name != parameter)
        lines.setdefault(others, []).append(point)
    for others, line in lines.items():
        yield f"{parameter} ({others})", line
