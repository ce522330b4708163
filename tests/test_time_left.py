"""The time left of a whole fit: it adds up what is measured, and its plan is what the fit does."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import FP32, write_faces
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from muflow_cli.cli.progress import StageProgress
from muflow_cli.cli.time_left import TimeLeft
from muflow_cli.fit.records import FitRequest
from muflow_cli.fit.workflow import fit
from muflow_cli.progress import NoProgress, PlannedStage
from muflow_cli.settings import override, with_branches
from muflow_cli.specs import DetectorSpec

ENCODE, AVERAGES = PlannedStage("encode", 40, images=1), PlannedStage("encode averages", 10, images=1)
TRAIN, CALIBRATE = PlannedStage("train", 20, seconds=3.0), PlannedStage("calibrate", 5, images=2)


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Recorder(NoProgress):
    """Keeps the plan, and the stages with their totals."""

    def __init__(self) -> None:
        self.planned: Sequence[PlannedStage] = ()
        self.begun: list[tuple[str, int | None]] = []
        self.steps: dict[str, int] = {}

    def plan(self, make: Callable[[], Sequence[PlannedStage]]) -> None:
        self.planned, self.begun = make(), []

    def stage(self, name: str, total: int | None) -> None:
        self.begun.append((name, total))

    def advance(self, steps: int = 1) -> None:
        name = self.begun[-1][0]
        self.steps[name] = self.steps.get(name, 0) + steps


@given(st.floats(0.01, 10), st.lists(st.integers(1, 7), min_size=1, max_size=6), st.booleans())
def test_at_steady_rates_what_is_left_is_what_will_pass(each: float, strides: list[int], unplanned: bool) -> None:
    clock = Clock()
    left = TimeLeft([ENCODE, AVERAGES, TRAIN, CALIBRATE], clock)
    seconds = {"encode": each, "encode averages": each, "train": 3.0, "calibrate": 2 * each}
    end = sum(stage.steps * seconds[stage.name] for stage in (ENCODE, AVERAGES, TRAIN, CALIBRATE))
    assert left.seconds() is None
    for stage in (ENCODE, AVERAGES, TRAIN, CALIBRATE):
        if unplanned:
            left.stage("statistics", None)
        left.stage(stage.name, stage.steps)
        done = 0
        while done < stage.steps:
            step = min(strides[done % len(strides)], stage.steps - done)
            clock.now += step * seconds[stage.name]
            left.advance(step)
            done += step
            assert left.seconds() == pytest.approx(end - clock.now, abs=1e-6)
    assert left.seconds() == pytest.approx(0, abs=1e-6)


def test_a_stage_that_ends_early_or_is_skipped_counts_no_more() -> None:
    clock = Clock()
    left = TimeLeft([ENCODE, TRAIN, TRAIN, CALIBRATE], clock)
    left.stage("encode", 40)  # an earlier run encoded them
    left.stage("train", 20)
    clock.now += 4
    left.advance(2)
    assert left.seconds() is None  # nothing was encoded yet, so that nothing is known of the calibration
    left = TimeLeft([TRAIN, TRAIN], clock)
    left.stage("train", 20)
    clock.now += 4
    left.advance(2)
    assert left.seconds() == pytest.approx(18 * 2 + 20 * 3)
    left.stage("train", 20)
    assert left.seconds() == pytest.approx(20 * 3)


@pytest.mark.parametrize("more", [(), ("train.selection=prior", "train.prior_epochs=2"), ("flow.steps=0",)])
def test_the_plan_is_what_a_fit_does(
    reals: Path, tiny_weights: Path, tiny_spec: DetectorSpec, tmp_path: Path, more: tuple[str, ...]
) -> None:
    spec, seen = override(tiny_spec, more), Recorder()
    weights = {"main": tiny_weights}
    if not more:
        grain = "grain=forensic,view.kind=crops,view.size=32,view.count=3,view.fit_count=2,feature.layers=full"
        (added,) = with_branches(spec, [grain]).branches
        spec = replace(spec, branches=(*spec.branches, added))
    fit(FitRequest(reals=(str(reals),), output=tmp_path / "d", spec=spec, weights=weights, runtime=FP32), seen)
    names = {stage.name for stage in seen.planned}
    assert [(stage.name, stage.steps) for stage in seen.planned] == [one for one in seen.begun if one[0] in names]
    assert {name for name, _ in seen.begun} - names <= {"statistics", "average", "fit target", "write"} | {
        f"{branch.name} statistics" for branch in spec.branches
    }
    assert all(stage.seconds > 0 for stage in seen.planned if stage.name.endswith("train") and stage.steps)
    trained = [stage for stage in seen.planned if stage.name.endswith("train")]
    assert all(seen.steps.get(stage.name, 0) == stage.steps for stage in trained)


def test_the_plan_holds_the_rounds_of_leaving_sources_out(
    tmp_path: Path, tiny_weights: Path, tiny_spec: DetectorSpec
) -> None:
    for seed, name in enumerate(("a", "b")):
        write_faces(tmp_path / name, 30, seed=seed)
    spec = override(tiny_spec, ["train.selection=sources", "train.selection_steps=0,2", "train.source_minimum=10"])
    reals, seen = (str(tmp_path / "a"), str(tmp_path / "b")), Recorder()
    fit(FitRequest(reals=reals, output=tmp_path / "d", spec=spec, weights={"main": tiny_weights}, runtime=FP32), seen)
    names = {stage.name for stage in seen.planned}
    told = [one for one in seen.begun if one[0] in names]
    assert [name for name, _ in told] == [stage.name for stage in seen.planned]
    # Only the last training may be shorter than planned, where the rounds choose fewer epochs.
    assert [one for one in told if one[0] != "train"] == [
        (stage.name, stage.steps) for stage in seen.planned if stage.name != "train"
    ]


def test_a_terminal_shows_the_time_left_of_all_stages_and_nothing_else_plans() -> None:
    screen, asked = io.StringIO(), []

    def make() -> list[PlannedStage]:
        asked.append(True)
        return [ENCODE, PlannedStage("train", 20, seconds=60.0)]

    with StageProgress(Console(file=io.StringIO(), width=200)) as plain:
        plain.plan(make)
    with StageProgress(Console(file=io.StringIO(), width=200, force_terminal=True, quiet=True)) as quiet:
        quiet.plan(make)
    assert not asked
    with StageProgress(Console(file=screen, width=200, force_terminal=True)) as progress:
        progress.plan(make)
        progress.stage("encode", 40)
        progress.advance(20)
        progress.note("drawn")
    assert asked == [True]
    assert "all stages: 20 min" in screen.getvalue()
