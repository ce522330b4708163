from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_face

from muflow_cli.bundle import load
from muflow_cli.calibration.judge import Judge
from muflow_cli.detector import Detector
from muflow_cli.engine.branch import Branch, Head
from muflow_cli.engine.devices import choose_device, has_native_bf16, place
from muflow_cli.engine.executor import AHEAD
from muflow_cli.engine.flow import PlainFlow, build_flow, plain
from muflow_cli.engine.scoring import COLUMNS_ONLY, Extras, ScoredUnit, Scorer, score_stream
from muflow_cli.errors import BadSpec, NotFinite
from muflow_cli.records import Facts, Unreadable, Verdict
from muflow_cli.run_specs import Precision, Runtime
from muflow_cli.settings import apply
from muflow_cli.specs import DetectorSpec, FlowSpec, ScoreKind

FACTS = Facts(sha256="0" * 64, bytes=1, format="PNG", width=64, height=64)
Views = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


def cpu(precision: Precision = Precision.FP32, batch_size: int = 0) -> Runtime:
    return Runtime(device="cpu", precision=precision, batch_size=batch_size)


def images(count: int, views: int = 1, seed: int = 5) -> list[Views]:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, size=(count, views, 8, 8, 3), dtype=np.uint8)
    return [{"main": one} for one in coarse.repeat(8, axis=2).repeat(8, axis=3)]


def scores(scorer: Scorer, faces: Sequence[Views]) -> np.ndarray:
    return np.stack([one.columns for one in scorer.submit(faces).result()])


def with_heads(branch: Branch, change: Callable[[Head], Head]) -> dict[str, Branch]:
    """The branch with other heads, as `Scorer` takes it."""
    heads = [change(copy.deepcopy(head)) for head in branch.layer_heads()]
    return {branch.spec.name: Branch(branch.spec, branch.encoder, heads)}


@dataclass(frozen=True)
class Unit:
    name: int
    views: Views


def units(count: int, views: int = 1) -> list[Unit]:
    return [Unit(name, own) for name, own in enumerate(images(count, views))]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_an_image_scores_the_same_alone_and_in_any_company(detector: Detector, precision: Precision) -> None:
    scorer = detector.scorer(place(cpu(precision, 8)))
    faces = images(19)
    together = scores(scorer, faces)
    alone = np.concatenate([scores(scorer, [face]) for face in faces])
    assert np.array_equal(together, alone)
    assert np.array_equal(scores(scorer, faces[::-1])[::-1], together)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_with_a_spatial_flow_as_well(detector: Detector, precision: Precision) -> None:
    def spatial(head: Head) -> Head:
        flow = plain(build_flow(head.projection.dimensions, FlowSpec(steps=2, kernels=(3,)), 1))
        return Head(head.projection, flow, head.density, ScoreKind.NLL)

    scorer = Scorer(with_heads(detector.branches["main"], spatial), place(cpu(precision, 8)))
    faces = images(11)
    together = scores(scorer, faces)
    assert np.array_equal(together, np.concatenate([scores(scorer, [face]) for face in faces]))
    assert np.array_equal(scores(scorer, faces[::-1])[::-1], together)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_does_not_change_scores(detector: Detector, batch_size: int) -> None:
    found = scores(detector.scorer(place(cpu(batch_size=batch_size))), images(10))
    reference = scores(detector.scorer(place(cpu(batch_size=16))), images(10))
    np.testing.assert_allclose(found, reference, atol=1e-5, rtol=1e-5)


def test_bf16_stays_close_to_fp32(detector: Detector) -> None:
    generator = np.random.default_rng(3)
    faces = [{"main": np.asarray(draw_face(generator, 64))[None]} for _ in range(400)]
    single, half = (scores(detector.scorer(place(cpu(p))), faces) for p in (Precision.FP32, Precision.BF16))
    deviation = detector.calibration.mean_scores.std()
    assert float(np.abs(half.mean(axis=1) - single.mean(axis=1)).max() / deviation) < 0.05
    judge = Judge(detector.calibration)
    flags = [
        [judged.verdict is Verdict.FLAGGED for judged in judge.judge(found, [FACTS] * len(faces))]
        for found in (single, half)
    ]
    assert np.mean(np.array(flags[0]) != flags[1]) < 0.005


def test_the_score_of_an_image_is_the_mean_over_its_views(detector: Detector) -> None:
    scorer = detector.scorer(place(cpu()))
    (face,) = images(1, views=3)
    each = scores(scorer, [{"main": face["main"][i : i + 1]} for i in range(3)])
    np.testing.assert_allclose(scores(scorer, [face])[0], each.mean(axis=0), rtol=1e-9)


