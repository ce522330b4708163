"""Left-out sources choose how long and how large: they train nothing, and nothing but the images decides."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FP32, Muflow, write_faces
from test_fit_work import SETTINGS

from muflow_cli.bundle import load
from muflow_cli.engine.branch import Encoder
from muflow_cli.engine.devices import place
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.train_state import Progress
from muflow_cli.errors import BadSpec
from muflow_cli.fit import FitRequest, fit
from muflow_cli.fit.choice import choose
from muflow_cli.fit.features import encode
from muflow_cli.fit.selection import Round, Rounds, select
from muflow_cli.fit.sources import Fold, folds, short_names, sources_of
from muflow_cli.fit.split import split
from muflow_cli.fit.store import Store, open_store
from muflow_cli.fit.work import Work
from muflow_cli.images.find import find_each
from muflow_cli.presets import LIGHT
from muflow_cli.progress import NoProgress
from muflow_cli.run_specs import InputSpec
from muflow_cli.settings import override

SELECTING = (
    *SETTINGS,
    "flow.steps=2",
    "train.selection=sources",
    "train.selection_steps=0,2",
    "train.source_minimum=10",
)


def curve(*epochs: tuple[float, float]) -> list[Progress]:
    """A history of (NLL, rate) of left-out reals."""
    return [Progress(i, 1.0, 1.0, 1e-3, nll, rate) for i, (nll, rate) in enumerate(epochs)]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three folders of images."""
    folder = tmp_path_factory.mktemp("three")
    for seed, name in enumerate(("a", "b", "c")):
        write_faces(folder / name, 30, seed=seed)
    return [folder / name for name in ("a", "b", "c")]


def request(reals: Sequence[Path], output: Path, *more: str) -> FitRequest:
    spec = override(LIGHT, [*SELECTING, *more])
    return FitRequest(reals=tuple(map(str, reals)), output=output, spec=spec, runtime=FP32)


