"""Laws of a stored calibration and of its judge."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from muflow_cli.calibration.calibration import Calibration, source_digest
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.pvalues import Scores
from muflow_cli.calibration.rule import Rule, RuleJudgement
from muflow_cli.calibration.rules import RULES
from muflow_cli.canonical import canonical_json, from_json
from muflow_cli.errors import BadCalibration, BadSpec, NotFinite, TooFewScores
from muflow_cli.records import CalibrationMatch, Facts, Side, Verdict
from muflow_cli.run_specs import Atypical
from muflow_cli.specs import RuleSpec, Tail

N = 240
METHODS = list(RULES)
COLUMNS = ("main/layer1", "main/layer2", "forensic/block3")
CREATED = "2026-01-02T03:04:05+00:00"


def image(number: int, **facts: object) -> Facts:
    usual = {"format": "JPEG", "width": 300, "height": 400, "jpeg_quality": 75, "sharpness": 20.0}
    return Facts(sha256=hashlib.sha256(str(number).encode()).hexdigest(), bytes=number + 1, **{**usual, **facts})


def scores(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(n, 3))


def calibration(rule: RuleSpec | None = None, facts: list[Facts] | None = None) -> Calibration:
    facts = facts or [image(i) for i in range(N)]
    return Calibration(
        scores=scores(0, len(facts)), columns=COLUMNS, facts=tuple(facts), rule=rule or RuleSpec(), created=CREATED
    )


def judged(one: Calibration) -> list:
    fresh = 2 * scores(1, 100)
    return Judge(one).judge(fresh, [image(10_000 + i, jpeg_quality=60 + i % 40) for i in range(100)])


def reloaded(one: Calibration) -> Calibration:
    """Through the bytes of a safetensors file and of JSON, as a bundle keeps it."""
    return Calibration.load(load(save(one.arrays())), json.loads(canonical_json(one.meta())))


@pytest.mark.parametrize("by", [(), ("quality", "format")])
@pytest.mark.parametrize("method", METHODS)
def test_permuting_the_calibration_images_changes_nothing(method, by):
    facts = tuple(image(i, jpeg_quality=75 + i % 2 * 10) for i in range(N))
    rule, order = RuleSpec(method=method, alpha=0.1, by=by), np.random.default_rng(2).permutation(N)
    one = calibration(rule, list(facts))
    other = dataclasses.replace(one, scores=scores(0, N)[order], facts=tuple(facts[i] for i in order), source_digest="")
    assert one.fingerprint() == other.fingerprint()
    assert judged(one) == judged(other)


@pytest.mark.parametrize("method", METHODS)
def test_saving_and_loading_changes_nothing(method):
    facts = [image(i, sharpness=None, jpeg_quality=None, format="PNG") for i in range(9)]
    facts += [image(i, width=i, sharpness=i / 7) for i in range(9, N)]
    one = calibration(RuleSpec(method=method, alpha=0.1, band=(0.1, 0.2), by=("format",)), facts)
    again = reloaded(one)
    assert again.fingerprint() == one.fingerprint()
    for name in ("facts", "columns", "rule", "created", "source_digest", "median_score", "smallest_p_value"):
        assert getattr(again, name) == getattr(one, name)
    np.testing.assert_array_equal(again.scores, one.scores)
    assert judged(again) == judged(one)
    assert Judge(again).describe() == Judge(one).describe()


@pytest.mark.parametrize("method", METHODS)
def test_stratified_equals_plain_when_there_is_one_stratum(method):
    plain = judged(calibration(RuleSpec(method=method, alpha=0.1)))
    stratified = judged(calibration(RuleSpec(method=method, alpha=0.1, by=("format",))))
    assert {(one.calibration, one.stratum) for one in plain} == {(CalibrationMatch.MATCHED, None)}
    assert {(one.calibration, one.stratum) for one in stratified} == {(CalibrationMatch.MATCHED, "JPEG")}
    assert [dataclasses.replace(one, stratum=None) for one in stratified] == plain


def test_each_stratum_is_judged_by_its_own_reals_and_small_ones_by_all():
    facts = [image(i) for i in range(100)] + [image(i, format="PNG") for i in range(100, 200)]
    facts += [image(i, format="WEBP") for i in range(200, 210)]
    level = np.repeat([0.0, 50.0, 0.0], [100, 100, 10])[:, None]
    rule = RuleSpec(alpha=0.1, by=("format",))
    one = dataclasses.replace(calibration(rule, facts), scores=scores(0, 210) + level, facts=tuple(facts))
    asked = [image(999, format=name) for name in ("JPEG", "PNG", "WEBP", "TIFF")]
    verdicts = Judge(one).judge(np.zeros((4, 3)), asked)
    assert [v.calibration for v in verdicts] == ["matched", "matched", "fallback", "extrapolated"]
    assert [v.stratum for v in verdicts] == ["JPEG", "PNG", None, None]
    assert [v.verdict is Verdict.FLAGGED for v in verdicts] == [False, True, False, False]
    pooled = Judge(dataclasses.replace(one, rule=RuleSpec(alpha=0.1))).judge(np.zeros((4, 3)), asked)
    assert [v.p_value for v in verdicts[2:]] == [v.p_value for v in pooled[2:]]


def test_a_stratum_has_its_own_rule_from_the_number_that_alpha_needs():
    facts = [image(i, format="PNG" if i < 39 else "GIF" if i < 77 else "JPEG") for i in range(N)]
    judge = Judge(calibration(RuleSpec(alpha=0.05, by=("format",)), facts))
    described = judge.describe()
    assert described.stratum_minimum == 39
    assert [(s.name, s.images, s.calibrated) for s in described.strata] == [
        ("GIF", 38, False),
        ("JPEG", N - 77, True),
        ("PNG", 39, True),
    ]
    verdicts = judge.judge(np.zeros((2, 3)), [image(1, format="PNG"), image(2, format="GIF")])
    assert [(v.calibration, v.stratum) for v in verdicts] == [("matched", "PNG"), ("fallback", None)]


def test_results_keep_the_order_of_the_images_whatever_their_strata():
    facts = [image(i, format="JPEG" if i % 2 else "PNG") for i in range(N)]
    judge = Judge(calibration(RuleSpec(by=("format",)), facts))
    fresh = scores(3, 50)
    mixed = judge.judge(fresh, facts[:50])
    assert mixed == [judge.judge(fresh[i : i + 1], facts[i : i + 1])[0] for i in range(50)]


def test_a_p_value_in_the_band_is_inconclusive_and_not_flagged():
    plain = judged(calibration(RuleSpec(alpha=0.1)))
    banded = judged(calibration(RuleSpec(alpha=0.1, band=(0.05, 0.2))))
    for without, within in zip(plain, banded, strict=True):
        inside = 0.05 <= without.p_value <= 0.2
        assert within.verdict is (Verdict.INCONCLUSIVE if inside else without.verdict)
    assert {one.verdict for one in banded} == set(Verdict)


def test_an_atypical_image_is_marked_and_judged_all_the_same():
    judge = Judge(calibration())
    usual, odd = judge.judge(np.zeros((2, 3)), [image(1), image(1, format="WEBP", width=4, sharpness=0.0)])
    assert usual.atypical_input == ()
    assert odd == dataclasses.replace(usual, atypical_input=("format", "sharpness", "size"))


def test_only_the_verdict_on_an_atypical_image_depends_on_what_becomes_of_it():
    far, images = np.array([[0.0, 0, 0], [99, 99, 99]]), [image(1), image(1)]
    others = [dataclasses.replace(one, format="WEBP") for one in images]
    own = Judge(calibration()).judge(far, images)
    assert [one.verdict for one in own] == [Verdict.NOT_FLAGGED, Verdict.FLAGGED]
    for atypical, verdicts in {
        Atypical.REPORT: [one.verdict for one in own],
        Atypical.INCONCLUSIVE: [Verdict.INCONCLUSIVE] * 2,
        Atypical.FLAG: [Verdict.FLAGGED] * 2,
    }.items():
        judge = Judge(calibration(), atypical)
        assert judge.judge(far, images) == own
        expected = [
            dataclasses.replace(one, verdict=verdict, atypical_input=("format",))
            for one, verdict in zip(own, verdicts, strict=True)
        ]
        assert judge.judge(far, others) == expected


@pytest.mark.parametrize("method", ["gaussian", "lof", "ocsvm"])
def test_the_p_value_is_that_of_the_conformal_rule_whatever_decides_the_flag(method):
    conformal = judged(calibration(RuleSpec(alpha=0.1)))
    other = judged(calibration(RuleSpec(method=method, alpha=0.1)))
    assert [one.p_value for one in other] == [one.p_value for one in conformal]


@pytest.mark.parametrize("method", ["fisher", "cauchy", "harmonic"])
def test_a_combination_names_the_heaviest_column(method):
    far = np.zeros((1, 3))
    far[0, 1] = -9
    judgement = Judge(calibration(RuleSpec(method=method))).judge(far, [image(1)])[0]
    assert (judgement.heaviest, judgement.tail) == ("main/layer2", Side.LOW)
    assert Judge(calibration()).judge(far, [image(1)])[0].heaviest is None


class Median(Rule):
    """Flags what lies above twice the largest median of the reals' columns: a rule that nobody foresaw."""

    name = "median"

    def __init__(self, scores: Scores, spec: RuleSpec) -> None:
        self.limit, self.spec = 2 * np.median(scores, axis=1).max(), spec

    @classmethod
    def minimum_images(cls, spec: RuleSpec) -> int:  # noqa: ARG003
        return 5

    @classmethod
    def rate_bounds(cls, spec: RuleSpec, n: int) -> None:
        cls.require_images(spec, n)

    def judge(self, scores: Scores) -> RuleJudgement:
        flagged = np.median(scores, axis=1) > self.limit
        return RuleJudgement(np.where(flagged, 0.01, 1.0), flagged, flagged)

    def details(self) -> tuple[str, ...]:
        return ("the median decides",)


