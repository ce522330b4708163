"""`muflow bench` as a user runs it, on a tiny detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import write_faces
from PIL import Image, ImageFilter
from test_bench import SCHEMA

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real sources and two generators, 12 pictures each."""
    root = tmp_path_factory.mktemp("data")
    write_faces(root / "first", 12, seed=21)
    write_faces(root / "second", 12, seed=22)
    for seed, name in ((23, "stylegan"), (24, "sdxl")):
        for path in write_faces(root / name, 12, seed):
            with Image.open(path) as image:
                image.filter(ImageFilter.GaussianBlur(seed - 22)).save(path, quality=80)
    return root


def arguments(bundle: Path, data: Path) -> list[str | Path]:
    return [
        "bench", bundle, "--precision", "fp32", "--resamples", "50", "--workers", "1", "--real", data / "first",
        "--real", data / "second", "--fake", f"gan={data / 'stylegan'}", "--fake", data / "sdxl",
    ]  # fmt: skip  # options beside their values


def test_two_runs_with_one_seed_agree_and_every_file_is_written(
    muflow: Run, tiny_bundle: Path, data: Path, tmp_path: Path
) -> None:
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "csv", "markdown", "junit")}
    outputs = [word for kind, path in files.items() for word in (f"--{kind}-output", path)]
    more = ["--perturb", "jpeg:q=30", "--perturb", "noise:std=0.1", "--on", "both", "--on", "fakes"]
    more += ["--gate", "macro_auc>=0", "--scores", tmp_path / "scores.csv"]
    first = muflow(*arguments(tiny_bundle, data), *outputs, *more)
    assert first.returncode == 0, first.stderr
    assert b"macro AUC at the worst real source" in first.stdout
    before = json.loads(files["json"].read_bytes())
    jsonschema.validate(before, SCHEMA)
    assert [c["on"] for c in before["robustness"]["conditions"]] == ["both", "fakes"] * 2
    assert all(path.stat().st_size for path in files.values())

    # Again, against itself as its baseline and against its own scores: nothing may differ.
    more = [*more[:-1], tmp_path / "again.csv", "--baseline", files["json"], "--max-drop", "0"]
    second = muflow(*arguments(tiny_bundle, data), "--json", *more, "--compare", tmp_path / "scores.csv")
    assert second.returncode == 0, second.stderr
    after = json.loads(second.stdout)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "scores.csv").read_bytes()
    assert {**after, "run": 0, "gates": 0, "comparisons": 0} == {**before, "run": 0, "gates": 0, "comparisons": 0}
    assert after["comparisons"][0]["headline"] == after["headline"]
    assert len(after["gates"]) == 1 + 2 * 4

    third = muflow(
        "bench",
        "--scores-from",
        tmp_path / "scores.csv",
        "--resamples",
        "50",
        "--json",
        "--report",
        tmp_path / "s.html",
    )
    assert third.returncode == 0, third.stderr
    found = json.loads(third.stdout)
    assert found["data"]["digest"] == after["data"]["digest"]
    assert found["headline"] == after["headline"]
    assert found["detector"] is None
    assert "ROC against" in (tmp_path / "s.html").read_text()
    jsonschema.validate(found, SCHEMA)