def test_the_map_averages_to_the_score(detector: Detector) -> None:
    found = detector.scorer(place(cpu())).submit(images(5, views=2), Extras(maps=True)).result()
    for one in found:
        assert one.maps["main"].shape == (2, 2, 2)
        assert one.maps["main"].mean() == pytest.approx(one.columns.mean(), rel=1e-5)


def test_the_score_is_minus_the_log_density_that_the_parts_give(detector: Detector) -> None:
    """Eq. 3, written out: -log N(z) - log|det|, per dimension, with scipy's own density."""
    from scipy.stats import multivariate_normal

    branch, faces = detector.branches["main"], images(3)
    batch = torch.from_numpy(np.concatenate([face["main"] for face in faces])).permute(0, 3, 1, 2)
    expected = []
    for pooled, head in zip(branch.encoder(batch), branch.layer_heads(), strict=True):
        latents, log_det = head.flow(head.projection(pooled))
        factor = head.density.precisions_cholesky[0].double()
        covariance = torch.linalg.inv(factor @ factor.T).numpy()
        flat = latents.movedim(1, -1).numpy()
        density = multivariate_normal(head.density.means[0].numpy(), covariance, allow_singular=True).logpdf(flat)
        expected.append((-(density + log_det.numpy()) / head.projection.dimensions).mean(axis=(1, 2)))
    found = scores(detector.scorer(place(cpu())), faces)
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=2e-4, atol=2e-4)


def test_a_branch_as_a_module_scores_as_the_scorer_does(detector: Detector) -> None:
    branch, faces = detector.branches["main"], images(7)
    with torch.inference_mode():
        columns, maps = branch(torch.from_numpy(np.concatenate([face["main"] for face in faces])))
    found = detector.scorer(place(cpu())).submit(faces, Extras(maps=True)).result()
    np.testing.assert_allclose(columns.numpy(), np.stack([one.columns for one in found]), rtol=1e-6, atol=1e-6)
    assert [tuple(map_.shape) for map_ in maps] == [(7, 2, 2)] * 2
    finest = torch.stack(maps).mean(dim=0).numpy()
    np.testing.assert_allclose(finest, np.concatenate([one.maps["main"] for one in found]), rtol=1e-5, atol=1e-5)


def test_a_branch_survives_its_state_dict(detector: Detector) -> None:
    branch = detector.branches["main"]
    state = branch.state_dict()
    again = Branch.empty(branch.spec, [1, 1])
    assert all(tensor.is_meta for tensor in again.state_dict().values())
    again.load_state_dict(state, assign=True)
    first, second = (scores(Scorer({"main": one}, place(cpu())), images(5)) for one in (branch, again))
    assert np.array_equal(first, second)


def test_scoring_leaves_the_branch_as_it_is(detector: Detector) -> None:
    before = {name: tensor.clone() for name, tensor in detector.tensors().items()}
    for precision in (Precision.FP32, Precision.BF16):
        scores(detector.scorer(place(cpu(precision))), images(3))
    after = detector.tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def placed_branch(scorer: Scorer) -> Branch:
    """The branch as it is on the device."""
    return scorer._computes["main"].branch


def test_on_a_processor_the_flow_and_projection_have_no_second_copy(detector: Detector) -> None:
    branch = detector.branches["main"]
    placed = placed_branch(detector.scorer(place(cpu())))
    for own, head in zip(branch.layer_heads(), placed.layer_heads(), strict=True):
        for part in ("flow", "projection"):
            tensors = dict(getattr(head, part).named_buffers())
            for name, tensor in getattr(own, part).named_buffers():
                assert tensors[name].data_ptr() == tensor.data_ptr()


def test_the_mahalanobis_score_leaves_the_jacobian_out(detector: Detector) -> None:
    spec = apply(detector.spec, {"target": {"score_kind": ScoreKind.MAHALANOBIS}}).branches[0]
    branch = detector.branches["main"]
    heads = [Head(h.projection, h.flow, h.density, ScoreKind.MAHALANOBIS) for h in branch.layer_heads()]
    distances = scores(Scorer({"main": Branch(spec, branch.encoder, heads)}, place(cpu())), images(4))
    assert (distances > 0).all()
    assert not np.allclose(distances, scores(detector.scorer(place(cpu())), images(4)))


def broken(detector: Detector) -> Scorer:
    """A scorer whose scores are not finite."""

    def flat(head: Head) -> Head:
        head.projection.std.zero_()
        return head

    return Scorer(with_heads(detector.branches["main"], flat), place(cpu(batch_size=2)))


