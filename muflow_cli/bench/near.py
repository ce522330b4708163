"""Near copies in a benchmark: each photograph counts once, and none that the detector knows. Pure.

Images can be compared once they are decoded, so this follows `data.select`, which compares bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from muflow_cli.bench.data import Known, OverlapPolicy, Selection, known_images
from muflow_cli.bench.scores import Row
from muflow_cli.errors import BadScores
from muflow_cli.images.near import distinct, near_duplicate_groups


def one_each(digests: Sequence[str], fakes: Sequence[bool], groups: NDArray[np.int64]) -> list[int]:
    """Positions, ascending, of the images that count: one of each group of near copies (n,) for each label."""
    return distinct(digests, 2 * groups + np.array(fakes, dtype=np.int64))


def without_near_copies(
    selection: Selection, rows: Sequence[Row], known: Known, policy: OverlapPolicy
) -> tuple[Selection, list[Row]]:
    """The rows that count and the selection of their images, which says how many were left out.

    Of several near copies with one label, whatever their groups, the one with the smallest content hash stays. A real
    and a fake may look alike, as a photograph and an edited copy of it do; both count.

    Args:
        selection: what was scored.
        rows: of its images that could be decoded, with their perceptual hashes.
        known: to the detector.
        policy: what happens to near copies of images that the detector knows.

    Raises:
        BadData: where such near copies are refused.
        BadScores: where no real or no fake is left.
    """
    hashes = [*known.fitted_near, *known.calibrated_near, *(row.near_hash or 0 for row in rows)]
    groups = near_duplicate_groups(hashes)
    fitted, calibrated, own = np.split(groups, np.cumsum([len(known.fitted_near), len(known.calibrated_near)]))
    of_fitted, of_calibrated = set(fitted.tolist()), set(calibrated.tolist())

    def how(index: int) -> str:
        group = int(own[index])
        near = "near_fitted" if group in of_fitted else "near_calibrated" if group in of_calibrated else ""
        return known.how(rows[index].sha256 or "") or near

    single = one_each([row.sha256 or row.path for row in rows], [row.fake for row in rows], own)
    near_copies = len(rows) - len(single)
    overlap: dict[str, Counter[str]] = {}
    for index in single:
        if how(index):
            overlap.setdefault(rows[index].group, Counter())[how(index)] += 1
    if overlap and policy is OverlapPolicy.REFUSE:
        raise known_images(overlap)
    if policy is OverlapPolicy.DROP:
        single = [index for index in single if not how(index)]
        for group, counts in selection.overlap.items():  # those with the bytes of known images are gone already
            overlap.setdefault(group, Counter()).update(counts)
    kept = [rows[index] for index in single]
    fakes = sum(row.fake for row in kept)
    if not 0 < fakes < len(kept):
        raise BadScores("a benchmark", len(kept) - fakes, fakes)
    contents = {row.sha256 for row in kept}
    left = replace(
        selection,
        images=tuple(image for image in selection.images if image.sha256 in contents),
        near_copies=near_copies,
        overlap={group: dict(sorted(counts.items())) for group, counts in overlap.items()},
    )
    return left, kept
