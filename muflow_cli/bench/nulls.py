"""What a set of images gives away without looking at a face: detectors that see container, sharpness or marks only.

Unlike the detector they are fitted to the labels, out of fold: they bound what a shortcut could reach. A detector that
stays below the null baseline of its data has shown nothing on that data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from muflow_cli.bench.metrics import macro, signed_auc
from muflow_cli.bench.scores import Row
from muflow_cli.errors import BadSpec
from muflow_cli.records import Declared, Facts

_FOLDS: Final = 5
_RANKS: Final = 100
_KNOTS: Final = 6
# A category seen less often than this says nothing that carries to another fold.
_LEAST_CATEGORY: Final = 3


@dataclass(frozen=True, slots=True)
class NullFeatures:
    """What a null baseline may look at.

    Attributes:
        numbers: (B, D) measurements; their ranks enter through splines, so that a middle value can stand out.
        categories: (B, K) names, each an indicator of its own.
    """

    numbers: NDArray[np.float64]
    categories: NDArray[np.str_]


def metadata_features(facts: Sequence[Facts]) -> NullFeatures:
    """Container, bytes, pixels, bytes per pixel, shape and JPEG quality of B files: nothing that decoding shows."""
    size = np.array([[fact.width, fact.height] for fact in facts], np.float64)
    pixels, length = size.prod(axis=1), np.array([fact.bytes for fact in facts], np.float64)
    numbers = np.column_stack([length, pixels, length / pixels, [fact.jpeg_quality or 0 for fact in facts]])
    names = [(fact.format, f"{fact.width}x{fact.height}", str(fact.jpeg_quality)) for fact in facts]
    return NullFeatures(numbers, np.array(names))


def sharpness_features(facts: Sequence[Facts]) -> NullFeatures:
    """Deviation of the Laplacian of B first views.

    Raises:
        BadSpec: if an image's sharpness was not measured.
    """
    missing = sum(fact.sharpness is None for fact in facts)
    if missing:
        raise BadSpec("sharpness", f"missing for {missing} of {len(facts)} images", "measured for every image")
    numbers = np.array([[fact.sharpness] for fact in facts], np.float64)
    return NullFeatures(numbers, np.empty((len(facts), 0), np.str_))


def mark_features(declared: Sequence[Declared]) -> NullFeatures:
    """What B files say of their own origin: the origin, and the kinds of their marks."""
    names = [(d.origin.value, "+".join(mark.kind for mark in d.marks)) for d in declared]
    return NullFeatures(np.empty((len(declared), 0)), np.array(names))


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of a file without its score."""

    facts: Facts
    declared: Declared = field(default_factory=Declared)


# A new null baseline is a row here.
NULL_BASELINES: Final[Mapping[str, Callable[[Sequence[Observed]], NullFeatures]]] = {
    "metadata only": lambda files: metadata_features([file.facts for file in files]),
    "sharpness only": lambda files: sharpness_features([file.facts for file in files]),
    "mark only": lambda files: mark_features([file.declared for file in files]),
}


def null_scores(features: NullFeatures, fake: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """(B,) log-odds of being fake, each from a logistic regression that never saw that image.

    Five stratified folds (fewer for a kind with fewer images); both kinds weigh alike.

    Args:
        features: of B images.
        fake: (B,) True for a synthetic image.
        seed: of the folds.

    Raises:
        BadSpec: if a kind has fewer than 2 images, since one must be left out.
    """
    # scikit-learn takes a second to load; only `bench` needs it.
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    labels = np.asarray(fake, bool)
    least = int(min(labels.sum(), (~labels).sum()))
    if least < 2:
        raise BadSpec("images of each kind for a null baseline", least, "at least 2")
    scores = np.empty(len(labels))
    folds = StratifiedKFold(min(_FOLDS, least), shuffle=True, random_state=seed)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for seen, unseen in folds.split(labels, labels):
            columns = np.hstack([*_spline_columns(features.numbers, seen), *_indicators(features.categories, seen)])
            model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(columns[seen], labels[seen])
            scores[unseen] = model.decision_function(columns[unseen])
    return scores


# Step by step: a pipeline over columns of both kinds gives the same, and takes several times as long for few images.
def _spline_columns(numbers: NDArray[np.float64], seen: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """(B, .) splines of the ranks that numbers have among the images `seen`; nothing if there are no numbers."""
    from sklearn.preprocessing import QuantileTransformer, SplineTransformer

    if not numbers.shape[1]:
        return
    quantiles = QuantileTransformer(n_quantiles=min(_RANKS, len(numbers) // 2), subsample=None)
    ranks = quantiles.fit(numbers[seen]).transform(numbers)
    # Knots on the ranks' own range: quantile knots coincide where most files share one value.
    knots = np.tile(np.linspace(0, 1, _KNOTS)[:, None], numbers.shape[1])
    yield SplineTransformer(knots=knots, include_bias=False).fit(ranks[seen]).transform(ranks)


def _indicators(categories: NDArray[np.str_], seen: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """(B, .) an indicator for each name that is frequent among the images `seen`, and one for all other names."""
    from sklearn.preprocessing import OneHotEncoder

    if categories.shape[1]:
        encoder = OneHotEncoder(
            min_frequency=_LEAST_CATEGORY, handle_unknown="infrequent_if_exist", sparse_output=False
        )
        yield encoder.fit(categories[seen]).transform(categories)


@dataclass(frozen=True, slots=True)
class NullAgainst:
    """A null baseline against one real source: AUC per generator and their unweighted mean."""

    generators: Mapping[str, float]
    macro: float


def null_baselines(rows: Sequence[Row], seed: int, *, marks: bool = True) -> dict[str, dict[str, NullAgainst]]:
    """Baseline -> real source -> AUC, out of fold for each pair of source and generator.

    Without `marks`, what the files declare is not looked at, since no container keeps it.

    Generators and sources with fewer than 2 images have none, since the fit must leave one image out.
    """
    reals: dict[str, list[Observed]] = {}
    fakes: dict[str, list[Observed]] = {}
    for row in rows:
        if row.facts is not None:
            group, members = (row.group, fakes) if row.fake else (row.source, reals)
            members.setdefault(group, []).append(Observed(row.facts, row.declared if marks else Declared()))
    reals = {name: files for name, files in reals.items() if len(files) > 1}
    fakes = {name: files for name, files in fakes.items() if len(files) > 1}
    if not reals or not fakes:
        return {}
    baselines: dict[str, dict[str, NullAgainst]] = {name: {} for name in NULL_BASELINES}
    for baseline, features in NULL_BASELINES.items():
        for source, files in reals.items():
            aucs = {}
            for generator, own in fakes.items():
                labels = [False] * len(files) + [True] * len(own)
                aucs[generator] = signed_auc(null_scores(features([*files, *own]), labels, seed), labels)
            baselines[baseline][source] = NullAgainst(aucs, float(macro(aucs)))
    return baselines
