"""The HTML report: the page itself, and the page in a real browser."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from output_samples import (
    DETECTOR,
    FINISHED,
    GROUPS,
    HOSTILE_NAMES,
    SUMMARY,
    SYNTHETIC,
    grouped,
    report_data,
    scored,
    unreadable,
)

from muflow_cli.calibration.rules import rule_class
from muflow_cli.errors import NotFinite
from muflow_cli.output.file_links import link_to
from muflow_cli.output.histogram import BINS, histogram
from muflow_cli.output.inert import escape
from muflow_cli.output.overview import by_folder, by_format
from muflow_cli.output.report import PLOTTED, Exhibit, render_report
from muflow_cli.output.report_writer import page_limits
from muflow_cli.output.strips import strips
from muflow_cli.records import Verdict
from muflow_cli.run_records import ReweightInfo
from muflow_cli.specs import RuleSpec, Tail


class Page(HTMLParser):
    """Elements with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - HTMLParser's signature
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data


def test_the_page_names_no_address_but_its_own_data() -> None:
    page = Page(render_report(report_data(30)))
    links = [value for _, attributes in page.elements for name, value in attributes.items() if name in {"src", "href"}]
    assert links == ["data:,", "#images"]
    assert "http:" not in render_report(report_data(30)).replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in render_report(report_data(30))


def test_the_policy_allows_this_script_and_nothing_from_outside() -> None:
    page = Page(render_report(grouped(report_data(30))))
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert not any(name.startswith("on") or name == "style" for _, a in page.elements for name in a)


def test_hostile_names_add_no_element_and_no_script() -> None:
    one = dataclasses.replace(SUMMARY, groups=(dataclasses.replace(GROUPS[0], name="a"),))
    plain = report_data(2, results=[scored("a", group="a"), unreadable("b")], exhibits={}, summary=one)
    expected = [tag for tag, _ in Page(render_report(plain)).elements]
    for name in HOSTILE_NAMES:
        results = [scored(name, group=name), dataclasses.replace(unreadable(name), message=name, code=name)]
        hostile = dataclasses.replace(
            plain,
            results=results,
            run=dataclasses.replace(FINISHED, argv=(name,)),
            detector=dataclasses.replace(DETECTOR, path=name),
            summary=dataclasses.replace(
                SUMMARY, unreadable_by_code={name: 1}, groups=(dataclasses.replace(GROUPS[0], name=name),)
            ),
        )
        page = Page(render_report(hostile))
        assert [tag for tag, _ in page.elements] == expected
        # Browsers end a script at "</script " and read on after "<!--<script": no such sign may be in the data.
        assert not set("<>&") & set(page.scripts[0])
        rows = json.loads(page.scripts[0])["rows"]
        assert [item["path"] for item in rows] == [escape(name)] * 2


def test_the_page_can_be_written_as_utf_8_whatever_the_names_hold() -> None:
    text = render_report(report_data(len(HOSTILE_NAMES)))
    assert text.encode("utf-8").decode("utf-8") == text
    assert "\u202e" not in text


def test_a_run_without_a_score_and_a_detector_without_calibration_still_make_a_page() -> None:
    empty = dataclasses.replace(SUMMARY, inputs=1, scored=0, flagged=0, flagged_by_tail={})
    text = render_report(report_data(0, results=[unreadable()], summary=empty, exhibits={}))
    assert "No image could be scored." in text
    assert "has no calibration scores" in render_report(report_data(3, calibration_scores=[]))


def test_the_summary_says_how_many_flags_chance_alone_would_raise() -> None:
    summary = dataclasses.replace(SUMMARY, inputs=1000, scored=1000, flagged=70)
    text = " ".join(re.sub(r"<[^>]+>", " ", render_report(report_data(3, summary=summary))).split())
    assert "70 of 1,000 scored images were flagged" in text
    assert "about 50 (5 %) would be flagged by chance" in text
    by_rate = dataclasses.replace(summary, fdr=0.1)
    assert "false discovery rate of 0.1" in render_report(report_data(3, summary=by_rate))


