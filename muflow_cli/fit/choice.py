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
    """The chosen steps and epochs, and the number of epochs that each number of steps would have had."""

    steps: int
    epochs: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class _Trial:
    """One number of steps and of epochs; `rates` and `nlls` (F,) of each round."""

    steps: int
    epochs: int
    rates: NDArray[np.float64]
    nlls: NDArray[np.float64]

    def excess(self, least: _Trial) -> tuple[float, float]:
        """Mean over rounds of the rate above that of `least`, and its standard error, paired by round."""
        excess = self.rates - least.rates
        return float(excess.mean()), float(excess.std(ddof=1) / np.sqrt(len(excess)))


def choose(histories: Histories) -> Choice:
    """Of the trainings that flag left-out reals least, within one standard error, the most likely one of these reals.

    The rate alone would be least for scores that say nothing, and the likelihood alone grows for as long as training
    lasts, while the scores of unseen sources drift away from those of the sources that are trained on. A round that
    stopped early counts with its last epoch from then on. Flows with steps that were not trained are left out. Ties go
    to fewer steps, then to fewer epochs.

    Args:
        histories: at least two rounds for each number of steps, epoch 0 included.

    Source: the one-standard-error rule of Breiman et al. 1984, Classification and Regression Trees.
    """
    trials = [trial for steps, rounds in sorted(histories.items()) for trial in _trials(steps, rounds)]
    least = min(trials, key=lambda trial: trial.rates.mean())
    near = [trial for trial in trials if np.less_equal(*trial.excess(least))]
    chosen = min(near, key=lambda trial: trial.nlls.mean())
    candidates = tuple(
        Candidate(
            steps=trial.steps,
            epochs=trial.epochs,
            rate=float(trial.rates.mean()),
            standard_error=trial.excess(least)[1],
            nll=float(trial.nlls.mean()),
        )
        for trial in (_representative(steps, trials, near) for steps in sorted(histories))
    )
    return Choice(chosen.steps, chosen.epochs, candidates)


def _representative(steps: int, trials: Sequence[_Trial], near: Sequence[_Trial]) -> _Trial:
    """The trial of one number of steps that would be chosen, or the one that flags least where none is near enough."""
    own = [trial for trial in near if trial.steps == steps]
    if own:
        return min(own, key=lambda trial: trial.nlls.mean())
    return min((trial for trial in trials if trial.steps == steps), key=lambda trial: trial.rates.mean())


def _trials(steps: int, rounds: Sequence[Sequence[Progress]]) -> list[_Trial]:
    last = max(len(history) for history in rounds) - 1
    trials = []
    for epochs in range(min(1, last) if steps else 0, last + 1):
        reached = [history[min(epochs, len(history) - 1)] for history in rounds]
        nlls = np.array([progress.other_nll for progress in reached], dtype=np.float64)
        rates = np.array([progress.other_rate for progress in reached], dtype=np.float64)
        trials.append(_Trial(steps, epochs, rates, nlls))
    return trials
