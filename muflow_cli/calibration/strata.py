"""Which reals an image may be compared with: strata by format, JPEG quality and size, and the calibrated ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from muflow_cli.records import PIXELS, Facts

QUALITY_EDGES: Final = (50, 70, 80, 90, 95)  # libjpeg quality; most cameras and services write 75 to 95
SIZE_EDGES: Final = (128, 256, 512, 1024, 2048)  # pixels of the shorter side


def shorter_side(facts: Facts) -> int:
    """Pixels of the shorter side, the same before and after EXIF orientation."""
    return min(facts.width, facts.height)


def longer_side(facts: Facts) -> int:
    """Pixels of the longer side, the same before and after EXIF orientation."""
    return max(facts.width, facts.height)


def _bin_name(value: int, edges: Sequence[int]) -> str:
    """`<50`, `50-69`, ... `95+`: the half-open bin between two edges, as whole numbers."""
    above = bisect_right(edges, value)
    if above == 0:
        return f"<{edges[0]}"
    if above == len(edges):
        return f"{edges[-1]}+"
    return f"{edges[above - 1]}-{edges[above] - 1}"


STRATIFIERS: Final[Mapping[str, Callable[[Facts], str]]] = {
    "format": lambda facts: facts.format,
    "quality": lambda facts: (
        "q none" if facts.jpeg_quality is None else f"q{_bin_name(facts.jpeg_quality, QUALITY_EDGES)}"
    ),
    "size": lambda facts: f"{_bin_name(shorter_side(facts), SIZE_EDGES)}px",
}


def stratum_name(facts: Facts, by: Sequence[str]) -> str:
    """Name of the stratum of one image, such as `JPEG q70-79 256-511px`; empty without `by`."""
    return " ".join(STRATIFIERS[fact](facts) for fact in by)


def rows_by_stratum(facts: Sequence[Facts], by: Sequence[str]) -> dict[str, list[int]]:
    """Name of each stratum -> the rows of its images; all of them in one without a name where `by` is empty."""
    rows: dict[str, list[int]] = {}
    for row, image in enumerate(facts):
        rows.setdefault(stratum_name(image, by), []).append(row)
    return rows


# What is measured of an image, and the name under which a result says that it is out of range.
GUARDS: Final[Mapping[str, tuple[str, Callable[[Facts], float | None]]]] = {
    "shorter_side": ("size", shorter_side),
    "longer_side": ("size", longer_side),
    "jpeg_quality": ("quality", lambda facts: facts.jpeg_quality),
    "sharpness": ("sharpness", lambda facts: facts.sharpness),
    "face_side": ("face_size", lambda facts: facts.face_side),
    "face_tilt": ("face_tilt", lambda facts: facts.face_tilt),
}


@dataclass(frozen=True, slots=True)
class Ranges:
    """What the calibration images were like.

    A fresh image of the same source falls outside one of these ranges with probability of about 2 / (n + 1).

    Attributes:
        formats: containers seen, sorted.
        limits: (least, greatest) of each row of GUARDS: shorter and longer side in pixels, JPEG quality 1..100,
            sharpness in grey levels, pixels and degrees of a face; None where no calibration image had the fact.
    """

    formats: tuple[str, ...]
    limits: Mapping[str, tuple[float, float] | None]

    def atypical(self, facts: Facts) -> tuple[str, ...]:
        """Which of format, quality, sharpness, size and face lie outside, sorted; an unknown fact is not judged.

        `face` stands for an image without one where the calibration images have one.
        """
        names = set() if facts.format in (*self.formats, PIXELS) else {"format"}
        if self.limits["face_side"] is not None and facts.face_side is None:
            names.add("face")
        for measure, (name, read) in GUARDS.items():
            value, limits = read(facts), self.limits[measure]
            if limits is not None and value is not None and not limits[0] <= value <= limits[1]:
                names.add(name)
        return tuple(sorted(names))


def ranges_of(images: Sequence[Facts]) -> Ranges:
    """Formats and ranges that the images span."""
    formats = tuple(sorted({facts.format for facts in images}))
    limits = {}
    for measure, (_, read) in GUARDS.items():
        known = [value for value in map(read, images) if value is not None]
        limits[measure] = (min(known), max(known)) if known else None
    return Ranges(formats, limits)
