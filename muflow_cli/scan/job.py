"""What one scan is to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from muflow_cli.cluster import ClusterSpec
from muflow_cli.detector import Detector
from muflow_cli.images.hash_lists import HashLists
from muflow_cli.output.writers import Per, Printed
from muflow_cli.records import CalibratedOn
from muflow_cli.run_specs import Atypical, Custody, InputSpec, Runtime
from muflow_cli.scan.outputs import Destination
from muflow_cli.scan.selection import Selection
from muflow_cli.scan.settings import Comparison
from muflow_cli.scan.shard import Shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to scan with which detector, and where the results go.

    Attributes:
        detector: decides the verdicts.
        detector_path: path of its bundle, as the user gave it and the report names it.
        arguments: files, folders, globs, archives and addresses, iterated once.
        destinations: outputs, at most one of them resumed.
        inputs: limits on what is read.
        runtime: device, precision, batch size, workers.
        cluster: whose machines read and score; None = this one does.
        atypical: what becomes of images outside the calibration's ranges.
        fields: only these fields of each result, in this order; None = all.
        per: what a row of a CSV is; by `frame` a detector that was calibrated on stills also judges frames as stills.
        printed: rows that an HTML page prints.
        csv_mark: a CSV begins with a byte order mark.
        comparison: what all images say together.
        custody: case and examiner, for the report.
        selection: which results are written, and in which order.
        hash_lists: files on them are counted, not scored; None = no lists.
        shard: the part of the inputs that this run reads; None = all of them.
        copy_flagged: folder for copies of flagged images.
        strict: refuse to compute other scores than the calibration holds, instead of saying so.
        argv: the command line, for the report.
    """

    detector: Detector
    detector_path: str
    arguments: Iterable[str]
    destinations: Sequence[Destination]
    inputs: InputSpec = field(default_factory=InputSpec)
    runtime: Runtime = field(default_factory=Runtime)
    cluster: ClusterSpec | None = None
    atypical: Atypical = Atypical.INCONCLUSIVE
    fields: tuple[str, ...] | None = None
    per: Per = Per.IMAGE
    printed: Printed = Printed.ALL
    csv_mark: bool = False
    comparison: Comparison = field(default_factory=Comparison)
    custody: Custody = field(default_factory=Custody)
    selection: Selection = field(default_factory=Selection)
    hash_lists: HashLists | None = None
    shard: Shard | None = None
    copy_flagged: Path | None = None
    argv: tuple[str, ...] = ()
    strict: bool = False

    @property
    def calibrated_on(self) -> CalibratedOn:
        """What the detector was calibrated on."""
        return self.detector.calibration.calibrated_on

    @property
    def resumed(self) -> Path | None:
        """The JSON-lines report to continue, if there is one."""
        return next((destination.file for destination in self.destinations if destination.resumed), None)

    @property
    def growing_reports(self) -> list[Path]:
        """The JSON-lines files among the destinations."""
        return [output.file for output in self.destinations if output.file is not None and output.can_draft]

    @property
    def kept_report(self) -> Path | None:
        """The JSON-lines report that a later run can continue, if there is one."""
        return self.resumed or next(iter(self.growing_reports if self._can_go_on else ()), None)

    @property
    def own_options(self) -> dict[str, int | float | str | bool | None]:
        """Options that stand in the head only where they were given."""
        given = dict(self.selection.options)
        if self.hash_lists is not None:
            given["known"] = self.hash_lists.digest
        if self.shard is not None:
            given["shard"] = str(self.shard)
        if self.inputs.all_frames:
            given["all_frames"] = True
        if self.inputs.embedded_video:
            given["embedded_video"] = True
        return given

    @property
    def _can_go_on(self) -> bool:
        """Whether a report holds all that a later run needs of it."""
        return self.fields is None and self.selection.whole
