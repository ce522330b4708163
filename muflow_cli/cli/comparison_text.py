"""What a comparison of all images of a scan found, in sentences and a table for the summary on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from muflow_cli.output.inert import escape
from muflow_cli.records import ImageGroup, Summary

# Groups that are listed; the reports hold all of them.
_LISTED: Final = 20
# Share of images outside the calibration's ranges from which a batch looks like another source.
_SUSPICIOUS: Final = 0.05


def comparison_lines(summary: Summary) -> Iterator[str]:
    """How adaptive p-values came about, the groups that stand out most, and what speaks against trusting them."""
    learned = summary.adaptive
    if learned is not None:
        images = "1 image" if learned.fewest_flagged == 1 else f"{learned.fewest_flagged} images"
        yield (
            f"adaptive: classifier {learned.learner}, learned from {learned.training} calibration images and ranked "
            f"among {learned.nulls} others; fewer than {images} that stand out together cannot be flagged"
        )
        if learned.atypical > _SUSPICIOUS:
            yield _doubt(f"{learned.atypical:.0%} of the images", "The false discovery rate")
    if summary.groups:
        yield from _group_lines(summary.ranked_groups)


def _group_lines(groups: tuple[ImageGroup, ...]) -> Iterator[str]:
    unlike = sum(group.unlike_calibration for group in groups)
    yield f"{len(groups)} group{'' if len(groups) == 1 else 's'}, {unlike} unlike the calibration as a group"
    yield f"{'P_VALUE':>8}  {'Q_VALUE':>8}  {'IMAGES':>6}  {'FLAGGED':>7}  TAIL  GROUP"
    for group in groups[:_LISTED]:
        p_value, q_value = ("-" if number is None else f"{number:.4f}" for number in (group.p_value, group.q_value))
        mark = "  (unlike the calibration)" if group.unlike_calibration else ""
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
