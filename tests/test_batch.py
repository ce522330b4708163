"""The guarantees of comparisons within a batch, over many seeded draws, and what they must not depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import cast

import numpy as np
import pytest
from scipy.stats import false_discovery_control
from sklearn.tree import DecisionTreeClassifier

from muflow_cli.calibration.batch import LEARNERS, Classifier, adaptive_p_values, fewest_flagged, fewest_reals
from muflow_cli.calibration.components import Sample
from muflow_cli.calibration.groups import energy_p_value, group_p_values
from muflow_cli.errors import TooFewForRate

DRAWS = 300
REALS, BATCH, FAKES, FEATURES = 100, 30, 10, 6
RATE = 0.2

Learners = Mapping[str, Callable[[], Classifier]]


def tree() -> Classifier:
    return cast("Classifier", DecisionTreeClassifier(max_depth=3, random_state=0))


# Three kinds: the guarantee does not depend on the classifier, not even on its being any good.
KINDS: dict[str, Learners] = {
    "logistic": {"logistic": LEARNERS["logistic 0.1"]},
    "kernel": {"kernel": LEARNERS["kernel 1"]},
    "tree": {"tree": tree},
    "chosen": {"logistic": LEARNERS["logistic 0.1"], "tree": tree},
}


def sample(features: np.ndarray, name: str) -> Sample:
    digests = [hashlib.sha256(f"{name} {row}".encode()).hexdigest() for row in range(len(features))]
    return Sample(digests, features.astype(np.float16))


def drawn(seed: int, fakes: int) -> tuple[Sample, Sample]:
    """Calibration reals, and a batch whose last images are a tight cluster among reals."""
    generator = np.random.default_rng(seed)
    reals, batch = generator.normal(size=(REALS, FEATURES)), generator.normal(size=(BATCH, FEATURES))
    batch[BATCH - fakes :] = [2.5, -2.0, 1.5, 0, 0, 0] + 0.2 * generator.normal(size=(fakes, FEATURES))
    return sample(reals, f"real {seed}"), sample(batch, f"batch {seed}")


@cache
def p_values(kind: str, fakes: int) -> np.ndarray:
    """(draws, BATCH); fewer draws where each of them takes longer, or where a rare event is not what is counted."""
    count = DRAWS // 4 if kind in ("chosen", "kernel") else DRAWS if fakes else DRAWS // 2
    draws = (drawn(seed, fakes) for seed in range(count))
    return np.stack([adaptive_p_values(reals, batch, RATE, learners=KINDS[kind]).p_values for reals, batch in draws])


def upper_limit(values: np.ndarray) -> float:
    """What the mean of that many values with this deviation exceeds once in 200 times, over a true mean of 0."""
    return float(2.6 * values.std() / len(values) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_false_discovery_rate_is_kept_whatever_the_classifier(kind: str) -> None:
    flagged = np.apply_along_axis(false_discovery_control, 1, p_values(kind, FAKES)) <= RATE
    false = flagged[:, : BATCH - FAKES].sum(axis=1)
    shares = false / np.maximum(flagged.sum(axis=1), 1)
    assert shares.mean() <= RATE * (BATCH - FAKES) / BATCH + upper_limit(shares)


def test_a_cluster_inside_the_reals_is_found() -> None:
    flagged = np.apply_along_axis(false_discovery_control, 1, p_values("logistic", FAKES)) <= RATE
    assert flagged[:, BATCH - FAKES :].mean() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_without_fakes_few_runs_flag_anything(kind: str) -> None:
    any_flagged = (np.apply_along_axis(false_discovery_control, 1, p_values(kind, 0)) <= RATE).any(axis=1)
    assert any_flagged.mean() <= RATE + upper_limit(any_flagged)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0.05, 0.1, 0.2, 0.5])
def test_p_values_of_reals_are_super_uniform(kind: str, level: float) -> None:
    # One image of each draw: those of one batch depend on each other.
    below = p_values(kind, 0)[:, 0] <= level
    assert below.mean() <= level + upper_limit(below)


def test_the_order_of_reals_and_batch_changes_nothing() -> None:
    reals, batch = drawn(3, FAKES)
    given = adaptive_p_values(reals, batch, RATE)
    order, other = np.random.default_rng(1).permutation(BATCH), np.random.default_rng(2).permutation(REALS)
    turned = adaptive_p_values(
        Sample([reals.digests[row] for row in other], reals.features[other]),
        Sample([batch.digests[row] for row in order], batch.features[order]),
        RATE,
    )
    assert np.array_equal(turned.p_values, given.p_values[order])
    assert turned.learner == given.learner
    mapped = Sample([batch.digests[row] for row in order], batch.features, order)
    assert np.array_equal(adaptive_p_values(reals, mapped, RATE).p_values, turned.p_values)


def test_too_few_reals_are_refused_with_the_number_needed() -> None:
    assert fewest_reals(0.1) == 18
    reals, batch = drawn(0, FAKES)
    few = Sample(reals.digests[:7], reals.features[:7])
    with pytest.raises(TooFewForRate, match=r"needs at least 8 calibration images, and the detector has 7"):
        adaptive_p_values(few, batch, RATE)
    eight = Sample(reals.digests[:8], reals.features[:8])
    assert adaptive_p_values(eight, batch, RATE).p_values.min() >= 1 / 5


def test_fewer_images_than_stated_are_never_flagged() -> None:
    # 50 calibration nulls: no p-value is below 1/51, and 3 of 30 images need one of 3 * 0.2 / 30 = 1/50.
    assert fewest_flagged(BATCH, REALS // 2, RATE) == 3
    for fakes in (0, FAKES):
        counts = (np.apply_along_axis(false_discovery_control, 1, p_values("logistic", fakes)) <= RATE).sum(axis=1)
        assert not ((counts > 0) & (counts < 3)).any()


@pytest.mark.parametrize("level", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("size", [2, 5, 20])
def test_a_group_of_reals_is_called_unlike_as_rarely_as_stated(level: float, size: int) -> None:
    found = np.array([p <= level for p in null_groups(size)])
    assert found.mean() <= level + upper_limit(found)


@cache
def null_groups(size: int) -> list[float]:
    """P-values of groups of heavy-tailed reals, each with calibration reals of its own."""
    values = []
    for seed in range(DRAWS):
        generator = np.random.default_rng(seed)
        pooled = generator.standard_t(3, size=(40 + size, 4)).astype(np.float32)
        values.append(energy_p_value(pooled[size:], pooled[:size], generator, permutations=199))
    return values


def test_the_level_holds_where_whitening_has_hardly_enough_images() -> None:
    # 40 reals and 10 images of 30 features: fitted to the reals alone, whitening would set every group apart.
    values = []
    for seed in range(DRAWS // 2):
        rows = np.random.default_rng(seed).normal(size=(50, 30))
        reals, batch = sample(rows[:40], f"real {seed}"), sample(rows[40:], f"batch {seed}")
        values.append(group_p_values(reals, batch, {"": range(10)}, permutations=99)[""] <= 0.1)
    found = np.array(values)
    assert found.mean() <= 0.1 + upper_limit(found)


def test_a_group_is_found_among_hardly_more_images_than_components() -> None:
    rows = np.random.default_rng(1).normal(size=(48, 60))
    rows[40:] += 2.0
    found = group_p_values(sample(rows[:40], "real"), sample(rows[40:], "batch"), {"": range(8)}, permutations=999)
    assert found[""] <= 0.01


def test_a_group_that_differs_is_found_and_nothing_but_content_matters() -> None:
    generator = np.random.default_rng(5)
    reals = sample(generator.normal(size=(200, FEATURES)), "real")
    rows = generator.normal(size=(60, FEATURES))
    rows[:20] += [1.0, -1.0, 1.0, 0, 0, 0]
    batch = sample(rows, "batch")
    groups = {"odd": range(20), "like": range(20, 58), "single": [58]}
    found = group_p_values(reals, batch, groups)
    assert found.keys() == {"odd", "like"}
    assert found["odd"] == 1 / 10_000
    assert found["like"] > 0.05
    order = generator.permutation(60)
    where = {int(row): position for position, row in enumerate(order)}
    turned = Sample([batch.digests[row] for row in order], batch.features[order])
    renamed = {
        f"{name}?": [where[row] for row in reversed(rows)]
        for name, rows in reversed([*groups.items()])
    }  # fmt: skip  # one line would hide that both orders are turned
    assert group_p_values(reals, turned, renamed) == {"like?": found["like"], "odd?": found["odd"]}
