"""What a set of images gives away without looking at a face: detectors that see container, sharpness or marks only.

Unlike the detector they are fitted to the labels, out of fold: they bound what a shortcut could reach. A detector that
stays below the null baseline of its data has shown nothing on that data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from muflow_cli.bench.metrics import macro, signed_auc
from muflow_cli.bench.scores import Row
from muflow_cli.errors import BadSpec
from muflow_cli.records import Declared, Facts

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

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
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    labels = np.asarray(fake, bool)
    least = int(min(labels.sum(), (~labels).sum()))
    if least < 2:
        raise BadSpec("images of each kind for a null baseline", least, "at least 2")
    columns = np.column_stack([features.numbers.astype(object), features.categories.astype(object)])
    folds = StratifiedKFold(min(_FOLDS, least), shuffle=True, random_state=seed)
    model = _model(features.numbers.shape[1], features.categories.shape[1], len(labels))
    scores = cross_val_predict(model, columns, labels, cv=folds, method="decision_function")
    return np.asarray(scores, np.float64)


def _model(numbers: int, categories: int, images: int) -> Pipeline:
    # scikit-learn takes a second to load; only `bench` needs it.
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, QuantileTransformer, SplineTransformer

    # Knots on the ranks' own range: quantile knots coincide where most files share one value.
    knots = np.tile(np.linspace(0, 1, _KNOTS)[:, None], numbers)
    ranked = QuantileTransformer(n_quantiles=min(_RANKS, images // 2), subsample=None)
    splines = make_pipeline(ranked, SplineTransformer(knots=knots, include_bias=False))
    names = OneHotEncoder(min_frequency=_LEAST_CATEGORY, handle_unknown="infrequent_if_exist")
    parts = [
        ("numbers", splines, slice(0, numbers)),
        ("categories", names, slice(numbers, numbers + categories)),
    ]
    columns = ColumnTransformer([part for part in parts if part[2].stop > part[2].start])
    return make_pipeline(columns, LogisticRegression(class_weight="balanced", max_iter=1000))


@dataclass(frozen=True, slots=True)
class NullAgainst:
    """A null baseline against one real source: AUC per generator and their unweighted mean."""

    generators: Mapping[str, float]
    macro: float


def null_baselines(rows: Sequence[Row], seed: int) -> dict[str, dict[str, NullAgainst]]:
    """Baseline -> real source -> AUC, out of fold for each pair of source and generator.

    Generators and sources with fewer than 2 images have none, since the fit must leave one image out.
    """
    reals: dict[str, list[Observed]] = {}
    fakes: dict[str, list[Observed]] = {}
    for row in rows:
        if row.facts is not None:
            group, members = (row.group, fakes) if row.fake else (row.source, reals)
            members.setdefault(group, []).append(Observed(row.facts, row.declared))
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
