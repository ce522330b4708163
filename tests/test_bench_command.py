"""`muflow bench` as a user runs it, on a tiny detector."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
import typer
from conftest import FP32, write_faces
from PIL import Image, ImageFilter
from scan_runs import begun
from test_bench import SCHEMA

from muflow_cli.bench import BenchRequest, BenchResult, bench
from muflow_cli.bench.data import Known, OverlapPolicy, SelectSpec, select
from muflow_cli.bench.datasets import data_arguments, read_datasets
from muflow_cli.bench.exhibits import LISTS
from muflow_cli.bench.scoring import Scoring
from muflow_cli.bundle import load
from muflow_cli.calibration.rules import RULES
from muflow_cli.cli.app import app
from muflow_cli.cli.bench_command import OverlapWord
from muflow_cli.images.find import find
from muflow_cli.progress import NoProgress
from muflow_cli.records import Scored, Unjudged
from muflow_cli.run_specs import InputSpec
from muflow_cli.scan.workflow import Scan, ScanRequest

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real sources and two generators, 12 images each."""
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
    files = [tmp_path / f"report.{suffix}" for suffix in ("json", "csv", "md", "xml", "scores.csv")]
    more = ["--perturb", "jpeg:q=30", "--perturb", "noise:std=0.1", "--on", "both", "--on", "fakes"]
    more += ["--gate", "macro_auc>=0"]
    first = muflow(*arguments(tiny_bundle, data), *(word for path in files for word in ("-o", path)), *more)
    assert first.returncode == 0, first.stderr
    assert b"macro AUC at the worst real source" in first.stdout
    before = json.loads(files[0].read_bytes())
    jsonschema.validate(before, SCHEMA)
    assert [c["on"] for c in before["robustness"]["conditions"]] == ["both", "fakes"] * 2
    assert all(path.stat().st_size for path in files)

    # Again with the former spellings, against itself as its baseline and against its own scores: nothing may differ.
    former = {
        "--json-output": "again.json", "--csv-output": "again.csv", "--markdown-output": "again.md",
        "--junit-output": "again.xml", "--scores": "again.scores.csv",
    }  # fmt: skip  # options beside their values
    again = [tmp_path / name for name in former.values()]
    more += ["--baseline", files[0], "--max-drop", "0", "--compare", files[-1]]
    outputs = [word for option, path in zip(former, again, strict=True) for word in (option, path)]
    second = muflow(*arguments(tiny_bundle, data), "--json", *more, *outputs)
    assert second.returncode == 0, second.stderr
    after = json.loads(second.stdout)
    assert json.loads(again[0].read_bytes()) == after
    assert again[-1].read_bytes() == files[-1].read_bytes()
    assert ElementTree.parse(again[3]).getroot().tag == "testsuites"  # noqa: S314 - written here
    assert {**after, "run": 0, "gates": 0, "comparisons": 0} == {**before, "run": 0, "gates": 0, "comparisons": 0}
    assert after["comparisons"][0]["headline"] == after["headline"]
    assert len(after["gates"]) == 1 + 2 * 4

    check_scores_alone(muflow, files[-1], tmp_path / "s.html", after)


def check_scores_alone(muflow: Run, scores: Path, page: Path, whole: dict[str, Any]) -> None:
    """A file of scores gives the figures of the images that it was measured on."""
    third = muflow("bench", "--scores-from", scores, "--resamples", "50", "--json", "-o", page)
    assert third.returncode == 0, third.stderr
    found = json.loads(third.stdout)
    assert found["data"]["digest"] == whole["data"]["digest"]
    assert found["headline"] == whole["headline"]
    assert found["detector"] is None
    assert "ROC against" in page.read_text()
    jsonschema.validate(found, SCHEMA)


def test_with_json_on_stdout_stderr_names_the_gates_that_failed(muflow: Run, tiny_bundle: Path, data: Path) -> None:
    gates = ["--gate", "macro_auc>=0.9999", "--gate", "fpr<=1"]
    done = muflow(*arguments(tiny_bundle, data), *gates, "--limit", "4", "--json")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count(b"gate failed: ") == 1
    assert b"gate failed: macro_auc>=0.9999 (" in done.stderr
    silent = muflow(*arguments(tiny_bundle, data), *gates, "--limit", "4", "--json", "--quiet")
    assert (silent.returncode, silent.stderr) == (1, b"")


