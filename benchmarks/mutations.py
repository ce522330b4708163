"""What fuzzers do to bytes and to JSON values; everything is drawn from a generator, so that it can be repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

HOSTILE: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 16, 63, 3000, 4096, 20_000, 10**6, 10**9, 10**18, 2**63, 2**70, 10**4000),
    *(0.0, -0.5, 1e-300, 0.5, 1e9, 1e30, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "../x", "a: b\nc", "\x1b[31m", "\ud800", "é", "0" * 100_000, "resnet50", "layer1", "quarter", "both"),
    *(None, True, False, [], {}, [[]], [0], [1] * 100_000, ["full"], {"a": 1}),
)


def hostile(generator: np.random.Generator) -> Any:
    """One of HOSTILE."""
    return HOSTILE[int(generator.integers(0, len(HOSTILE)))]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON value are, the containers included."""
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from leaves(inner, (*path, key))


def mutate(data: bytes, others: Sequence[bytes], generator: np.random.Generator, head: int = 200) -> bytes:
    """Bytes after one to eight mutations.

    Flipped bits, overwritten runs, cuts, inserted and repeated pieces, the end of one of the `others`, and 0 or 0xFF.

    Args:
        data: of a whole file.
        others: whole files whose ends may take the place of its end.
        generator: decides.
        head: bytes that decide most; half of the mutations start there.
    """
    mutated = bytearray(data)
    for _ in range(generator.integers(1, 9)):
        if len(mutated) >= 2:
            _change(mutated, others, generator, head)
    return bytes(mutated)


def _change(data: bytearray, others: Sequence[bytes], generator: np.random.Generator, head: int) -> None:
    top = min(len(data), head) if generator.random() < 0.5 else len(data)
    at = int(generator.integers(0, top))
    size = int(generator.integers(1, 33))
    flipped = bytes([data[at] ^ (1 << int(generator.integers(0, 8)))])
    other = others[int(generator.integers(0, len(others)))]
    # (start, stop, what replaces the bytes between them)
    changes = (
        (at, at + 1, flipped),
        (at, at + size, generator.bytes(min(size, len(data) - at))),
        (max(1, at), len(data), b""),
        (at, at, generator.bytes(size)),
        (at, at, bytes(data[at : at + 20 * size])),
        (at, len(data), other[at:]),
        (at, at + 4, bytes([int(generator.choice([0, 255, 127]))]) * min(4, len(data) - at)),
    )
    start, stop, replacement = changes[int(generator.integers(0, len(changes)))]
    data[start:stop] = replacement
