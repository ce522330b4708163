"""`muflow ablate` as a user runs it: every variant is measured, and the detector's own is the detector again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from conftest import FP32, write_faces
from rich.console import Console

from muflow_cli.ablate import AblateRequest, ablate
from muflow_cli.ablate.schema import ablation_schema
from muflow_cli.ablate.silhouettes import silhouette
from muflow_cli.ablate.table import Axis, parse_axes
from muflow_cli.bench import BenchRequest, bench
from muflow_cli.bench.datasets import DataArgument, Wanted
from muflow_cli.bench.intervals import BootstrapSpec
from muflow_cli.calibration.rules import RULES
from muflow_cli.errors import BadSpec, TooFewImages
from muflow_cli.output.ablation_page import bars
from muflow_cli.output.ablation_text import ABLATION_WRITERS, csv_bytes, headline_rows, print_tables
from muflow_cli.output.schemas import FOLDER, schema_bytes

Run = Callable[..., Any]
ALPHA = 0.1  # of the tiny detector


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataArgument, ...]:
    """A real source and two generators, 6 images each, and a near copy of a real."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("first", "stylegan", "sdxl"), 41):
        paths = write_faces(root / name, 6, seed)
        if name == "first":
            (root / name / "copy.jpg").write_bytes(paths[0].read_bytes() + b"\0")
    sides = (("first", Wanted.REAL), ("stylegan", Wanted.FAKE), ("sdxl", Wanted.FAKE))
    return tuple(DataArgument(str(root / name), side) for name, side in sides)


@pytest.fixture(scope="module")
def report(tiny_bundle: Path, data: tuple[DataArgument, ...], reals: Path) -> dict[str, Any]:
    """Everything varied."""
    request = AblateRequest(
        detector=tiny_bundle,
        data=data,
        fit_on=(str(reals),),
        axes=frozenset(Axis),
        runtime=FP32,
        bootstrap=BootstrapSpec(resamples=20),
    )
    return ablate(request).document


def test_every_scorer_meets_every_rule_with_either_tail_at_every_alpha(report: dict[str, Any]) -> None:
    jsonschema.validate(report, ablation_schema())
    assert report["fit"] == {"train": 36, "validation": 12, "calibration": 32, "left_out": 0}
    assert (report["data"]["reals"], report["data"]["near_copies"]) == (6, 1)
    rows = report["table"]
    scorers = {(row["target"], row["flow"]) for row in rows}
    assert scorers == {(t, f) for t in ("normal", "mu") for f in ("flow", "identity", "latent mahalanobis")}
    assert {(row["classifier"], row["tail"]) for row in rows} == {(m, t) for m in RULES for t in ("upper", "both")}
    assert len(rows) == 6 * len(RULES) * 2 * 3
    rates = {
        alpha: [f["fpr"]["value"] for row in rows if row["alpha"] == alpha for f in (row["figures"] or {}).values()]
        for alpha in (0.05, 0.2)
    }
    assert np.mean(rates[0.2]) > np.mean(rates[0.05])
    assert [point["images_per_average"] for point in report["silhouette"]] == [1, 2]


def test_a_rule_that_needs_more_reals_than_there_are_says_so(report: dict[str, Any]) -> None:
    without = [row for row in report["table"] if row["figures"] is None]
    conformal = [row for row in without if row["classifier"] == "conformal"]
    assert {(row["tail"], row["alpha"]) for row in conformal} == {("both", 0.05)}
    assert "at least 39 real images" in conformal[0]["note"]


def test_fitted_to_the_same_reals_it_is_the_detector_again(
    report: dict[str, Any], tiny_bundle: Path, data: tuple[DataArgument, ...]
) -> None:
    detector = bench(
        BenchRequest(detector=tiny_bundle, data=data, runtime=FP32, bootstrap=BootstrapSpec(resamples=20))
    ).document
    wanted = {"target": "mu", "flow": "flow", "classifier": "conformal", "tail": "both", "alpha": ALPHA}
    (again,) = [row for row in report["table"] if wanted.items() <= row.items()]
    for source, against in detector["results"]["sources"].items():
        figures = again["figures"][source]
        assert figures["auc"]["value"] == pytest.approx(against["macro"]["rule_auc"]["value"], abs=1e-9)
        assert figures["fpr"] == against["flagged"]


def test_the_csv_holds_every_figure_and_every_note(report: dict[str, Any]) -> None:
    lines = list(csv.DictReader(csv_bytes(report).decode().splitlines()))
    measured = sum(5 * len(row["figures"]) for row in report["table"] if row["figures"] is not None)
    notes = [row["note"] for row in report["table"] if row["figures"] is None]
    assert len(lines) == measured + len(notes)
    assert [line["note"] for line in lines if line["note"]] == notes


