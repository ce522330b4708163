"""Which images a calibration may use: each photograph once, none that the detector was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from muflow_cli.detector import Detector
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.loader import Loaded
from muflow_cli.images.near import distinct, near_duplicate_groups, unpacked
from muflow_cli.records import Origin, Unreadable

_Usable = TypeVar("_Usable", bound=Loaded | LoadedClip)


class Intake:
    """Passes each readable image that may calibrate, once, and counts the others.

    Args:
        detector: to calibrate; images that it was fitted on or adapted to must not calibrate it.
        append: whether the images that already calibrate it stay in use.
        allow_declared: also pass images that declare themselves synthetic.

    Attributes:
        used: number of images passed.
        left_out: reason -> number of readable images that were not.
        declared_synthetic: paths of those that declare themselves synthetic.
        unreadable: code -> number of inputs.
    """

    def __init__(self, detector: Detector, *, append: bool, allow_declared: bool = False) -> None:
        self._allow_declared = allow_declared
        self.declared_synthetic: list[str] = []
        self._why = dict.fromkeys((bytes(row).hex() for row in detector.fitted_on), "seen_in_fit")
        if detector.adapted_to is not None:
            self._why |= dict.fromkeys((bytes(row).hex() for row in detector.adapted_to), "adapted_to")
        if append:
            self._why |= dict.fromkeys((facts.sha256 for facts in detector.calibration.facts), "calibrated")
        calibrated_near = detector.calibration.near_hashes if append else None
        known = (detector.fitted_near, detector.adapted_near, calibrated_near)
        self._known_near = [near for rows in known if rows is not None for near in unpacked(rows)]
        self.used = 0
        self.left_out: Counter[str] = Counter()
        self.unreadable: Counter[str] = Counter()

    def usable(self, items: Iterable[_Usable | Unreadable]) -> Iterator[_Usable]:
        """The images and clips among `items` that may calibrate, in order."""
        for item in items:
            if isinstance(item, Unreadable) and item.code == "no_face":
                self.left_out["no_face"] += 1
            elif isinstance(item, Unreadable):
                self.unreadable[item.code] += 1
            elif item.facts.sha256 in self._why:
                self.left_out[self._why[item.facts.sha256]] += 1
            elif item.declared.origin is Origin.SYNTHETIC and not self._allow_declared:
                self.left_out["declared_synthetic"] += 1
                self.declared_synthetic.append(item.path)
            else:
                self._why[item.facts.sha256] = "duplicate"
                self.used += 1
                yield item

    def without_near_copies(self, digests: Sequence[str], hashes: Sequence[int]) -> list[int]:
        """Positions of the images that may calibrate beside those known and beside each other; the others are counted.

        Of several near copies of one photograph the one with the smallest content hash stays, whatever their order;
        none stays where the photograph was fitted to or already calibrates.

        Args:
            digests: content hashes of the images that `usable` passed.
            hashes: their perceptual hashes.
        """
        groups = near_duplicate_groups([*self._known_near, *hashes])
        taken, own = set(groups[: len(self._known_near)].tolist()), groups[len(self._known_near) :]
        fresh = [index for index in distinct(digests, own) if int(own[index]) not in taken]
        if len(fresh) < len(digests):
            self.left_out["near_copy"] += len(digests) - len(fresh)
        self.used = len(fresh)
        return fresh

    def reasons(self) -> str:
        """The counts in words."""
        counts = sorted((self.unreadable + self.left_out).items())
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts) or "no file"
