"""Laws of calibrating a real detector: the flow stays, the reals decide, nothing is written that n cannot carry."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_face, write_faces
from PIL import Image

from muflow_cli.bundle import load, save
from muflow_cli.calibrate.workflow import CalibrateRequest, CalibrateSummary, calibrate
from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.rules import RULES
from muflow_cli.cli.calibrate_command import _rows
from muflow_cli.errors import BadCalibration, BadSpec, CannotWrite, NoSuchInput, NothingToDo, OutputExists, TooFewScores
from muflow_cli.images.find import find
from muflow_cli.progress import NoProgress
from muflow_cli.records import CalibrationMatch, Scored, Verdict
from muflow_cli.run_specs import InputSpec, Precision, Runtime
from muflow_cli.scan.evidence import open_evidence
from muflow_cli.scan.workflow import Scan, ScanRequest
from muflow_cli.specs import RuleSpec, Tail

FRESH = 48
RUNTIME = Runtime(device="cpu", precision=Precision.FP32)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of reals that the detector never saw, `a` and `b`."""
    folder = tmp_path_factory.mktemp("fresh")
    write_faces(folder / "a", FRESH // 2, seed=2)
    write_faces(folder / "b", FRESH // 2, seed=5)
    return folder


def run(
    detector: Path, output: Path | None, *reals: Path, progress: NoProgress | None = None, **more
) -> CalibrateSummary:
    request = CalibrateRequest(detector=detector, reals=tuple(map(str, reals)), output=output, runtime=RUNTIME, **more)
    return calibrate(request, progress or NoProgress())


def calibration(bundle: Path) -> Calibration:
    return load(bundle).calibration


def scanned(bundle: Path, *paths: Path) -> list[Scored]:
    scan = Scan(ScanRequest(detector=load(bundle), runtime=RUNTIME))
    return list(scan.results(find([str(path) for path in paths], InputSpec())))


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector calibrated on both folders."""
    output = tmp_path_factory.mktemp("calibrated") / "both.safetensors"
    run(tiny_bundle, output, fresh)
    return output


def test_calibrating_changes_the_calibration_and_nothing_else(tiny_bundle, calibrated):
    before, after = load(tiny_bundle), load(calibrated)
    assert after.fingerprint == before.fingerprint
    assert (after.spec, after.provenance) == (before.spec, before.provenance)
    assert calibration(calibrated).fingerprint() != calibration(tiny_bundle).fingerprint()
    assert calibration(calibrated).rule == calibration(tiny_bundle).rule
    assert len(calibration(calibrated)) == FRESH


def test_the_summary_speaks_of_the_bundle_that_was_written(tiny_bundle, fresh, tmp_path):
    summary = run(tiny_bundle, tmp_path / "out", fresh)
    assert (summary.scored, summary.kept, summary.left_out, summary.unreadable) == (FRESH, 0, {}, {})
    assert summary.fingerprint == load(tmp_path / "out").fingerprint
    assert summary.calibration_fingerprint == calibration(tmp_path / "out").fingerprint()
    assert summary.description.images == FRESH


def test_images_of_the_fit_are_left_out_and_the_rest_score_as_when_fitted(tiny_bundle, reals, tmp_path):
    fitted_on, held_out = len(load(tiny_bundle).fitted_on), len(calibration(tiny_bundle))
    summary = run(tiny_bundle, tmp_path / "out", reals)
    assert summary.left_out == {"seen_in_fit": fitted_on}
    assert summary.scored == held_out
    assert calibration(tmp_path / "out").fingerprint() == calibration(tiny_bundle).fingerprint()


def test_images_of_the_fit_alone_are_an_error(tiny_bundle, reals, tmp_path):
    seen = {bytes(row).hex() for row in load(tiny_bundle).fitted_on}
    only = [Path(one.path) for one in scanned(tiny_bundle, reals) if one.facts.sha256 in seen]
    with pytest.raises(NothingToDo, match=f"{len(seen)} seen in fit.*detector does not know"):
        run(tiny_bundle, tmp_path / "out", *only)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no image")
    return folder


def test_a_path_that_does_not_exist_is_refused(tiny_bundle, fresh, tmp_path):
    with pytest.raises(NoSuchInput, match="absent"):
        run(tiny_bundle, tmp_path / "out", fresh, tmp_path / "absent")
    assert not (tmp_path / "out").exists()


def test_unreadable_images_are_counted_by_code_and_skipped(tiny_bundle, calibrated, fresh, broken, tmp_path):
    summary = run(tiny_bundle, tmp_path / "out", broken, fresh)
    assert summary.unreadable == {"empty": 1, "not_an_image": 1}
    assert calibration(tmp_path / "out").fingerprint() == calibration(calibrated).fingerprint()


def test_unreadable_images_alone_are_an_error(tiny_bundle, broken, tmp_path):
    wide = {"alpha": 0.9, "tail": Tail.UPPER}
    with pytest.raises(NothingToDo, match="1 empty, 1 not an image"):
        run(tiny_bundle, tmp_path / "out", broken, rule=wide)
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_not_there_is_named(tiny_bundle, tmp_path):
    with pytest.raises(NoSuchInput, match="absent' does not exist"):
        run(tiny_bundle, tmp_path / "out", tmp_path / "absent")


def test_neither_order_nor_names_nor_copies_matter(tiny_bundle, calibrated, fresh, tmp_path):
    for number, path in enumerate(sorted((fresh / "a").iterdir(), reverse=True)):
        (tmp_path / "c").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "c" / f"{number}.jpg")
    summary = run(tiny_bundle, tmp_path / "out", fresh / "b", tmp_path / "c", fresh / "a")
    assert summary.left_out == {"duplicate": FRESH // 2}
    assert calibration(tmp_path / "out").fingerprint() == calibration(calibrated).fingerprint()


def test_appending_equals_calibrating_on_the_union(tiny_bundle, calibrated, fresh, tmp_path):
    run(tiny_bundle, tmp_path / "a", fresh / "a")
    summary = run(tmp_path / "a", tmp_path / "ab", fresh / "b", append=True)
    assert (summary.scored, summary.kept) == (FRESH // 2, FRESH // 2)
    assert calibration(tmp_path / "ab").fingerprint() == calibration(calibrated).fingerprint()


def test_appending_what_is_there_scores_only_what_is_new(tiny_bundle, calibrated, fresh, tmp_path):
    run(tiny_bundle, tmp_path / "a", fresh / "a")
    summary = run(tmp_path / "a", tmp_path / "ab", fresh, append=True)
    assert summary.left_out == {"calibrated": FRESH // 2}
    assert calibration(tmp_path / "ab").fingerprint() == calibration(calibrated).fingerprint()
    with pytest.raises(NothingToDo, match=f"{FRESH} calibrated"):
        run(calibrated, tmp_path / "again", fresh, append=True)


@pytest.mark.parametrize("method", RULES)
def test_another_rule_on_stored_scores_equals_calibrating_afresh(method, tiny_bundle, calibrated, fresh, tmp_path):
    rule = {"method": method, "alpha": 0.2, "tail": Tail.UPPER, "band": (0.3, 0.4), "by": ("format",)}
    stored = run(calibrated, tmp_path / "stored", rule=rule)
    anew = run(tiny_bundle, tmp_path / "anew", fresh, rule=rule)
    assert (stored.scored, stored.kept) == (0, FRESH)
    assert stored.calibration_fingerprint == anew.calibration_fingerprint
    assert stored.description == replace(anew.description, created=stored.description.created)
    some = sorted((fresh / "a").iterdir())[:8]
    assert scanned(tmp_path / "stored", *some) == scanned(tmp_path / "anew", *some)


def test_a_rule_changed_there_and_back_leaves_the_file_as_it_was(calibrated, tmp_path):
    run(calibrated, tmp_path / "other", rule={"method": "lof", "alpha": 0.2})
    run(tmp_path / "other", tmp_path / "back", rule={"method": "conformal", "alpha": 0.1})
    assert (tmp_path / "back").read_bytes() == calibrated.read_bytes()


def test_what_is_not_asked_for_stays_as_the_detector_has_it(calibrated, fresh, tmp_path):
    asked = RuleSpec(method="gaussian", alpha=0.2, tail=Tail.UPPER, band=(0.1, 0.2), by=("size",))
    names = ("method", "alpha", "tail", "band", "by")
    run(calibrated, tmp_path / "one", rule={name: getattr(asked, name) for name in names})
    run(tmp_path / "one", tmp_path / "two", fresh / "a")
    run(tmp_path / "two", tmp_path / "three", rule={"band": None})
    assert calibration(tmp_path / "two").rule == asked
    assert calibration(tmp_path / "three").rule == replace(asked, band=None)


NEEDED = {"conformal": 1999, "fisher": 1997, "lof": 1000, "ocsvm": 1000}


@pytest.mark.parametrize("method", NEEDED)
def test_an_alpha_that_the_reals_cannot_carry_is_refused_and_nothing_written(method, calibrated, tmp_path):
    before = calibrated.read_bytes()
    for output, force in ((tmp_path / "out", False), (None, True)):
        with pytest.raises(TooFewScores, match=f"alpha 0.001.*{NEEDED[method]} real images, found {FRESH}"):
            run(calibrated, output, rule={"method": method, "alpha": 0.001}, force=force)
    assert list(tmp_path.iterdir()) == []
    assert calibrated.read_bytes() == before


class Heard(NoProgress):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: int | None) -> None:  # noqa: ARG002 - a ProgressListener is told both
        self.stages.append(name)


def test_too_few_files_are_refused_before_any_is_scored(tiny_bundle, fresh, tmp_path):
    heard = Heard()
    with pytest.raises(TooFewScores, match=f"39 real images, found {FRESH // 2}"):
        run(tiny_bundle, tmp_path / "out", fresh / "a", rule={"alpha": 0.05}, progress=heard)
    assert heard.stages == []


def test_readable_images_count_and_not_files(tiny_bundle, fresh, tmp_path):
    """Enough files, too few different images."""
    copies = tmp_path / "copies"
    shutil.copytree(fresh / "a", copies)
    with pytest.raises(TooFewScores, match=f"39 real images, found {FRESH // 2}"):
        run(tiny_bundle, tmp_path / "out", fresh / "a", copies, rule={"alpha": 0.05})
    assert not (tmp_path / "out").exists()


def test_a_file_is_replaced_only_by_force(tiny_bundle, tmp_path):
    own = tmp_path / "own"
    shutil.copy(tiny_bundle, own)
    for output in (None, own):
        with pytest.raises(OutputExists, match="--force"):
            run(own, output, rule={"alpha": 0.2})
    assert own.read_bytes() == tiny_bundle.read_bytes()
    run(own, None, rule={"alpha": 0.2}, force=True)
    assert calibration(own).rule.alpha == 0.2
    assert load(own).fingerprint == load(tiny_bundle).fingerprint
    assert list(tmp_path.iterdir()) == [own]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [({"append": True, "rule": {"alpha": 0.1}}, "nothing to append"), ({}, "nothing to calibrate")],
)
def test_nothing_to_do_is_said(request_, sentence):
    with pytest.raises(NothingToDo, match=sentence):
        CalibrateRequest(detector=Path("any"), **request_)


@pytest.mark.parametrize(
    "rule",
    [
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"band": (0.2, 0.1)},
        {"by": ("colour",)},
        {"method": "lof", "alpha": 0.6},
        {"method": "guess"},
    ],
)
def test_a_rule_that_is_nonsense_is_refused(rule, calibrated, tmp_path):
    with pytest.raises(BadSpec):
        run(calibrated, tmp_path / "out", rule=rule)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", RULES)
def test_a_scan_judges_by_the_rule_of_the_bundle(method, calibrated, reals, fresh, tmp_path):
    run(calibrated, tmp_path / "ruled", rule={"method": method, "alpha": 0.2, "tail": Tail.BOTH})
    some = sorted(reals.iterdir())[:16]
    ruled = scanned(tmp_path / "ruled", *some)
    plain = scanned(calibrated, *some)
    assert [result.column_scores for result in ruled] == [result.column_scores for result in plain]
    own = scanned(tmp_path / "ruled", fresh)
    assert sum(one.flagged for one in own) <= 0.5 * FRESH
    assert {result.judgement.calibration for result in ruled} == {CalibrationMatch.MATCHED}
    if method not in ("fisher", "cauchy", "harmonic"):  # all others rank by the mean score
        assert [result.judgement.p_value for result in ruled] == [result.judgement.p_value for result in plain]


def test_a_scan_calls_the_band_inconclusive(calibrated, fresh, tmp_path):
    run(calibrated, tmp_path / "banded", rule={"band": (0.0, 0.5)})
    for one in scanned(tmp_path / "banded", fresh):
        assert (one.judgement.verdict is Verdict.INCONCLUSIVE) == (one.judgement.p_value <= 0.5)
        assert not one.flagged
    assert any(one.flagged for one in scanned(calibrated, fresh))


def test_a_scan_names_stratum_fallback_and_extrapolation(tiny_bundle, fresh, tmp_path):
    from PIL import Image

    odd = tmp_path / "odd"
    odd.mkdir()
    first, second, third = sorted((fresh / "b").iterdir())[:3]
    Image.open(first).save(odd / "calibrating.png")
    run(tiny_bundle, tmp_path / "by", fresh / "a", odd, rule={"by": ("format", "quality")})
    Image.open(second).save(odd / "other.png")
    Image.open(third).save(odd / "other.webp")
    named = {Path(one.path).name: one for one in scanned(tmp_path / "by", odd, first)}
    assert {name: (one.judgement.calibration, one.judgement.stratum) for name, one in named.items()} == {
        "calibrating.png": ("fallback", None),
        "other.png": ("fallback", None),
        "other.webp": ("extrapolated", None),
        first.name: ("matched", "JPEG q90-94"),
    }


def test_a_scan_marks_what_the_calibration_never_saw_without_changing_its_score(calibrated, fresh, tmp_path):
    path = sorted((fresh / "a").iterdir())[0]
    draw_face(np.random.default_rng(99)).resize((200, 90)).save(tmp_path / "wide.png")
    usual, odd = scanned(calibrated, path, tmp_path / "wide.png")
    assert usual.judgement.atypical_input == ()
    assert set(odd.judgement.atypical_input) >= {"format", "size"}
    run(calibrated, tmp_path / "narrow", fresh / "a", tmp_path / "wide.png", append=True)
    again = scanned(tmp_path / "narrow", tmp_path / "wide.png")[0]
    assert (again.score, again.judgement.atypical_input) == (odd.score, ())


def test_a_place_that_cannot_be_written_is_refused_before_any_is_scored(tiny_bundle, fresh, tmp_path):
    heard = Heard()
    with pytest.raises(CannotWrite, match=r"cannot write .*no/folder"):
        run(tiny_bundle, tmp_path / "no" / "folder", fresh, progress=heard)
    assert heard.stages == []


@pytest.fixture(scope="module")
def saved_again(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One portrait with other bytes at its end, and the same portrait at other qualities."""
    folder = tmp_path_factory.mktemp("again")
    original = sorted((fresh / "a").iterdir())[0]
    for number in range(12):
        (folder / f"byte{number}.jpg").write_bytes(original.read_bytes() + bytes([number]))
    with Image.open(original) as image:
        for quality in (75, 85, 95):
            image.save(folder / f"quality{quality}.jpg", quality=quality)
    return folder


def test_near_copies_of_one_photograph_are_one_calibration_image(tiny_bundle, fresh, saved_again, tmp_path):
    with pytest.raises(TooFewScores, match="found 1"):
        run(tiny_bundle, tmp_path / "one.safetensors", saved_again)
    summary = run(tiny_bundle, tmp_path / "both.safetensors", saved_again, fresh)
    assert summary.description.images == FRESH
    assert summary.left_out == {"near_copy": 15}
    assert next(iter(_rows(summary))) == (
        "images",
        f"{FRESH} scored, n = {FRESH}; left out: none; 15 near copies of other images left out; unreadable: none",
    )


def test_near_copies_of_images_that_calibrate_or_were_fitted_to_add_nothing(
    tiny_bundle, calibrated, fresh, reals, saved_again, tmp_path
):
    again = tmp_path / "again"
    again.mkdir()
    for path in sorted(reals.iterdir())[:20]:
        (again / path.name).write_bytes(path.read_bytes() + b"x")
    known = fitted_on(tiny_bundle)
    fitted = {path.name for path in reals.iterdir() if hash_of(path) in known}
    for given in (fresh, saved_again):
        with pytest.raises(NothingToDo, match=r"no image to calibrate on .*(calibrated|near copy)"):
            run(calibrated, tmp_path / "more.safetensors", given, append=True)
    summary = run(tiny_bundle, tmp_path / "new.safetensors", again, fresh)
    assert summary.left_out == {"near_copy": sum(path.name in fitted for path in again.iterdir())}


def hash_of(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def fitted_on(bundle: Path) -> set[bytes]:
    return {bytes(row) for row in load(bundle).fitted_on}


def test_a_bundle_without_perceptual_hashes_still_loads_and_calibrates(tiny_bundle, fresh, tmp_path):
    detector = load(tiny_bundle)
    older = replace(detector, fitted_near=None, calibration=replace(detector.calibration, near_hashes=None))
    save(older, tmp_path / "older.safetensors")
    assert load(tmp_path / "older.safetensors").calibration.near_hashes is None
    summary = run(tmp_path / "older.safetensors", tmp_path / "new.safetensors", fresh, append=True)
    assert summary.scored == FRESH
    assert load(tmp_path / "new.safetensors").calibration.near_hashes is None


def test_features_are_those_of_a_scan_and_are_left_out_on_request(tiny_bundle, calibrated, fresh, tmp_path):
    whole = calibration(calibrated)
    detector = load(tiny_bundle)
    with open_evidence(None, b"", detector.feature_count, resumed=False) as evidence:
        scan = Scan(ScanRequest(detector=detector, runtime=RUNTIME), evidence=evidence)
        list(scan.results(find([str(fresh)], InputSpec())))
        sample = evidence.sample([image.sha256 for image in whole.facts])
        assert np.array_equal(sample.taken(np.arange(len(whole))), whole.features.values.astype(np.float32))
    assert (whole.features.device, whole.features.precision) == ("cpu", "fp32")
    bare, joined = tmp_path / "bare.safetensors", tmp_path / "joined.safetensors"
    summary = run(tiny_bundle, bare, fresh / "a", features=False)
    assert calibration(bare).features is None
    assert "none, so a scan cannot compare a batch" in dict(_rows(summary))["features"]
    # What only the appended images have is of no use.
    run(bare, joined, fresh / "b", append=True)
    assert calibration(joined).features is None
    assert np.array_equal(calibration(joined).scores, whole.scores)
    run(calibrated, joined, features=False, rule={"alpha": 0.2}, force=True)
    assert calibration(joined).features is None


def test_features_that_do_not_fit_the_images_or_the_layers_are_refused(calibrated):
    whole = calibration(calibrated)
    for values in (whole.features.values[1:], whole.features.values.astype(np.float32)):
        with pytest.raises(BadCalibration, match="features of another type or number"):
            replace(whole, features=replace(whole.features, values=values))
    broken = whole.features.values.copy()
    broken[3, 5] = np.inf
    with pytest.raises(BadCalibration, match="or some that are not finite"):
        replace(whole, features=replace(whole.features, values=broken))
    with pytest.raises(BadCalibration, match="not what computed them"):
        replace(whole, features=replace(whole.features, device=""))
    other = replace(whole, features=replace(whole.features, values=whole.features.values[:, :-1]))
    with pytest.raises(BadCalibration, match="features of other layers"):
        replace(load(calibrated), calibration=other)
    assert whole.features.with_more(replace(whole.features, precision="bf16")) is None
