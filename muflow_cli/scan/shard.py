"""A shard: the inputs of a scan that one of several runs is to read, chosen by their paths alone."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Final

from muflow_cli.errors import BadSpec

_MOST: Final = 100_000


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of a scan.

    Attributes:
        number: of this part, 1..count.
        count: number of parts; together they hold every input once, whatever order they are found in.
    """

    number: int
    count: int

    def holds(self, path: str) -> bool:
        """Whether an input belongs to this part, by the SHA-256 of its path as it is reported."""
        digest = hashlib.sha256(os.fsencode(path)).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """The shard that `I/N` names; BadSpec for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    shard = Shard(*map(int, match.groups())) if match else None
    if shard is None or not shard.number <= shard.count <= _MOST:
        raise BadSpec("--shard", text, "I/N with I from 1 to N, such as 2/4")
    return shard