def test_a_rule_is_added_by_one_class_and_one_row(monkeypatch):
    monkeypatch.setitem(RULES, Median.name, Median)
    one = reloaded(calibration(RuleSpec(method="median", by=("format",))))
    judge, far = Judge(one), np.array([[0.0, 0, 0], [99, 99, 99]])
    facts = [image(1), image(2, format="TIFF")]
    assert [j.verdict for j in judge.judge(far, facts)] == [Verdict.NOT_FLAGGED, Verdict.FLAGGED]
    assert judge.ranking(far, facts).tolist() == [-1.0, -0.01]
    described = judge.describe()
    assert (described.details, described.true_rate) == (("the median decides",), None)
    assert described.smallest_p_value == one.smallest_p_value == 2 / (N + 1)
    assert [stratum.calibrated for stratum in described.strata] == [True]
    with pytest.raises(TooFewScores, match=r"method median .* at least 5 real images, found 4"):
        Judge(calibration(RuleSpec(method="median"), [image(i) for i in range(4)]))


def test_an_unknown_rule_or_a_setting_that_it_cannot_use_is_refused():
    with pytest.raises(BadSpec, match="method is median: use one of conformal"):
        calibration(RuleSpec(method="median"))
    with pytest.raises(BadSpec, match=r"at most 0\.5 with method lof"):
        calibration(RuleSpec(method="lof", alpha=0.6))
    one = calibration()
    for change in ({"method": "median"}, {"method": "lof", "alpha": 0.6}, {"alpha": 2.0}):
        with pytest.raises(BadCalibration, match="has a rule that cannot be used"):
            Calibration.load(one.arrays(), {**one.meta(), "rule": {**one.meta()["rule"], **change}})


