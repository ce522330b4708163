from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muflow_cli.calibration.rules import RULES
from muflow_cli.canonical import canonical_json, from_json, to_json
from muflow_cli.errors import BadSpec
from muflow_cli.presets import LIGHT, PAPER
from muflow_cli.settings import names, override
from muflow_cli.specs import BranchSpec, DetectorSpec, FaceSpec, FeatureSpec, FlowSpec, RuleSpec, Tail

rules = st.builds(
    RuleSpec,
    method=st.sampled_from(sorted(RULES)),
    alpha=st.floats(0, 1, exclude_min=True, exclude_max=True),
    tail=st.sampled_from(Tail),
    band=st.none() | st.tuples(st.floats(0, 0.5), st.floats(0.5, 1)),
    by=st.lists(st.sampled_from(["format", "quality", "size"]), unique=True).map(tuple),
)


@given(rules)
def test_a_rule_survives_the_round_trip_through_json(rule: RuleSpec) -> None:
    assert from_json(RuleSpec, json.loads(canonical_json(to_json(rule)))) == rule


@pytest.mark.parametrize("spec", [LIGHT, PAPER])
def test_a_preset_survives_the_round_trip_through_json(spec: DetectorSpec) -> None:
    assert from_json(DetectorSpec, json.loads(canonical_json(to_json(spec)))) == spec


def test_an_unknown_and_a_missing_field_are_refused() -> None:
    data = to_json(FlowSpec())
    with pytest.raises(ValueError, match="colour"):
        from_json(FlowSpec, data | {"colour": 1})
    del data["steps"]
    with pytest.raises(ValueError, match="steps"):
        from_json(FlowSpec, data)


@pytest.mark.parametrize(("field", "value"), [("steps", "8"), ("steps", 8.0), ("kernels", 3), ("matched_init", 1)])
def test_a_value_of_another_kind_is_refused(field: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        from_json(FlowSpec, to_json(FlowSpec()) | {field: value})


def test_canonical_json_has_one_spelling_and_no_nan() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "µ"}) == b'{"a":"\\u00b5","b":[1,2.5]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_every_setting_can_be_given_by_name() -> None:
    given_ = ["flow.steps=0", "flow.kernels=3,1", "feature.layers=layer1", "view.draft=no", "target.score_kind=nll"]
    spec = override(LIGHT, [*given_, "rule.band=0.01,0.1", "train.learning_rate=1e-4", "rule.by="])
    (branch,) = spec.branches
    assert (branch.flow.steps, branch.flow.kernels, branch.feature.layers) == (0, (3, 1), ("layer1",))
    assert (branch.view.draft, spec.rule.band, spec.train.learning_rate) == (False, (0.01, 0.1), 1e-4)
    assert "target.images_per_average" in names()


@pytest.mark.parametrize(
    "text", ["flow.steps", "flow.size=3", "steps=3", "flow.steps=many", "view.draft=perhaps", "rule.band=1", "flow=1"]
)
def test_a_setting_that_makes_no_sense_is_one_sentence(text: str) -> None:
    with pytest.raises(BadSpec, match=": use "):
        override(LIGHT, [text])


def test_a_value_outside_its_range_is_refused_when_set() -> None:
    with pytest.raises(BadSpec, match="steps is -1: use a value from 0 to 256"):
        override(LIGHT, ["flow.steps=-1"])


def test_a_setting_of_one_branch_leaves_the_others_alone() -> None:
    grain = BranchSpec(name="grain", feature=FeatureSpec(encoder="forensic"))
    spec = override(DetectorSpec(branches=(BranchSpec(), grain)), ["flow.steps=3", "grain/flow.steps=2"])
    assert [branch.flow.steps for branch in spec.branches] == [3, 2]
    with pytest.raises(BadSpec, match="--set is other/"):
        override(spec, ["other/flow.steps=2"])


@pytest.mark.parametrize("wrap", [lambda data: [data], lambda data: {"steps": data}])
def test_data_nested_too_deeply_is_a_value_error(wrap: Callable[[object], object]) -> None:
    data: object = 0
    for _ in range(100_000):
        data = wrap(data)
    with pytest.raises(ValueError, match=r"(?i)expected|deeply"):
        from_json(FlowSpec, data)


def test_a_field_that_was_added_later_is_not_written_at_its_default() -> None:
    plain, faces = DetectorSpec(), DetectorSpec(faces=FaceSpec(min_side=80))
    assert "faces" not in to_json(plain)
    assert to_json(faces)["faces"]["min_side"] == 80
    assert [from_json(DetectorSpec, to_json(spec)) for spec in (plain, faces)] == [plain, faces]
    assert "volume_preserving" not in to_json({"a": [FlowSpec()]})["a"][0]


def test_an_added_field_has_one_spelling() -> None:
    with pytest.raises(ValueError, match="faces"):
        from_json(DetectorSpec, {**to_json(DetectorSpec()), "faces": None})


def test_a_view_of_faces_needs_faces() -> None:
    with pytest.raises(BadSpec, match="--faces"):
        override(LIGHT, ["view.kind=face"])