def test_an_axis_that_is_not_named_stays_as_the_detector_has_it(
    muflow: Run, tiny_bundle: Path, data: tuple[DataArgument, ...], reals: Path, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("a.json", "a.csv", "a.md")]
    words = [word for side in data for word in (f"--{side.wanted}", side.text)]
    words += [word for path in files for word in ("-o", path)]
    done = muflow(
        "ablate", tiny_bundle, *words, "--fit-on", reals, "--axes", "alpha", "--precision", "fp32", "--branch", "main"
    )
    assert done.returncode == 0, done.stderr
    assert b"conformal" in done.stdout
    written = json.loads(files[0].read_bytes())
    assert [(row["flow"], row["classifier"], row["alpha"]) for row in written["table"]] == [
        ("flow", "conformal", alpha) for alpha in (0.05, 0.1, 0.2)
    ]
    assert written["silhouette"] is None
    assert all(path.stat().st_size for path in files)


def test_measured_images_are_not_fitted_to(tiny_bundle: Path, data: tuple[DataArgument, ...]) -> None:
    real = data[0].text
    request = AblateRequest(detector=tiny_bundle, data=data, fit_on=(real,), axes=frozenset(), runtime=FP32)
    with pytest.raises(TooFewImages, match="found 0"):
        ablate(request)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--axes", "depth"], b"--axes is depth: use one or several of target"),
        (["--branch", "other"], b"--branch is other: use one of main"),
        (["-o", "page.pdf"], b"use a name that ends in .json, .csv, .html or .md"),
    ],
)
def test_wrong_usage_is_one_sentence(
    words: list[str], complaint: bytes, muflow: Run, tiny_bundle: Path, data: tuple[DataArgument, ...], reals: Path
) -> None:
    sides = [word for side in data for word in (f"--{side.wanted}", side.text)]
    done = muflow("ablate", tiny_bundle, *sides, "--fit-on", reals, *words)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_axes_are_separated_by_commas() -> None:
    assert parse_axes("target, alpha") == {Axis.TARGET, Axis.ALPHA}
    with pytest.raises(BadSpec):
        parse_axes("target,")


def test_silhouette_is_near_one_for_far_clusters_and_refuses_a_single_group() -> None:
    vectors = np.array([[0, 0], [0, 0.1], [9, 9], [9, 9.1]])
    assert silhouette(vectors, ["a", "a", "b", "b"]) > 0.98
    assert silhouette(vectors, ["a", "b", "a", "b"]) < 0
    with pytest.raises(BadSpec, match="groups of the silhouette is 1"):
        silhouette(vectors, ["a"] * 4)


def test_the_shipped_schema_is_that_of_the_records() -> None:
    assert (FOLDER / "ablation-1.json").read_bytes() == schema_bytes(ablation_schema())


def test_a_terminal_shows_the_headline_rows_and_says_where_the_others_are(report: dict[str, Any]) -> None:
    rows = headline_rows(report)
    scorers = {(row["target"], row["flow"]) for row in report["table"]}
    assert {(row["target"], row["flow"]) for row in rows} == scorers
    assert len(rows) <= 2 * len(scorers) < len(report["table"])
    highest = max(auc_of(row) for row in report["table"] if row["figures"])
    assert max(auc_of(row) for row in rows if row["figures"]) == highest
    text = io.StringIO()
    print_tables(report, Console(file=text, width=1000))
    assert f"the table shows {len(rows)} of {len(report['table'])} rows" in text.getvalue()
    few = {**report, "table": report["table"][:9]}
    assert headline_rows(few) == few["table"]


def auc_of(row: dict[str, Any]) -> float:
    return float(row["figures"][row["worst_source"]]["auc"]["value"])


def test_a_page_draws_every_variant_as_a_bar_and_names_are_text(report: dict[str, Any]) -> None:
    drawn = bars(report)
    variants = {
        (row["target"], row["flow"], row["classifier"], row["tail"]) for row in report["table"] if row["figures"]
    }
    assert sum(map(len, drawn.values())) == len(variants)
    for own in drawn.values():
        assert [bar.value for bar in own] == sorted((bar.value for bar in own), reverse=True)
        assert all((bar.remark == "") == (bar.low > 0.5) for bar in own)
    page = ABLATION_WRITERS[".html"]({**report, "branch": "<script>x</script>"}).decode()
    assert page.count('class="whisker"') == len(variants)
    assert "<script" not in page
