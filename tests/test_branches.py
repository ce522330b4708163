"""A detector of two branches, each with its own view of one decoded image, from `muflow fit` to verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Muflow

from muflow_cli.bundle import load
from muflow_cli.cli.fit_spec import branch_weights, fit_spec
from muflow_cli.errors import BadSpec

COLUMNS = ["whole/layer1", "whole/layer2", "traces/full", "traces/half", "traces/quarter"]
SETTINGS = (
    "flow.steps=2",
    "target.components=1",
    "train.epochs=2",
    "train.batch_size=16",
    "train.calibration_share=0.4",
    "feature.dimensions=6",
    "feature.grid=2",
    "whole/feature.layers=layer1,layer2",
)


@pytest.fixture(scope="module")
def two_branches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("branches") / "both.safetensors"


def fit(muflow: Muflow, reals: Path, weights: Path, output: Path) -> None:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    # The older spellings of both numbers are kept for one release.
    averages = ("--mean-size", "8", "--means", "20")
    branches = ("--branch", "whole=resnet18,view.size=64", "--branch", "traces=forensic,view.kind=crops,view.size=64")
    words = ("fit", reals, "-o", output, *branches, "--encoder-weights", weights, "--alpha", "0.1", *averages)
    done = muflow(*words, *settings, "--precision", "fp32", "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["columns"] == COLUMNS


@pytest.fixture
def bundle(muflow: Muflow, reals: Path, tiny_weights: Path, two_branches: Path) -> Path:
    if not two_branches.exists():
        fit(muflow, reals, tiny_weights, two_branches)
    return two_branches


def test_both_branches_are_fitted_each_with_its_own_view_and_settings(bundle: Path) -> None:
    detector = load(bundle)
    whole, traces = detector.spec.branches
    assert (whole.name, whole.feature.encoder, whole.view.kind, whole.view.size) == ("whole", "resnet18", "resize", 64)
    assert (traces.name, traces.feature.encoder, traces.view.kind) == ("traces", "forensic", "crops")
    assert (traces.target.images_per_average, traces.target.n_averages) == (8, 20)
    assert list(detector.columns) == COLUMNS
    assert detector.calibration.rule.method == "cauchy"


@pytest.mark.parametrize("method", ["fisher", "cauchy", "harmonic"])
def test_every_combining_rule_calibrates_and_scans_with_named_columns(
    method: str, muflow: Muflow, bundle: Path, reals: Path, tmp_path: Path
) -> None:
    calibrated = tmp_path / "calibrated.safetensors"
    done = muflow("calibrate", bundle, "--method", method, "-o", calibrated)
    assert done.returncode == 0, done.stderr.decode()
    assert f"{method}, alpha 0.1" in done.stderr.decode()
    few = sorted(reals.iterdir())[:12]
    scanned = muflow("scan", *few, "--detector", calibrated, "--json", "--exit-zero", "--quiet")
    assert scanned.returncode == 0, scanned.stderr.decode()
    report = json.loads(scanned.stdout)
    assert report["detector"]["columns"] == COLUMNS
    assert report["detector"]["encoder"] == "resnet18+forensic"
    assert len(report["results"]) == len(few)
    for result in report["results"]:
        assert len(result["column_scores"]) == len(COLUMNS)
        assert result["heaviest"] in COLUMNS
        assert result["score"] == pytest.approx(sum(result["column_scores"]) / len(COLUMNS))


def test_info_shows_format_branches_columns_and_what_the_calibration_promises(muflow: Muflow, bundle: Path) -> None:
    document = json.loads(muflow("info", bundle, "--json").stdout)
    assert (document["format"], document["columns"]) == (2, COLUMNS)
    assert [branch["name"] for branch in document["spec"]["branches"]] == ["whole", "traces"]
    assert set(document["provenance"]["branches"]) == {"whole", "traces"}
    assert document["calibration"]["rule"]["method"] == "cauchy"
    assert document["calibration"]["smallest_p_value"] <= 0.1
    assert document["calibration"]["true_rate"]["at_most"] > 0
    text = muflow("info", bundle).stdout.decode()
    for words in (*COLUMNS, "resnet18", "forensic", "cauchy, alpha 0.1", document["fingerprint"], "true rate"):
        assert words in text


def test_a_single_branch_keeps_the_rule_of_its_preset_and_a_given_rule_wins() -> None:
    two = ["a=resnet18", "b=forensic"]
    assert fit_spec("light", ["a=resnet18"], {}, []).rule.method == "conformal"
    assert fit_spec("light", two, {"rule": {"method": "fisher"}}, []).rule.method == "fisher"
    assert fit_spec("light", two, {}, ["rule.method=harmonic"]).rule.method == "harmonic"


def test_the_most_specific_setting_wins() -> None:
    branches = ["a=resnet18,view.size=96,feature.layers=layer1,layer2", "b=forensic"]
    spec = fit_spec("light", branches, {"view": {"size": 128}}, ["b/view.size=64", "flow.steps=3"])
    assert [(branch.view.size, branch.flow.steps) for branch in spec.branches] == [(96, 3), (64, 3)]
    assert spec.branches[0].feature.layers == ("layer1", "layer2")


def test_weights_go_to_the_one_branch_that_learns_or_to_the_one_named(tmp_path: Path) -> None:
    spec = fit_spec("light", ["a=resnet18", "b=forensic"], {}, [])
    odd = tmp_path / "x=y.pth"
    odd.touch()
    assert branch_weights(spec, ["w.pth"]) == {"a": Path("w.pth")}
    assert branch_weights(spec, ["a=w.pth"]) == {"a": Path("w.pth")}
    assert branch_weights(spec, [str(odd)]) == {"a": odd}
    with pytest.raises(BadSpec, match="one file for each branch"):
        branch_weights(spec, ["w.pth", "a=v.pth"])
