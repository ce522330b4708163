"""Laws of a stored calibration and of its judge."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from muflow_cli.calibration import Calibration, Judge, source_digest
from muflow_cli.canonical import canonical_json, from_json
from muflow_cli.errors import BadCalibration, NotFinite, TooFewScores
from muflow_cli.records import Facts
from muflow_cli.specs import Method, RuleSpec, Tail

N = 240
METHODS = list(Method)
CREATED = "2026-01-02T03:04:05+00:00"


def picture(number: int, **facts: object) -> Facts:
    usual = {"format": "JPEG", "width": 300, "height": 400, "jpeg_quality": 75, "sharpness": 20.0}
    return Facts(sha256=hashlib.sha256(str(number).encode()).hexdigest(), bytes=number + 1, **{**usual, **facts})


def scores(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(n, 3))


def calibration(rule: RuleSpec | None = None, facts: list[Facts] | None = None) -> Calibration:
    facts = facts or [picture(i) for i in range(N)]
    return Calibration(scores=scores(0, len(facts)), facts=tuple(facts), rule=rule or RuleSpec(), created=CREATED)


def judged(one: Calibration) -> list:
    fresh = 2 * scores(1, 100)
    return Judge(one).judge(fresh, [picture(10_000 + i, jpeg_quality=60 + i % 40) for i in range(100)])


def reloaded(one: Calibration) -> Calibration:
    """Through the bytes of a safetensors file and of JSON, as a bundle keeps it."""
    return Calibration.load(load(save(one.arrays())), json.loads(canonical_json(one.meta())))


@pytest.mark.parametrize("by", [(), ("quality", "format")])
@pytest.mark.parametrize("method", METHODS)
def test_permuting_the_calibration_pictures_changes_nothing(method, by):
    facts = tuple(picture(i, jpeg_quality=75 + i % 2 * 10) for i in range(N))
    rule, order = RuleSpec(method=method, alpha=0.1, by=by), np.random.default_rng(2).permutation(N)
    one = Calibration(scores=scores(0, N), facts=facts, rule=rule, created=CREATED)
    other = Calibration(scores=scores(0, N)[order], facts=tuple(facts[i] for i in order), rule=rule, created=CREATED)
    assert one.fingerprint() == other.fingerprint()
    assert judged(one) == judged(other)


@pytest.mark.parametrize("method", METHODS)
def test_saving_and_loading_changes_nothing(method):
    facts = [picture(i, sharpness=None, jpeg_quality=None, format="PNG") for i in range(9)]
    facts += [picture(i, width=i, sharpness=i / 7) for i in range(9, N)]
    one = calibration(RuleSpec(method=method, alpha=0.1, band=(0.1, 0.2), by=("format",)), facts)
    again = reloaded(one)
    assert again.fingerprint() == one.fingerprint()
    assert (again.facts, again.rule, again.created, again.source_digest) == (
        one.facts,
        one.rule,
        one.created,
        one.source_digest,
    )
    np.testing.assert_array_equal(again.scores, one.scores)
    assert judged(again) == judged(one)
    assert Judge(again).describe() == Judge(one).describe()


@pytest.mark.parametrize("method", METHODS)
def test_stratified_equals_plain_when_there_is_one_stratum(method):
    plain = judged(calibration(RuleSpec(method=method, alpha=0.1)))
    stratified = judged(calibration(RuleSpec(method=method, alpha=0.1, by=("format",))))
    assert {one.calibration for one in plain} == {"matched"}
    assert {one.calibration for one in stratified} == {"JPEG"}
    assert [dataclasses.replace(one, calibration="matched") for one in stratified] == plain


def test_each_stratum_is_judged_by_its_own_reals_and_small_ones_by_all():
    facts = [picture(i) for i in range(100)] + [picture(i, format="PNG") for i in range(100, 200)]
    facts += [picture(i, format="WEBP") for i in range(200, 210)]
    level = np.repeat([0.0, 50.0, 0.0], [100, 100, 10])[:, None]
    one = Calibration(
        scores=scores(0, 210) + level, facts=tuple(facts), rule=RuleSpec(alpha=0.1, by=("format",)), created=CREATED
    )
    asked = [picture(999, format=name) for name in ("JPEG", "PNG", "WEBP", "TIFF")]
    verdicts = Judge(one).judge(np.zeros((4, 3)), asked)
    assert [v.calibration for v in verdicts] == ["JPEG", "PNG", "fallback", "extrapolated"]
    assert [v.flagged for v in verdicts] == [False, True, False, False]
    pooled = Judge(dataclasses.replace(one, rule=RuleSpec(alpha=0.1))).judge(np.zeros((4, 3)), asked)
    assert [v.p_value for v in verdicts[2:]] == [v.p_value for v in pooled[2:]]


def test_a_stratum_has_its_own_rule_from_the_number_that_alpha_needs():
    facts = [picture(i, format="PNG" if i < 39 else "GIF" if i < 77 else "JPEG") for i in range(N)]
    judge = Judge(calibration(RuleSpec(alpha=0.05, by=("format",)), facts))
    described = judge.describe()
    assert described.stratum_minimum == 39
    assert [(s.name, s.pictures, s.calibrated) for s in described.strata] == [
        ("GIF", 38, False),
        ("JPEG", N - 77, True),
        ("PNG", 39, True),
    ]
    verdicts = judge.judge(np.zeros((2, 3)), [picture(1, format="PNG"), picture(2, format="GIF")])
    assert [v.calibration for v in verdicts] == ["PNG", "fallback"]


def test_results_keep_the_order_of_the_pictures_whatever_their_strata():
    facts = [picture(i, format="JPEG" if i % 2 else "PNG") for i in range(N)]
    judge = Judge(calibration(RuleSpec(by=("format",)), facts))
    fresh = scores(3, 50)
    mixed = judge.judge(fresh, facts[:50])
    assert mixed == [judge.judge(fresh[i : i + 1], facts[i : i + 1])[0] for i in range(50)]


def test_a_p_value_in_the_band_is_inconclusive_and_not_flagged():
    plain = judged(calibration(RuleSpec(alpha=0.1)))
    banded = judged(calibration(RuleSpec(alpha=0.1, band=(0.05, 0.2))))
    for without, within in zip(plain, banded, strict=True):
        inside = 0.05 <= without.p_value <= 0.2
        assert (within.verdict == "inconclusive") == inside
        assert within.flagged == (without.flagged and not inside)
        assert within.verdict == ("inconclusive" if inside else without.verdict)
    assert {one.verdict for one in banded} == {"flagged", "not flagged", "inconclusive"}


def test_an_atypical_picture_is_marked_and_judged_all_the_same():
    judge = Judge(calibration())
    usual, odd = judge.judge(np.zeros((2, 3)), [picture(1), picture(1, format="WEBP", width=4, sharpness=0.0)])
    assert usual.atypical_input == ()
    assert odd == dataclasses.replace(usual, atypical_input=("format", "sharpness", "size"))


@pytest.mark.parametrize("method", [m for m in METHODS if m is not Method.FISHER])
def test_the_p_value_is_that_of_the_conformal_rule_whatever_decides_the_flag(method):
    conformal = judged(calibration(RuleSpec(alpha=0.1)))
    other = judged(calibration(RuleSpec(method=method, alpha=0.1)))
    assert [one.p_value for one in other] == [one.p_value for one in conformal]


def test_fisher_names_the_heaviest_scale():
    far = np.zeros((1, 3))
    far[0, 1] = -9
    rule = RuleSpec(method=Method.FISHER)
    assert Judge(calibration(rule), ("layer1", "layer2", "layer3")).judge(far, [picture(1)])[0].heaviest == "layer2"
    assert Judge(calibration(rule)).judge(far, [picture(1)])[0].heaviest == "1"
    assert Judge(calibration()).judge(far, [picture(1)])[0].heaviest is None


def test_identical_bytes_count_once():
    facts = [picture(i) for i in range(N)]
    twice = Calibration(
        scores=np.concatenate([scores(0, N)] * 2), facts=tuple(facts * 2), rule=RuleSpec(), created=CREATED
    )
    assert len(twice) == N
    assert twice.fingerprint() == calibration(facts=facts).fingerprint()


def test_no_picture_gives_no_verdict():
    assert Judge(calibration()).judge(np.empty((0, 3)), []) == []


def test_the_fingerprint_follows_scores_rule_and_facts_but_not_the_date():
    one = calibration()
    changed = [
        dataclasses.replace(one, scores=one.scores + 1e-9),
        dataclasses.replace(one, rule=RuleSpec(alpha=0.1)),
        dataclasses.replace(one, facts=(dataclasses.replace(one.facts[0], format="PNG"), *one.facts[1:])),
        dataclasses.replace(one, facts=(dataclasses.replace(one.facts[0], width=7), *one.facts[1:])),
        calibration(facts=[picture(i + 1) for i in range(N)]),
    ]
    assert len({one.fingerprint(), *(other.fingerprint() for other in changed)}) == 6
    assert dataclasses.replace(one, created="2030-01-01T00:00:00+00:00").fingerprint() == one.fingerprint()


def test_the_fingerprint_can_be_recomputed_from_names_types_shapes_bytes_and_rule():
    one = calibration()
    digest = hashlib.sha256(canonical_json({"rule": one.meta()["rule"], "formats": ["JPEG"]}))
    for name in sorted(one.arrays()):
        array = one.arrays()[name]
        digest.update(canonical_json([name, array.dtype.str, list(array.shape)]) + array.tobytes())
    assert one.fingerprint() == digest.hexdigest()


def test_the_source_digest_names_the_set_of_pictures():
    hashes = [picture(i).sha256 for i in range(5)]
    assert source_digest(hashes) == source_digest(hashes[::-1]) != source_digest(hashes[:4])
    expected = hashlib.sha256(b"".join(sorted(bytes.fromhex(one) for one in hashes))).hexdigest()
    assert source_digest(hashes) == expected


def test_stored_mean_scores_are_the_mean_over_scales():
    one = calibration()
    np.testing.assert_array_equal(one.arrays()["score"], one.scores.mean(axis=1))


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (Method.CONFORMAL, {"true_rate"}),
        (Method.FISHER, {"true_rate"}),
        (Method.GAUSSIAN, {"normality"}),
        (Method.LOF, {"fitted_on"}),
        (Method.OCSVM, {"fitted_on"}),
    ],
)
def test_a_description_tells_what_its_method_can_say(method, told):
    described = Judge(calibration(RuleSpec(method=method))).describe()
    known = {name for name in ("true_rate", "normality", "fitted_on") if getattr(described, name) is not None}
    assert known == told
    assert (described.pictures, described.created, described.ranges.formats) == (N, CREATED, ("JPEG",))


def test_too_few_reals_for_alpha_are_refused_with_the_number_needed():
    with pytest.raises(TooFewScores, match=r"alpha 0\.005, tail both, needs scores of 399 real pictures, found 240"):
        Judge(calibration(RuleSpec(alpha=0.005)))
    with pytest.raises(TooFewScores):
        Calibration(scores=np.empty((0, 3)), facts=(), rule=RuleSpec(), created=CREATED)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(NotFinite, match="not a finite number"):
        Judge(calibration()).judge(np.array([[0.0, np.nan, 0.0]]), [picture(1)])
    with pytest.raises(BadCalibration, match="not finite"):
        dataclasses.replace(calibration(), scores=np.full((N, 3), np.inf))


@pytest.mark.parametrize("shape", [(N,), (N, 0), (N - 1, 3)])
def test_scores_that_do_not_fit_the_pictures_are_refused(shape):
    with pytest.raises(BadCalibration, match="holds scores of shape"):
        dataclasses.replace(calibration(), scores=np.zeros(shape))


def test_a_content_hash_that_is_none_is_refused():
    with pytest.raises(BadCalibration, match="no SHA-256"):
        calibration(facts=[dataclasses.replace(picture(1), sha256="abc")])


def test_a_digest_of_other_pictures_is_refused():
    with pytest.raises(BadCalibration, match="another set of pictures"):
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
    one = calibration(facts=[picture(i, sharpness=float(i)) for i in range(N)])
    arrays = one.arrays()
    with pytest.raises(BadCalibration):
        Calibration.load({**arrays, name: DAMAGE[fault](arrays[name])}, one.meta())
    with pytest.raises(BadCalibration):
        Calibration.load({key: array for key, array in arrays.items() if key != name}, one.meta())


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
    one = calibration(rule, [picture(i) for i in range(3)])
    assert reloaded(one).rule == rule
    assert from_json(RuleSpec, reloaded(one).meta()["rule"]) == rule
