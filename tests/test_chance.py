"""What an AUC shows, in words."""

from __future__ import annotations

import pytest
from bench_samples import make_report

from muflow_cli.output.bench_text import comparison_rows, headline_text, scorer_sections, sentences
from muflow_cli.output.chance import Standing, aside, standing


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.6, 0.9, Standing.ABOVE), (0.5, 0.9, Standing.AT), (0.2, 0.5, Standing.AT), (0.2, 0.49, Standing.BELOW)],
)
def test_an_auc_stands_where_its_whole_interval_lies(low: float, high: float, expected: Standing) -> None:
    figure = {"value": (low + high) / 2, "low": low, "high": high}
    assert standing(figure) is expected
    assert (aside(figure) == "") == (expected is Standing.ABOVE)


def test_the_report_names_every_generator_that_is_not_told_from_the_worst_source() -> None:
    report = make_report()
    text = " ".join(sentences(report))
    worst = report["results"]["worst_source"]
    against = report["results"]["sources"][worst]
    for name, generator in against["generators"].items():
        kind = standing(generator["figures"]["auc"])
        named = any(name in part and kind in part and "by the score" in part for part in sentences(report))
        assert named == (kind is not Standing.ABOVE)
    assert "below chance" in text
    report["headline"] = {**report["headline"], "value": 0.4, "low": 0.3, "high": 0.45}
    assert "0.400 [0.30, 0.45], below chance" in headline_text(report)


def test_scorers_stand_side_by_side_for_every_generator() -> None:
    report = make_report()
    other = {"name": "b.csv", "scored": 9, "missing": 0, **{key: report[key] for key in ("headline", "results")}}
    report["comparisons"] = [other]
    ((title, headings, rows),) = scorer_sections(report)
    assert report["results"]["worst_source"] in title.replace("\\", "")
    assert headings[2:] == list(report["results"]["sources"][report["results"]["worst_source"]]["generators"])
    assert [row[:2] for row in rows] == [
        ["this detector", "score"], ["this detector", "rule"], ["b.csv", "score"], ["b.csv", "rule"]
    ]  # fmt: skip
    assert rows[0][2:] == rows[2][2:]
    assert len(list(comparison_rows(report))) == 2
