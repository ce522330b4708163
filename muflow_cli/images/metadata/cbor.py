"""CBOR (RFC 8949) as C2PA manifests use it, read within a bound on depth and number of values.

Tags are passed over, so a file can neither share nor repeat values, and nothing is allocated for a length that the
bytes do not have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

Value = int | float | str | bytes | bool | None | list["Value"] | dict[str, "Value"]

MAX_DEPTH: Final = 16
MAX_VALUES: Final = 20_000

_SIMPLE: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None, 23: None}
_FLOATS: Final = {25: ">e", 26: ">f", 27: ">d"}


class BadCbor(ValueError):
    """Bytes that are not CBOR, or more of it than the bounds allow."""


def decode(data: bytes) -> Value:
    """The first value in `data`; keys of maps become text, and a value that CBOR has no Python type for, None.

    Raises:
        BadCbor: damaged, cut short, nested more than MAX_DEPTH deep, or of more than MAX_VALUES values.
    """
    return _Decoder(data).value(0)


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._left = data, 0, MAX_VALUES

    def value(self, depth: int) -> Value:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise BadCbor("too many values, or nested too deeply")
        major, info = divmod(self._bytes(1)[0], 32)
        if major == 7:
            return self._simple(info)
        length = None if info == 31 else self._argument(info)
        if major < 2:
            if length is None:
                raise BadCbor("a number without a length")
            return length if major == 0 else -1 - length
        if major < 4:
            return self._string(major, length, depth)
        if major == 4:
            return [self.value(depth + 1) for _ in self._counted(length)]
        if major == 5:
            return {str(self.value(depth + 1)): self.value(depth + 1) for _ in self._counted(length)}
        return self.value(depth + 1)  # a tag: its number is passed over

    def _simple(self, info: int) -> Value:
        if info in _FLOATS:
            number: float = struct.unpack(_FLOATS[info], self._bytes(1 << info - 24))[0]
            return number
        return _SIMPLE.get(info)

    def _argument(self, info: int) -> int:
        if info < 24:
            return info
        if info > 27:
            raise BadCbor("a reserved length")
        return int.from_bytes(self._bytes(1 << info - 24), "big")

    def _string(self, major: int, length: int | None, depth: int) -> str | bytes:
        if length is None:
            pieces = []
            for _ in self._counted(None):
                piece = self.value(depth + 1)
                pieces.append(piece if isinstance(piece, bytes) else str(piece).encode())
            raw = b"".join(pieces)
        else:
            raw = self._bytes(length)
        return raw if major == 2 else raw.decode("utf-8", "replace")

    def _counted(self, length: int | None) -> Iterator[None]:
        """As many turns as there are items: `length`, or until a break."""
        turns = 0
        while turns != length:
            if length is None and self._data[self._at : self._at + 1] == b"\xff":
                self._at += 1
                return
            yield
            turns += 1

    def _bytes(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            raise BadCbor("cut short")
        self._at += count
        return piece