def test_a_gate_that_fails_is_status_1_and_speed_and_page_are_measured(
    muflow: Run, tiny_bundle: Path, data: Path, tmp_path: Path
) -> None:
    files = ["-o", tmp_path / "a.json", "-o", tmp_path / "a.html"]
    done = muflow(
        *arguments(tiny_bundle, data), "--gate", "macro_auc>=0.9999", "--limit", "4", "--speed", *files, "--seed", "1"
    )
    assert done.returncode == 1, done.stderr
    assert b"FAILED" in done.stdout
    assert b"limited to 4 per group" in done.stdout
    assert b"Warning" not in done.stderr
    report = json.loads((tmp_path / "a.json").read_bytes())
    jsonschema.validate(report, SCHEMA)
    assert report["data"]["images"] == 16
    speed = report["run"]["throughput"]
    assert speed["bundle_bytes"] == tiny_bundle.stat().st_size
    # Of ResNet-18 to layer2 at 64 x 64: conv1 19.3, layer1 75.5, layer2 67.1, in millions of operations.
    assert speed["flops_per_view"] == pytest.approx(161.9e6, rel=0.001)
    assert all(value > 0 for name, value in speed.items() if name.endswith(("_per_second", "_seconds", "_bytes")))
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/png") == page.count("data:image/jpeg") == 4 * 6


def test_the_page_shows_the_worst_and_best_images_with_the_maps_of_a_scan(tiny_bundle: Path, data: Path) -> None:
    request = BenchRequest(
        detector=tiny_bundle,
        data=data_arguments([str(data / "first")], [str(data / "sdxl")], []),
        runtime=FP32,
        exhibits=3,
    )
    result = bench(request)
    rows = {fake: [row for row in result.rows if row.fake is fake] for fake in (False, True)}
    for title, (fake, most) in LISTS.items():
        shown = [exhibit.row.suspicion for exhibit in result.exhibits[title]]
        assert shown == sorted((row.suspicion for row in rows[fake]), reverse=most)[:3]
    collector = Collector()
    scan = Scan(ScanRequest(detector=load(tiny_bundle), runtime=FP32), gallery=collector)
    list(scan.results(find([str(data)], InputSpec())))
    for exhibits in result.exhibits.values():
        for exhibit in exhibits:
            np.testing.assert_allclose(exhibit.picture.heatmap, collector.maps[exhibit.row.path], atol=1e-6)


class Collector:
    """Keeps the heat map of every image of a scan."""

    def __init__(self) -> None:
        self.maps: dict[str, np.ndarray] = {}

    def wants(self, result: Scored | Unjudged) -> bool:  # noqa: ARG002 - the scan's protocol
        return True

    def add(
        self,
        result: Scored | Unjudged,
        thumbnail: bytes | None,  # noqa: ARG002 - as above
        heatmap: np.ndarray | None,
        parts: object,  # noqa: ARG002 - as above
    ) -> None:
        assert heatmap is not None
        self.maps[result.path] = heatmap


@pytest.mark.parametrize("method", [name for name in RULES if name != "gaussian"])
def test_the_rules_ranking_never_puts_a_flagged_image_below_another(method: str, tiny_bundle: Path, data: Path) -> None:
    detector = load(tiny_bundle)
    rule = replace(detector.calibration.rule, method=method, alpha=0.2)
    detector = replace(detector, calibration=replace(detector.calibration, rule=rule))
    dataset = read_datasets(data_arguments([str(data / "first")], [str(data / "sdxl")], []), InputSpec())
    selection = select(dataset, Known(), SelectSpec())
    rows, unreadable = Scoring(detector, FP32, InputSpec()).rows(selection.images, NoProgress())
    assert unreadable == []
    assert [row.path for row in rows] == [image.sample.path for image in selection.images]
    if method in ("conformal", "fisher", "cauchy", "harmonic"):
        assert [row.suspicion for row in rows] == [-row.p_value for row in rows]
    flagged = [row.suspicion for row in rows if row.flagged]
    assert not flagged or min(flagged) > max(row.suspicion for row in rows if not row.flagged)


