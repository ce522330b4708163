"""`--report`: collects what the HTML report shows while the results pass by, and writes it when they have ended."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

from muflow_cli.output.report import Exhibit, ReportData, render_report
from muflow_cli.records import DetectorInfo, Result, RunInfo, Scored, Summary

if TYPE_CHECKING:
    from muflow_cli.scan import Shown

THUMBNAIL: Final = 128
SHOWN: Final = 2000
# At about 700 bytes a row a browser still opens a page of this many without a pause.
COMFORTABLE_ROWS: Final = 20_000


class Exhibits:
    """The gallery of a report: pictures of at most `shown` contents, the flagged ones first, then by p-value."""

    def __init__(self, shown: int = SHOWN) -> None:
        self._shown = shown
        self._by_content: dict[str, Exhibit] = {}
        self._ranking: list[tuple[bool, float, int, str]] = []  # a heap, the least worth showing first
        self._order = 0

    def wants(self, result: Scored) -> bool:
        """Whether there is room, or a picture less worth showing."""
        return len(self._ranking) < self._shown or (result.flagged, -result.p_value) > self._ranking[0][:2]

    def add(self, shown: Shown) -> None:
        """Keep a picture, and drop the least worth showing where there is no room."""
        result = shown.result
        entry = (result.flagged, -result.p_value, -self._order, result.facts.sha256)
        self._order += 1
        self._by_content[result.facts.sha256] = Exhibit(shown.thumbnail, shown.heatmap)
        if len(self._ranking) < self._shown:
            heapq.heappush(self._ranking, entry)
        else:
            del self._by_content[heapq.heappushpop(self._ranking, entry)[3]]

    def of(self, results: Sequence[Result]) -> dict[int, Exhibit]:
        """Index of a result -> its exhibit; a duplicate has none, its row says whose picture it repeats."""
        found = {}
        for index, result in enumerate(results):
            if isinstance(result, Scored) and result.duplicate_of is None and result.facts.sha256 in self._by_content:
                found[index] = self._by_content[result.facts.sha256]
        return found


class ReportWriter:
    """A writer of the report: notes the results, writes the page when they have ended.

    Args:
        stream: of the page.
        exhibits: filled while the results come.
        calibration_scores: of the reals that the rule was calibrated on, nats per dimension.
    """

    def __init__(self, stream: BinaryIO, exhibits: Exhibits, calibration_scores: Sequence[float]) -> None:
        self._stream, self._exhibits, self._calibration_scores = stream, exhibits, calibration_scores
        self._results: list[Result] = []
        self._detector: DetectorInfo | None = None

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:  # noqa: ARG002 - the run is shown when it ended
        """Note the detector."""
        self._detector = detector

    def write(self, result: Result) -> None:
        """Note a result."""
        self._results.append(result)

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Write the page."""
        assert self._detector is not None  # noqa: S101 - `begin` comes first
        page = render_report(
            ReportData(
                run=run,
                detector=self._detector,
                summary=summary,
                results=self._results,
                calibration_scores=self._calibration_scores,
                exhibits=self._exhibits.of(self._results),
            )
        )
        self._stream.write(page.encode())
