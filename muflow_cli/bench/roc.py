"""ROC curves with bootstrap bands, for a report. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from muflow_cli.bench.intervals import BootstrapSpec, resample
from muflow_cli.bench.metrics import Floats, ScoreCounts, rank, tpr_at_fpr
from muflow_cli.bench.scores import Row, grouped
from muflow_cli.output.bench_report import Roc

GRID: Final = np.linspace(0, 1, 51)
# A band is read by eye: a fifth of the usual resamples draws it well enough.
_RESAMPLES: Final = 200


def roc_bands(rows: Sequence[Row], source: str, bootstrap: BootstrapSpec) -> dict[str, list[Roc]]:
    """Generator -> its ROC curves against one real source: ranked by the score, and by the rule where there is one.

    Args:
        rows: every scored image.
        source: the real source.
        bootstrap: seed and level of the band.
    """
    spec = replace(bootstrap, resamples=min(bootstrap.resamples, _RESAMPLES))
    reals, groups = grouped(rows, fake=False)[source], grouped(rows, fake=True)
    by_rule = all(row.suspicion is not None for row in rows)
    curves: dict[str, list[Roc]] = {name: [] for name in groups}
    for ranking in ("score", "rule") if by_rule else ("score",):
        of_reals, of_fakes = _ranked(reals, ranking), {name: _ranked(group, ranking) for name, group in groups.items()}
        drawn = resample(of_reals, of_fakes, spec, {"roc": _on_grid})
        for name, scores in of_fakes.items():
            values = _on_grid(rank(of_reals, scores).counts())
            low, high = np.quantile(drawn[name]["roc"], [(1 - spec.level) / 2, (1 + spec.level) / 2], axis=0)
            curves[name].append(Roc(ranking, GRID.tolist(), values.tolist(), low.tolist(), high.tolist()))
    return curves


def roc_points(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, tuple[float, ...]]]]:
    """Real source -> generator -> "score" or "rule" -> share of fakes caught at each false-positive rate of GRID.

    Between two thresholds the share is that of the stricter one, so that no point promises more than a threshold gives.
    """
    rankings = ("score", "rule") if all(row.suspicion is not None for row in rows) else ("score",)
    return {
        source: {
            name: {
                ranking: tuple(_on_grid(rank(_ranked(reals, ranking), _ranked(fakes, ranking)).counts()).tolist())
                for ranking in rankings
            }
            for name, fakes in grouped(rows, fake=True).items()
        }
        for source, reals in grouped(rows, fake=False).items()
    }


def _ranked(rows: Sequence[Row], ranking: str) -> list[float]:
    return [row.score if ranking == "score" else row.suspicion or 0.0 for row in rows]


def _on_grid(counts: ScoreCounts) -> Floats:
    """(..., G) share of fakes caught at each false-positive rate of GRID."""
    return np.stack([tpr_at_fpr(counts, float(rate)) for rate in GRID], axis=-1)
