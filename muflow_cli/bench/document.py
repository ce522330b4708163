"""The report of a benchmark as one JSON value (schema "muflow.bench/1"), from which every other output is made. Pure.

Everything outside `run` is a function of data, detector and seed; `run` holds what changes: times, machine, command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from muflow_cli.bench.baselines import NullAgainst
from muflow_cli.bench.data import OverlapPolicy, Selection
from muflow_cli.bench.evaluate import EvaluateSpec, Evaluation
from muflow_cli.bench.gates import Checked
from muflow_cli.bench.robustness import Condition, curves
from muflow_cli.bench.scores import Row, data_digest
from muflow_cli.canonical import to_json
from muflow_cli.records import DetectorInfo, Unreadable

SCHEMA: Final = "muflow.bench/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Another detector's scores of the same pictures."""

    name: str
    scored: int
    missing: int
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Everything that was measured.

    Attributes:
        rows: clean rows.
        evaluation: of them.
        selection: what was scored; None where scores were read from a file.
        detector: None where scores were read from a file.
        conditions: every perturbed condition and its evaluation.
        nulls: baseline -> real source -> figures.
        comparisons: other detectors' scores.
        failed: pictures that could not be decoded.
        checked: outcomes of the gates and of the baseline.
        ablation: as `ablation` gives it, for JSON.
    """

    rows: Sequence[Row]
    evaluation: Evaluation
    selection: Selection | None = None
    detector: DetectorInfo | None = None
    conditions: Sequence[tuple[Condition, Evaluation]] = ()
    nulls: Mapping[str, Mapping[str, NullAgainst]] = field(default_factory=dict)
    comparisons: Sequence[Comparison] = ()
    failed: Sequence[Unreadable] = ()
    checked: Sequence[Checked] = ()
    ablation: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What was asked, as far as it decides a figure."""

    evaluate: EvaluateSpec
    overlap: OverlapPolicy
    limit: int


def build_document(measured: Measured, settings: Settings, run: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report."""
    return {
        "schema": SCHEMA,
        "detector": _detector(measured.detector),
        "data": _data(measured, settings),
        "settings": {
            "seed": settings.evaluate.bootstrap.seed,
            "resamples": settings.evaluate.bootstrap.resamples,
            "level": settings.evaluate.bootstrap.level,
            "centre": settings.evaluate.centre,
        },
        **_judged(measured.evaluation),
        "nulls": to_json(measured.nulls),
        "robustness": {
            "conditions": [
                {"perturbation": str(condition.perturbation), "on": condition.on.value, **_judged(evaluation)}
                for condition, evaluation in measured.conditions
            ],
            "curves": [to_json(curve) for curve in curves(measured.conditions)],
        },
        "comparisons": [
            {"name": other.name, "scored": other.scored, "missing": other.missing, **_judged(other.evaluation)}
            for other in measured.comparisons
        ],
        "ablation": measured.ablation,
        "gates": [to_json(checked) for checked in measured.checked],
        "run": dict(run),
    }


def _judged(evaluation: Evaluation) -> dict[str, Any]:
    return {"headline": _headline(evaluation), "results": _evaluation(evaluation)}


def _detector(info: DetectorInfo | None) -> dict[str, Any] | None:
    if info is None:
        return None
    found: dict[str, Any] = to_json(info)
    return found


def _data(measured: Measured, settings: Settings) -> dict[str, Any]:
    rows, selection = measured.rows, measured.selection
    unreadable = [*(selection.unreadable if selection else ()), *measured.failed]
    return {
        "digest": data_digest(rows),
        "pictures": len(rows),
        "reals": sum(not row.fake for row in rows),
        "fakes": sum(row.fake for row in rows),
        "groups": _groups(rows, settings.evaluate.family),
        "duplicates": selection.duplicates if selection else 0,
        "limit": settings.limit or None,
        "beyond_limit": selection.limited if selection else 0,
        "overlap": {"policy": settings.overlap.value, "groups": to_json(selection.overlap) if selection else {}},
        "unreadable": [{"path": one.path, "code": one.code, "message": one.message} for one in unreadable],
    }


def _groups(rows: Sequence[Row], family: Callable[[str], str]) -> list[dict[str, Any]]:
    counts = Counter((row.label.value, row.group, row.source) for row in rows)
    return [
        {
            "label": label,
            "group": group,
            "source": source,
            "family": family(group) if label == "fake" else None,
            "pictures": pictures,
        }
        for (label, group, source), pictures in counts.items()
    ]


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    """Macro AUC at the worst real source; the rule's ranking at its own worst source beside it."""
    by_rule = {
        name: against.macro["rule_auc"] for name, against in evaluation.sources.items() if "rule_auc" in against.macro
    }
    worst = min(by_rule, key=lambda name: by_rule[name].value) if by_rule else None
    return {
        "metric": "macro_auc",
        "source": evaluation.worst_source,
        **to_json(evaluation.headline),
        "rule": None if worst is None else {"metric": "macro_rule_auc", "source": worst, **to_json(by_rule[worst])},
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    found: dict[str, Any] = to_json(evaluation)
    return found