def test_a_heat_map_or_score_that_is_no_number_is_refused() -> None:
    broken = Exhibit(None, np.full((2, 2), np.nan, dtype=np.float32))
    with pytest.raises(NotFinite, match=r"the heat map for '.*' contains NaN or infinite values: fit"):
        render_report(report_data(1, exhibits={0: broken}))
    with pytest.raises(NotFinite, match="score"):
        render_report(report_data(1, results=[scored(score=math.inf)]))


def test_a_histogram_counts_every_score_once() -> None:
    run, reals = [0.1, 0.2, 5.0, -3.0, 1e6], [0.0, 0.5, 1.0]
    drawn = histogram(run, reals)
    assert drawn is not None
    mark = drawn.share_ticks[-1]
    percent_at_the_top = 100 * float(mark.label.removesuffix(" %")) / mark.position
    for series, scores in ((drawn.run, run), (drawn.calibration, reals)):
        assert series.count == len(scores)
        assert len(series.heights) == BINS
        assert sum(series.heights) / 100 * percent_at_the_top == pytest.approx(100, abs=0.01)
    assert (drawn.run.beyond, drawn.calibration.beyond) == (1, 0)


@pytest.mark.parametrize("scores", [[2.0], [0.0, 0.0], [-1e-9, 1e-9], [1e12, 1e12], [0.0, 7.0], [0.0, 0.0, 9.0]])
def test_a_histogram_of_few_or_equal_scores_has_an_axis(scores: list[float]) -> None:
    drawn = histogram(scores, [])
    assert drawn is not None
    assert max(drawn.run.heights) == 100
    assert 1 <= len(drawn.score_ticks) <= 12
    assert all(0 <= tick.position <= 100 for tick in (*drawn.score_ticks, *drawn.share_ticks))
    assert len({tick.label for tick in drawn.score_ticks}) == len(drawn.score_ticks)


def test_nothing_scored_makes_no_histogram() -> None:
    assert histogram([], [1.0]) is None


def test_the_smallest_p_value_is_that_of_the_detector() -> None:
    info = dataclasses.replace(DETECTOR, smallest_p_value=0.019)
    page = render_report(dataclasses.replace(report_data(5), detector=info))
    assert "a p-value cannot be below 0.019." in page


def test_a_duplicate_is_named_as_text() -> None:
    for name in HOSTILE_NAMES:
        page = Page(render_report(report_data(1, results=[scored("a", duplicate_of=name)], exhibits={})))
        assert not set("<>&") & set(page.scripts[0])
        assert json.loads(page.scripts[0])["rows"][0]["duplicate_of"] == escape(name)


def plain_text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_groups_are_a_table_with_the_smallest_p_value_first_and_the_claim() -> None:
    page = render_report(grouped(report_data(30)))
    start = page.index('<table class="groups">')
    table = page[start : page.index("</table>", start)]
    assert re.findall(r'<th scope="row" class="path">(.*?)</th>', table) == [
        "=shop", "faces", r"faces/\xe9t\xe9 &lt;b&gt;"
    ]  # fmt: skip
    assert table.count('role="img"') == table.count("aria-label=") == len(GROUPS)
    text = plain_text(page)
    assert "1 of 3 groups is unlike the calibration." in text
    assert "Real images of another origin differ too, so this does not make a group synthetic." in text
    assert "=shop unlike the calibration 0.0001 0.0002 40 12 (30 %) ▼ low 2 %" in text
    assert "too few images – – 1 0 (0 %)" in text


def test_a_run_without_groups_and_adaptive_p_values_speaks_of_neither() -> None:
    summary = dataclasses.replace(SUMMARY, groups=())
    text = plain_text(render_report(report_data(3, summary=summary)))
    assert "Groups" not in text
    assert "daptive" not in text.split("{")[0]


def test_an_adaptive_run_says_how_its_p_values_came_about() -> None:
    text = plain_text(render_report(grouped(report_data(30))))
    assert (
        "classifier logistic 0.01, learned from 150 calibration images and ranked among 150 others; at least 14" in text
    )