@pytest.mark.parametrize("by", [(), ("format",)])
def test_the_ranking_is_that_of_the_rule_of_the_stratum(by):
    facts = [image(i, format="JPEG" if i % 2 else "PNG") for i in range(N)]
    judge, fresh = Judge(calibration(RuleSpec(method="fisher", by=by), facts)), scores(4, 50)
    p_values = [judgement.p_value for judgement in judge.judge(fresh, facts[:50])]
    assert judge.ranking(fresh, facts[:50]).tolist() == [-p_value for p_value in p_values]


def test_identical_bytes_count_once():
    facts = [image(i) for i in range(N)]
    twice = dataclasses.replace(calibration(), scores=np.concatenate([scores(0, N)] * 2), facts=tuple(facts * 2))
    assert len(twice) == N
    assert twice.fingerprint() == calibration(facts=facts).fingerprint()


def test_no_image_gives_no_verdict():
    assert Judge(calibration()).judge(np.empty((0, 3)), []) == []


def test_the_fingerprint_follows_scores_columns_rule_and_facts_but_not_the_date():
    one = calibration()
    changed = [
        dataclasses.replace(one, scores=one.scores + 1e-9),
        dataclasses.replace(one, rule=RuleSpec(alpha=0.1)),
        dataclasses.replace(one, columns=COLUMNS[::-1]),
        dataclasses.replace(one, facts=(dataclasses.replace(one.facts[0], format="PNG"), *one.facts[1:])),
        dataclasses.replace(one, facts=(dataclasses.replace(one.facts[0], width=7), *one.facts[1:])),
        calibration(facts=[image(i + 1) for i in range(N)]),
    ]
    assert len({one.fingerprint(), *(other.fingerprint() for other in changed)}) == 7
    assert dataclasses.replace(one, created="2030-01-01T00:00:00+00:00").fingerprint() == one.fingerprint()


