"""The workflow of `muflow merge`: the reports of several runs with the same settings, such as shards, as one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from muflow_cli.errors import MuflowError
from muflow_cli.output.digests import ResultsDigest, sealed
from muflow_cli.output.encode import detector_to_json
from muflow_cli.output.report_reader import Report, read_report
from muflow_cli.records import Result, Unreadable
from muflow_cli.run_records import RunInfo, SkippedFiles, Summary
from muflow_cli.scan.outputs import Outputs
from muflow_cli.scan.shard import Shard, parse_shard
from muflow_cli.scan.tally import Tally

# Options of the head that a merged report does not share with its parts.
_OWN: Final = ("shard", "merged")


class CannotMerge(MuflowError):
    """Reports that are not the parts of one."""

    def __init__(self, path: Path, why: str, remedy: str) -> None:
        super().__init__(f"cannot merge {path}, because {why}", remedy)


@dataclass(frozen=True, slots=True)
class Merged:
    """Reports that can be merged.

    Attributes:
        reports: in the order in which they were given.
        head: of the merged report, not finished.
        missing: shards that no report is of.
    """

    reports: tuple[Report, ...]
    head: RunInfo
    missing: tuple[Shard, ...]

    def results(self) -> Iterator[Result]:
        """All results in the order of the reports; a content that came before is a duplicate of its first input."""
        first: dict[str, str] = {}
        for report in self.reports:
            for result in report.results:
                if isinstance(result, Unreadable):
                    yield result
                    continue
                earlier = first.setdefault(result.facts.key, result.path)
                yield replace(result, duplicate_of=None if earlier == result.path else earlier)


def read_parts(paths: Sequence[Path], argv: tuple[str, ...], *, partial: bool) -> Merged:
    """The reports at `paths`, checked against each other.

    Args:
        paths: of JSON or JSON-lines reports.
        argv: the command line, for the merged report.
        partial: allow missing shards and runs that were interrupted.

    Raises:
        BadReport: where a file is no report.
        CannotMerge: where a report is unfinished or was changed, its verdicts depend on its whole run, its settings
            are others than those of the first one, or it holds an input that another one holds too.
    """
    reports: list[Report] = []
    seen: dict[str, Path] = {}
    for path in paths:
        report = read_report(path)
        _check_alone(path, report, partial=partial)
        if reports:
            _check_same(path, report, paths[0], reports[0])
        for result in report.results:
            if seen.setdefault(result.path, path) is not path:
                raise CannotMerge(path, f"{seen[result.path]} also holds {result.path!a}", "give each report once")
        reports.append(report)
    missing = _missing(paths, reports, partial=partial)
    options = {name: value for name, value in _options(reports[0]).items() if name not in _OWN}
    shards = ",".join(str(_options(report).get("shard", "")) for report in reports).strip(",")
    head = replace(
        reports[0].run,
        argv=argv,
        started=min(report.run.started for report in reports),
        finished=None,
        options={**options, "merged": shards or f"{len(reports)} reports"},
    )
    return Merged(tuple(reports), head, missing)


def write_merged(merged: Merged, outputs: Outputs) -> Summary:
    """Write all results and the new counts; a comparison with the calibration needs the detector and is left out."""
    tally, digest = Tally(), ResultsDigest()
    detector = merged.reports[0].detector
    outputs.begin(merged.head, detector)
    for result in merged.results():
        tally.add(result)
        digest.add(result)
        outputs.write(result)
    parts = [report.summary for report in merged.reports if report.summary is not None]
    seconds = sum(part.seconds for part in parts)
    stages = {name: round(sum(part.stages.get(name, 0.0) for part in parts), 3) for name in parts[0].stages}
    counted = tally.summary(
        seconds=round(seconds, 3),
        images_per_second=round(tally.scored / seconds, 3) if seconds > 0 else 0.0,
        no_face_skipped=sum(part.no_face_skipped for part in parts),
        known=sum(part.known for part in parts),
        skipped=_skipped(merged, parts),
        interrupted=bool(merged.missing) or any(part.interrupted for part in parts),
        stages=stages,
        bottleneck=max(stages, key=lambda stage: stages[stage]) if stages else None,
        results_sha256=digest.hexdigest(),
    )
    run = replace(merged.head, finished=max(str(report.run.finished) for report in merged.reports))
    summary = sealed(counted, run, detector)
    outputs.end(run, summary)
    return summary


def _skipped(merged: Merged, parts: Sequence[Summary]) -> tuple[SkippedFiles, ...]:
    """What was not read; shards of the same folders have all seen the same."""
    counts: Counter[tuple[str, str]] = Counter()
    for part in parts[:1] if "shard" in _options(merged.reports[0]) else parts:
        counts.update({(row.kind, row.reason): row.count for row in part.skipped})
    return tuple(SkippedFiles(kind=kind, reason=reason, count=count) for (kind, reason), count in counts.items())


def _options(report: Report) -> Mapping[str, int | float | str | bool | None]:
    return report.run.options or {}


def _check_alone(path: Path, report: Report, *, partial: bool) -> None:
    """Refuse a report that is no part of anything."""
    summary = report.summary
    if summary is None:
        raise CannotMerge(path, "its run did not finish", "continue it with muflow scan --resume")
    if summary.interrupted and not partial:
        raise CannotMerge(path, "its run was interrupted", "scan again with --resume, or allow it with --partial")
    if report.was_changed:
        raise CannotMerge(path, "it was changed since it was written", "muflow scan --verify says where")
    if summary.written is not None:
        raise CannotMerge(path, "it holds a part of its results (--only)", "scan without --only, then merge")
    # Their q-values, weights and groups are those of one batch; merged, they would be wrong.
    for name in ("fdr", "adaptive", "reweight", "groups"):
        if getattr(summary, name):
            why = f"its verdicts depend on all images of its run (--{name})"
            raise CannotMerge(path, why, f"scan the parts without --{name}")


def _check_same(path: Path, report: Report, first_path: Path, first: Report) -> None:
    """Refuse a report whose results were computed otherwise than those of the first one."""

    def settings(one: Report) -> dict[str, object]:
        detector = detector_to_json(replace(one.detector, path=""))
        options = {f"--{name.replace('_', '-')}": value for name, value in _options(one).items() if name not in _OWN}
        device = one.run.device.partition(":")[0]
        return {
            **{f"detector ({name})": value for name, value in detector.items()},
            **{f"version of {name}": value for name, value in one.run.versions.items()},
            **options,
            "device": device,
            "precision": one.run.precision,
        }

    mine, theirs = settings(report), settings(first)
    differing = [name for name in {**theirs, **mine} if mine.get(name) != theirs.get(name)]
    if differing:
        others = "" if len(differing) == 1 else f" and {len(differing) - 1} more"
        why = f"{first_path} was written with another {differing[0]}{others}"
        raise CannotMerge(path, why, "merge reports of one detector and the same settings")


def _missing(paths: Sequence[Path], reports: Sequence[Report], *, partial: bool) -> tuple[Shard, ...]:
    """Shards that no report is of."""
    texts = [_options(report).get("shard") for report in reports]
    if not any(texts):
        return ()
    shards = [parse_shard(str(text)) if text else None for text in texts]
    first = next(shard for shard in shards if shard is not None)
    held: set[int] = set()
    for path, shard in zip(paths, shards, strict=True):
        if shard is None or shard.count != first.count:
            raise CannotMerge(path, f"it is no shard of {first.count}", "merge the shards of one scan")
        if shard.number in held:
            raise CannotMerge(path, f"another report is shard {shard} too", "give each shard once")
        held.add(shard.number)
    missing = tuple(Shard(number, first.count) for number in range(1, first.count + 1) if number not in held)
    if missing and not partial:
        named = ", ".join(map(str, missing[:10])) + (" and more" if len(missing) > 10 else "")
        raise CannotMerge(paths[0], f"these shards are missing, {named}", "give them too, or allow it with --partial")
    return missing