def test_a_gate_that_fails_is_status_1_and_speed_and_page_are_measured(
    muflow: Run, tiny_bundle: Path, data: Path, tmp_path: Path, reals: Path
) -> None:
    ablation = ["--ablation", "target,classifier,alpha,mean-size", "--fit-on", reals]
    files = ["--json-output", tmp_path / "a.json", "--report", tmp_path / "a.html"]
    done = muflow(
        *arguments(tiny_bundle, data), "--gate", "macro_auc>=0.9999", "--limit", "4", "--throughput", *ablation, *files
    )
    assert done.returncode == 1, done.stderr
    assert b"FAILED" in done.stdout
    assert b"at most 4 per group" in done.stdout
    assert b"Warning" not in done.stderr
    report = json.loads((tmp_path / "a.json").read_bytes())
    jsonschema.validate(report, SCHEMA)
    assert report["data"]["pictures"] == 16
    speed = report["run"]["throughput"]
    assert speed["bundle_bytes"] == tiny_bundle.stat().st_size
    # Of ResNet-18 to layer2 at 64 x 64: conv1 19.3, layer1 75.5, layer2 67.1, in millions of operations.
    assert speed["flops_per_view"] == pytest.approx(161.9e6, rel=0.001)
    assert all(value > 0 for name, value in speed.items() if name.endswith(("_per_second", "_seconds", "_bytes")))
    check_ablation(report["ablation"])
    # Fitted to the same reals with the same settings, the ablation's own detector is the bundle again.
    same = [r for r in report["ablation"]["table"] if (r["target"], r["flow"], r["alpha"]) == ("mu", "flow", 0.1)]
    again = next(row for row in same if row["classifier"] == "conformal, both tails")["figures"]
    for source, against in report["results"]["sources"].items():
        assert again[source]["auc"]["value"] == pytest.approx(against["macro"]["rule_auc"]["value"], abs=1e-9)
        assert again[source]["fpr"] == against["flagged"]
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/png") == page.count("data:image/jpeg") == 4 * 6


def check_ablation(ablation: dict[str, Any]) -> None:
    """Every scorer meets every classifier at every alpha, and what cannot be done says why."""
    assert ablation["fit"] == {"train": 36, "validation": 12, "calibration": 32, "left_out": 0}
    rows = ablation["table"]
    scorers = {(row["target"], row["flow"]) for row in rows}
    assert scorers == {(t, f) for t in ("normal", "mu") for f in ("flow", "identity", "latent mahalanobis")}
    assert len(rows) == 6 * 4 * 3
    # 32 calibration reals cannot give a two-sided p-value of 0.05: said, not hidden.
    without = [row for row in rows if row["figures"] is None]
    assert {(row["classifier"], row["alpha"]) for row in without} == {("conformal, both tails", 0.05)}
    assert "39 real pictures" in without[0]["note"]
    fpr = {
        alpha: [f["fpr"]["value"] for row in rows if row["alpha"] == alpha for f in (row["figures"] or {}).values()]
        for alpha in (0.05, 0.2)
    }
    assert sum(fpr[0.2]) / len(fpr[0.2]) > sum(fpr[0.05]) / len(fpr[0.05])
    assert [point["mean_size"] for point in ablation["silhouette"]] == [1, 2]


def test_pictures_of_the_fit_are_refused_before_anything_is_scored(
    muflow: Run, tiny_bundle: Path, reals: Path, data: Path
) -> None:
    done = muflow("bench", tiny_bundle, "--real", f"own={reals}", "--fake", data / "sdxl")
    assert done.returncode == 2
    assert b"of own that it was fitted on" in done.stderr
    assert b"of own that it was calibrated on" in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--gate", "macro_acu>=1"], b"column 1"),
        (["--perturb", "jpeg:q=0"], b"column 8"),
        (["--suite", "none"], b"--suite is none"),
        (["--perturb", "flip", "--on", "neither"], b"--on is neither"),
        (["--scores-from", "x.csv"], b"--scores-from"),
        (["--ablation", "target"], b"--fit-on"),
        (["--compare", "missing.csv"], b"missing.csv is not a file"),
        (["--on", "reals"], b"--on is given without"),
        (["--max-drop", "0.1"], b"--max-drop is given without"),
        (["--ablation", "depth", "--fit-on", "x"], b"--ablation is depth"),
        (["--allow-overlap", "--drop-overlap"], b"--drop-overlap"),
        (["--csv-output", "missing/folder.csv"], b"no such folder"),
    ],
)
def test_wrong_usage_is_one_sentence(
    words: list[str], complaint: bytes, tiny_bundle: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import sys

    from muflow_cli.cli import main

    before, sys.argv = sys.argv, ["muflow", *map(str, arguments(tiny_bundle, data)), *words]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    said = capfd.readouterr()
    assert ended.value.code == 2
    assert complaint in said.err.encode()
    assert said.err.count("\n") == 1
    assert said.out == ""
