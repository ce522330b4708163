"""A pixel density that is learned from reals, after ZED (Cozzolino et al., ECCV 2024); `density_judge.py` judges it.

    python benchmarks/density.py REALS_FOLDER... -o density.safetensors [--steps 600]

Every image goes into one container (centre square, 256 px, JPEG quality 90). The network predicts three levels of it,
each from the one below: a logistic law of the three details (horizontal, vertical, diagonal) of each 2 x 2 block. The
statistic is the NLL minus the entropy of the law, averaged: 0 where an image obeys the network, whatever it shows, and
negative where it is smoother than the network expects. Images that `density_judge.py` holds out take no part.

Every CHECKPOINT steps the state is kept beside the output; the same command continues it and ends in the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from disturbed import SIDE, files_in, pixels_of, square
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from muflow_cli.engine.forensic import luma_of

CHANNELS: Final = 16
LEVELS: Final = 3
BATCHES: Final = (16, 8, 8)  # patches of 64, 128 and 256 pixels: 32 x 32 blocks of each level
RATE: Final = 3e-3
CHECKPOINT: Final = 50
LIMIT: Final = 160  # images of a folder that `density_judge.py` looks at


class Level(nn.Module):
    """The law of the details of one level, given the level below and, plane after plane, the details before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        layers = [nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)]
        self.block = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1))
        self.hidden = nn.ModuleList(nn.Conv2d(CHANNELS + 3 * k, CHANNELS, 3, padding=1) for k in range(3))
        laws = [nn.Conv2d(CHANNELS, 6, 1) for _ in range(3)]
        for law in laws:
            nn.init.zeros_(law.weight)
            nn.init.zeros_(cast("Tensor", law.bias))
        self.law = nn.ModuleList(laws)

    def forward(self, below: Tensor, details: Tensor) -> tuple[Tensor, Tensor]:
        """Location and log scale (B, 9, h, w) of details (B, 9, h, w) above a level (B, 3, h, w) in Y, Cb, Cr."""
        image = self.stem(torch.cat([(below[:, :1] - 128) / 64, below[:, 1:] / 32], dim=1))
        image = functional.relu(image + self.block(image))
        laws = []
        for k, (hidden, law) in enumerate(zip(self.hidden, self.law, strict=True)):
            known = torch.cat([image, details[:, : 3 * k] / 16], dim=1)
            laws.append(law(functional.relu(hidden(known))))
        location = torch.cat([law[:, :3] for law in laws], dim=1) * 4
        return location, torch.cat([law[:, 3:] for law in laws], dim=1).clamp(-3, 5)


class Density(nn.Module):
    """One `Level` for each step of the pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Level() for _ in range(LEVELS))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 3, 3) mean of NLL minus entropy: level, detail (horizontal, vertical, diagonal), colour (Y, Cb, Cr).

        Args:
            images: (B, 3, H, W) grey levels.
        """
        plane, gaps = colours(images), []
        for level in self.levels:
            plane, details = split(plane)
            location, log_scale = level(plane, details)
            gaps.append((nll(details, location, log_scale) - log_scale - 2).mean(dim=(2, 3)))  # entropy: log s + 2
        return torch.stack(gaps, dim=1).unflatten(2, (3, 3))


def colours(images: Tensor) -> Tensor:
    """Y, Cb, Cr of RGB, all (B, 3, H, W) in grey levels."""
    luma = luma_of(images)
    return torch.cat([luma, (images[:, 2:] - luma) / 1.772, (images[:, :1] - luma) / 1.402], dim=1)


def split(plane: Tensor) -> tuple[Tensor, Tensor]:
    """The level below (means of 2 x 2 blocks), and the details (B, 9, h, w) that it lacks, each of unit noise gain."""
    a, b = plane[..., 0::2, 0::2], plane[..., 0::2, 1::2]
    c, d = plane[..., 1::2, 0::2], plane[..., 1::2, 1::2]
    return (a + b + c + d) / 4, torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 2


def nll(details: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Of a logistic law, in nats."""
    size = ((details - location) * torch.exp(-log_scale)).abs()
    return size + 2 * functional.softplus(-size) + log_scale


def not_held_out(files: Sequence[Path]) -> list[Path]:
    """The half that `density_judge.py` fits its scores on, and the images that it does not look at."""
    count = min(len(files), LIMIT)
    return [*files[: count // 2], *files[count:]]


def train(images: NDArray[np.uint8], steps: int, seed: int, checkpoint: Path) -> Density:
    """Maximum likelihood on random patches (mirrored half of the time) of images (N, 256, 256, 3).

    Args:
        images: reals alone.
        steps: of the optimiser.
        seed: of the network and the patches.
        checkpoint: file of the state, which is continued where it is of the same images, steps and seed.
    """
    key = [steps, seed, hashlib.sha256(images.tobytes()).hexdigest()]
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    density = Density().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(density.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.05)
    recent: list[NDArray[np.float32]] = []
    done = 0
    if checkpoint.exists() and (state := torch.load(checkpoint, weights_only=True))["key"] == key:
        for part, name in ((density, "density"), (optimiser, "optimiser"), (schedule, "schedule")):
            part.load_state_dict(state[name])
        rng.bit_generator.state = json.loads(state["rng"])
        done = state["step"]
        print(f"continued after step {done}", flush=True)
    for step in range(done + 1, steps + 1):
        losses = torch.stack([_loss(density, images, level, rng) for level in range(LEVELS)])
        optimiser.zero_grad()
        losses.sum().backward()
        nn.utils.clip_grad_norm_(density.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        recent.append(losses.detach().numpy())
        if step % 100 == 0 or step == steps:
            print(f"step {step} of {steps}: NLL per level {np.mean(recent[-100:], axis=0).round(4)}", flush=True)
        if step % CHECKPOINT == 0:
            parts = {"density": density.state_dict(), "optimiser": optimiser.state_dict()}
            own = {
                "schedule": schedule.state_dict(),
                "rng": json.dumps(rng.bit_generator.state),
                "step": step,
                "key": key,
            }
            unfinished = checkpoint.with_suffix(".part")
            torch.save(parts | own, unfinished)
            unfinished.replace(checkpoint)
    return density.to(memory_format=torch.contiguous_format).eval()


def _loss(density: Density, images: NDArray[np.uint8], level: int, rng: np.random.Generator) -> Tensor:
    side = 64 << level
    patches = []
    for index in rng.integers(len(images), size=BATCHES[level]):
        top, left = rng.integers((SIDE - side) // 8 + 1, size=2) * 8  # keeps the phase of JPEG's blocks
        patch = images[index, top : top + side, left : left + side]
        patches.append(patch[:, ::-1] if rng.random() < 0.5 else patch)
    plane = colours(torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float())
    for _ in range(level):
        plane, _ = split(plane)
    below, details = split(plane)
    return nll(details, *density.levels[level](below, details)).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reals", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = [path for folder in options.reals for path in not_held_out(files_in(folder))]
    images = np.stack([pixels_of(square(path)) for path in files])
    print(f"{len(images)} images")
    checkpoint = options.output.with_suffix(".checkpoint")
    save_file(train(images, options.steps, options.seed, checkpoint).state_dict(), options.output)
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