def test_a_reweighted_run_says_how_its_p_values_came_about() -> None:
    info = ReweightInfo(learned_from=120, bound=20.0, effective=61.4, undecided=7)
    judgement = dataclasses.replace(scored().judgement, weighted_p_value=0.125)
    results = [dataclasses.replace(scored(), judgement=judgement)]
    page = render_report(report_data(0, results=results, summary=dataclasses.replace(SUMMARY, reweight=info)))
    text = plain_text(page)
    assert "weights learned from 120 images of this run, between 0.05 and 20" in text
    assert "7 images cannot be flagged, since too few calibration images resemble them" in text
    assert "The weighted calibration images say as much as 61 equally weighted ones." in text
    heading = '<th scope="col" data-key="weighted_p_value"'
    assert heading in page
    few = dataclasses.replace(SUMMARY, reweight=dataclasses.replace(info, learned_from=0))
    assert "too few images to learn weights from, so all are 1" in plain_text(
        render_report(report_data(0, results=results, summary=few))
    )
    assert heading not in render_report(report_data(3))


def test_only_the_groups_with_the_smallest_p_values_have_a_plot_and_the_user_is_told() -> None:
    count = PLOTTED + 5
    groups = tuple(
        dataclasses.replace(GROUPS[1], name=f"g{index}", p_value=(count - index) / 1000) for index in range(count)
    )
    results = [scored(number=index, group=f"g{index}") for index in range(count)]
    summary = dataclasses.replace(SUMMARY, groups=groups)
    data = report_data(0, results=results, exhibits={}, summary=summary)
    page = render_report(data)
    assert page.count('<svg class="strip"') == PLOTTED
    assert 'aria-label="Scores of g5:' in page
    assert 'aria-label="Scores of g4:' not in page
    assert "200 groups, those with the smallest p-values" in " ".join(page_limits(summary, earlier=0))
    assert '<svg class="strip"' not in render_report(dataclasses.replace(data, calibration_scores=[]))


def test_a_strip_says_how_much_of_its_group_lies_inside_the_band() -> None:
    reals = [index / 100 for index in range(101)]
    drawn = strips({"in": [0.5, 0.5, 0.6], "out": [-3.0, 0.5, 1.2, 4.0]}, reals)
    assert drawn is not None
    assert (drawn.by_name["in"].inside, drawn.by_name["out"].inside) == (1.0, 0.25)
    assert 0 <= drawn.left < drawn.middle < drawn.right <= 100
    assert sum(drawn.by_name["out"].heights) == 400  # four scores in four bins of one each
    assert drawn.by_name["out"].heights[0] == drawn.by_name["out"].heights[-1] == 100
    assert strips({}, reals) is None
    assert strips({"in": [0.5]}, []) is None


def test_the_thresholds_and_the_flagged_images_are_marked_on_the_axis_of_the_histogram() -> None:
    results = [scored(number=n, score=n / 10, verdict=Verdict.FLAGGED if n > 15 else Verdict.NOT_FLAGGED)
               for n in range(20)]  # fmt: skip  # one sentence
    data = report_data(0, results=results, exhibits={}, thresholds=(None, 1.5))
    page = render_report(data)
    drawn = histogram([result.score for result in results], data.calibration_scores)
    assert drawn is not None
    assert page.count('class="limit"') == 1
    assert f'class="limit" x1="{drawn.positions([1.5])[0]}%"' in page
    assert page.count('class="flagged-at"') == 4
    assert "threshold lies at 1.500" in plain_text(page)
    without = plain_text(render_report(dataclasses.replace(data, thresholds=(None, None))))
    assert "No line is drawn, since no single score decides" in without


