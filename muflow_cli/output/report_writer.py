"""The HTML report as a writer: it collects results and images while they come, and writes the page at the end."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.output.report import PLOTTED, Exhibit, ReportData, render_report
from muflow_cli.records import Result, Scored
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary

if TYPE_CHECKING:
    from muflow_cli.output.writers import WriterContext

THUMBNAIL: Final = 128
SHOWN: Final = 2000
# With about 700 bytes per row, a browser opens a page of this many rows without a pause.
COMFORTABLE_ROWS: Final = 20_000


class Exhibits:
    """The images of a report: at most `shown` different ones, the flagged ones first, then by p-value.

    Attributes:
        thumbnail: longer side in pixels of the thumbnails that it wants, of images or of faces.
        with_boxes: the same of images on which faces are marked.
    """

    thumbnail: Final = THUMBNAIL
    with_boxes: Final = 3 * THUMBNAIL

    def __init__(self, shown: int = SHOWN) -> None:
        self._shown = shown
        self._by_content: dict[str, Exhibit] = {}
        self._ranking: list[tuple[bool, float, int, str]] = []  # a heap, the least worth showing first
        self._order = 0

    def wants(self, result: Scored) -> bool:
        """Whether there is room for this image, or one that is less worth showing."""
        worth = (result.flagged, -result.judgement.p_value)
        return len(self._ranking) < self._shown or worth > self._ranking[0][:2]

    def add(
        self,
        result: Scored,
        thumbnail: bytes | None,
        heatmap: NDArray[np.float32] | None,
        faces: Sequence[tuple[bytes | None, NDArray[np.float32] | None]] = (),
    ) -> None:
        """Keep an image; where there is no room, drop the one least worth showing.

        Args:
            result: the first one of its content.
            thumbnail: a small JPEG.
            heatmap: (g, g), as in Exhibit.
            faces: thumbnail and heat map of each of its faces.
        """
        entry = (result.flagged, -result.judgement.p_value, -self._order, result.facts.key)
        self._order += 1
        self._by_content[result.facts.key] = Exhibit(thumbnail, heatmap, tuple(Exhibit(*face) for face in faces))
        if len(self._ranking) < self._shown:
            heapq.heappush(self._ranking, entry)
        else:
            del self._by_content[heapq.heappushpop(self._ranking, entry)[3]]

    def of(self, results: Sequence[Result]) -> dict[int, Exhibit]:
        """Index of a result -> its exhibit; a duplicate has none, since its row names the image that it repeats."""
        exhibits = {}
        for index, result in enumerate(results):
            if isinstance(result, Scored) and result.duplicate_of is None and result.facts.key in self._by_content:
                exhibits[index] = self._by_content[result.facts.key]
        return exhibits


class ReportWriter:
    """Collects the results and writes the page after the last one.

    Args:
        stream: of the page.
        context: its `exhibits` are filled while the results come.
    """

    def __init__(self, stream: BinaryIO, context: WriterContext) -> None:
        self._stream, self._context = stream, context
        self._results: list[Result] = []
        self._detector: DetectorInfo | None = None

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:  # noqa: ARG002 - the run is shown when it ended
        """Remember the detector."""
        self._detector = detector

    def write(self, result: Result) -> None:
        """Remember a result."""
        self._results.append(result)

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Write the page."""
        assert self._detector is not None  # noqa: S101 - `begin` comes first
        context = self._context
        page = render_report(
            ReportData(
                run=run,
                detector=self._detector,
                summary=summary,
                results=self._results,
                calibration_scores=context.calibration_scores,
                exhibits={} if context.exhibits is None else context.exhibits.of(self._results),
                thresholds=(None, None) if summary.fdr is not None or summary.reweight else context.thresholds,
                printed=context.printed.value,
                file=context.file,
            )
        )
        self._stream.write(page.encode())
        self._stream.flush()


def page_limits(summary: Summary, *, earlier: int) -> Iterator[str]:
    """What the page of a run does not show, one sentence each; `earlier` results came from a resumed report."""
    if earlier:
        yield "the page shows no images for results of earlier runs; scan without --resume to see them"
    if summary.scored - summary.duplicates - earlier > SHOWN:
        yield f"the page shows the images of {SHOWN} results, flagged ones first, then by p-value"
    if len(summary.groups) > PLOTTED:
        yield f"the page plots the scores of {PLOTTED} groups, those with the smallest p-values"
    if summary.inputs > COMFORTABLE_ROWS:
        yield f"the page has {summary.inputs} rows; browsers become slow above {COMFORTABLE_ROWS}"
