"""Draw the examples that are not photographs: `python examples/draw.py FOLDER` writes them again.

Every machine with the same Pillow writes the same files, because all noise has a fixed seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SIDE = 320
_SKIN, _HAIR, _BACK, _INK = (224, 178, 150), (70, 46, 34), (120, 140, 160), (40, 30, 30)


def drawn_face() -> Image.Image:
    """A face of ellipses, drawn four times too large and then reduced, so that its edges are smooth."""
    large = Image.new("RGB", (4 * _SIDE, 4 * _SIDE), _BACK)
    pen = ImageDraw.Draw(large)
    pen.ellipse((330, 180, 950, 1000), fill=_HAIR)
    pen.ellipse((390, 290, 890, 1050), fill=_SKIN)
    for x in (530, 750):
        pen.ellipse((x - 55, 560, x + 55, 630), fill="white")
        pen.ellipse((x - 28, 567, x + 28, 623), fill=_INK)
        pen.arc((x - 75, 490, x + 75, 620), 200, 340, fill=_HAIR, width=16)
    pen.line((640, 610, 615, 760, 665, 770), fill=(190, 140, 115), width=12, joint="curve")
    pen.chord((540, 800, 740, 920), 10, 170, fill=(170, 70, 70))
    return large.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def with_grain(image: Image.Image, deviation: float, seed: int) -> Image.Image:
    """The image, slightly blurred, with white noise of `deviation` grey levels, as a sensor adds it."""
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float64)
    noise = np.random.default_rng(seed).normal(scale=deviation, size=soft.shape)
    return Image.fromarray((soft + noise).round().clip(0, 255).astype(np.uint8))


def main(folder: Path) -> None:
    """Write the drawn images and the broken one."""
    face = drawn_face()
    face.save(folder / "drawn.png", optimize=True)
    with_grain(face, 6.0, seed=0).save(folder / "drawn_with_grain.jpg", quality=90)
    whole = (folder / "drawn_with_grain.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 3])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
