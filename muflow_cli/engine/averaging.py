"""Average pictures: M means of N pictures each, in one pass over the pictures, as blocked matrix products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from muflow_cli.errors import TooFewPictures

# A product touches every sum once per block of pictures: fewer, larger blocks move less memory. 256 pictures of
# 256x256 are 50 MB as bytes; only COLUMNS values of each are float32 at a time.
BLOCK: Final = 256
COLUMNS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Overlap:
    """How far averages drawn from one pool repeat each other.

    Attributes:
        shared: mean over pairs of averages of |I_j ∩ I_k| / N, the share of pictures in common; 0 for a single average.
            It is also the correlation of two averages of independent pictures.
        effective_sample_size: number of independent averages whose mean is as precise as the mean of these M:
            Var(one average) / Var(mean of all) = M² N / Σ_i c_i² = M / (1 + (M - 1) shared), where c_i counts the
            averages that picture i is part of. It never exceeds P / N for a pool of P pictures, however large M is.
            Source: the design effect of Kish, Survey Sampling (1965), with `shared` as the intraclass correlation.
    """

    shared: float
    effective_sample_size: float


def draw_members(pictures: int, means: int, size: int, generator: torch.Generator) -> Tensor:
    """Which pictures make up each average: (M, N) int64, each row ascending and without repetition.

    Args:
        pictures: number of pictures in the pool.
        means: M, number of averages.
        size: N, pictures per average.
        generator: source of the draws, on the CPU.

    Raises:
        TooFewPictures: if N exceeds the pool.
    """
    if size > pictures:
        why = f"an average takes {size} different ones; --mean-size asks for fewer"
        raise TooFewPictures("averaging", pictures, size, why)
    rows = (torch.randperm(pictures, generator=generator)[:size].sort().values for _ in range(means))
    return torch.stack(list(rows))


def overlap(members: Tensor, pictures: int) -> Overlap:
    """How far the averages of `members` (M, N) out of `pictures` pictures overlap."""
    means, size = members.shape
    counts = torch.bincount(members.flatten(), minlength=pictures).double()
    squares = float(counts.square().sum())
    pairs = means * (means - 1) * size
    shared = (squares - means * size) / pairs if means > 1 else 0.0
    return Overlap(shared, means**2 * size / squares)


def average(chunks: Iterable[Tensor], members: Tensor, pictures: int) -> Tensor:
    """Means of the pictures of each row of `members`: (M, 3, H, W) float32 grey levels, 0..255, not rounded.

    One pass, never all pictures in memory. Sums of grey levels are whole numbers, exact in float32 up to
    N = 65,793; the quotient is then the correctly rounded mean.

    Args:
        chunks: (b, 3, H, W) uint8, in the order that `members` counts, b at will; they decide the device.
        members: (M, N) int64, distinct in each row.
        pictures: how many pictures the chunks hold together.

    Raises:
        ValueError: if the chunks hold another number of pictures.
    """
    sums: Tensor | None = None
    shape: tuple[int, ...] = ()
    seen = 0
    for block in _blocks(chunks):
        shape = tuple(block.shape[1:])
        if sums is None:
            sums = torch.zeros(len(members), block[0].numel(), device=block.device)
            members = members.to(block.device)
        _add_block(sums, block.flatten(1), _membership(members, seen, len(block)))
        seen += len(block)
    if sums is None or seen != pictures:
        raise ValueError(f"the chunks hold {seen} pictures, expected {pictures}")
    return sums.div_(members.shape[1]).view(len(members), *shape)


def _blocks(chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same pictures in order, BLOCK at a time, the last block as long as it comes."""
    held: list[Tensor] = []
    count = 0
    for chunk in chunks:
        for part in torch.split(chunk, BLOCK):
            if count + len(part) > BLOCK:
                yield torch.cat(held)
                held, count = [], 0
            held.append(part)
            count += len(part)
    if held:
        yield torch.cat(held)


def _membership(members: Tensor, start: int, count: int) -> Tensor:
    """(M, count) float32: 1 where an average holds picture start + column."""
    inside = (members >= start) & (members < start + count)
    rows, places = inside.nonzero(as_tuple=True)
    matrix = torch.zeros(len(members), count, device=members.device)
    matrix[rows, members[rows, places] - start] = 1
    return matrix


def _add_block(sums: Tensor, block: Tensor, membership: Tensor) -> None:
    for start in range(0, block.shape[1], COLUMNS):
        columns = block[:, start : start + COLUMNS].to(sums.dtype)
        sums[:, start : start + COLUMNS].addmm_(membership, columns)