@pytest.fixture(scope="module")
def selected(three: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose steps and epochs three sources chose, with its history beside it."""
    output = tmp_path_factory.mktemp("selected") / "d.safetensors"
    fit(replace(request(three, output), reports=(output.with_name("h.csv"), output.with_name("h.html"))))
    return output


class StopAt(NoProgress):
    """Stops a fit as the keyboard does, when a stage begins for the nth time."""

    def __init__(self, stage: str, times: int) -> None:
        self.wanted, self.left = stage, times

    def stage(self, name: str, total: int | None) -> None:  # noqa: ARG002 - a listener's signature
        self.left -= name == self.wanted
        if self.left == 0:
            raise KeyboardInterrupt


# The choice.


def test_of_the_trainings_that_flag_left_out_reals_least_the_most_likely_one_is_chosen() -> None:
    rounds = [curve((9, 0.2), (5, 0.1), (4, 0.1), (3, 0.3)), curve((8, 0.2), (4, 0.1), (3, 0.1), (2, 0.3))]
    choice = choose({2: rounds, 0: [curve((20, 0.3)), curve((21, 0.3))]})
    assert (choice.steps, choice.epochs) == (2, 2)


def test_a_difference_within_its_standard_error_counts_for_nothing() -> None:
    # The third epoch flags more in one round and fewer in the other, so nothing speaks against its better likelihood.
    rounds = [curve((9, 0.5), (5, 0.10), (4, 0.20)), curve((9, 0.5), (5, 0.10), (4, 0.02))]
    assert choose({2: rounds}).epochs == 2


def test_of_equals_the_smaller_flow_and_the_shorter_training_are_chosen() -> None:
    flat = [curve((9, 0.5), (5, 0.1), (5, 0.1))] * 2
    choice = choose({8: flat, 2: flat})
    assert (choice.steps, choice.epochs) == (2, 1)


def test_a_round_that_ended_counts_with_its_last_epoch() -> None:
    short, long = curve((9, 0.5), (5, 0.1)), curve((9, 0.5), (5, 0.1), (4, 0.1), (3, 0.1))
    assert choose({2: [short, long]}).epochs == 3


# The sources.


def test_nothing_depends_on_the_order_of_images() -> None:
    generator = np.random.default_rng(0)
    sources, digests = [f"s{i % 7}" for i in range(90)], [f"{i:064x}" for i in generator.permutation(90)]
    groups = np.arange(90)
    groups[[3, 11]] = 3
    expected = folds(sources, groups, digests, 8, 3)
    shuffled = generator.permutation(90)
    again = folds([sources[i] for i in shuffled], groups[shuffled], [digests[i] for i in shuffled], 8, 3)
    assert [fold.names for fold in again] == [fold.names for fold in expected]
    assert [{shuffled[i] for i in fold.images} for fold in again] == [set(fold.images) for fold in expected]


def test_near_copies_in_two_sources_are_left_out_together() -> None:
    made = folds(["a"] * 5 + ["b"] * 5, np.array([0, 1, 2, 3, 4, 4, 5, 6, 7, 8]), [f"{i:064}" for i in range(10)], 2, 2)
    assert {fold.names: fold.images for fold in made} == {("a",): (0, 1, 2, 3, 4, 5), ("b",): (6, 7, 8, 9)}


def test_small_sources_count_as_one_and_many_are_left_out_together() -> None:
    sources = ["a"] * 9 + ["b"] * 8 + ["c"] * 7 + ["d"] * 2 + ["e"] * 3
    made = folds(sources, np.arange(29), [f"{i:064}" for i in range(29)], 5, 3)
    assert [fold.names for fold in made] == [("c", "d", "e"), ("a",), ("b",)]
    assert folds(["a"] * 9 + ["b"] * 2, np.arange(11), [f"{i:064}" for i in range(11)], 5, 3)[0].names == ("a",)


def test_each_argument_is_a_source_and_a_single_folder_is_one_for_each_of_its_folders(three: list[Path]) -> None:
    def by_path(*arguments: str) -> dict[str, str]:
        found = sources_of(list(find_each(arguments, InputSpec())), arguments)
        return {str(Path(path).absolute()): source for path, source in found.items()}

    def found(*arguments: str) -> set[str]:
        return set(by_path(*arguments).values())

    parent = three[0].parent
    assert found(*map(str, three)) == found(str(parent)) == found(f"{parent}/") == set(map(str, three))
    assert found(*(str(path) for folder in three[:2] for path in folder.iterdir())) == set(map(str, three[:2]))
    overlapping = (str(three[0]), str(parent), *(str(path) for path in three[1].iterdir()))
    assert found(*overlapping) == {str(three[0]), str(parent)}
    assert by_path(*overlapping) == by_path(*reversed(overlapping))


def test_names_of_sources_hold_no_more_of_their_paths_than_tells_them_apart() -> None:
    assert short_names(["/home/me/a/faces", "/home/me/b/faces", "/home/me/c"]) == {
        "/home/me/a/faces": "a/faces",
        "/home/me/b/faces": "b/faces",
        "/home/me/c": "c",
    }


# The fit.


def test_a_left_out_source_trains_nothing(three: list[Path], tmp_path: Path) -> None:
    # Whatever the images of a source hold, projection, target and flows of the round that leaves it out are the same.
    asked = request(three, tmp_path / "d.safetensors")
    with pytest.raises(KeyboardInterrupt):
        fit(asked, StopAt("encode", 1))
    store = open_store(tmp_path / "d.safetensors.work")
    train, branch = asked.spec.train, asked.spec.branches[0]
    digests = [entry.facts.sha256 for entry in store.entries]
    parts = split(digests, np.arange(len(digests)), train)
    images = [*parts.train, *parts.validation]
    sources = [store.entries[index].source for index in images]
    made = folds(sources, np.arange(len(images)), [digests[index] for index in images], 10, 3)
    left_out = [Fold(fold.names, tuple(images[position] for position in fold.images)) for fold in made]
    noisy = {"main": store.views["main"].copy()}
    rows = store.rows("main", left_out[1].images)
    noisy["main"][rows] = np.random.default_rng(0).integers(0, 256, noisy["main"][rows].shape, np.uint8)

    def histories(name: str, of: Store) -> list[Round]:
        work = Work(tmp_path / name)
        work.folder.mkdir()
        encoder = PlacedEncoder(Encoder.load(branch.feature, {}), place(FP32))
        pooled = encode(encoder, of.views["main"], of.rows("main", images), work, NoProgress())
        chosen = select(
            Rounds(
                branch=branch,
                train=train,
                store=of,
                parts=parts,
                folds=left_out,
                encoder=encoder,
                pooled=pooled,
                work=work,
                progress=NoProgress(),
            )
        )
        return [one for one in chosen.rounds if one.left_out == left_out[1].names]

    for one, other in zip(histories("a", store), histories("b", replace(store, views=noisy)), strict=True):
        assert [(e.train_nll, e.validation_nll) for e in one.history] == [
            (e.train_nll, e.validation_nll) for e in other.history
        ]
        assert one.history[0].other_nll != other.history[0].other_nll


def test_the_choice_does_not_depend_on_the_order_of_the_arguments(
    three: list[Path], selected: Path, tmp_path: Path
) -> None:
    output = tmp_path / "d.safetensors"
    fit(request(three[::-1], output))
    assert load(output).fingerprint == load(selected).fingerprint
    assert load(output).provenance.branches == load(selected).provenance.branches


def test_a_fit_that_is_stopped_between_rounds_goes_on_to_the_same_bundle(
    three: list[Path], selected: Path, tmp_path: Path
) -> None:
    output = tmp_path / "d.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(request(three, output), StopAt("select", 2))
    kept = {path.name for path in (tmp_path / "d.safetensors.work" / "branch.main").glob("*.json")}
    assert kept == {"round.0.0.json", "round.0.2.json"}
    fit(replace(request(three, output), resume=True, reports=(tmp_path / "h.csv",)))
    assert load(output).fingerprint == load(selected).fingerprint
    assert (tmp_path / "h.csv").read_bytes() == selected.with_name("h.csv").read_bytes()
    assert not output.with_name("d.safetensors.work").exists()


def test_the_bundle_says_what_was_left_out_and_tried_and_why_training_ended(selected: Path) -> None:
    detector = load(selected)
    origin = detector.provenance.branches["main"]
    chosen = origin.selected
    assert chosen is not None
    assert sorted(left.sources for left in chosen.left_out) == [("a",), ("b",), ("c",)]
    assert sum(left.images for left in chosen.left_out) == detector.provenance.train + detector.provenance.validation
    assert [candidate.steps for candidate in chosen.candidates] == [0, 2]
    assert detector.spec.branches[0].flow.steps == chosen.steps
    assert origin.epochs <= chosen.epochs
    assert "left-out sources" in origin.stopped


def test_without_two_sources_the_prior_trains_by_the_prior_and_says_so(three: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "d.safetensors"
    fit(request(three[:2], output, "train.prior_epochs=2", "train.prior_steps=1", "train.source_minimum=50"))
    detector = load(output)
    assert detector.spec.branches[0].flow.steps == 1
    assert detector.provenance.branches["main"].epochs == 2
    assert detector.provenance.branches["main"].stopped == (
        "stopped after 2 epochs with 1 step, the prior, since fewer than two sources have 50 images"
    )


def test_the_history_holds_every_epoch_and_the_page_draws_it_without_a_script(selected: Path) -> None:
    with selected.with_name("h.csv").open() as file:
        rows = list(csv.DictReader(file))
    origin = load(selected).provenance.branches["main"]
    final = [row for row in rows if row["stage"] == "train"]
    assert [int(row["epoch"]) for row in final] == list(range(origin.epochs + 1))
    assert float(final[origin.best_epoch]["validation_nll"]) == origin.validation_nll
    assert {(row["left_out"], row["steps"]) for row in rows if row["stage"] == "select"} == {
        (source, steps) for source in "abc" for steps in "02"
    }
    page = selected.with_name("h.html").read_text()
    assert page.count("<polyline") == 2 * 3  # the final training, and each number of steps
    assert origin.stopped[1:] in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_two_bundles_are_refused(muflow: Muflow, three: list[Path], tmp_path: Path) -> None:
    done = muflow("fit", three[0], "-o", tmp_path / "a.safetensors", "-o", tmp_path / "b.safetensors")
    assert done.returncode == 2
    assert b"use one file for the detector, and .csv or .html for the history" in done.stderr


@pytest.mark.parametrize("setting", ["selection_steps=", "selection_steps=300", "source_folds=1", "selection=all"])
def test_a_selection_that_cannot_be_is_refused(setting: str) -> None:
    with pytest.raises(BadSpec):
        override(LIGHT, [f"train.{setting}"])