def test_the_fingerprint_can_be_recomputed_from_names_types_shapes_bytes_rule_and_columns():
    one = calibration()
    digest = hashlib.sha256(canonical_json({"rule": one.meta()["rule"], "formats": ["JPEG"], "columns": list(COLUMNS)}))
    for name in sorted(one.arrays()):
        array = one.arrays()[name]
        digest.update(canonical_json([name, array.dtype.str, list(array.shape)]) + array.tobytes())
    assert one.fingerprint() == digest.hexdigest()


def test_the_source_digest_names_the_set_of_images():
    hashes = [image(i).sha256 for i in range(5)]
    assert source_digest(hashes) == source_digest(hashes[::-1]) != source_digest(hashes[:4])
    expected = hashlib.sha256(b"".join(sorted(bytes.fromhex(one) for one in hashes))).hexdigest()
    assert source_digest(hashes) == expected


def test_mean_scores_are_the_mean_over_columns():
    one = calibration()
    np.testing.assert_array_equal(one.mean_scores, one.scores.mean(axis=1))
    np.testing.assert_array_equal(one.arrays()["score"], one.mean_scores)
    assert one.median_score == np.median(one.scores.mean(axis=1))


@pytest.mark.parametrize(
    ("method", "promises", "detail"),
    [
        ("conformal", True, ""),
        ("fisher", True, ""),
        ("cauchy", True, ""),
        ("harmonic", True, ""),
        ("gaussian", False, "Anderson-Darling"),
        ("lof", False, f"fitted to {N} of {N} reals"),
        ("ocsvm", False, f"fitted to {N} of {N} reals"),
    ],
)
def test_a_description_tells_what_its_method_can_say(method, promises, detail):
    described = Judge(calibration(RuleSpec(method=method))).describe()
    assert (described.true_rate is not None) == promises
    assert bool(described.details) == bool(detail)
    assert detail in " ".join(described.details)
    assert (described.images, described.created, described.ranges.formats) == (N, CREATED, ("JPEG",))


def test_too_few_reals_for_alpha_are_refused_with_the_number_needed():
    with pytest.raises(
        TooFewScores, match=r"alpha 0\.005, tail both, needs scores of at least 399 real images, found 240"
    ):
        Judge(calibration(RuleSpec(alpha=0.005)))
    with pytest.raises(TooFewScores):
        Calibration(scores=np.empty((0, 3)), columns=COLUMNS, facts=(), rule=RuleSpec(), created=CREATED)


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(NotFinite, match="NaN or infinite"):
        Judge(calibration()).judge(np.array([[0.0, np.nan, 0.0]]), [image(1)])
    with pytest.raises(BadCalibration, match="NaN or infinite"):
        dataclasses.replace(calibration(), scores=np.full((N, 3), np.inf))


@pytest.mark.parametrize("shape", [(N,), (N, 0), (N - 1, 3)])
def test_scores_that_do_not_fit_the_images_are_refused(shape):
    with pytest.raises(BadCalibration, match="holds scores of shape"):
        dataclasses.replace(calibration(), scores=np.zeros(shape))


@pytest.mark.parametrize("columns", [(), COLUMNS[:2], ("a", "b", "a"), ("a", "b", ""), ("a", "b", 3)])
def test_column_names_that_do_not_fit_the_scores_are_refused(columns):
    with pytest.raises(BadCalibration, match="column"):
        dataclasses.replace(calibration(), columns=columns)


def test_a_content_hash_that_is_not_one_is_refused():
    with pytest.raises(BadCalibration, match="not a SHA-256"):
        calibration(facts=[dataclasses.replace(image(1), sha256="abc")])


