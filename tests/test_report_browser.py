"""The HTML report in a real browser: it renders, sorts, filters, pages, opens heat maps, and runs nothing foreign."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from output_samples import GROUPS, HOSTILE_NAMES, SUMMARY, grouped, report_data, row, scored, thumbnail

from muflow_cli.clip_records import Clip, ClipFacts, FrameScore, JudgedBy
from muflow_cli.output.histogram import BINS
from muflow_cli.output.inert import escape
from muflow_cli.output.report import Exhibit, render_report
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


def test_flagged_images_come_first_and_the_order_of_the_inputs_can_be_chosen(page: Any) -> None:
    assert set(texts(page, "#rows .verdict")) == {"flagged"}
    numbers = as_numbers(column(page, "adaptive p"))
    assert numbers == sorted(numbers)
    choose(page, "#sort-key", "input order")
    assert texts(page, "#rows td:first-child") == [str(number) for number in range(1, 51)]


def test_hostile_names_are_shown_as_text_and_run_nothing(page: Any) -> None:
    choose(page, "#sort-key", "input order")
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
    choose(page, "#sort-key", "input order")
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
    choose(page, "#sort-key", "input order")
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
    choose(page, "#sort-key", "input order")
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
    assert scored(number=2).facts.sha256 in texts(page, "#exhibit-facts dd code")
    assert "4 × 4 cells, each 25 % of the width and of the height" in texts(page, "#heat-cells")[0]


def test_the_brightest_cell_is_the_greatest_value(page: Any) -> None:
    choose(page, "#sort-key", "input order")
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
    for _ in range(28):
        press(page, "\ue004")  # Tab
        reached.append(page.execute_script(active))
        outline = "return getComputedStyle(document.activeElement).outlineStyle"
        assert page.execute_script(outline) != "none"
    assert reached[:6] == ["skip", *3 * ["scroll"], "filter-text", "filter-verdict"]
    assert "print-rows" in reached
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
@pytest.mark.parametrize("width", [375, 800, 1400])
def test_text_has_contrast_and_nothing_sticks_out(page: Any, width: int, scheme: str) -> None:
    resize(page, width)
    choose(page, "#sort-key", "input order")
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    selectors = ["body", ".detail", ".is-flagged", ".is-unreadable", ".thumbnail", "thead button", ".lead"]
    selectors += [
        ".overview td",
        ".notes legend",
        "textarea",
        ".groups .flagged th",
        ".groups .flagged .is-flagged",
        ".groups thead th",
    ]
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


def test_a_tablet_shows_cards_in_which_a_path_can_be_read(page: Any) -> None:
    resize(page, 800)
    path = find(page, "#rows tr:last-child .path")
    assert path.size["height"] < 30
    assert find(page, "#rows td:nth-child(2)").size["width"] > 600


def test_print_holds_every_row_that_passes_the_filter(page: Any) -> None:
    choose(page, "#filter-verdict", "unreadable")
    choose(page, "#page-size", "25")
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert len(texts(page, "#rows tr")) == IMAGES // 40
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert len(texts(page, "#rows tr")) == 25


def flagged() -> int:
    return sum(isinstance(result, Scored) and result.flagged for result in map(row, range(IMAGES)))


def test_print_can_leave_out_what_is_not_flagged(page: Any, tmp_path: Path) -> None:
    for how in ("control", "option"):
        if how == "control":
            choose(page, "#print-rows", "flagged ones of these")
        else:
            file = tmp_path / "flagged.html"
            file.write_text(render_report(report_data(IMAGES, printed="flagged")), encoding="utf-8")
            page.get(file.as_uri())
        page.execute_script("dispatchEvent(new Event('beforeprint'))")
        assert len(texts(page, "#rows tr")) == flagged()
        assert texts(page, "#row-count") == [f"{flagged()} of 2,000 inputs, the flagged ones"]
        page.execute_script("dispatchEvent(new Event('afterprint'))")


def pages_of(page: Any) -> int:
    """Pages of A4 that it prints."""
    printed = page.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    return base64.b64decode(printed["data"]).count(b"/Type /Page\n")


def test_a_page_of_paper_holds_about_25_rows(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(render_report(report_data(300)), encoding="utf-8")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.get(file.as_uri())
    whole = pages_of(page)
    find(page, "#filter-text").send_keys("no such image")
    assert 300 / 32 < whole - pages_of(page) < 300 / 22


def test_arrow_keys_turn_to_the_next_image_and_the_table_follows(page: Any) -> None:
    names = texts(page, "#rows .path")
    find(page, "#rows .thumbnail").click()
    press(page, "\ue014")  # right arrow
    press(page, "\ue014")
    assert texts(page, "#exhibit-title") == [names[2]]
    press(page, "\ue012")  # left arrow
    assert texts(page, "#exhibit-title") == [names[1]]
    assert texts(page, "#exhibit-place")[0].startswith("2 of 2,000")
    find(page, "#note-text").click()
    press(page, "\ue014")
    assert texts(page, "#exhibit-title") == [names[1]]  # an arrow in a text moves the cursor
    press(page, "\ue00c")  # Escape
    label = page.execute_script("return document.activeElement.getAttribute('aria-label')")
    assert label == f"Show details for {names[1]}" or label.endswith(names[1])


def test_a_fragment_opens_an_image_and_the_address_names_the_open_one(page: Any, report_file: Path) -> None:
    page.get("about:blank")
    page.get(f"{report_file.as_uri()}#image-12")
    assert find(page, "#exhibit").is_displayed()
    assert texts(page, "#exhibit-title") == [escape(HOSTILE_NAMES[11])]
    press(page, "\ue014")
    number = page.execute_script("return location.hash")
    assert re.fullmatch(r"#image-[0-9]+", number)
    assert number != "#image-12"
    press(page, "\ue00c")
    assert page.execute_script("return location.hash") == ""
    for wrong in ("#image-0", "#image-99999", "#image-x"):
        page.get("about:blank")
        page.get(report_file.as_uri() + wrong)
        assert not find(page, "#exhibit").is_displayed()


def test_notes_outlive_the_page_belong_to_its_report_and_are_exported_as_inert_csv(
    page: Any, report_file: Path, tmp_path: Path
) -> None:
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path), "eventsEnabled": False}
    page.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    assert not find(page, "#notes-export").is_enabled()
    choose(page, "#sort-key", "input order")
    find(page, "#rows .thumbnail").click()
    find(page, "#note-reviewed").click()
    find(page, "#note-text").send_keys('=1+1, <b>"seen"</b>')
    page.get("about:blank")
    page.get(report_file.as_uri())
    choose(page, "#filter-reviewed", "reviewed")
    assert texts(page, "#rows .note bdi") == ['=1+1, <b>"seen"</b>']
    assert texts(page, "#rows .is-reviewed") == ["reviewed"]
    find(page, "#notes-export").click()
    file = tmp_path / f"notes-{SUMMARY.report_sha256[:12]}.csv"
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 10).until(lambda _: file.exists())
    cells = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline="")))
    assert cells == [
        {"number": "1", "path": escape(HOSTILE_NAMES[0]), "sha256": scored().facts.sha256, "verdict": "not flagged",
         "p_value": "1", "reviewed": "yes", "note": "'=1+1, <b>\"seen\"</b>"}
    ]  # fmt: skip  # one row
    other = tmp_path / "other.html"
    other.write_text(render_report(report_data(3, summary=replace(SUMMARY, report_sha256="12" * 32))))
    page.get(other.as_uri())
    assert not find(page, "#notes-export").is_enabled()
    page.execute_script("localStorage.clear()")


def filmed(name: str, judged_by: JudgedBy | None) -> Scored:
    """A video of three frames, of which two are worth showing."""
    frames = tuple(
        FrameScore(time=time, sharpness=None, score=score, column_scores=(score, score))
        for time, score in ((0.5, 1.0), (61.0, 3.0), (90.0, -1.0))
    )
    clip = Clip(facts=ClipFacts(container="mov", seconds=100.0), frames=frames, worst=(61.0, 0.5), judged_by=judged_by)
    return scored(name, number=len(name), clip=clip)


def test_a_video_shows_its_worst_frames_and_the_curve_of_its_scores(browser: Any, tmp_path: Path) -> None:
    videos = [filmed("judged.mp4", JudgedBy.CLIP), filmed("by frame.mp4", JudgedBy.FRAME)]
    parts = [Exhibit(thumbnail(), None), Exhibit(thumbnail() + b"2", None)]
    exhibits = {index: Exhibit(thumbnail(), None, parts, is_clip=True) for index in range(2)}
    path = tmp_path / "videos.html"
    path.write_text(render_report(report_data(0, results=videos, exhibits=exhibits)), encoding="utf-8")
    for width in (1300, 390):
        resize(browser, width)
        browser.get("about:blank")
        browser.get(f"{path.as_uri()}#image-1")
        assert texts(browser, ".film span:first-of-type") == ["1:01.0", "0.50 s"]
        page, dialog = "document.documentElement", "document.getElementById('exhibit')"
        for one in (page, dialog):
            assert browser.execute_script(f"return {one}.scrollWidth <= {one}.clientWidth")
    label = find(browser, ".curve").get_attribute("aria-label")
    assert label == "Scores of 3 sampled frames from −1.000 to 3.000, over 1:40.0"
    assert len(browser.find_elements("css selector", ".curve .limit")) == 2
    assert "below −0.990 or above 0.990 is flagged" in texts(browser, ".over-time figcaption")[0]
    # The second picture is chosen with the keyboard.
    browser.execute_script("document.querySelectorAll('.film button')[1].focus()")
    press(browser, "\ue007")
    pressed = [button.get_attribute("aria-pressed") for button in browser.find_elements("css selector", ".film button")]
    assert pressed == ["false", "true"]
    assert find(browser, "#exhibit-image").get_attribute("alt") == "Frame of judged.mp4 at 0.50 s"
    press(browser, "\ue014")
    assert texts(browser, "#exhibit-title") == ["by frame.mp4"]
    assert browser.find_elements("css selector", ".curve .limit") == []
    assert browser.get_log("browser") == []
