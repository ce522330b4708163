"""The HTML report of a benchmark in a real browser: it draws what the report says, loads and runs nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_samples import GROUPS, SPEC, make_report, make_rows
from PIL import Image
from test_report_browser import browser as browser  # noqa: PLC0414 - a fixture is found by its name in this module
from test_report_browser import contrast, find, resize, texts

from muflow_cli.bench.exhibits import LISTS
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.roc import roc_bands
from muflow_cli.output.bench_report import BenchPage, Card, render_bench

pytestmark = pytest.mark.browser

FAKES = [name for name, (label, *_) in GROUPS.items() if label is Label.FAKE]
HOSTILE = "<img src=x onerror=alert(1)>.jpg"


def make_page() -> str:
    rows = make_rows()
    report = make_report(rows)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 60, 40)).save(buffer, "JPEG")
    card = Card(HOSTILE, "sdxl, score 1.000", buffer.getvalue(), np.arange(16, dtype=np.float32).reshape(4, 4))
    page = BenchPage(
        report=report,
        calibration_scores=[row.score for row in rows if row.group == "celebahq"],
        scores={f"{row.label} {row.group}": [r.score for r in rows if r.group == row.group] for row in rows},
        rocs=roc_bands(rows, report["results"]["worst_source"], SPEC.bootstrap),
        exhibits={title: [card, card] for title in LISTS},
    )
    return render_bench(page)


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "bench.html"
    path.write_text(make_page(), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Any, report_file: Path) -> Iterator[Any]:
    resize(browser, 1400)
    browser.get(report_file.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def test_every_plot_and_image_is_drawn(page: Any) -> None:
    assert texts(page, ".roc h3") == FAKES
    assert len(texts(page, ".roc polyline.by-score")) == len(texts(page, ".roc polyline.by-rule")) == len(FAKES)
    assert len(texts(page, ".scores")) == len(GROUPS)
    assert texts(page, ".curve h3") == ["jpeg on both", "jpeg on reals"]
    assert len(texts(page, ".cards")) == len(LISTS)
    loaded = "return Array.from(document.images).every((i) => i.complete && i.naturalWidth > 0)"
    assert page.execute_script(loaded)
    assert page.execute_script("return document.images.length") == 2 * 2 * len(LISTS)


def test_a_roc_rises_from_corner_to_corner_inside_its_band(page: Any) -> None:
    script = "return Array.from(document.querySelectorAll(arguments[0]), (e) => e.getAttribute('points'))"
    for points in page.execute_script(script, ".roc polyline.by-score"):
        pairs = [tuple(map(float, point.split(","))) for point in points.split()]
        assert (pairs[0][0], pairs[-1]) == (0.0, (100.0, 0.0))
        assert [x for x, _ in pairs] == sorted(x for x, _ in pairs)
        assert [y for _, y in pairs] == sorted((y for _, y in pairs), reverse=True)


def test_hostile_names_are_text_and_nothing_runs(page: Any) -> None:
    assert page.execute_script("return document.scripts.length") == 0
    assert page.execute_script("return document.querySelectorAll('td b, .path img').length") == 0
    assert HOSTILE in texts(page, ".cards .path")
    assert any("<b>unsplash</b>" in cell for cell in texts(page, "td"))


def test_the_matrix_holds_every_pair_in_numbers_and_says_what_is_at_or_below_chance(page: Any) -> None:
    results = make_report()["results"]
    tables = page.find_elements("css selector", ".matrix")
    assert len(tables) == 2
    cells = texts(page, "#matrix-1 + .scroll .matrix tr:not(.mean) td")
    figures = [
        against["generators"][name]["figures"]["auc"] for name in FAKES for against in results["sources"].values()
    ]
    assert len(cells) == len(figures) == len(FAKES) * len(results["sources"])
    for cell, figure in zip(cells, figures, strict=True):
        assert cell.startswith(f"{figure['value']:.3f}[{figure['low']:.2f}, {figure['high']:.2f}]")
        assert ("below chance" in cell) == (figure["high"] < 0.5)
        assert ("at chance" in cell) == (figure["low"] <= 0.5 <= figure["high"])
    assert any("below chance" in cell for cell in cells)
    assert any("below chance" in text for text in texts(page, ".detail"))


def test_a_panel_has_ticks_its_auc_and_the_operating_point_and_one_chart_holds_all(page: Any) -> None:
    results = make_report()["results"]
    against = results["sources"][results["worst_source"]]
    assert texts(page, ".roc:first-of-type .tick")[::2] == ["0.0", "0.25", "0.5", "0.75", "1.0"]
    points = page.find_elements("css selector", ".roc .point")
    for name, point, text in zip(FAKES, points, texts(page, ".roc .in-panel")[::2], strict=True):
        generator = against["generators"][name]
        assert text == f"AUC by score {generator['figures']['auc']['value']:.3f}"
        at = [float(point.get_attribute(axis).removesuffix("%")) for axis in ("cx", "cy")]
        wanted = [100 * against["flagged"]["value"], 100 - 100 * generator["caught"]["value"]]
        assert at == pytest.approx(wanted, abs=0.01)
    assert len(page.find_elements("css selector", ".roc-all polyline")) == len(FAKES)
    assert [text.split(" AUC")[0].strip() for text in texts(page, ".lines li")] == FAKES
    drawn = {line.get_attribute("class") for line in page.find_elements("css selector", ".roc-all polyline")}
    assert len(drawn) == len(FAKES)


def test_every_table_fits_a_wide_screen(page: Any) -> None:
    script = "return Array.from(document.querySelectorAll('.scroll'), (e) => e.scrollWidth - e.clientWidth)"
    assert max(page.execute_script(script)) <= 0


def test_the_headline_and_the_nulls_are_on_the_page(page: Any) -> None:
    assert "Macro AUC at the worst real source" in texts(page, ".lead")[0]
    assert "metadata only" in texts(page, "th")
    assert "sharpness only" in texts(page, "th")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 800, 1400])
def test_nothing_sticks_out_and_text_has_contrast(page: Any, width: int, scheme: str) -> None:
    resize(page, width)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    for selector in ("body", ".detail", ".ends", "td", "th", ".lead", ".shade-below", ".shade-at .interval"):
        assert contrast(page, selector) >= 7, selector
    assert find(page, ".scroll table").is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
