"""Null baselines: they find what the container or the sharpness gives away, and nothing where there is nothing."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer, SplineTransformer

from muflow_cli.bench.metrics import signed_auc
from muflow_cli.bench.nulls import (
    NULL_BASELINES,
    Observed,
    mark_features,
    metadata_features,
    null_scores,
    sharpness_features,
)
from muflow_cli.errors import BadSpec
from muflow_cli.records import Declared, Facts, Mark, Origin

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


def facts(number: int, **changes) -> Facts:
    settled = {"bytes": 20_000, "format": "JPEG", "width": 256, "height": 256, "jpeg_quality": 75, "sharpness": 20.0}
    return Facts(sha256=f"{number:064x}", **(settled | changes))


def null_auc(features, fake) -> float:
    return signed_auc(null_scores(features, fake), fake)


@pytest.fixture
def fake() -> np.ndarray:
    return np.arange(240) >= 140


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2)


def test_a_container_that_differs_is_found_by_metadata_and_not_by_sharpness(fake, rng):
    images = [
        facts(i, format="PNG" if label else "JPEG", jpeg_quality=None if label else 75, sharpness=rng.normal(20, 3))
        for i, label in enumerate(fake)
    ]
    assert null_auc(metadata_features(images), fake) > 0.99
    assert abs(null_auc(sharpness_features(images), fake) - 0.5) < 0.1


@pytest.mark.parametrize(
    "change", [{"width": 300, "height": 300}, {"jpeg_quality": 90}, {"bytes": 40_000}, {"format": "MPO"}]
)
def test_each_fact_of_the_file_alone_is_found(fake, rng, change):
    images = [facts(i, **({"bytes": int(rng.normal(20_000, 900))} | (change if f else {}))) for i, f in enumerate(fake)]
    assert null_auc(metadata_features(images), fake) > 0.97


def test_a_quality_between_two_others_is_found(fake, rng):
    qualities = np.where(fake, 75, rng.choice([70, 80], len(fake)))
    images = [facts(i, jpeg_quality=int(quality)) for i, quality in enumerate(qualities)]
    assert null_auc(metadata_features(images), fake) > 0.99


def test_metadata_are_bytes_pixels_their_ratio_quality_and_names():
    features = metadata_features([facts(0, width=200, height=100), facts(1, format="PNG", jpeg_quality=None)])
    np.testing.assert_array_equal(features.numbers, [[20_000, 20_000, 1, 75], [20_000, 65_536, 20_000 / 65_536, 0]])
    assert features.categories.tolist() == [["JPEG", "200x100", "75"], ["PNG", "256x256", "None"]]


def test_bands_of_sharpness_that_alternate_are_found(fake, rng):
    bands = np.where(fake, rng.choice([20, 40], len(fake)), rng.choice([10, 30, 50], len(fake)))
    images = [facts(i, sharpness=band + rng.normal(0, 1)) for i, band in enumerate(bands)]
    assert null_auc(sharpness_features(images), fake) > 0.9


def test_sharpness_that_is_only_more_spread_is_found(fake, rng):
    images = [facts(i, sharpness=rng.normal(20, 12 if label else 1)) for i, label in enumerate(fake)]
    assert null_auc(sharpness_features(images), fake) > 0.8


@pytest.mark.parametrize("baseline", NULL_BASELINES)
def test_labels_at_random_stay_at_chance(baseline):
    figures = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        images = [facts(i, bytes=int(rng.normal(20_000, 900)), sharpness=rng.normal(20, 3)) for i in range(150)]
        shuffled = rng.permutation(np.arange(150) >= 90)
        figures.append(null_auc(NULL_BASELINES[baseline]([Observed(image) for image in images]), shuffled))
    assert abs(np.mean(figures) - 0.5) < 0.04


def test_a_pipeline_of_scikit_learn_gives_the_same_scores(fake, rng):
    formats = rng.choice(["JPEG", "PNG", "WEBP"], len(fake), p=[0.9, 0.09, 0.01])
    images = [
        facts(i, bytes=int(rng.normal(20_000, 900)), format=str(name), jpeg_quality=int(rng.choice([70, 75])))
        for i, name in enumerate(formats)
    ]
    features = metadata_features(images)
    ranked = QuantileTransformer(n_quantiles=100, subsample=None)
    splines = make_pipeline(
        ranked, SplineTransformer(knots=np.tile(np.linspace(0, 1, 6)[:, None], 4), include_bias=False)
    )
    names = OneHotEncoder(min_frequency=3, handle_unknown="infrequent_if_exist")
    columns = ColumnTransformer([("numbers", splines, slice(0, 4)), ("names", names, slice(4, 7))])
    model = make_pipeline(columns, LogisticRegression(class_weight="balanced", max_iter=1000))
    both = np.column_stack([features.numbers.astype(object), features.categories.astype(object)])
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    expected = cross_val_predict(model, both, fake, cv=folds, method="decision_function")
    np.testing.assert_allclose(null_scores(features, fake, seed=3), expected, rtol=1e-9)


def test_images_that_are_all_alike_give_nothing_away_and_raise_no_warning(fake):
    images = [facts(i) for i in range(len(fake))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for baseline, features in NULL_BASELINES.items():
            assert null_auc(features([Observed(image) for image in images]), fake) == pytest.approx(0.5, abs=0.1), (
                baseline
            )


def test_scores_come_back_equal_for_one_seed(fake, rng):
    images = [facts(i, bytes=int(rng.normal(20_000, 900))) for i in range(len(fake))]
    features = metadata_features(images)
    np.testing.assert_array_equal(null_scores(features, fake), null_scores(features, fake))


def test_a_kind_with_one_image_and_a_missing_sharpness_are_refused():
    with pytest.raises(BadSpec, match="null baseline is 1: use at least 2"):
        null_scores(metadata_features([facts(0), facts(1), facts(2)]), [True, False, False])
    with pytest.raises(BadSpec, match="missing for 1 of 2"):
        sharpness_features([facts(0), facts(1, sharpness=None)])
    scores = null_scores(metadata_features([facts(i) for i in range(5)]), [True, True, False, False, False])
    assert np.isfinite(scores).all()


@pytest.mark.skipif(not DATA.exists(), reason="the development images are not there")
def test_png_reals_against_jpeg_fakes_are_told_apart_by_their_files_alone():
    with (DATA / "MANIFEST.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"] in {"celebahq_256", "stylegan1_256"}]
    images = [
        facts(
            i,
            format=row["format"],
            jpeg_quality=int(row["jpeg_quality"]) if row["jpeg_quality"] else None,
            bytes=(DATA / row["path"]).stat().st_size,
        )
        for i, row in enumerate(rows)
    ]
    assert null_auc(metadata_features(images), [row["kind"] == "fake" for row in rows]) == 1


def test_marks_alone_tell_marked_fakes_from_unmarked_reals() -> None:
    synthetic = Declared(origin=Origin.SYNTHETIC, marks=(Mark(kind="c2pa", claim=Origin.SYNTHETIC, detail={}),))
    fake = [False] * 30 + [True] * 30
    assert null_auc(mark_features([Declared()] * 30 + [synthetic] * 30), fake) == 1
    assert null_auc(mark_features([Declared()] * 60), fake) == pytest.approx(0.5)
