from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_face

from muflow_cli.bundle import load
from muflow_cli.calibration import Judge
from muflow_cli.detector import Detector
from muflow_cli.engine.flow import build_flow, plain
from muflow_cli.engine.scoring import Scorer, choose_device, has_native_bf16, place
from muflow_cli.errors import BadSpec, NotFinite
from muflow_cli.records import Facts
from muflow_cli.specs import FlowSpec, Precision, ScoreKind

FACTS = Facts(sha256="0" * 64, bytes=1, format="PNG", width=64, height=64)


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


def pictures(count: int, views: int = 1, seed: int = 5) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, size=(count, views, 8, 8, 3), dtype=np.uint8)
    return list(coarse.repeat(8, axis=2).repeat(8, axis=3))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_a_picture_scores_the_same_alone_and_in_any_company(detector: Detector, precision: Precision) -> None:
    scorer = detector.scorer(place("cpu", precision, 8))
    faces = pictures(19)
    together = scorer.scale_scores(faces)
    alone = np.concatenate([scorer.scale_scores([face]) for face in faces])
    assert np.array_equal(together, alone)
    assert np.array_equal(scorer.scale_scores(faces[::-1])[::-1], together)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_with_a_spatial_flow_as_well(detector: Detector, precision: Precision) -> None:
    spec = FlowSpec(steps=2, kernels=(3,))
    flows = [plain(build_flow(space.dimensions, spec, 1)) for space in detector.model.spaces]
    scorer = Scorer(replace(detector.model, flows=flows), place("cpu", precision, 8))
    faces = pictures(11)
    together = scorer.scale_scores(faces)
    assert np.array_equal(together, np.concatenate([scorer.scale_scores([face]) for face in faces]))
    assert np.array_equal(scorer.scale_scores(faces[::-1])[::-1], together)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_does_not_change_scores(detector: Detector, batch_size: int) -> None:
    scores = detector.scorer(place("cpu", Precision.FP32, batch_size)).scale_scores(pictures(10))
    reference = detector.scorer(place("cpu", Precision.FP32, 16)).scale_scores(pictures(10))
    np.testing.assert_allclose(scores, reference, atol=1e-5, rtol=1e-5)


def test_bf16_stays_close_to_fp32(detector: Detector) -> None:
    generator = np.random.default_rng(3)
    faces = [np.asarray(draw_face(generator, 64))[None] for _ in range(400)]
    single, half = (detector.scorer(place("cpu", p)).scale_scores(faces) for p in (Precision.FP32, Precision.BF16))
    assert detector.calibration is not None
    deviation = detector.calibration.scores.mean(axis=1).std()
    assert float(np.abs(half.mean(axis=1) - single.mean(axis=1)).max() / deviation) < 0.05
    judge = Judge(detector.calibration, detector.scales)
    flags = [[verdict.flagged for verdict in judge.judge(scores, [FACTS] * len(faces))] for scores in (single, half)]
    assert np.mean(np.array(flags[0]) != flags[1]) < 0.005


def test_the_score_of_a_picture_is_the_mean_over_its_views(detector: Detector) -> None:
    scorer = detector.scorer(place("cpu", Precision.FP32))
    (face,) = pictures(1, views=3)
    each = scorer.scale_scores([face[i : i + 1] for i in range(3)])
    np.testing.assert_allclose(scorer.scale_scores([face])[0], each.mean(axis=0), rtol=1e-9)


def test_the_heat_map_averages_to_the_score(detector: Detector) -> None:
    scorer = detector.scorer(place("cpu", Precision.FP32))
    faces = pictures(5)
    maps = np.stack(scorer.heatmaps(faces))
    assert maps.shape == (5, 1, 2, 2)
    np.testing.assert_allclose(maps.mean(axis=(1, 2, 3)), scorer.scale_scores(faces).mean(axis=1), rtol=1e-5)


def test_the_score_is_minus_the_log_density_that_the_parts_give(detector: Detector) -> None:
    """Eq. 3, written out: -log N(z) - log|det|, per dimension, with scikit-learn's own density."""
    from scipy.stats import multivariate_normal

    scorer = detector.scorer(place("cpu", Precision.FP32))
    faces = pictures(3)
    batch = torch.from_numpy(np.concatenate(faces)).permute(0, 3, 1, 2)
    expected = []
    parts = zip(
        scorer.extractor(batch), detector.model.spaces, detector.model.flows, detector.model.targets, strict=True
    )
    for pooled, space, flow, target in parts:
        latents, log_det = flow(space.apply(pooled))
        factor = target.precisions_cholesky[0].double()
        covariance = torch.linalg.inv(factor @ factor.T).numpy()
        flat = latents.movedim(1, -1).numpy()
        density = multivariate_normal(target.means[0].numpy(), covariance, allow_singular=True).logpdf(flat)
        expected.append((-(density + log_det.numpy()) / space.dimensions).mean(axis=(1, 2)))
    np.testing.assert_allclose(scorer.scale_scores(faces), np.stack(expected, axis=1), rtol=2e-4, atol=2e-4)


def test_the_mahalanobis_score_leaves_the_jacobian_out(detector: Detector) -> None:
    model = replace(detector.model, score_kind=ScoreKind.MAHALANOBIS)
    distances = Scorer(model, place("cpu", Precision.FP32)).scale_scores(pictures(4))
    assert (distances > 0).all()
    assert not np.allclose(distances, detector.scorer(place("cpu", Precision.FP32)).scale_scores(pictures(4)))


def test_a_score_that_is_no_number_is_an_error_and_not_a_verdict(detector: Detector) -> None:
    space = replace(detector.model.spaces[0], std=torch.zeros_like(detector.model.spaces[0].std))
    broken = replace(detector.model, spaces=[space, *detector.model.spaces[1:]])
    with pytest.raises(NotFinite, match="--precision fp32"):
        Scorer(broken, place("cpu", Precision.FP32)).scale_scores(pictures(2))


def test_auto_takes_bf16_only_where_it_is_native() -> None:
    native = has_native_bf16(torch.device("cpu"))
    assert place("cpu").precision is (Precision.BF16 if native else Precision.FP32)


@pytest.mark.parametrize("name", ["tpu9", "cuda:99" if torch.cuda.is_available() else "cuda"])
def test_a_device_that_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(BadSpec, match=f"device is {name}"):
        choose_device(name)


def test_a_device_without_room_scores_in_halves_and_is_not_asked_for_too_much_again(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = place("cpu", Precision.FP32, 8 * torch.get_num_threads())
    faces = pictures(64)
    whole = detector.scorer(placement).scale_scores(faces)
    scorer = detector.scorer(placement)
    roomy = scorer.position_scores
    refused: list[int] = []

    def cramped(batch: torch.Tensor) -> list[torch.Tensor]:
        if len(batch) > 3:
            refused.append(len(batch))
            raise torch.OutOfMemoryError("no room")
        return roomy(batch)

    monkeypatch.setattr(scorer, "position_scores", cramped)
    np.testing.assert_allclose(scorer.scale_scores(faces[:8]), whole[:8], atol=1e-5, rtol=1e-5)
    assert refused == [8, 4]
    np.testing.assert_allclose(scorer.scale_scores(faces), whole, atol=1e-5, rtol=1e-5)
    assert refused == [8, 4]
    monkeypatch.setattr(scorer, "position_scores", lambda _: cramped(batch=torch.zeros(9)))
    with pytest.raises(torch.OutOfMemoryError):
        scorer.scale_scores(faces[:1])
