"""From the histories of sources that were left out in turn to a number of steps and of epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muflow_cli.detector import Candidate
from muflow_cli.engine.train_state import Progress

# One history for each round of leaving out, by number of steps.
Histories = Mapping[int, Sequence[Sequence[Progress]]]


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen steps and epochs, and the best number of epochs of each number of steps."""

    steps: int
    epochs: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class _Trial:
    """One number of steps and of epochs; `nlls` (F,) of each round."""

    steps: int
    epochs: int
    nlls: NDArray[np.float64]
    rate: float

    def excess(self, best: _Trial) -> tuple[float, float]:
        """Mean over rounds of the NLL above that of `best`, and its standard error.

        Paired by round, since sources differ in how likely they are in themselves.
        """
        excess = self.nlls - best.nlls
        return float(excess.mean()), float(excess.std(ddof=1) / np.sqrt(len(excess)))


def choose(histories: Histories) -> Choice:
    """The smallest flow, then the shortest training, whose left-out NLL is within one standard error of the best.

    A round that stopped early counts with its last epoch from then on. An untrained flow with steps is no candidate.
    Ties go to fewer steps, then to fewer epochs.

    Args:
        histories: at least two rounds for each number of steps, epoch 0 included.

    Source: the one-standard-error rule of Breiman et al. 1984, Classification and Regression Trees.
    """
    trials = {steps: _trials(steps, rounds) for steps, rounds in sorted(histories.items())}
    best_of = {steps: min(of_steps, key=lambda trial: trial.nlls.mean()) for steps, of_steps in trials.items()}
    best = min(best_of.values(), key=lambda trial: trial.nlls.mean())
    every = (trial for of_steps in trials.values() for trial in of_steps)
    chosen = next(trial for trial in every if np.less_equal(*trial.excess(best)))
    candidates = tuple(
        Candidate(
            steps=trial.steps,
            epochs=trial.epochs,
            nll=float(trial.nlls.mean()),
            standard_error=trial.excess(best)[1],
            rate=trial.rate,
        )
        for trial in best_of.values()
    )
    return Choice(chosen.steps, chosen.epochs, candidates)


def _trials(steps: int, rounds: Sequence[Sequence[Progress]]) -> list[_Trial]:
    last = max(len(history) for history in rounds) - 1
    trials = []
    for epochs in range(min(1, last) if steps else 0, last + 1):
        reached = [history[min(epochs, len(history) - 1)] for history in rounds]
        nlls = np.array([progress.other_nll for progress in reached], dtype=np.float64)
        rates = np.array([progress.other_rate for progress in reached], dtype=np.float64)
        trials.append(_Trial(steps, epochs, nlls, float(rates.mean())))
    return trials
