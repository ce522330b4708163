"""The HTML report as a writer: it collects results and images while they come, and writes the page at the end."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.clip_records import MOST_SHOWN
from muflow_cli.output.report import PLOTTED, Exhibit, ReportData, render_report
from muflow_cli.records import Result, Scored, Unjudged
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary

if TYPE_CHECKING:
    from muflow_cli.output.writers import WriterContext

THUMBNAIL: Final = 128
SHOWN: Final = 2000
# With about 700 bytes per row, a browser opens a page of this many rows without a pause.
COMFORTABLE_ROWS: Final = 20_000


class Exhibits:
    """The images of a report: those of flagged results first, then by p-value, then of results that were not judged.

    Args:
        shown: how many images it holds; a clip has one for each of its worst frames.

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
        self._order = self._held = 0

    def wants(self, result: Scored | Unjudged) -> bool:
        """Whether there is room for this image, or one that is less worth showing."""
        return self._held < self._shown or (result.flagged, _worth(result)) > self._ranking[0][:2]

    def add(
        self,
        result: Scored | Unjudged,
        thumbnail: bytes | None,
        heatmap: NDArray[np.float32] | None,
        parts: Sequence[tuple[bytes | None, NDArray[np.float32] | None]] = (),
    ) -> None:
        """Keep an image; where there is no room, drop those least worth showing.

        Args:
            result: the first one of its content.
            thumbnail: a small JPEG.
            heatmap: (g, g), as in Exhibit.
            parts: thumbnail and heat map of each of its faces, or of the worst frames of a clip.
        """
        heapq.heappush(self._ranking, (result.flagged, _worth(result), -self._order, result.facts.key))
        self._order += 1
        exhibit = Exhibit(thumbnail, heatmap, tuple(Exhibit(*part) for part in parts), is_clip=result.clip is not None)
        self._by_content[result.facts.key] = exhibit
        self._held += exhibit.images
        while self._held > self._shown:
            self._held -= self._by_content.pop(heapq.heappop(self._ranking)[3]).images

    def of(self, results: Sequence[Result]) -> dict[int, Exhibit]:
        """Index of a result -> its exhibit; a duplicate has none, since its row names the image that it repeats."""
        exhibits = {}
        for index, result in enumerate(results):
            if (
                isinstance(result, Scored | Unjudged)
                and result.duplicate_of is None
                and result.facts.key in self._by_content
            ):
                exhibits[index] = self._by_content[result.facts.key]
        return exhibits


def _worth(result: Scored | Unjudged) -> float:
    """Greater for what is less likely to be real; least for what was not judged."""
    return -result.judgement.p_value if isinstance(result, Scored) else -2.0


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
    shown = summary.scored + summary.unjudged - summary.duplicates - earlier
    if shown + (MOST_SHOWN - 1) * summary.clips > SHOWN:
        yield f"the page shows at most {SHOWN} images and frames, of flagged results first, then by p-value"
    if len(summary.groups) > PLOTTED:
        yield f"the page plots the scores of {PLOTTED} groups, those with the smallest p-values"
    if summary.inputs > COMFORTABLE_ROWS:
        yield f"the page has {summary.inputs} rows; browsers become slow above {COMFORTABLE_ROWS}"
