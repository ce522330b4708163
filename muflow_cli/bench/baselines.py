"""Null baselines of labelled rows: what container and sharpness give away, source by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muflow_cli.bench.scores import Row
from muflow_cli.metrics import macro, signed_auc
from muflow_cli.nulls import NULL_BASELINES, null_scores
from muflow_cli.records import Facts


@dataclass(frozen=True, slots=True)
class NullAgainst:
    """A null baseline against one real source: AUC per generator and their unweighted mean."""

    generators: Mapping[str, float]
    macro: float


def null_baselines(rows: Sequence[Row], seed: int) -> dict[str, dict[str, NullAgainst]]:
    """Baseline -> real source -> AUC, each pair of source and generator out of fold.

    A generator or source with fewer than 2 pictures has none: one must be left out of the fit.
    """
    reals: dict[str, list[Facts]] = {}
    fakes: dict[str, list[Facts]] = {}
    for row in rows:
        if row.facts is not None:
            group, members = (row.group, fakes) if row.fake else (row.source, reals)
            members.setdefault(group, []).append(row.facts)
    reals = {name: facts for name, facts in reals.items() if len(facts) > 1}
    fakes = {name: facts for name, facts in fakes.items() if len(facts) > 1}
    if not reals or not fakes:
        return {}
    return {
        baseline: {source: _against(baseline, facts, fakes, seed) for source, facts in reals.items()}
        for baseline in NULL_BASELINES
    }


def _against(baseline: str, reals: Sequence[Facts], fakes: Mapping[str, Sequence[Facts]], seed: int) -> NullAgainst:
    found = {}
    for name, members in fakes.items():
        labels = [False] * len(reals) + [True] * len(members)
        found[name] = signed_auc(null_scores(NULL_BASELINES[baseline]([*reals, *members]), labels, seed), labels)
    return NullAgainst(found, float(macro(found)))
