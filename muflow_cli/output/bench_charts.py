"""What the page of a benchmark draws of its figures: a matrix of AUCs, and the operating point of each ROC curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from muflow_cli.output.chance import Standing, standing

Report = Mapping[str, Any]

# Least AUC of each shade above chance; what is at or below chance has a shade of its own.
_SHADES: Final = (0.5, 0.7, 0.8, 0.9, 0.97)
RANKINGS: Final = (("auc", "by the score"), ("rule_auc", "as the rule ranks"))


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """One AUC: its value, the ends of its interval, and the name of its shade."""

    value: float
    low: float
    high: float
    shade: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class Matrix:
    """AUC of every generator against every real source.

    Attributes:
        ranking: what the images are ranked by, as a clause.
        sources: names, in the order of the columns.
        rows: generator -> cells; the last row is the mean over generators.
    """

    ranking: str
    sources: Sequence[str]
    rows: Mapping[str, Sequence[MatrixCell]]


def matrices(results: Report) -> Iterator[Matrix]:
    """One matrix for each ranking that the scores have."""
    sources = results["sources"]
    generators = next(iter(sources.values()))["generators"]
    for metric, ranking in RANKINGS:
        if any(metric not in against["macro"] for against in sources.values()):
            continue
        rows = {
            name: [_cell(against["generators"][name]["figures"][metric]) for against in sources.values()]
            for name in generators
        }
        rows["mean"] = [_cell(against["macro"][metric]) for against in sources.values()]
        yield Matrix(ranking, list(sources), rows)


def _cell(figure: Mapping[str, float]) -> MatrixCell:
    where = standing(figure)
    shade = f"above-{sum(figure['value'] >= least for least in _SHADES)}"
    if where is not Standing.ABOVE:
        shade = "at" if where is Standing.AT else "below"
    return MatrixCell(figure["value"], figure["low"], figure["high"], shade, where)


@dataclass(frozen=True, slots=True)
class Operating:
    """What a panel of ROC curves says besides the curves.

    Attributes:
        aucs: ranking, "score" or "rule" -> AUC.
        fpr: share of reals that the detector flags, 0..1; None for scores without verdicts.
        tpr: share of fakes that it flags.
    """

    aucs: Mapping[str, float]
    fpr: float | None
    tpr: float | None


def operating_points(results: Report) -> dict[str, Operating]:
    """Generator -> its AUCs and its operating point against the worst real source."""
    against = results["sources"][results["worst_source"]]
    flagged = against["flagged"]
    points = {}
    for name, generator in against["generators"].items():
        figures, caught = generator["figures"], generator["caught"]
        aucs = {ranking: figures[metric]["value"] for ranking, metric in _METRICS.items() if metric in figures}
        both = (flagged["value"], caught["value"]) if flagged and caught else (None, None)
        points[name] = Operating(aucs, *both)
    return points


_METRICS: Final[Mapping[str, str]] = {"score": "auc", "rule": "rule_auc"}
