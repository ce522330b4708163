"""`muflow bench --protocol`: fits of a detector's settings are measured on what they did not use."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from bench_samples import RUN, SPEC
from conftest import FP32, write_faces
from PIL import Image
from rich.console import Console

from muflow_cli.bench import BenchRequest, bench
from muflow_cli.bench.data import Known, OverlapPolicy, SelectSpec, select
from muflow_cli.bench.datasets import DataArgument, Wanted, data_arguments, read_datasets
from muflow_cli.bench.document import Measured, Settings, build_document
from muflow_cli.bench.folds import Pool, Protocol, parse_protocols, tasks_of
from muflow_cli.bench.gates import parse_gate
from muflow_cli.bench.intervals import BootstrapSpec
from muflow_cli.bench.page import page_of
from muflow_cli.bench.protocol_images import in_order
from muflow_cli.bench.protocols import Measurement, ProtocolsSpec, measure_protocols
from muflow_cli.bench.robustness import Condition, On
from muflow_cli.bench.schema import bench_schema
from muflow_cli.bench.scoring import Scoring
from muflow_cli.bench.workflow import BenchResult
from muflow_cli.bundle import load, save
from muflow_cli.errors import BadData, BadSpec, IncompatibleOptions
from muflow_cli.fit import FitRequest, fit
from muflow_cli.images.perturb import parse
from muflow_cli.output import bench_text
from muflow_cli.output.bench_report import render_bench
from muflow_cli.progress import NoProgress
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import RuleSpec

FOLDS = 2
BOOTSTRAP = BootstrapSpec(resamples=10)
EVALUATE = replace(SPEC, bootstrap=BOOTSTRAP)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def template(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector with a rule that needs few reals."""
    detector = load(tiny_bundle)
    rule = RuleSpec(method="conformal", alpha=0.3)
    path = tmp_path_factory.mktemp("template") / "template.safetensors"
    save(replace(detector, calibration=replace(detector.calibration, rule=rule)), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, portrait: Image.Image) -> Path:
    """Two real sources, one that is too small to be fitted to, further reals, and two generators.

    The further reals hold near copies of two images of `first`, one of them at another size; `first` holds one of
    another image of its own.
    """
    root = tmp_path_factory.mktemp("protocols")
    for seed, (name, count) in enumerate({"first": 37, "second": 38, "few": 5, "more": 8, "gan": 7, "sdxl": 6}.items()):
        write_faces(root / name, count, 60 + seed)
    portrait.resize((300, 300)).save(root / "first" / "portrait.jpg")
    portrait.resize((90, 90)).save(root / "more" / "portrait.png")
    for number, copy in enumerate((root / "more" / "copy.jpg", root / "first" / "own.jpg")):
        copy.write_bytes((root / "first" / f"000{number}.jpg").read_bytes() + b"\0")
    return root


def near_copies(root: Path) -> list[tuple[Path, Path]]:
    """Pairs of near copies in the data."""
    first, more = root / "first", root / "more"
    return [
        (first / "portrait.jpg", more / "portrait.png"),
        (first / "0000.jpg", more / "copy.jpg"),
        (first / "0001.jpg", first / "own.jpg"),
    ]


def arguments(root: Path, reals: Sequence[str] = ("first", "second", "few")) -> tuple[DataArgument, ...]:
    return data_arguments([str(root / name) for name in reals], [str(root / "gan"), str(root / "sdxl")], ())


