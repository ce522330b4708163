"""`fit` and `calibrate` take no image that says itself that it is synthetic; `bench` measures without such images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import FP32, write_faces
from output_samples import SYNTHETIC
from output_samples import scored as sample
from PIL import ExifTags, Image

from muflow_cli.bench import BenchRequest, bench
from muflow_cli.bench.datasets import data_arguments
from muflow_cli.bench.intervals import BootstrapSpec
from muflow_cli.bench.metrics import signed_auc
from muflow_cli.bundle import load
from muflow_cli.calibrate.workflow import Intake
from muflow_cli.cli.options import declared_rows
from muflow_cli.fit.store import build_store, open_store
from muflow_cli.images.loader import Loaded
from muflow_cli.output.bench_text import undeclared_rows
from muflow_cli.records import Declared, Origin


def loaded(number: int, declared: Declared) -> Loaded:
    view = np.full((1, 16, 16, 3), number, np.uint8)
    return Loaded(f"{number}.jpg", sample(number=number).facts, {"main": view}, None, declared)


CAMERA = Declared(origin=Origin.CAMERA)
REALS = [loaded(1, Declared()), loaded(2, SYNTHETIC), loaded(3, CAMERA)]


@pytest.mark.parametrize("allowed", [False, True])
def test_a_fit_stores_no_declared_synthesis(tmp_path: Path, *, allowed: bool) -> None:
    build_store(REALS, tmp_path, {"main": 16}, allow_declared=allowed)
    store = open_store(tmp_path)
    assert [entry.path for entry in store.entries] == (["1.jpg", "2.jpg", "3.jpg"] if allowed else ["1.jpg", "3.jpg"])
    assert store.skipped == ({} if allowed else {"declared_synthetic": 1})
    assert store.declared_synthetic == (() if allowed else ("2.jpg",))


@pytest.mark.parametrize("allowed", [False, True])
def test_a_calibration_takes_no_declared_synthesis(tiny_bundle: Path, *, allowed: bool) -> None:
    intake = Intake(load(tiny_bundle), append=False, allow_declared=allowed)
    assert len(list(intake.usable(REALS))) == intake.used == (3 if allowed else 2)
    assert intake.declared_synthetic == ([] if allowed else ["2.jpg"])
    assert intake.left_out == ({} if allowed else {"declared_synthetic": 1})


def test_the_summary_lists_what_was_left_out_and_how_to_keep_it() -> None:
    rows = list(declared_rows([f"{number}\n.jpg" for number in range(30)]))
    assert rows[0] == ("left out", "30 images declare themselves synthetic; keep them with --allow-declared")
    assert rows[1] == ("", "0\\n.jpg")
    assert rows[-1] == ("", "and 10 more")
    assert list(declared_rows([])) == []


def test_a_benchmark_counts_declared_syntheses_and_measures_without_them(tiny_bundle: Path, tmp_path: Path) -> None:
    write_faces(tmp_path / "reals", 6, seed=71)
    write_faces(tmp_path / "fakes", 6, seed=72)
    for path in sorted((tmp_path / "fakes").iterdir())[:2]:
        with Image.open(path) as image:
            exif = image.getexif()
            exif[ExifTags.Base.Make] = "flux"
            image.save(path, exif=exif)
    data = data_arguments([str(tmp_path / "reals")], [str(tmp_path / "fakes")], [])
    request = BenchRequest(detector=tiny_bundle, data=data, runtime=FP32, bootstrap=BootstrapSpec(resamples=20))
    result = bench(request)
    report = result.document
    assert [group["declared"] for group in report["data"]["groups"]] == [{}, {"synthetic": 2}]
    assert (report["undeclared"]["reals"], report["undeclared"]["fakes"]) == (6, 4)
    left = [row for row in result.rows if row.declared.origin is Origin.NONE]
    (against,) = report["undeclared"]["results"]["sources"].values()
    auc = signed_auc([row.score for row in left], [row.fake for row in left])
    assert against["macro"]["auc"]["value"] == pytest.approx(auc)
    rows = list(undeclared_rows(report))
    assert [row[1:3] for row in rows] == [["6", "6"], ["6", "4"]]
