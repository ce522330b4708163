"""Photoshop image resource blocks and the IPTC records (IIM 4.2) in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from muflow_cli.images.metadata.pieces import Metadata

_MAX_BLOCKS: Final = 1_000
_IPTC_BLOCK: Final = 0x0404
_CREDIT: Final = b"\x1c\x02\x6e"


def resources(blocks: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each image resource block (Adobe, Photoshop File Formats)."""
    at = 0
    for _ in range(_MAX_BLOCKS):
        if blocks[at : at + 4] != b"8BIM" or at + 12 > len(blocks):
            return
        number, name = int.from_bytes(blocks[at + 4 : at + 6], "big"), blocks[at + 6]
        at += 6 + (name + 2) // 2 * 2  # the name and its length fill an even number of bytes
        size = int.from_bytes(blocks[at : at + 4], "big")
        yield number, blocks[at + 4 : at + 4 + size]
        at += 4 + size + size % 2


def iptc_credits(metadata: Metadata) -> list[str]:
    """The credit lines (dataset 2:110) of every IPTC record."""
    records = [record for block in metadata.photoshop for number, record in resources(block) if number == _IPTC_BLOCK]
    return [credit for record in (*records, *metadata.iptc) for credit in _credits(record)]


def _credits(record: bytes) -> Iterator[str]:
    at = 0
    for _ in range(_MAX_BLOCKS):
        if record[at : at + 1] != b"\x1c" or at + 5 > len(record):
            return
        size = int.from_bytes(record[at + 3 : at + 5], "big")
        if record[at : at + 3] == _CREDIT:
            yield record[at + 5 : at + 5 + min(size, 1_000)].decode("utf-8", "replace")
        at += 5 + size
