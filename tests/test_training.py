"""Training finds the density, keeps the best held-out epoch, and goes on after a break as if there were none."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from muflow_cli.engine.likelihood import nll
from muflow_cli.engine.mixture import Mixture, fit_mixture
from muflow_cli.engine.training import NOMINAL, Progress, Trained, TrainHooks, TrainState, outside_rate, train
from muflow_cli.errors import NotFinite, TooFewImages
from muflow_cli.specs import FlowSpec, TrainSpec

FLOW = FlowSpec(steps=3)
QUICK = TrainSpec(epochs=6, batch_size=16, learning_rate=5e-3, checkpoint_every=2)
QUIET = TrainHooks()


def reals(count: int, seed: int, layers: int = 2, dimensions: int = 4) -> list[torch.Tensor]:
    """Correlated features of a known law, one map per layer."""
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    noise = (torch.randn(count, 2, 2, dimensions, generator=generator) for _ in range(layers))
    return [(z @ mixing + 1).movedim(-1, 1).contiguous() for z in noise]


def normals(layers: int = 2, dimensions: int = 4) -> list[Mixture]:
    return [Mixture.normal(dimensions)] * layers


def fit(spec: TrainSpec = QUICK, flow: FlowSpec = FLOW, hooks: TrainHooks = QUIET) -> Trained:
    return train(reals(60, 0), reals(20, 1), normals(), flow, spec, hooks=hooks)


def loss(trained: Trained, features: list[torch.Tensor], targets: list[Mixture]) -> float:
    parts = zip(trained.flows, targets, features, strict=True)
    return float(torch.stack([nll(f, t, x).mean() / x.shape[1] for f, t, x in parts]).mean())


def same(first: Trained, second: Trained) -> bool:
    pairs = zip(first.flows, second.flows, strict=True)
    tensors = ((a.state_dict(), b.state_dict()) for a, b in pairs)
    return first.history == second.history and all(torch.equal(a[n], b[n]) for a, b in tensors for n in a)


def test_training_finds_the_density_of_the_reals() -> None:
    mixing = torch.randn(4, 4, generator=torch.Generator().manual_seed(99))
    entropy = 0.5 * math.log(2 * math.pi * math.e) + float(torch.linalg.slogdet(mixing).logabsdet) / 4
    spec = TrainSpec(epochs=25, batch_size=64, learning_rate=2e-2)
    found = train(reals(500, 0, 1), reals(500, 1, 1), normals(1), FlowSpec(steps=4), spec, hooks=QUIET)
    assert found.history[0].validation_nll > entropy + 0.3
    assert found.validation_nll == pytest.approx(entropy, abs=0.06)


def test_the_flow_kept_is_that_of_the_best_held_out_epoch() -> None:
    found = fit(replace(QUICK, epochs=12, learning_rate=3e-2))
    best = min(found.history, key=lambda progress: progress.validation_nll)
    assert found.best_epoch == best.epoch
    assert (found.train_nll, found.validation_nll) == (best.train_nll, best.validation_nll)
    assert loss(found, reals(20, 1), normals()) == pytest.approx(found.validation_nll, abs=1e-5)


def test_a_flow_that_only_gets_worse_is_kept_as_it_started_and_stops_early() -> None:
    spec = replace(QUICK, epochs=50, stop_patience=4)
    found = train(reals(60, 0), [x * 0.01 for x in reals(20, 1)], normals(), FLOW, spec, hooks=QUIET)
    start = train(reals(60, 0), [x * 0.01 for x in reals(20, 1)], normals(), FLOW, replace(spec, epochs=0), hooks=QUIET)
    assert (found.best_epoch, found.epochs) == (0, 4)
    assert found.validation_nll == found.history[0].validation_nll == start.validation_nll
    assert all(
        torch.equal(a.state_dict()[name], tensor)
        for a, b in zip(found.flows, start.flows, strict=True)
        for name, tensor in b.state_dict().items()
    )


def test_no_epochs_give_the_flow_as_it_starts() -> None:
    found = fit(replace(QUICK, epochs=0))
    assert (found.epochs, found.best_epoch, len(found.history)) == (0, 0, 1)
    assert loss(found, reals(60, 0), normals()) == pytest.approx(found.train_nll, abs=1e-5)


def test_no_steps_leave_nothing_to_train_and_score_by_the_target() -> None:
    found = fit(flow=FlowSpec(steps=0))
    features = reals(20, 1)
    expected = [-Mixture.normal(4).log_prob(x.movedim(1, -1)).mean() / 4 for x in features]
    assert found.epochs == 0
    assert found.validation_nll == pytest.approx(float(torch.stack(expected).mean()), abs=1e-6)


def test_the_learning_rate_falls_when_held_out_reals_stop_improving() -> None:
    spec = replace(QUICK, epochs=6, plateau_patience=1, plateau_factor=0.5)
    found = train(reals(60, 0), [x * 0.01 for x in reals(20, 1)], normals(), FLOW, spec, hooks=QUIET)
    rates = [progress.learning_rate for progress in found.history[1:]]
    assert rates == [5e-3, 5e-3, 5e-3, 2.5e-3, 2.5e-3, 1.25e-3]


@pytest.mark.parametrize("kernels", [(1,), (3,)])
def test_the_same_seed_ends_in_the_same_bytes_whatever_the_global_generators(kernels: tuple[int, ...]) -> None:
    flow, short = replace(FLOW, kernels=kernels), replace(QUICK, epochs=2)
    torch.manual_seed(1)
    first = fit(short, flow)
    torch.manual_seed(2)
    assert same(first, fit(short, flow))
    assert not same(first, fit(replace(short, seed=1), flow))


def test_layers_start_from_different_seeds() -> None:
    flows = fit(replace(QUICK, epochs=0)).flows
    assert not torch.equal(*(flow.state_dict()["steps.0.weight_in"] for flow in flows))


def test_resuming_from_any_checkpoint_ends_in_the_same_bytes_as_an_unbroken_run() -> None:
    spec = replace(QUICK, epochs=9, plateau_patience=0, stop_patience=5)
    states: list[TrainState] = []
    unbroken = fit(spec, hooks=TrainHooks(save=states.append))
    assert [state.epoch for state in states] == [2, 4, 6, 8]
    for state in states:
        assert same(fit(spec, hooks=TrainHooks(resume=state)), unbroken)


def test_resuming_goes_on_with_the_learning_rate_and_patience_of_the_break() -> None:
    spec = replace(QUICK, epochs=7, checkpoint_every=1, plateau_patience=1, plateau_factor=0.5)
    features, worsening = reals(60, 0), [x * 0.01 for x in reals(20, 1)]
    states: list[TrainState] = []
    unbroken = train(features, worsening, normals(), FLOW, spec, hooks=TrainHooks(save=states.append))
    assert unbroken.history[-1].learning_rate < 5e-3 / 2
    for state in states:
        again = train(features, worsening, normals(), FLOW, spec, hooks=TrainHooks(resume=state))
        assert again.history == unbroken.history


def test_a_state_survives_a_file_of_tensors_and_json() -> None:
    states: list[TrainState] = []
    unbroken = fit(hooks=TrainHooks(save=states.append))
    tensors, rest = states[0].to_parts()
    again = TrainState.from_parts(load(save(tensors)), json.loads(json.dumps(rest, allow_nan=False)))
    assert same(fit(hooks=TrainHooks(resume=again)), unbroken)


def test_a_state_is_not_changed_by_the_epochs_after_it() -> None:
    states: list[TrainState] = []
    copies: list[dict[str, torch.Tensor]] = []

    def keep(state: TrainState) -> None:
        states.append(state)
        copies.append({name: tensor.clone() for name, tensor in state.to_parts()[0].items()})

    fit(hooks=TrainHooks(save=keep))
    for state, copy in zip(states, copies, strict=True):
        assert all(torch.equal(tensor, copy[name]) for name, tensor in state.to_parts()[0].items())


def test_resuming_a_run_that_had_stopped_trains_no_further() -> None:
    spec = replace(QUICK, epochs=4)
    states: list[TrainState] = []
    first = fit(spec, hooks=TrainHooks(save=states.append))
    told: list[Progress] = []
    again = fit(spec, hooks=TrainHooks(resume=states[-1], on_epoch=told.append))
    assert told == []
    assert same(first, again)


def test_every_epoch_is_told_once_in_order() -> None:
    told: list[Progress] = []
    found = fit(hooks=TrainHooks(on_epoch=told.append))
    assert [progress.epoch for progress in told] == list(range(7))
    assert tuple(told) == found.history


def test_features_in_a_file_or_in_half_precision_train_alike(tmp_path: Path) -> None:
    features = [x.half() for x in reals(60, 0)]
    mapped = []
    for i, x in enumerate(features):
        path = tmp_path / str(i)
        path.write_bytes(x.numpy().tobytes())
        mapped.append(torch.from_file(str(path), size=x.numel(), dtype=torch.half).view(x.shape))
    held_out = reals(20, 1)
    runs = [
        train(kind, held_out, normals(), FLOW, QUICK, hooks=QUIET)
        for kind in (mapped, features, [x.float() for x in features])
    ]
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


def test_a_matched_start_has_the_targets_spread() -> None:
    target = fit_mixture(0.05 * torch.randn(500, 4, generator=torch.Generator().manual_seed(3)), 1, 1e-6, 0).mixture
    spec = replace(QUICK, epochs=0)
    features, held_out = reals(200, 0, 1), reals(50, 1, 1)
    matched, plain = (
        train(features, held_out, [target], replace(FLOW, matched_init=m), spec, hooks=QUIET) for m in (True, False)
    )
    latents = matched.flows[0](features[0])[0]
    assert float(latents.var(dim=(0, 2, 3)).mean().sqrt()) == pytest.approx(target.spread(), rel=0.2)
    assert matched.validation_nll < plain.validation_nll - 10


def test_a_layer_trains_as_it_would_alone() -> None:
    first, second = reals(60, 0)
    held_out = reals(20, 1)
    joint = train([first, 100 * second], held_out, normals(), FLOW, QUICK, hooks=QUIET)
    alone = train([first], held_out[:1], normals(1), FLOW, QUICK, hooks=QUIET)
    assert joint.best_epoch == alone.best_epoch
    for name, tensor in alone.flows[0].state_dict().items():
        torch.testing.assert_close(joint.flows[0].state_dict()[name], tensor, atol=2e-3, rtol=0)


def test_features_that_are_no_numbers_are_named_by_layer_before_training() -> None:
    features = reals(60, 0)
    features[1][7, 0, 0, 0] = math.nan
    with pytest.raises(NotFinite, match=r"epoch 0, layer 2 of 2: its features"):
        train(features, reals(20, 1), normals(), FLOW, QUICK, hooks=QUIET)


def test_training_that_diverges_names_epoch_layer_and_remedy() -> None:
    with pytest.raises(NotFinite, match=r"epoch 1, layer \d of 2: lower the learning rate"):
        fit(replace(QUICK, learning_rate=1e6))


@pytest.mark.parametrize(("train_count", "validation_count"), [(0, 5), (5, 0)])
def test_nothing_to_train_on_or_to_validate_with_is_refused(train_count: int, validation_count: int) -> None:
    with pytest.raises(TooFewImages, match="found 0"):
        train(reals(train_count, 0), reals(validation_count, 1), normals(), FLOW, QUICK, hooks=QUIET)


def test_one_image_is_enough_to_take_a_step() -> None:
    found = train(reals(1, 0), reals(1, 1), normals(), FLOW, replace(QUICK, epochs=1), hooks=QUIET)
    assert found.epochs == 1


def test_a_penalty_keeps_the_flow_near_an_affine_map_and_out_of_the_history() -> None:
    free, held = fit(), fit(flow=replace(FLOW, spectral_penalty=10.0))

    def steepest(trained: Trained) -> float:
        return max(float(step.steepness()) for flow in trained.flows for step in flow.chain().steps)

    assert steepest(held) < 0.5 * steepest(free)
    assert held.history[0] == free.history[0]


def test_a_volume_preserving_flow_trains_and_resumes_to_the_same_bytes() -> None:
    flow = replace(FLOW, volume_preserving=True)
    states: list[TrainState] = []
    whole = fit(flow=flow, hooks=TrainHooks(save=states.append))
    assert whole.validation_nll < whole.history[0].validation_nll
    assert same(whole, fit(flow=flow, hooks=TrainHooks(resume=states[0])))


def test_reals_of_another_source_are_judged_but_not_trained_on() -> None:
    near = train(reals(60, 0), reals(20, 1), normals(), FLOW, QUICK, hooks=QUIET, others=reals(50, 2))
    far = train(reals(60, 0), reals(20, 1), normals(), FLOW, QUICK, hooks=QUIET, others=[x + 3 for x in reals(50, 2)])
    assert [(e.train_nll, e.validation_nll) for e in near.history] == [
        (e.train_nll, e.validation_nll) for e in far.history[: len(near.history)]
    ]
    last = near.history[-1], far.history[-1]
    assert (last[1].other_nll or 0) > (last[0].other_nll or 0) + 0.5
    assert (last[1].other_rate or 0) > 0.8
    assert (last[0].other_rate or 0) < 0.5


def test_the_rate_of_scores_like_the_reals_is_nominal() -> None:
    reals_ = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert outside_rate(scores, reals_) == pytest.approx(NOMINAL, abs=0.03)
    assert outside_rate(scores + 9, reals_) == outside_rate(scores - 9, reals_) == 1
    assert outside_rate(reals_[:0].new_zeros(3), reals_.new_zeros(40)) == 0  # equal to all of them