def test_a_score_that_is_not_finite_is_an_error_where_the_result_is_asked_for(detector: Detector) -> None:
    future = broken(detector).submit(images(2))
    with pytest.raises(NotFinite, match="--precision fp32"):
        future.result(timeout=60)


def test_in_a_stream_an_error_comes_after_the_results_before_it(detector: Detector) -> None:
    good, bad = detector.scorer(place(cpu(batch_size=2))), broken(detector)

    class Half(Scorer):
        """Good scores for two batches, then others."""

        batches = 0

        def submit(self, images: Sequence[Views], extras: Extras = COLUMNS_ONLY):  # type: ignore[no-untyped-def] # as Scorer
            self.batches += 1
            return (good if self.batches <= 2 else bad).submit(images, extras)

    stream = score_stream(units(8), Half(detector.branches, place(cpu(batch_size=2))))
    for name in range(4):
        scored = next(stream)
        assert isinstance(scored, ScoredUnit)
        assert scored.unit.name == name
    with pytest.raises(NotFinite):
        next(stream)


def test_a_stream_keeps_the_order_and_passes_on_what_has_no_views(detector: Detector) -> None:
    scorer = detector.scorer(place(cpu(batch_size=4)))
    faces, bad = units(9), [Unreadable(path=str(i), code="empty", message="no bytes") for i in range(30)]
    mixed: list[Unit | Unreadable] = [*bad[:3], *faces[:2], bad[3], *faces[2:], *bad[4:]]
    out = list(score_stream(mixed, scorer))
    assert [item.unit if isinstance(item, ScoredUnit) else item for item in out] == mixed
    columns = np.stack([item.columns for item in out if isinstance(item, ScoredUnit)])
    assert np.array_equal(columns, scores(scorer, [face.views for face in faces]))
    assert not any(item.maps for item in out if isinstance(item, ScoredUnit))


def test_a_stream_of_nothing_or_of_what_cannot_be_scored_needs_no_scores(detector: Detector) -> None:
    scorer = detector.scorer(place(cpu()))
    assert list(score_stream([], scorer)) == []
    assert list(score_stream(range(100), scorer)) == list(range(100))


def test_a_unit_scores_the_same_alone_and_in_a_stream(detector: Detector) -> None:
    scorer = detector.scorer(place(cpu(batch_size=4)))
    mixed = [Unit(i, images(1, views=1 + i % 5, seed=i)[0]) for i in range(12)]
    together = [item for item in score_stream(mixed, scorer, Extras(maps=True)) if isinstance(item, ScoredUnit)]
    for unit, item in zip(mixed, together, strict=True):
        (alone,) = score_stream([unit], scorer, Extras(maps=True))
        assert isinstance(alone, ScoredUnit)
        assert np.array_equal(alone.columns, item.columns)
        assert np.array_equal(alone.maps["main"], item.maps["main"])
        assert len(item.maps["main"]) == len(unit.views["main"])


def test_maps_come_from_the_pass_that_scores(detector: Detector) -> None:
    scorer = detector.scorer(place(cpu(batch_size=4)))
    calls: list[int] = []
    placed_branch(scorer).encoder.register_forward_hook(lambda *_: calls.append(1))
    with_maps = list(score_stream(units(12), scorer, Extras(maps=True)))
    counted = len(calls)
    without = list(score_stream(units(12), scorer))
    assert counted == len(calls) - counted > 0
    for one, other in zip(with_maps, without, strict=True):
        assert np.array_equal(one.columns, other.columns)


@pytest.mark.parametrize("views", [1, 3])
def test_a_stream_draws_only_a_few_batches_ahead(detector: Detector, views: int) -> None:
    drawn = 0

    def counted() -> Iterator[Unit]:
        nonlocal drawn
        for unit in units(60, views):
            drawn += 1
            yield unit

    batch = 6
    ahead = (AHEAD + 1) * batch // views
    for finished, _ in enumerate(score_stream(counted(), detector.scorer(place(cpu(batch_size=batch))))):
        assert drawn <= finished + 1 + ahead
    assert drawn == 60


def test_what_has_no_views_does_not_pile_up(detector: Detector) -> None:
    drawn = 0

    def counted() -> Iterator[int]:
        nonlocal drawn
        for number in range(1000):
            drawn += 1
            yield number

    for finished, _ in enumerate(score_stream(counted(), detector.scorer(place(cpu(batch_size=4))))):
        assert drawn <= finished + 1 + 16 * (AHEAD + 1)


