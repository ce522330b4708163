"""A rule that is one class and one row of RULES works everywhere: calibrate, scan, its reports, bench, ablate."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FP32, write_faces

from muflow_cli import __version__
from muflow_cli.ablate import AblateRequest, ablate
from muflow_cli.ablate.table import Axis
from muflow_cli.bench import BenchRequest, bench
from muflow_cli.bench.datasets import DataArgument, Wanted
from muflow_cli.bundle import load
from muflow_cli.calibrate.workflow import CalibrateRequest, calibrate
from muflow_cli.calibration.pvalues import Scores, conformal_p_values
from muflow_cli.calibration.rule import Rule, RuleJudgement
from muflow_cli.calibration.rules import RULES
from muflow_cli.images.find import find
from muflow_cli.output.writers import WRITERS, OutputFormat, WriterContext
from muflow_cli.records import Scored
from muflow_cli.run_records import RunInfo, Summary
from muflow_cli.run_specs import InputSpec
from muflow_cli.scan.workflow import Scan, ScanRequest
from muflow_cli.specs import RuleSpec


class Largest(Rule):
    """Flags an image whose largest column lies beyond that of almost all reals; ranks by that column."""

    name = "largest"

    def __init__(self, scores: Scores, spec: RuleSpec) -> None:
        self.spec, self.reals = spec, np.sort(scores.max(axis=1))

    @classmethod
    def minimum_images(cls, spec: RuleSpec) -> int:  # noqa: ARG003 - the same for every alpha
        return 2

    @classmethod
    def rate_bounds(cls, spec: RuleSpec, n: int) -> None:
        cls.require_images(spec, n)

    def judge(self, scores: Scores) -> RuleJudgement:
        largest = scores.max(axis=1)
        p_value, high = conformal_p_values(self.reals, largest, self.spec.tail)
        return RuleJudgement(p_value, largest > np.quantile(self.reals, 1 - self.spec.alpha), high)

    def ranking(self, scores: Scores) -> Scores:
        return scores.max(axis=1)


@pytest.fixture(autouse=True)
def row() -> Iterator[None]:
    RULES[Largest.name] = Largest
    yield
    del RULES[Largest.name]


@pytest.fixture
def calibrated(tiny_bundle: Path, tmp_path: Path) -> Path:
    output = tmp_path / "largest.safetensors"
    summary = calibrate(CalibrateRequest(detector=tiny_bundle, output=output, rule={"method": "largest"}))
    assert summary.description.rule.method == "largest"
    return output


@pytest.fixture
def data(tmp_path: Path) -> tuple[DataArgument, ...]:
    for seed, name in enumerate(("people", "stylegan", "sdxl"), 51):
        write_faces(tmp_path / name, 8, seed)
    real = DataArgument(str(tmp_path / "people"), Wanted.REAL)
    return real, *(DataArgument(str(tmp_path / name), Wanted.FAKE) for name in ("stylegan", "sdxl"))


def test_it_judges_a_scan_and_stands_in_the_html_and_json_reports(
    calibrated: Path, data: tuple[DataArgument, ...]
) -> None:
    detector = load(calibrated)
    scan = Scan(ScanRequest(detector=detector, runtime=FP32))
    results = list(scan.results(find([side.text for side in data], InputSpec())))
    scored = [result for result in results if isinstance(result, Scored)]
    threshold = np.quantile(detector.calibration.scores.max(axis=1), 1 - detector.calibration.rule.alpha)
    assert [result.flagged for result in scored] == [max(result.column_scores) > threshold for result in scored]
    run = RunInfo(
        tool="muflow", version=__version__, argv=("muflow",), started="2026-03-01T09:00:00Z", device="cpu",
        precision="fp32", versions={}, finished="2026-03-01T09:00:01Z",
    )  # fmt: skip  # a fixed record
    summary = Summary(
        inputs=len(results), scored=len(scored), flagged=sum(result.flagged for result in scored), unreadable=0,
        duplicates=0, seconds=1.0, images_per_second=24.0,
    )  # fmt: skip  # a fixed record
    written = {}
    for format_ in (OutputFormat.JSON, OutputFormat.HTML):
        stream = io.BytesIO()
        writer = WRITERS[format_].make(stream, WriterContext())
        writer.begin(replace(run, finished=None), detector.info(str(calibrated)))
        for result in results:
            writer.write(result)
        writer.end(run, summary)
        written[format_] = stream.getvalue()
    assert json.loads(written[OutputFormat.JSON])["detector"]["rule"] == "largest"
    assert b"largest" in written[OutputFormat.HTML]


def test_bench_ranks_by_its_own_ranking(calibrated: Path, data: tuple[DataArgument, ...]) -> None:
    result = bench(BenchRequest(detector=calibrated, data=data, runtime=FP32, exhibits=2))
    assert result.document["detector"]["rule"] == "largest"
    assert [row.suspicion for row in result.rows] == [max(row.column_scores) for row in result.rows]
    reals = [row.suspicion for row in result.rows if not row.fake]
    fakes = [row.suspicion for row in result.rows if row.group == "sdxl"]
    above = np.mean([float(f > r) + 0.5 * float(f == r) for f in fakes for r in reals])
    figures = result.document["results"]["sources"]["people"]["generators"]["sdxl"]["figures"]
    assert figures["rule_auc"]["value"] == pytest.approx(above)


def test_it_is_a_classifier_of_the_ablation(calibrated: Path, data: tuple[DataArgument, ...], reals: Path) -> None:
    request = AblateRequest(
        detector=calibrated, data=data, fit_on=(str(reals),), axes=frozenset({Axis.CLASSIFIER}), runtime=FP32
    )
    rows = [row for row in ablate(request).document["table"] if row["classifier"] == "largest"]
    assert [row["tail"] for row in rows] == ["upper", "both"]
    assert all(row["figures"] for row in rows)
