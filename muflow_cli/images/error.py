"""What can be wrong with an input: the one exception of this package, and damage that a decoder passes over."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Final

_PARTS: Final = (
    (1 / 10, "tenth of the image is"),
    (1 / 5, "fifth of the image is"),
    (1 / 4, "quarter of the image is"),
    (1 / 3, "third of the image is"),
    (1 / 2, "half of the image is"),
    (2 / 3, "two thirds of the image are"),
    (3 / 4, "three quarters of the image are"),
    (9 / 10, "nine tenths of the image are"),
)


class ImageError(Exception):
    """An input cannot be scored; it becomes an Unreadable record.

    Attributes:
        code: a stable word for programs.
        message: one sentence for people, without the path.
        sha256: of the bytes; None if they were not read.
        bytes: number of bytes; None if it is not known.
    """

    def __init__(self, code: str, message: str, *, sha256: str | None = None, size: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.sha256 = sha256
        self.bytes = size


def reason_of(error: BaseException | None) -> str:
    """What a library says of an error, for the brackets of a sentence: one printable line, no colon, not long."""
    text = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in str(error)).replace(": ", ", ")
    return textwrap.shorten(text, 160, placeholder=" ...") or type(error).__name__


@dataclass(frozen=True, slots=True)
class Damage:
    """Evidence that the coded data of an image are damaged or cut.

    Attributes:
        code: truncated (the data end early) or corrupt (they are wrong).
        message: one sentence for people, without the path.
        missing: share of the image that is missing, 0..1; None where it cannot be told.
        is_slight: at most the last row of blocks is missing, so the image is scored.
    """

    code: str
    message: str
    missing: float | None = None
    is_slight: bool = False


def missing_part(share: float, *, is_lower: bool = True) -> str:
    """How much of an image is missing, as the main clause of a sentence.

    Args:
        share: of its pixels, 0..1.
        is_lower: the part lies at the bottom.
    """
    if share > 0.97:
        return "nearly the whole image is missing"
    nearest, words = min(_PARTS, key=lambda part: abs(part[0] - share))
    if not is_lower or abs(nearest - share) > 0.03:
        percent = f"{100 * share:.0f} %" if share >= 0.01 else "1 %"
        return f"about {'the lower ' if is_lower else ''}{percent} of the image is missing"
    return f"about the lower {words} missing"