def test_a_digest_of_other_images_is_refused():
    with pytest.raises(BadCalibration, match="another set of images"):
        dataclasses.replace(calibration(), source_digest="0" * 64)


# Another legal value of these can only be noticed by the fingerprint, which the bundle checks.
FREE = {"scores", "bytes", "width", "height", "jpeg_quality", "sharpness"}
DAMAGE = {
    "empty": lambda array: array[:0],
    "short": lambda array: array[:-1],
    "shifted": lambda array: array + np.ones(1, array.dtype),
    "other dtype": lambda array: array.astype(np.float32),
}


@pytest.mark.parametrize(
    ("name", "fault"),
    [(n, f) for n in sorted(calibration().arrays()) for f in DAMAGE if not (n in FREE and f == "shifted")],
)
def test_a_damaged_array_is_refused(name, fault):
    one = calibration(facts=[image(i, sharpness=float(i)) for i in range(N)])
    arrays = one.arrays()
    with pytest.raises(BadCalibration):
        Calibration.load({**arrays, name: DAMAGE[fault](arrays[name])}, one.meta())
    with pytest.raises(BadCalibration):
        Calibration.load({key: array for key, array in arrays.items() if key != name}, one.meta())


@pytest.mark.parametrize(
    ("name", "hostile"),
    [
        *((name, value) for name in ("bytes", "width", "height") for value in (0, -1, np.iinfo(np.int64).min)),
        *(("jpeg_quality", value) for value in (0, -2, 101)),
        *(("sharpness", value) for value in (-1.0, np.inf, -np.inf)),
        *(("format", value) for value in (-1, 1, 2**62)),
        *(("scores", value) for value in (np.nan, np.inf)),
    ],
)
def test_a_value_that_no_image_has_is_refused(name, hostile):
    one = calibration()
    arrays = one.arrays()
    arrays[name] = arrays[name].copy()
    arrays[name].flat[3] = hostile
    with pytest.raises(BadCalibration):
        Calibration.load(arrays, one.meta())


@pytest.mark.parametrize("name", sorted(calibration().arrays()))
@pytest.mark.parametrize("shape", [(1, -1), (N, -1, 1)])
def test_an_array_of_another_shape_is_refused(name, shape):
    one = calibration()
    with pytest.raises(BadCalibration, match="shapes"):
        Calibration.load({**one.arrays(), name: one.arrays()[name].reshape(shape)}, one.meta())


@pytest.mark.parametrize("columns", [list(COLUMNS[:2]), [*COLUMNS, "main/layer4"], ["a", "b", 3], ["a", "b", ["c"]]])
def test_names_of_other_columns_than_are_stored_are_refused(columns):
    one = calibration()
    with pytest.raises(BadCalibration):
        Calibration.load(one.arrays(), {**one.meta(), "columns": columns})


@pytest.mark.parametrize("alpha", [10**400, -(10**400), "0.1", None, [], True])
def test_a_hostile_alpha_is_refused(alpha):
    one = calibration()
    with pytest.raises(BadCalibration):
        Calibration.load(one.arrays(), {**one.meta(), "rule": {**one.meta()["rule"], "alpha": alpha}})


META = sorted(calibration().meta())


@pytest.mark.parametrize("name", META)
@pytest.mark.parametrize("value", [None, "", -1, [], {"method": "conformal"}, "x"])
def test_a_damaged_head_is_refused(name, value):
    one = calibration()
    with pytest.raises(BadCalibration):
        Calibration.load(one.arrays(), {**one.meta(), name: value})
    with pytest.raises(BadCalibration):
        Calibration.load(one.arrays(), {k: v for k, v in one.meta().items() if k != name})


@given(
    st.builds(
        RuleSpec,
        method=st.sampled_from(METHODS),
        alpha=st.floats(1e-6, 0.5),
        tail=st.sampled_from(list(Tail)),
        band=st.none() | st.tuples(st.floats(0, 0.5), st.floats(0.5, 1)),
        by=st.lists(st.sampled_from(["format", "quality", "size"]), unique=True).map(tuple),
    )
)
def test_every_rule_survives_the_file(rule):
    one = calibration(rule, [image(i) for i in range(3)])
    assert reloaded(one).rule == rule
    assert from_json(RuleSpec, reloaded(one).meta()["rule"]) == rule
