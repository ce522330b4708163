"""Train an encoder of our own on reals alone; `benchmarks/encoder_judge.py` measures what it tells apart.

    python weights/build_encoder.py REALS_FOLDER... -o density.safetensors [--candidate density] [--steps 600]
    python weights/build_encoder.py REALS_FOLDER... -o masked.safetensors --candidate masked

Every image goes into one container (centre square, 256 px, JPEG quality 90). Images that `encoder_judge.py` holds out
take no part. Neither candidate became an encoder of muflow: docs/encoders.md says what was measured.

- `density`, after ZED (Cozzolino et al., ECCV 2024): three levels of an image, each predicted from the one below, as a
  logistic law of the three details (horizontal, vertical, diagonal) of each 2 x 2 block.
- `masked`: the high-pass residual of luma, with half of its 8 x 8 blocks hidden; a logistic law of each hidden pixel is
  predicted from the blocks around it and from the content.

The statistic of both is the NLL minus the entropy of the law, averaged: 0 where an image obeys the network, whatever it
shows, and negative where it is smoother than the network expects.

Every CHECKPOINT steps the state is kept beside the output; the same command continues it and ends in the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from muflow_cli.engine.forensic import luma_of

SIDE: Final = 256
CHANNELS: Final = 16
LEVELS: Final = 3
BATCHES: Final = (16, 8, 8)  # patches of 64, 128 and 256 pixels: 32 x 32 blocks of each level
BLOCK: Final = 8  # pixels of a hidden square; JPEG's blocks have the same size and place
DILATIONS: Final = (1, 2, 4, 8)  # a hidden pixel sees 15 pixels on each side
BUSY: Final = (0.0, 1.0)  # log scales that part flat, middling and busy content
RATE: Final = 3e-3
CHECKPOINT: Final = 50
LIMIT: Final = 160  # images of a folder that `encoder_judge.py` looks at


def square(path: Path) -> Image.Image:
    """The centre square of an image at 256 px."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def files_in(folder: Path, limit: int | None = None) -> list[Path]:
    """By content hash, so that names and order on disk do not matter."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: hashlib.sha256(path.read_bytes()).digest())[:limit]


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """(256, 256, 3) in the container."""
    return np.asarray(jpeg(image, 90))


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

    def loss(self, images: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
        """(3,) mean NLL of each level, of random patches of images (N, 256, 256, 3)."""
        losses = []
        for number, level in enumerate(self.levels):
            plane = colours(random_patches(images, BATCHES[number], 64 << number, rng))
            for _ in range(number):
                plane, _ = split(plane)
            below, details = split(plane)
            losses.append(nll(details, *level(below, details)).mean())
        return torch.stack(losses)


class Masked(nn.Module):
    """The law of hidden blocks of a residual, given the blocks around them and the content."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=d, dilation=d) for d in DILATIONS)
        self.law = nn.Conv2d(CHANNELS, 2, 1)
        nn.init.zeros_(self.law.weight)
        nn.init.zeros_(cast("Tensor", self.law.bias))

    def laws(self, residual: Tensor, content: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Location and log scale (B, 1, H, W) of every pixel, and the last layer (B, 16, H, W).

        Args:
            residual: (B, 1, H, W) grey levels.
            content: (B, 1, H, W) grey levels, without what the residual holds.
            hidden: (B, 1, H, W), 1 where the residual must not be seen.
        """
        image = self.stem(torch.cat([residual * (1 - hidden) / 8, content / 64, hidden], dim=1))
        for layer in self.layers:
            image = image + layer(functional.relu(image))
        image = functional.relu(image)
        law = self.law(image)
        return law[:, :1] * 4, law[:, 1:].clamp(-3, 5), image

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3 + 16) mean of NLL minus entropy in flat, middling and busy content, and means of the last layer.

        Every block is hidden once, in one of two halves of a chequerboard. A kind of content that is absent gives 0.

        Args:
            images: (B, 3, H, W) grey levels.
        """
        residual, content = residual_of(images)
        rows = torch.arange(images.shape[2])[:, None] // BLOCK + torch.arange(images.shape[3]) // BLOCK
        gaps, sizes, means = torch.zeros(len(images), 3), torch.zeros(len(images), 3), []
        for half in (0, 1):
            hidden = (rows % 2 == half).float().expand_as(residual)
            location, log_scale, layer = self.laws(residual, content, hidden)
            gap = nll(residual, location, log_scale) - log_scale - 2
            kind = torch.bucketize(log_scale, torch.tensor(BUSY))
            for k in range(3):
                counted = hidden * (kind == k)
                gaps[:, k] += (gap * counted).sum(dim=(1, 2, 3))
                sizes[:, k] += counted.sum(dim=(1, 2, 3))
            means.append(layer.mean(dim=(2, 3)))
        return torch.cat([gaps / sizes.clamp_min(1), (means[0] + means[1]) / 2], dim=1)

    def loss(self, images: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
        """(1,) mean NLL of hidden pixels, of random patches of images (N, 256, 256, 3)."""
        residual, content = residual_of(random_patches(images, 12, 96, rng))
        drawn = torch.from_numpy(rng.random((len(residual), 1, 96 // BLOCK, 96 // BLOCK)) < 0.5).float()
        hidden = drawn.repeat_interleave(BLOCK, dim=2).repeat_interleave(BLOCK, dim=3)
        location, log_scale, _ = self.laws(residual, content, hidden)
        return ((nll(residual, location, log_scale) * hidden).sum() / hidden.sum())[None]


CANDIDATES: Final[dict[str, type[Density] | type[Masked]]] = {"density": Density, "masked": Masked}


def random_patches(images: NDArray[np.uint8], count: int, side: int, rng: np.random.Generator) -> Tensor:
    """(count, 3, side, side) grey levels, mirrored half of the time."""
    patches = []
    for index in rng.integers(len(images), size=count):
        top, left = rng.integers((SIDE - side) // 8 + 1, size=2) * 8  # keeps the phase of JPEG's blocks
        patch = images[index, top : top + side, left : left + side]
        patches.append(patch[:, ::-1] if rng.random() < 0.5 else patch)
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float()


def residual_of(images: Tensor) -> tuple[Tensor, Tensor]:
    """Luma minus its mean over 5 x 5 pixels, and that mean, both (B, 1, H, W); edges are mirrored."""
    luma = luma_of(images)
    content = functional.avg_pool2d(functional.pad(luma, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    return luma - content, content - 128


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
    """The half that `encoder_judge.py` fits its scores on, and the images that it does not look at."""
    count = min(len(files), LIMIT)
    return [*files[: count // 2], *files[count:]]


def train(candidate: str, images: NDArray[np.uint8], steps: int, seed: int, checkpoint: Path) -> nn.Module:
    """Maximum likelihood on random patches (mirrored half of the time) of images (N, 256, 256, 3).

    Args:
        candidate: a row of CANDIDATES.
        images: reals alone.
        steps: of the optimiser.
        seed: of the network and the patches.
        checkpoint: file of the state, which is continued where candidate, images, steps and seed are the same.
    """
    key = [candidate, steps, seed, hashlib.sha256(images.tobytes()).hexdigest()]
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder = CANDIDATES[candidate]().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.05)
    recent: list[NDArray[np.float32]] = []
    done = 0
    if checkpoint.exists() and (state := torch.load(checkpoint, weights_only=True))["key"] == key:
        for part, name in ((encoder, "encoder"), (optimiser, "optimiser"), (schedule, "schedule")):
            part.load_state_dict(state[name])
        rng.bit_generator.state = json.loads(state["rng"])
        done = state["step"]
        print(f"continued after step {done}", flush=True)
    for step in range(done + 1, steps + 1):
        losses = encoder.loss(images, rng)
        optimiser.zero_grad()
        losses.sum().backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        recent.append(losses.detach().numpy())
        if step % 100 == 0 or step == steps:
            print(f"step {step} of {steps}: NLL {np.mean(recent[-100:], axis=0).round(4)}", flush=True)
        if step % CHECKPOINT == 0:
            parts = {"encoder": encoder.state_dict(), "optimiser": optimiser.state_dict()}
            own = {
                "schedule": schedule.state_dict(),
                "rng": json.dumps(rng.bit_generator.state),
                "step": step,
                "key": key,
            }
            unfinished = checkpoint.with_suffix(".part")
            torch.save(parts | own, unfinished)
            unfinished.replace(checkpoint)
    return encoder.to(memory_format=torch.contiguous_format).eval()


def main() -> None:
    """Read the options, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reals", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--candidate", choices=CANDIDATES, default="density")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.steps < 100:
        parser.error("--steps is too small: use at least 100")
    torch.set_num_threads(1)
    files = [path for folder in options.reals for path in not_held_out(files_in(folder))]
    images = np.stack([pixels_of(square(path)) for path in files])
    print(f"{len(images)} images")
    checkpoint = options.output.with_suffix(".checkpoint")
    save_file(train(options.candidate, images, options.steps, options.seed, checkpoint).state_dict(), options.output)
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