@pytest.mark.parametrize("tail", Tail)
@pytest.mark.parametrize("method", ["conformal", "gaussian"])
def test_a_score_is_flagged_exactly_where_it_lies_beyond_a_threshold(method: str, tail: Tail) -> None:
    reals = np.random.default_rng(3).normal(size=(200, 2))
    rule = rule_class(method).fit(reals, RuleSpec(method=method, alpha=0.07, tail=tail))
    low, high = rule.thresholds()
    assert (low is None) == (tail is Tail.UPPER)
    assert high is not None
    scores = np.concatenate([np.linspace(-4, 4, 801), [high, *([] if low is None else [low])]])
    beyond = (scores > high) | (scores < (-np.inf if low is None else low))
    np.testing.assert_array_equal(rule.judge(np.stack([scores, scores], axis=1)).flagged, beyond)


@pytest.mark.parametrize(
    ("path", "page", "link"),
    [
        ("a b/ü#1?.jpg", "r.html", "./a%20b/%C3%BC%231%3F.jpg"),
        ("a/b.PNG", "out/x/r.html", "../../a/b.PNG"),
        ("/case/a.jpg", "/r/r.html", "file:///case/a.jpg"),
        ("javascript:alert(1)//.jpg", "r.html", "./javascript%3Aalert%281%29//.jpg"),
        (os.fsdecode(b"\xff.jpg"), "r.html", "./%FF.jpg"),
        ("a.jpg", "../r.html", None),  # it would tell the name of this folder
        ("a.jpg", "/r/r.html", None),  # the same
        ("a.jpg", None, None),
        ("album.zip!a.jpg", "r.html", None),
        ("https://example.org/a.jpg", "r.html", None),
        ("evil.html", "r.html", None),
        ("evil.svg", "r.html", None),
    ],
)
def test_a_link_leads_to_an_image_file_and_nowhere_else(path: str, page: str | None, link: str | None) -> None:
    assert link_to(path, None if page is None else Path(page)) == link


def test_folders_and_formats_are_counted_with_the_most_flagged_first() -> None:
    results = [
        scored("a/1.jpg"), scored("a/2.jpg", verdict=Verdict.INCONCLUSIVE), unreadable("a/3.jpg"),
        scored("b/1.jpg", verdict=Verdict.FLAGGED, atypical_input=("format",)), scored("b/2.jpg"),
        scored("c/d.zip!x/1.jpg"), scored("top.jpg", declared=SYNTHETIC),
    ]  # fmt: skip  # a table
    folders = by_folder(results)
    assert [part.name for part in folders] == ["b", ".", "a", "c/d.zip"]
    assert (folders[0].flagged, folders[0].scored, folders[0].share, folders[0].atypical) == (1, 2, 0.5, 1)
    assert (folders[1].declared, folders[2].inconclusive, folders[2].unreadable) == (1, 1, 1)
    assert [(part.name, part.inputs, part.share) for part in by_format(results)] == [
        ("JPEG", 6, 1 / 6), ("unreadable", 1, None)
    ]  # fmt: skip
    assert sum(part.inputs for part in folders) == len(results)


def test_case_and_examiner_stand_in_the_head_and_in_the_record() -> None:
    run = dataclasses.replace(FINISHED, case="2026/17 <b>", examiner="N. N.")
    text = render_report(report_data(3, run=run))
    head = text[: text.index("</header>")]
    assert "<strong>2026/17 &lt;b&gt;</strong>" in head
    assert "examined by <strong>N. N.</strong>" in head
    assert "<dt>Case</dt><dd>2026/17 &lt;b&gt;</dd>" in text
    assert "examined by" not in render_report(report_data(3))


def test_no_tile_shows_a_code() -> None:
    summary = dataclasses.replace(SUMMARY, unreadable_by_code={"not_an_image": 2}, atypical_by_fact={"face_side": 1})
    text = render_report(report_data(3, summary=summary))
    tiles = text[text.index('<dl class="figures">') : text.index("</dl>")]
    assert "2 not an image" in tiles
    assert "1 by face side" in tiles
    assert "_" not in re.sub(r"<[^>]+>", "", tiles)


def test_two_tails_are_described_as_they_are_computed() -> None:
    assert "twice the smaller of the two, and at most 1" in plain_text(render_report(report_data(3)))
    upper = dataclasses.replace(DETECTOR, tail="upper")
    assert "twice the smaller" not in plain_text(render_report(report_data(3, detector=upper)))
