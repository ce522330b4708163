"""The HTML report in a real browser: it renders, sorts, filters, pages, opens heat maps, and runs nothing foreign."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from output_samples import GROUPS, HOSTILE_NAMES, grouped, report_data, row, scored

from muflow_cli.output.histogram import BINS
from muflow_cli.output.inert import escape
from muflow_cli.output.report import render_report
from muflow_cli.records import Scored

pytestmark = pytest.mark.browser

IMAGES = 2_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium with chromedriver on PATH")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
    quiet += ["disable-background-networking", "disable-component-update", "disable-dev-shm-usage"]
    for argument in [*quiet, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(grouped(report_data(IMAGES))), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Any, report_file: Path) -> Iterator[Any]:
    resize(browser, 1400)
    browser.get(report_file.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def texts(page: Any, selector: str) -> list[str]:
    script = "return Array.from(document.querySelectorAll(arguments[0]), (e) => e.textContent)"
    return list(page.execute_script(script, selector))


def column(page: Any, label: str) -> list[str]:
    return texts(page, f'#rows td[data-label="{label}"]')


def find(page: Any, selector: str) -> Any:
    return page.find_element("css selector", selector)


def choose(page: Any, selector: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(find(page, selector)).select_by_visible_text(text)


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def as_numbers(cells: list[str]) -> list[float]:
    return [float(cell.replace("−", "-")) for cell in cells if cell != "–"]


def test_the_page_renders_its_rows_and_its_histogram(page: Any) -> None:
    assert len(texts(page, "#rows tr")) == 50
    assert texts(page, "#row-count") == ["2,000 of 2,000 inputs, rows 1–50 shown"]
    assert find(page, ".plot").size["width"] > 800
    assert len(page.find_elements("css selector", ".plot .step")) > BINS
    assert "Limits" in texts(page, "h2")


def test_hostile_names_are_shown_as_text_and_run_nothing(page: Any) -> None:
    assert texts(page, "#rows .path")[: len(HOSTILE_NAMES)] == [escape(name) for name in HOSTILE_NAMES]
    assert page.execute_script("return document.scripts.length") == 2
    assert (
        page.execute_script("return document.querySelectorAll('#rows script, #rows img:not([src^=\"data:\"])').length")
        == 0
    )


def test_the_policy_stops_a_script_that_got_in(browser: Any, report_file: Path) -> None:
    browser.get(report_file.as_uri())
    inject = "const s = document.createElement('script'); s.setAttribute('id', 'x'); document.body.append(s);"
    browser.execute_script(inject + "try { s.text = 'window.hacked = 1' } catch (error) {}")
    assert browser.execute_script("return window.hacked") is None
    browser.get_log("browser")


def test_a_column_sorts_both_ways_with_gaps_last_and_says_so(page: Any) -> None:
    head = find(page, 'th[data-key="score"]')
    button = find(page, 'th[data-key="score"] button')
    button.click()
    rising = as_numbers(column(page, "Score"))
    assert rising == sorted(rising)
    assert head.get_attribute("aria-sort") == "ascending"
    button.click()
    falling = as_numbers(column(page, "Score"))
    assert falling == sorted(falling, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    assert falling[0] > rising[-1]
    find(page, "#page-last").click()
    assert column(page, "Score")[-1] == "–"


def test_filters_narrow_the_rows_together(page: Any) -> None:
    find(page, "#filter-text").send_keys("FACES/0")
    choose(page, "#filter-verdict", "flagged")
    choose(page, "#filter-tail", "low")
    expected = [
        r for r in map(row, range(IMAGES))
        if isinstance(r, Scored) and r.flagged and r.judgement.tail == "low" and r.path.startswith("faces/0")
    ]  # fmt: skip  # reads as the three filters
    assert texts(page, "#row-count")[0].startswith(f"{len(expected)} of 2,000 inputs")
    assert set(texts(page, "#rows .verdict")) == {"flagged"}
    assert set(column(page, "Tail")) == {"▼ low"}
    assert texts(page, "#rows .path") == [r.path for r in expected[:50]]


def test_a_group_can_be_picked_whatever_its_name(page: Any) -> None:
    name = escape(GROUPS[2].name)
    choose(page, "#filter-group", name)
    expected = [index for index in range(IMAGES) if index % 3 == 2 and isinstance(row(index), Scored)]
    assert texts(page, "#row-count")[0].startswith(f"{len(expected)} of 2,000 inputs")
    assert set(texts(page, "#rows .path + .detail + .detail bdi")) == {name}
    assert column(page, "adaptive p")[:2] == ["0.0030", "0.0060"]
    find(page, "#rows .thumbnail").click()
    assert f"Group{name}" in texts(page, "#exhibit-facts")[0]
    assert "Adaptive p-value0.003000" in texts(page, "#exhibit-facts")[0]


def test_every_group_has_a_row_with_a_strip_that_can_be_seen(page: Any) -> None:
    for width in (1400, 375):
        resize(page, width)
        strips = page.find_elements("css selector", ".groups tbody tr .strip")
        assert len(strips) == len(GROUPS)
        assert all(strip.size["width"] > 100 and strip.size["height"] > 20 for strip in strips)
        names = page.find_elements("css selector", '.groups th[scope="row"]')
        assert [name.text for name in names] == [escape(group.name) for group in GROUPS]


def test_a_filter_that_nothing_passes_says_so(page: Any) -> None:
    find(page, "#filter-text").send_keys("no such image")
    assert texts(page, "#row-count") == ["0 of 2,000 inputs"]
    assert texts(page, "#page-number") == ["Page 1 of 1"]


def test_pages_cover_every_row_once(page: Any) -> None:
    choose(page, "#page-size", "200")
    seen: list[str] = []
    for _ in range(IMAGES // 200):
        seen += texts(page, "#rows td:first-child")
        if find(page, "#page-next").is_enabled():
            find(page, "#page-next").click()
    assert seen == [str(number) for number in range(1, IMAGES + 1)]
    assert not find(page, "#page-next").is_enabled()
    find(page, "#page-first").click()
    assert not find(page, "#page-previous").is_enabled()


def test_a_heat_map_opens_over_its_image_and_changes_its_scale(page: Any) -> None:
    find(page, "#rows tr:nth-child(3) .thumbnail").click()
    assert find(page, "#exhibit").is_displayed()
    assert texts(page, "#exhibit-title") == [escape(HOSTILE_NAMES[2])]
    image, heat = find(page, "#exhibit-image"), find(page, "#exhibit-heat")
    assert image.rect == heat.rect
    assert page.execute_script("return arguments[0].naturalWidth", image) == 64
    assert len(heat.find_elements("css selector", "rect")) == 16
    assert texts(page, "#heat-low, #heat-high") == ["1.00", "4.00"]
    find(page, "#span-report").click()
    assert texts(page, "#heat-low, #heat-high") == ["−1.00", "4.00"]
    assert scored(number=2).facts.sha256 in texts(page, "#exhibit-facts dd")


def test_the_brightest_cell_is_the_greatest_value(page: Any) -> None:
    find(page, "#rows tr:nth-child(1) .thumbnail").click()
    script = "return Array.from(document.querySelectorAll('#exhibit-heat rect'), (r) => r.getAttribute('fill'))"
    lightness = [sum(map(int, re.findall(r"\d+", fill))) for fill in page.execute_script(script)]
    assert lightness == sorted(lightness)
    assert lightness[0] < 10
    assert lightness[-1] > 600


def test_an_input_that_could_not_be_read_says_why(page: Any) -> None:
    choose(page, "#filter-verdict", "unreadable")
    assert "truncated: the file ends inside the image" in texts(page, "#rows td .detail")
    find(page, "#rows .thumbnail").click()
    assert "truncated: the file ends inside the image" in texts(page, "#exhibit-facts dd")
    assert not find(page, ".view").is_displayed()


def test_the_keyboard_reaches_and_does_everything(page: Any) -> None:
    active = "const e = document.activeElement; return e.id || e.className || e.parentElement.dataset.key"
    reached = []
    for _ in range(21):
        press(page, "\ue004")  # Tab
        reached.append(page.execute_script(active))
        outline = "return getComputedStyle(document.activeElement).outlineStyle"
        assert page.execute_script(outline) != "none"
    assert reached[:5] == ["skip", "scroll", "filter-text", "filter-verdict", "filter-tail"]
    heads = ["path", "p_value", "adaptive_p_value", "score"]
    assert [key for key in reached if key in heads] == heads
    while reached[-1] != "thumbnail":
        press(page, "\ue004")
        reached.append(page.execute_script(active))
    press(page, "\ue007")  # Enter
    assert find(page, "#exhibit").is_displayed()
    assert page.execute_script(active) == "exhibit-close"
    press(page, "\ue00c")  # Escape
    assert not find(page, "#exhibit").is_displayed()
    assert page.execute_script(active) == "thumbnail"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1400])
def test_text_has_contrast_and_nothing_sticks_out(page: Any, width: int, scheme: str) -> None:
    resize(page, width)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    selectors = ["body", ".detail", ".is-flagged", ".is-unreadable", ".thumbnail", "thead button", ".lead"]
    selectors += [".groups .flagged th", ".groups .flagged .is-flagged", ".groups thead th"]
    for selector in selectors:
        assert contrast(page, selector) >= 7, selector
    find(page, ".thumbnail").click()
    assert page.execute_script("const e = document.getElementById('exhibit'); return e.scrollWidth <= e.clientWidth")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(page: Any, selector: str) -> float:
    """Ratio of WCAG 2.2 between an element's text and the first opaque background behind it."""
    script = """
      let e = document.querySelector(arguments[0]); const ink = getComputedStyle(e).color;
      while (e && getComputedStyle(e).backgroundColor === 'rgba(0, 0, 0, 0)') e = e.parentElement;
      return [ink, getComputedStyle(e).backgroundColor]"""
    light = []
    for colour in page.execute_script(script, selector):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_a_phone_can_sort_without_the_column_heads(page: Any) -> None:
    resize(page, 375)
    choose(page, "#sort-key", "p-value")
    choose(page, "#sort-order", "descending")
    numbers = as_numbers(column(page, "p-value"))
    assert numbers == sorted(numbers, reverse=True)
    assert find(page, '#rows td[data-label="p-value"]').is_displayed()


def test_print_holds_every_row_that_passes_the_filter(page: Any) -> None:
    choose(page, "#filter-verdict", "unreadable")
    choose(page, "#page-size", "25")
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert len(texts(page, "#rows tr")) == IMAGES // 40
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert len(texts(page, "#rows tr")) == 25