def request(template: Path, root: Path, **changes: Any) -> BenchRequest:
    plain = BenchRequest(
        detector=template,
        data=arguments(root),
        protocols=tuple(Protocol),
        folds=FOLDS,
        fit_on=(DataArgument(str(root / "more"), Wanted.REAL),),
        runtime=FP32,
        bootstrap=BOOTSTRAP,
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def measurement(template: Path, data: Path) -> Measurement:
    """All protocols, with the content hashes that every fit used and scored."""
    inputs = InputSpec()
    spec = ProtocolsSpec(
        protocols=tuple(Protocol),
        folds=FOLDS,
        fit_on=read_datasets([DataArgument(str(data / "more"), Wanted.REAL)], inputs),
        evaluate=EVALUATE,
    )
    selection = select(in_order(read_datasets(arguments(data), inputs)), Known(), SelectSpec())
    return measure_protocols(spec, selection, Scoring(load(template), FP32, inputs), NoProgress())


@pytest.fixture(scope="module")
def report(measurement: Measurement) -> dict[str, Any]:
    """The report of all protocols."""
    measured = Measured(
        rows=measurement.rows,
        evaluation=None,
        protocols=measurement.protocols,
        selection=measurement.selection,
        nulls=measurement.nulls,
    )
    return build_document(measured, Settings(evaluate=EVALUATE, overlap=OverlapPolicy.REFUSE, limit=0), RUN)


def test_no_fit_sees_what_it_scores_nor_a_near_copy_of_it(measurement: Measurement, data: Path) -> None:
    pairs = [(digest(one), digest(other)) for one, other in near_copies(data)]
    assert measurement.fitted
    for fitted, scored in zip(measurement.fitted, measurement.scored, strict=True):
        assert not fitted & scored
        for pair in pairs:
            assert not fitted.intersection(pair) or not scored.intersection(pair)
    used = frozenset[str]().union(*measurement.fitted)
    assert all(used.issuperset(pair) for pair in pairs)


def test_no_fake_reaches_a_fit(measurement: Measurement, data: Path) -> None:
    fakes = {digest(path) for name in ("gan", "sdxl") for path in (data / name).iterdir()}
    assert len(fakes) == 13
    assert not fakes & frozenset[str]().union(*measurement.fitted)
    assert fakes <= frozenset[str]().union(*measurement.scored)


def test_every_fit_uses_what_its_protocol_allows(report: dict[str, Any]) -> None:
    protocols = report["protocols"]
    fits, figures = protocols["fits"], {each["protocol"]: each["sources"] for each in protocols["figures"]}
    assert list(figures) == ["seen", "pooled", "unseen"]
    for name in ("first", "second"):
        assert len(figures["seen"][name]["fits"]) == FOLDS
        assert all(set(fits[at]["images"]) == {name} for at in figures["seen"][name]["fits"])
        (unseen,) = figures["unseen"][name]["fits"]
        assert set(fits[unseen]["images"]) == {"first", "second", "few", "more"} - {name}
    pooled = {tuple(source["fits"]) for source in figures["pooled"].values()}
    assert len(pooled) == 1
    assert all(set(fits[at]["images"]) == {"first", "second", "few", "more"} for at in next(iter(pooled)))
    # 8 of its own, and two near copies, which count for the source that they were given as.
    assert protocols["fit_only"] == {"more": 10}
    # Without the near copies of images of the source that it is measured on.
    (at,) = figures["unseen"]["first"]["fits"]
    assert fits[at]["images"]["more"] == 8


def test_a_source_that_is_too_small_to_be_fitted_to_has_a_reason_in_place_of_figures(report: dict[str, Any]) -> None:
    seen, pooled, unseen = report["protocols"]["figures"]
    assert seen["sources"]["few"]["figures"] is None
    assert seen["sources"]["few"]["note"].startswith("fit needs at least 18 real images")
    assert pooled["sources"]["few"]["figures"]["reals"] == 5
    assert unseen["sources"]["few"]["figures"]["reals"] == 5
    assert seen["headline"]["source"] in {"first", "second"}


def test_every_image_is_measured_once_by_every_protocol(report: dict[str, Any]) -> None:
    data = report["data"]
    assert (data["reals"], data["fakes"], data["near_copies"]) == (81, 13, 1)
    for figures in report["protocols"]["figures"]:
        for name, source in figures["sources"].items():
            if source["figures"] is not None:
                assert source["figures"]["flagged"]["images"] == {"first": 38, "second": 38, "few": 5}[name]
                fakes = {generator: own["fakes"] for generator, own in source["figures"]["generators"].items()}
                assert fakes == {"gan": 7, "sdxl": 6}


def test_the_order_of_the_sources_changes_nothing(report: dict[str, Any], template: Path, data: Path) -> None:
    turned = arguments(data, ("few", "second", "first"))[::-1]
    again = bench(request(template, data, data=turned, protocols=(Protocol.POOLED,))).document
    (figures,) = again["protocols"]["figures"]
    before = report["protocols"]["figures"][1]
    assert figures["headline"] == before["headline"]
    for name, source in before["sources"].items():
        assert figures["sources"][name]["figures"] == source["figures"]
    assert (again["data"], again["nulls"]) == (report["data"], report["nulls"])


def test_a_fit_is_that_of_a_split_by_hand(
    measurement: Measurement, report: dict[str, Any], template: Path, tiny_weights: Path, data: Path, tmp_path: Path
) -> None:
    """Fitted with `fit` to the same images, and measured with `bench` on the source that was left out."""
    unseen = report["protocols"]["figures"][2]["sources"]["second"]
    used = measurement.fitted[unseen["fits"][0]]
    for folder in ("first", "few", "more"):
        for path in (data / folder).iterdir():
            if digest(path) in used:
                shutil.copy(path, tmp_path / f"{folder}-{path.name}")
    bundle = tmp_path / "by-hand.safetensors"
    spec = load(template).spec
    fit(FitRequest(reals=(str(tmp_path),), output=bundle, spec=spec, weights={"main": tiny_weights}, runtime=FP32))
    by_hand = bench(
        BenchRequest(detector=bundle, data=arguments(data, ["second"]), runtime=FP32, bootstrap=BOOTSTRAP)
    ).document["results"]["sources"]["second"]
    figures = unseen["figures"]
    assert figures["flagged"] == by_hand["flagged"]
    for name, generator in by_hand["generators"].items():
        assert figures["generators"][name]["caught"] == generator["caught"]
        for metric in ("auc", "folded_auc", "rule_auc"):
            found = figures["generators"][name]["figures"][metric]["value"]
            assert found == pytest.approx(generator["figures"][metric]["value"], abs=1e-9)


def test_every_output_holds_the_figures(report: dict[str, Any], measurement: Measurement) -> None:
    jsonschema.validate(report, bench_schema())
    assert (report["headline"], report["results"]) == (None, None)
    figures = report["protocols"]["figures"]
    lines = list(csv.DictReader(bench_text.csv_bytes(report).decode().splitlines()))
    macros = {
        (line["scorer"], line["source"]): float(line["value"])
        for line in lines
        if (line["level"], line["metric"]) == ("macro", "auc") and line["scorer"].startswith("protocol")
    }
    assert macros == {
        (f"protocol {each['protocol']}", name): source["figures"]["macro"]["auc"]["value"]
        for each in figures
        for name, source in each["sources"].items()
        if source["figures"] is not None
    }
    result = BenchResult(document=report, rows=measurement.rows, calibration_scores=[], exhibits={}, failed_gates=0)
    page, markdown = render_bench(page_of(result)), bench_text.markdown(report)
    text = io.StringIO()
    bench_text.print_tables(report, Console(file=text, width=120))
    for each in figures:
        title = f"Protocol {each['protocol']}"
        assert title in page
        assert title in markdown
        assert text.getvalue().count(title) == 1  # no table is too wide
    assert "continued" not in text.getvalue()


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("--gate", {"gates": (parse_gate("fpr<=1"),)}),
        ("--baseline", {"baseline": Path("before.json")}),
        ("--scores-from", {"scores_from": Path("scores.csv")}),
        ("--compare", {"compare": (Path("scores.csv"),)}),
        ("--adaptive", {"adaptive": True}),
        ("--groups", {"groups": True}),
        ("--perturb", {"conditions": (Condition(parse("jpeg:q=75"), On.BOTH),)}),
        ("--speed", {"speed": True}),
    ],
)
def test_what_measures_the_detector_itself_is_refused(option: str, changes: dict[str, Any]) -> None:
    with pytest.raises(IncompatibleOptions, match=f"{option} cannot be combined with --protocol"):
        BenchRequest(protocols=(Protocol.SEEN,), **changes)


