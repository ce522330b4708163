"""The summary of a scan on stderr: counts, and what a comparison of all images found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from muflow_cli.output.inert import escape
from muflow_cli.output.shift_text import shift_text
from muflow_cli.records import CalibratedOn
from muflow_cli.run_records import ImageGroup, ReweightInfo, Summary
from muflow_cli.run_specs import Atypical
from muflow_cli.skipped import skipped_text

# Groups that are listed; the reports hold all of them.
_LISTED: Final = 20
# Share of images outside the calibration's ranges from which a batch looks like another source.
_SUSPICIOUS: Final = 0.05


def summary_lines(
    summary: Summary, alpha: float, atypical: Atypical, calibrated_on: CalibratedOn = CalibratedOn.STILLS
) -> Iterator[str]:
    """Counts and times; how adaptive p-values came about, the groups that stand out most, and what speaks against them.

    Args:
        summary: of the run.
        alpha: of the detector's rule, which decides on groups where no false discovery rate was given.
        atypical: what became of images outside the calibration's ranges.
        calibrated_on: what the detector was calibrated on.
    """
    yield from _counts(summary)
    yield from _unread(summary)
    if summary.unjudged:
        yield _unjudged_line(summary, calibrated_on)
    if summary.atypical:
        yield _atypical_line(summary, atypical)
    if summary.shift is not None and not summary.shift.alike:
        yield f"warning: {shift_text(summary.shift, alpha)}"
    learned = summary.adaptive
    if learned is not None:
        together = learned.fewest_flagged
        needed = "" if together == 1 else f"; none can be flagged unless at least {together} stand out together"
        yield (
            f"adaptive: classifier {learned.learner}, learned from {learned.training} calibration images and ranked "
            f"among {learned.nulls} others{needed}"
        )
        if learned.atypical > _SUSPICIOUS:
            yield _doubt(f"{learned.atypical:.0%} of the images", "The false discovery rate")
    if summary.reweight is not None:
        yield from _reweight_lines(summary.reweight, alpha)
    if summary.groups:
        yield from _group_lines(summary.ranked_groups, alpha if summary.fdr is None else summary.fdr)


def _unread(summary: Summary) -> Iterator[str]:
    """What has no result."""
    if summary.frames_left_out:
        frames = "1 frame was" if summary.frames_left_out == 1 else f"{summary.frames_left_out} frames were"
        yield f"{frames} not scored (later frames of animations, pages of documents); --all-frames scores them"
    if summary.skipped:
        yield f"skipped: {skipped_text(summary.skipped)}"


def _unjudged_line(summary: Summary, calibrated_on: CalibratedOn) -> str:
    many = summary.unjudged
    if calibrated_on is CalibratedOn.STILLS:
        videos, frames = ("1 video has", "its frames") if many == 1 else (f"{many} videos have", "their frames")
        return (
            f"{videos} scores and no verdict, since the detector is calibrated on images; --per frame judges {frames} "
            "as images, and muflow calibrate DETECTOR VIDEO... makes a calibration on videos"
        )
    images = "1 image has" if many == 1 else f"{many} images have"
    return f"{images} scores and no verdict, since the detector is calibrated on videos"


def _atypical_line(summary: Summary, atypical: Atypical) -> str:
    images = f"1 {_unit(summary)} is" if summary.atypical == 1 else f"{summary.atypical} {_unit(summary)}s are"
    facts = ", ".join(f"{count} by {name.replace('_', ' ')}" for name, count in summary.atypical_by_fact.items())
    outside = f"outside the calibration's ranges ({facts})"
    if atypical is Atypical.REPORT:
        return f"{images} {outside}; no rate is promised for verdicts on such images"
    verdict = "flagged" if atypical is Atypical.FLAG else "inconclusive"
    return f"{images} {verdict} because of lying {outside}; --atypical report judges such images as any other"


def _reweight_lines(info: ReweightInfo, alpha: float) -> Iterator[str]:
    if not info.learned_from:
        yield "reweight: too few images to learn weights from, so every calibration image counts alike"
        return
    yield f"reweight: p-values are weighted; effective number of calibration images {info.effective:.0f} (Kish)"
    if info.undecided:
        images, them = ("1 image", "it") if info.undecided == 1 else (f"{info.undecided} images", "them")
        yield (
            f"{images} cannot be flagged at alpha {alpha:g}, since too few calibration images resemble {them}: "
            "inconclusive"
        )


def _group_lines(groups: tuple[ImageGroup, ...], level: float) -> Iterator[str]:
    unlike = sum(group.unlike_calibration for group in groups)
    count = f"{len(groups)} group{'' if len(groups) == 1 else 's'}"
    yield f"{count}, {unlike} unlike the calibration as a group (q <= {level:g})"
    yield f"{'P_VALUE':>8}  {'Q_VALUE':>8}  {'IMAGES':>6}  {'FLAGGED':>7}  TAIL  GROUP"
    for group in groups[:_LISTED]:
        p_value, q_value = ("-" if number is None else f"{number:.4f}" for number in (group.p_value, group.q_value))
        mark = "  (too few images)" if group.p_value is None else ""
        mark = "  (unlike the calibration)" if group.unlike_calibration else mark
        yield (
            f"{p_value:>8}  {q_value:>8}  {group.images:>6}  {group.flagged:>7}  {group.tail:<4}  "
            f"{escape(group.name)}{mark}"
        )
    if len(groups) > _LISTED:
        yield f"and {len(groups) - _LISTED} more groups, which the JSON and HTML reports and -o FILE.groups.csv list"
    doubtful = sum(group.atypical > _SUSPICIOUS for group in groups)
    if doubtful:
        yield _doubt(f"some images of {doubtful} group{'' if doubtful == 1 else 's'}", "The p-value of a group")


def _doubt(subject: str, promise: str) -> str:
    return (
        f"{subject} lie outside the ranges of the calibration images (see atypical_input), as images of another source "
        f"do. {promise} holds only against real images of the calibration's kind"
    )


def interrupted_text(summary: Summary, *, provisional: bool, goes_on: bool) -> str:
    """What an interrupted run is worth; `provisional` if verdicts depend on all images, `goes_on` if it can resume."""
    if summary.interrupted and provisional:
        resumed = "; the same command with --resume continues" if goes_on else ""
        return f"q-values, verdicts by them and groups are provisional, since they depend on all images{resumed}"
    return f"all {'results up to here' if summary.interrupted else 'results'} are complete"


def _counts(summary: Summary) -> Iterator[str]:
    # What decides in an adaptive run has no tails.
    by_tail = {} if summary.adaptive else summary.flagged_by_tail
    tails = ", ".join(f"{count} {tail} tail" for tail, count in by_tail.items())
    codes = ", ".join(f"{count} {code}" for code, count in summary.unreadable_by_code.items())
    by = "" if summary.fdr is None else f" at a false discovery rate of {summary.fdr:g}"
    origins = summary.declared_by_origin.items()
    declared = "".join(f", {count} declared {origin}" for origin, count in sorted(origins, reverse=True))
    inconclusive = f", {summary.inconclusive} inconclusive" if summary.inconclusive else ""
    damaged = f", {summary.damaged} damaged" if summary.damaged else ""
    without = summary.no_face + summary.no_face_skipped
    faces = f" ({summary.faces} face{_s(summary.faces)})" if summary.faces else ""
    skipped = f" ({'all' if without == summary.no_face_skipped else summary.no_face_skipped} skipped)"
    no_face = f", {without} without a face{skipped if summary.no_face_skipped else ''}" if without else ""
    known = f", {summary.known} known (left out)" if summary.known else ""
    inputs = summary.inputs + summary.no_face_skipped + summary.known
    written = "" if summary.written is None else f"; {summary.written} written"
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.stages.items())
    clips = f" ({summary.clips} video{_s(summary.clips)})" if summary.clips else ""
    unjudged = f", {summary.unjudged} not judged" if summary.unjudged else ""
    yield (
        f"{inputs} input{_s(inputs)}{clips}, {summary.scored} scored{faces}{no_face}{unjudged}{known}, "
        f"{summary.flagged} flagged{by}{f' ({tails})' if tails else ''}{inconclusive}{damaged}{declared}, "
        f"{summary.unreadable} unreadable"
        f"{f' ({codes})' if codes else ''}, {summary.duplicates} duplicate{_s(summary.duplicates)}{written}"
    )
    yield (
        f"{summary.seconds:.1f} s, {summary.images_per_second:.1f} {_unit(summary)}s/s ({stages}; "
        f"the bottleneck is {summary.bottleneck})"
    )


def _unit(summary: Summary) -> str:
    """What is counted: images, or inputs where some are videos."""
    return "input" if summary.clips else "image"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
