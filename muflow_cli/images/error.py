"""The one exception of this package."""

from __future__ import annotations


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