def test_columns_of_several_branches_stand_side_by_side(detector: Detector) -> None:
    branch = detector.branches["main"]

    def other(head: Head) -> Head:
        head.projection.mean.add_(0.5)
        return head

    both = {"main": branch, "other": with_heads(branch, other)["main"]}
    faces = images(6)
    pairs = [{"main": face["main"], "other": np.concatenate([face["main"], face["main"][::-1]])} for face in faces]
    found = Scorer(both, place(cpu(batch_size=4))).submit(pairs, Extras(maps=True)).result()
    for name, columns in (("main", slice(0, 2)), ("other", slice(2, 4))):
        alone = Scorer({name: both[name]}, place(cpu(batch_size=4))).submit(pairs, Extras(maps=True)).result()
        for one, own in zip(found, alone, strict=True):
            assert np.array_equal(one.columns[columns], own.columns)
            assert np.array_equal(one.maps[name], own.maps[name])


def test_auto_takes_bf16_only_where_it_is_native() -> None:
    native = has_native_bf16(torch.device("cpu"))
    assert place(Runtime(device="cpu")).precision is (Precision.BF16 if native else Precision.FP32)


@pytest.mark.parametrize("name", ["tpu9", "meta", "mps", "cuda:99"])
def test_a_device_that_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(BadSpec, match=f"device is {name}: use "):
        choose_device(name)


def test_a_device_without_room_scores_in_halves_and_is_not_asked_for_too_much_again(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = place(cpu(batch_size=8 * torch.get_num_threads()))
    faces = images(64)
    whole = scores(detector.scorer(placement), faces)
    scorer = detector.scorer(placement)
    branch = placed_branch(scorer)
    roomy = branch.maps
    refused: list[int] = []

    def cramped(batch: torch.Tensor) -> list[torch.Tensor]:
        if len(batch) > 3:
            refused.append(len(batch))
            raise torch.OutOfMemoryError("no room")
        return roomy(batch)

    monkeypatch.setattr(branch, "maps", cramped)
    np.testing.assert_allclose(scores(scorer, faces[:8]), whole[:8], atol=1e-5, rtol=1e-5)
    assert refused == [8, 4]
    np.testing.assert_allclose(scores(scorer, faces), whole, atol=1e-5, rtol=1e-5)
    assert refused == [8, 4]
    monkeypatch.setattr(branch, "maps", lambda _: cramped(batch=torch.zeros(9)))
    with pytest.raises(torch.OutOfMemoryError):
        scores(scorer, faces[:1])


def spatial_spec(spec: DetectorSpec) -> DetectorSpec:
    return apply(spec, {"flow": {"kernels": (3,)}})


def test_an_empty_branch_has_the_shapes_of_its_spec(detector: Detector) -> None:
    spec = spatial_spec(detector.spec).branches[0]
    empty = Branch.empty(spec, [2, 3])
    assert empty.columns == ("main/layer1", "main/layer2")
    for head, components in zip(empty.layer_heads(), (2, 3), strict=True):
        assert isinstance(head.flow, PlainFlow)
        assert head.flow.reach == 3
        assert head.density.means.shape == (components, 6)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


def test_features_are_the_means_and_deviations_of_every_channel_over_positions_and_views(detector: Detector) -> None:
    faces = images(5, views=2)
    branch = detector.branches["main"]
    with torch.inference_mode():
        maps = branch.encoder.layer_maps(
            torch.from_numpy(np.concatenate([f["main"] for f in faces])).permute(0, 3, 1, 2)
        )
    by_view = np.concatenate([f(m.numpy(), axis=(2, 3)) for m in maps for f in (np.mean, np.std)], axis=1)
    expected = by_view.reshape(5, 2, -1).mean(axis=1)
    found = detector.scorer(place(cpu(batch_size=4))).submit(faces, Extras(features=True)).result()
    assert np.allclose([one.features for one in found], expected, rtol=2e-3, atol=1e-3)
    assert found[0].features.dtype == np.float16
    assert found[0].features.shape == (detector.feature_count,)


def test_features_come_with_the_same_scores_and_do_not_depend_on_the_company(detector: Detector) -> None:
    scorer, faces = detector.scorer(place(cpu(batch_size=8))), images(11)
    plain, together = scorer.submit(faces).result(), scorer.submit(faces, Extras(maps=True, features=True)).result()
    assert all(np.array_equal(one.columns, other.columns) for one, other in zip(plain, together, strict=True))
    assert all(one.features.size == 0 and not one.maps for one in plain)
    (alone,) = scorer.submit(faces[7:8], Extras(features=True)).result()
    assert np.array_equal(alone.features, together[7].features)