def test_reals_that_no_protocol_fits_to_are_refused(template: Path, data: Path) -> None:
    with pytest.raises(IncompatibleOptions, match="--fit-on needs --protocol pooled or unseen"):
        bench(request(template, data, protocols=(Protocol.SEEN,)))


def test_a_fake_that_is_given_to_be_fitted_to_is_refused(template: Path, data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "gan" / "0000.jpg", tmp_path / "fake.jpg")
    with pytest.raises(BadData, match=r"fake\.jpg is given with --fit-on and holds the bytes of a fake"):
        bench(request(template, data, fit_on=(DataArgument(str(tmp_path), Wanted.REAL),)))


def test_unknown_protocols_and_single_folds_are_refused() -> None:
    with pytest.raises(BadSpec, match="--protocol"):
        parse_protocols(["seen", "all"])
    with pytest.raises(BadSpec, match="folds"):
        BenchRequest(folds=1)
    assert parse_protocols(["unseen", "seen", "unseen"]) == (Protocol.UNSEEN, Protocol.SEEN)


def make_pool(images: int, seed: int) -> Pool:
    """Images of three sources, a fifth of them in groups of near copies of which one is measured."""
    generator = np.random.default_rng(seed)
    groups = np.where(generator.random(images) < 0.2, generator.integers(0, 5, images), np.arange(images) + 5)
    first = np.zeros(images, dtype=np.bool_)
    first[np.unique(groups, return_index=True)[1]] = True
    return Pool(
        digests=[f"{index:064x}" for index in range(images)],
        sources=[("a", "b", "c")[index] for index in generator.integers(0, 3, images)],
        groups=groups,
        measured=first & (generator.random(images) < 0.9),
        usable=generator.random(images) < 0.95,
    )


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("seed", range(3))
def test_tasks_score_every_image_once_and_fit_to_none_of_its_group(protocol: Protocol, seed: int) -> None:
    pool, fakes = make_pool(90, seed), np.arange(25)
    tasks = tasks_of(protocol, pool, fakes, 4)
    assert Counter(index for task in tasks for index in task.reals) == Counter(np.flatnonzero(pool.measured).tolist())
    for source in "abc":
        own = [task for task in tasks if task.source in (None, source)]
        assert sorted(index for task in own for index in task.fakes) == list(range(25))
    for task in tasks:
        assert pool.usable[list(task.fit_to)].all()
        assert not set(pool.groups[list(task.fit_to)]) & set(pool.groups[list(task.reals)])
        within = {pool.sources[index] for index in task.fit_to}
        assert {Protocol.SEEN: within == {task.source}, Protocol.UNSEEN: task.source not in within}.get(protocol, True)
    if protocol is Protocol.SEEN:
        sizes = [len(task.reals) for task in tasks if task.source == "a"]
        assert max(sizes) - min(sizes) <= 1
