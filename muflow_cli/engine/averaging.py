"""Average images: M means of N images each, in one pass over the images, as blocked matrix products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from muflow_cli.errors import TooFewImages

# A product touches every sum once per block of images, so fewer, larger blocks move less memory. 256 images of
# 256x256 are 50 MB as bytes; only COLUMNS values of each are converted to float32 at a time.
BLOCK: Final = 256
COLUMNS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much averages drawn from one pool repeat each other.

    Attributes:
        shared: mean over pairs of averages of |I_j ∩ I_k| / N, the share of images in common; 0 for a single average.
            It is also the correlation of two averages of independent images.
        effective_sample_size: number of independent averages whose mean is as precise as the mean of these M:
            Var(one average) / Var(mean of all) = M² N / Σ_i c_i² = M / (1 + (M - 1) shared), where c_i counts the
            averages that contain image i. It never exceeds P / N for a pool of P images, however large M is.
            Source: the design effect of Kish, Survey Sampling (1965), with `shared` as the intraclass correlation.
    """

    shared: float
    effective_sample_size: float


def draw_members(images: int, means: int, size: int, generator: torch.Generator) -> Tensor:
    """The images in each average: (M, N) int64, each row ascending and without repetition.

    Args:
        images: number of images in the pool.
        means: M, number of averages.
        size: N, images per average.
        generator: source of the draws, on the CPU.

    Raises:
        TooFewImages: if N exceeds the pool.
    """
    if size > images:
        why = f"an average takes {size} different ones; --images-per-average asks for fewer"
        raise TooFewImages("averaging", images, size, why)
    rows = (torch.randperm(images, generator=generator)[:size].sort().values for _ in range(means))
    return torch.stack(list(rows))


def overlap(members: Tensor, images: int) -> Overlap:
    """Overlap of the averages with `members` (M, N) from a pool of `images` images."""
    means, size = members.shape
    counts = torch.bincount(members.flatten(), minlength=images).double()
    squares = float(counts.square().sum())
    pairs = means * (means - 1) * size
    shared = (squares - means * size) / pairs if means > 1 else 0.0
    return Overlap(shared, means**2 * size / squares)


def average(chunks: Iterable[Tensor], members: Tensor, images: int) -> Tensor:
    """Means of the images of each row of `members`: (M, 3, H, W) float32 grey levels, 0..255, not rounded.

    One pass, without holding all images in memory. Sums of grey levels are integers, exact in float32 up to
    N = 65,793, so the quotient is the correctly rounded mean.

    Args:
        chunks: (b, 3, H, W) uint8 with any b, in the order that `members` indexes; they decide the device.
        members: (M, N) int64, distinct in each row.
        images: total number of images in the chunks.

    Raises:
        ValueError: if the chunks hold a different number of images.
    """
    sums: Tensor | None = None
    shape: tuple[int, ...] = ()
    seen = 0
    for block in _blocks(chunks):
        shape = tuple(block.shape[1:])
        if sums is None:
            sums = torch.zeros(len(members), block[0].numel(), device=block.device)
            members = members.to(block.device)
        # (M, b): 1 where an average contains the image.
        inside = (members >= seen) & (members < seen + len(block))
        rows, positions = inside.nonzero(as_tuple=True)
        membership = torch.zeros(len(members), len(block), device=block.device)
        membership[rows, members[rows, positions] - seen] = 1
        flat = block.flatten(1)
        for start in range(0, flat.shape[1], COLUMNS):
            columns = flat[:, start : start + COLUMNS].to(sums.dtype)
            sums[:, start : start + COLUMNS].addmm_(membership, columns)
        seen += len(block)
    if sums is None or seen != images:
        raise ValueError(f"the chunks hold {seen} images, expected {images}")
    return sums.div_(members.shape[1]).view(len(members), *shape)


def _blocks(chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same images in the same order, in blocks of at most BLOCK."""
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