def test_an_image_that_cannot_be_decoded_is_a_record_and_the_rest_keep_their_scores(
    tiny_bundle: Path, data: Path, tmp_path: Path
) -> None:
    for name in ("first", "sdxl"):
        shutil.copytree(data / name, tmp_path / name)
    (tmp_path / "first" / "0003.jpg").write_bytes(b"not an image")

    def scores(root: Path) -> BenchResult:
        sides = data_arguments([str(root / "first")], [str(root / "sdxl")], [])
        return bench(BenchRequest(detector=tiny_bundle, data=sides, runtime=FP32))

    whole, broken = scores(data), scores(tmp_path)
    assert [item["code"] for item in broken.document["data"]["unreadable"]] == ["not_an_image"]
    by_name = {(row.group, Path(row.path).name): row.score for row in whole.rows}
    assert len(broken.rows) == len(whole.rows) - 1
    assert all(row.score == by_name[row.group, Path(row.path).name] for row in broken.rows)


def test_at_most_20_options_are_shown_and_no_help_text_starts_with_of() -> None:
    options = [p for p in typer.main.get_command(app).commands["bench"].params if p.param_type_name == "option"]  # type: ignore[attr-defined] # a group
    assert len([option for option in options if not option.hidden]) <= 20
    assert not [option.name for option in options if (option.help or "").startswith("Of ")]
    assert set(get_args(OverlapWord)) == set(OverlapPolicy)


def test_images_of_the_fit_are_refused_before_anything_is_scored(
    muflow: Run, tiny_bundle: Path, reals: Path, data: Path
) -> None:
    done = muflow("bench", tiny_bundle, "--real", f"own={reals}", "--fake", data / "sdxl")
    assert done.returncode == 2
    assert b"of own that it was fitted on" in done.stderr
    assert b"of own that it was calibrated on" in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize("words", [["--overlap", "drop"], ["--drop-overlap"]])
def test_known_images_are_dropped_by_either_spelling(
    words: list[str], muflow: Run, tiny_bundle: Path, reals: Path, data: Path
) -> None:
    mixed = ["--real", f"own={reals}", "--real", data / "first", "--fake", data / "sdxl"]
    done = muflow("bench", tiny_bundle, *mixed, "--resamples", "20", "--json", *words)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["data"]["overlap"]["policy"] == "drop"
    assert {group["group"] for group in report["data"]["groups"]} == {"first", "sdxl"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--gate", "macro_acu>=1"], "column 1, unknown metric 'macro_acu': use fpr"),
        (["--perturb", "jpeg:q=0"], "column 8"),
        (["--suite", "none"], "--suite is none"),
        (["--perturb", "flip", "--on", "neither"], "--on is neither"),
        (["--scores-from", "x.csv"], "--scores-from cannot be combined with DETECTOR"),
        (["--ablation", "target"], "see `muflow ablate --help`"),
        (["--fit-on", "x"], "--fit-on needs --protocol"),
        (["--folds", "3"], "--folds needs --protocol"),
        (["--protocol", "all"], "--protocol is all"),
        (["--protocol", "seen", "--resume", "-o", "a.json"], "--resume cannot be combined with --protocol"),
        (["--protocol", "seen", "-o", "a.scores.csv"], "-o FILE.scores.csv cannot be combined with --protocol"),
        (["--compare", "missing.csv"], "missing.csv is not a file"),
        (["--on", "reals"], "--on needs --perturb or --suite"),
        (["--max-drop", "0.1"], "--max-drop needs --baseline"),
        (["--allow-overlap", "--drop-overlap"], "cannot be combined with --drop-overlap"),
        (["-o", "missing/folder.csv"], "cannot write missing/folder.csv"),
        (["-o", "report.pdf"], "use a name that ends in .json"),
        (["-o", "same.csv", "--csv-output", "same.csv"], "same.csv twice"),
    ],
)
def test_wrong_usage_is_one_sentence(
    words: list[str],
    complaint: str,
    tiny_bundle: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert begun([*arguments(tiny_bundle, data), *words], monkeypatch) == 2
    shown, said = capsys.readouterr()
    assert complaint in said
    assert said.count("\n") == 1
    assert said.count(": ") <= 2  # "muflow: " and one more
    assert shown == ""
    assert list(tmp_path.iterdir()) == []
