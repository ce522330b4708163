"""A benchmark's result -> the content of its HTML page. Pure."""

from __future__ import annotations

from muflow_cli.bench.intervals import BootstrapSpec
from muflow_cli.bench.roc import roc_bands
from muflow_cli.bench.workflow import BenchResult
from muflow_cli.output.bench_report import BenchPage, Card


def page_of(result: BenchResult) -> BenchPage:
    """The page of a result: ROC curves against the worst real source, the scores of every group, images."""
    settings = result.document["settings"]
    bootstrap = BootstrapSpec(resamples=settings["resamples"], seed=settings["seed"], level=settings["level"])
    scores: dict[str, list[float]] = {}
    by_protocol = result.document["protocols"] is not None
    for row in () if by_protocol else result.rows:
        name = row.group if row.fake else row.source
        scores.setdefault(f"{row.label.value} {name}", []).append(row.score)
    return BenchPage(
        report=result.document,
        calibration_scores=result.calibration_scores,
        scores=scores,
        rocs={} if by_protocol else roc_bands(result.rows, result.document["results"]["worst_source"], bootstrap),
        exhibits={
            title: [
                Card(
                    exhibit.row.path,
                    f"{exhibit.row.group}, score {exhibit.row.score:.3f}, p {exhibit.row.p_value:.3f}",
                    exhibit.picture.thumbnail,
                    exhibit.picture.heatmap,
                )
                for exhibit in exhibits
            ]
            for title, exhibits in result.exhibits.items()
        },
    )
