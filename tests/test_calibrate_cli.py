"""Promises of the command `muflow calibrate`: streams, exit status, sentences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import write_faces
from typer.testing import CliRunner, Result

from muflow_cli.bundle import load
from muflow_cli.cli.app import app
from muflow_cli.errors import BadSpec, TooFewScores

COUNT = 40


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fresh")
    write_faces(folder, COUNT, seed=41)  # no two of which are near copies
    return folder


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("calibrated") / "mine.safetensors"
    assert here(tiny_bundle, fresh, "-o", output).exit_code == 0
    return output


def here(*arguments: object) -> Result:
    """The command in this process, which spares loading torch again."""
    words = ["calibrate", *map(str, arguments), "--precision", "fp32", "--workers", "1"]
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, words)


def test_json_goes_to_stdout_and_the_summary_to_stderr(muflow, tiny_bundle, fresh, tmp_path):
    (fresh.parent / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    output = tmp_path / "mine.safetensors"
    done = muflow("calibrate", tiny_bundle, fresh, fresh.parent / "broken.jpg", "-o", output, "--json")
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    detector = load(output)
    assert (summary["scored"], sum(summary["unreadable"].values())) == (COUNT, 1)
    assert summary["fingerprint"] == detector.fingerprint == load(tiny_bundle).fingerprint
    assert summary["calibration_fingerprint"] == detector.calibration.fingerprint()
    assert summary["description"]["rule"]["method"] == "conformal"
    assert summary["description"]["ranges"]["limits"]["shorter_side"] == [72, 72]
    assert b"true rate      at most" in done.stderr
    assert str(output).encode() in done.stderr


def test_an_alpha_out_of_reach_is_one_sentence_and_status_two(muflow, calibrated, tmp_path):
    done = muflow("calibrate", calibrated, "--alpha", "0.01", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        "muflow: method conformal at alpha 0.01, tail both, needs scores of at least 199 real images, found 40: "
        "add images, or use --alpha 0.049, the least that 40 allow\n"
    )
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_read_alone_are_status_two(muflow, tiny_bundle, tmp_path):
    texts = [tmp_path / "one.jpg", tmp_path / "two.jpg"]
    for text in texts:
        text.write_text("no image")
    done = muflow("calibrate", tiny_bundle, *texts, "-o", tmp_path / "out", "--alpha", "0.9", "--quiet")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().count("\n") == 1
    assert "(2 not an image): give files or folders of real face images" in done.stderr.decode()
    assert not (tmp_path / "out").exists()


def test_the_conformal_summary_states_what_n_allows(calibrated, tmp_path):
    said = here(calibrated, "--alpha", 0.2, "-o", tmp_path / "out").stderr
    assert f"0 scored and {COUNT} stored, n = {COUNT}; left out: none; unreadable: none" in said
    assert "conformal, alpha 0.2, tail both; no band; one stratum" in said
    assert f"{COUNT} real images can give p-values down to 0.0488" in said
    assert "true rate      at most 0.304 with 95 % confidence" in said
    assert "JPEG; shorter side 72 to 72; longer side 72 to 72; jpeg quality 90 to 90; sharpness" in said


def test_the_gaussian_summary_puts_the_empirical_rate_beside_the_check(calibrated, tmp_path):
    said = here(calibrated, "--method", "gaussian", "--tail", "upper", "-o", tmp_path / "out").stderr
    assert "method gaussian promises none" in said
    assert "Anderson-Darling" in said
    assert "the threshold flags a share of" in said


def test_a_gaussian_that_fits_badly_is_a_warning(tmp_path, calibrated):
    from dataclasses import replace

    from muflow_cli.bundle import save

    detector = load(calibrated)
    skewed = replace(detector.calibration, scores=detector.calibration.scores**9)
    save(replace(detector, calibration=skewed), tmp_path / "skewed")
    said = here(tmp_path / "skewed", "--method", "gaussian", "-o", tmp_path / "out").stderr
    assert "warning: the Gaussian fits badly" in said


def test_strata_and_subsample_are_in_the_summary(calibrated, tmp_path):
    said = here(calibrated, "--by", "format,size", "--band", "0.05,0.2", "-o", tmp_path / "by").stderr
    assert "p from 0.05 to 0.2 inconclusive; by format, size" in said
    assert f"JPEG <128px: {COUNT} real images, true rate at most" in said
    said = here(tmp_path / "by", "--alpha", 0.03, "--by", "none", "--method", "lof", "-o", tmp_path / "lof").stderr
    assert f"{COUNT} of {COUNT} reals" in said
    assert "one stratum" in said


def test_a_subsample_is_said_to_be_one(calibrated, tmp_path, monkeypatch):
    monkeypatch.setattr("muflow_cli.calibration.novelty.NOVELTY_CAP", 30)
    said = here(calibrated, "--method", "ocsvm", "-o", tmp_path / "out").stderr
    assert f"30 of {COUNT} reals (a seeded subsample)" in said


def test_none_takes_band_and_strata_away(calibrated, tmp_path):
    here(calibrated, "--by", "size,format,size", "--band", "0.1,0.2", "-o", tmp_path / "one")
    here(tmp_path / "one", "--by", "none", "--band", "none", "-o", tmp_path / "two")
    assert load(tmp_path / "one").calibration.rule.by == ("size", "format")
    assert load(tmp_path / "two").calibration.fingerprint() == load(calibrated).calibration.fingerprint()


@pytest.mark.parametrize(
    "arguments",
    [["--band", "0.1"], ["--band", "a,b"], ["--band", "0.3,0.1"], ["--by", "colour"], ["--by", ""], ["--alpha", "2"]],
)
def test_wrong_values_are_refused(arguments, calibrated, tmp_path):
    done = here(calibrated, *arguments, "-o", tmp_path / "out")
    assert isinstance(done.exception, BadSpec)
    assert not (tmp_path / "out").exists()


def test_the_own_file_is_replaced_with_force(calibrated, tmp_path):
    own = tmp_path / "own.safetensors"
    shutil.copy(calibrated, own)
    assert "--force" in str(here(own, "--alpha", 0.2).exception)
    assert here(own, "--alpha", 0.2, "--force").exit_code == 0
    assert load(own).calibration.rule.alpha == 0.2
    assert isinstance(here(own, "--alpha", 0.001, "--force").exception, TooFewScores)
    assert load(own).calibration.rule.alpha == 0.2
