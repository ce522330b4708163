"""What an image goes through between camera and scan: image -> image functions, their texts (`jpeg:q=75`) and suites.

Every function takes and returns 8-bit RGB. Noise and random positions depend on the seed, the parameters and the
pixels of the image, but neither on the order of the images nor on the number of workers.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from muflow_cli.errors import BadExpression, BadSpec

BILINEAR: Final = Image.Resampling.BILINEAR
LANCZOS: Final = Image.Resampling.LANCZOS

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an operation: its default and its range, both ends included."""

    name: str
    default: float
    low: float
    high: float
    whole: bool = False
    odd: bool = False  # or 0

    @property
    def needed(self) -> str:
        """The values that are allowed, for the sentence of an error."""
        kind = "0 or an odd number" if self.odd else "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"

    def allows(self, value: float) -> bool:
        """Whether `value` is in the range and, if the parameter requires it, whole or odd."""
        inside = self.low <= value <= self.high
        return inside and (not self.whole or value == int(value)) and (not self.odd or value == 0 or value % 2 == 1)


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of OPERATIONS: `function(image, **parameters)`; a `random` one takes a generator `rng` as well."""

    function: Callable[..., Image.Image]
    parameters: tuple[Parameter, ...] = ()
    random: bool = False


def _encoded(image: Image.Image, format_: str, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, format_, quality=quality)
    with Image.open(stream) as decoded:
        return decoded.convert("RGB")


def _jpeg(image: Image.Image, q: float) -> Image.Image:
    return _encoded(image, "JPEG", int(q))


def _webp(image: Image.Image, q: float) -> Image.Image:
    return _encoded(image, "WEBP", int(q))


def _blur(image: Image.Image, kernel: float, sigma: float) -> Image.Image:
    if sigma == 0:
        return image.copy()
    # A window of a given side as in OpenCV's GaussianBlur (the paper), or four sigma wide (UniversalFakeDetect).
    radius = (int(kernel) - 1) // 2 if kernel else int(4 * sigma + 0.5)
    pixels = np.asarray(image, np.float32)
    return _rounded(gaussian_filter(pixels, (sigma, sigma), radius=radius, mode="mirror", axes=(0, 1)))


def _blur_jpeg(image: Image.Image, sigma: float, q: float) -> Image.Image:
    return _jpeg(_blur(image, 0, sigma), q)


def _resize(image: Image.Image, scale: float) -> Image.Image:
    return image.resize(_scaled(image, scale), BILINEAR).resize(image.size, BILINEAR)


def _rescale(image: Image.Image, side: float) -> Image.Image:
    longest = max(image.size)
    # A service that limits the side of an image leaves a smaller image as it is.
    return image.copy() if longest <= side else image.resize(_scaled(image, side / longest), LANCZOS)


def _noise(image: Image.Image, rng: Rng, std: float) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    return _rounded(pixels + 255 * std * rng.standard_normal(pixels.shape, np.float32))


def _salt_pepper(image: Image.Image, rng: Rng, amount: float) -> Image.Image:
    pixels = np.array(image)
    draws = rng.random(pixels.shape[:2])
    pixels[draws < amount] = 0
    pixels[draws < amount / 2] = 255
    return Image.fromarray(pixels)


def _rotate(image: Image.Image, angle: float) -> Image.Image:
    return image.rotate(angle, BILINEAR)


def _crop(image: Image.Image, rng: Rng, keep: float) -> Image.Image:
    width, height = _scaled(image, keep)
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height)).resize(image.size, BILINEAR)


def _corner(image: Image.Image, keep: float) -> Image.Image:
    return image.crop((0, 0, *_scaled(image, keep)))


def _letterbox(image: Image.Image, width: float, height: float) -> Image.Image:
    across, down = image.size
    frame = (max(across, round(down * width / height)), max(down, round(across * height / width)))
    boxed = Image.new("RGB", frame)
    boxed.paste(image, ((frame[0] - across) // 2, (frame[1] - down) // 2))
    return boxed


def _screenshot(image: Image.Image, scale: float, margin: float) -> Image.Image:
    # Shown at another size between a light status bar and a light tool bar, and stored without loss.
    shown = image.resize(_scaled(image, scale), BILINEAR)
    bar = round(shown.height * margin)
    return ImageOps.expand(shown, (0, bar, 0, bar), (248, 248, 248))


def _scaled(image: Image.Image, factor: float) -> tuple[int, int]:
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


def _rounded(pixels: np.ndarray[Any, np.dtype[np.float32]]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


_QUALITY: Final = Parameter("q", 75, 1, 100, whole=True)
_SIGMA: Final = Parameter("sigma", 1, 0, 50)

# A new perturbation is a function above and a row here.
OPERATIONS: Final[Mapping[str, Operation]] = {
    "jpeg": Operation(_jpeg, (_QUALITY,)),
    "webp": Operation(_webp, (Parameter("q", 80, 1, 100, whole=True),)),
    "blur": Operation(_blur, (Parameter("kernel", 0, 0, 401, odd=True), _SIGMA)),
    "blur-jpeg": Operation(_blur_jpeg, (_SIGMA, _QUALITY)),
    "resize": Operation(_resize, (Parameter("scale", 0.5, 0.01, 8),)),
    "rescale": Operation(_rescale, (Parameter("side", 512, 16, 65_535, whole=True),)),
    "flip": Operation(ImageOps.mirror),
    "noise": Operation(_noise, (Parameter("std", 0.05, 0, 1),), random=True),
    "salt-pepper": Operation(_salt_pepper, (Parameter("amount", 0.02, 0, 1),), random=True),
    "rotate": Operation(_rotate, (Parameter("angle", 30, -360, 360),)),
    "crop": Operation(_crop, (Parameter("keep", 0.95, 0.01, 1),), random=True),
    "corner": Operation(_corner, (Parameter("keep", 0.8, 0.01, 1),)),
    "letterbox": Operation(
        _letterbox, (Parameter("width", 16, 1, 100, whole=True), Parameter("height", 9, 1, 100, whole=True))
    ),
    "screenshot": Operation(_screenshot, (Parameter("scale", 0.75, 0.01, 8), Parameter("margin", 0.1, 0, 2))),
}


@dataclass(frozen=True, slots=True)
class Perturbation:
    """An operation with all its parameters, in the order of its row in OPERATIONS.

    `kernel` of blur is the side of its window in pixels, 0 = four sigma each way; `sigma` and `side` are in pixels;
    `std` of noise is a share of the full range; `amount`, `keep`, `scale`, `margin` are shares; `angle` is in degrees.

    Raises:
        BadSpec: if the operation is unknown, or a parameter is missing, unknown or out of range.
    """

    name: str
    parameters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in OPERATIONS:
            raise BadSpec("perturbation", self.name, f"one of {', '.join(OPERATIONS)}")
        known = OPERATIONS[self.name].parameters
        if tuple(name for name, _ in self.parameters) != tuple(parameter.name for parameter in known):
            given = ", ".join(name for name, _ in self.parameters)
            raise BadSpec(
                f"the parameter list of {self.name}", given or "none", ", ".join(p.name for p in known) or "none"
            )
        for parameter, (_, value) in zip(known, self.parameters, strict=True):
            if not parameter.allows(value):
                raise BadSpec(f"{parameter.name} of {self.name}", f"{value:g}", parameter.needed)

    def __str__(self) -> str:
        """Canonical text with every parameter: `parse(str(p)) == p`."""
        numbers = ((name, int(value) if value == int(value) else float(value)) for name, value in self.parameters)
        settings = ",".join(f"{name}={number!r}" for name, number in numbers)
        return f"{self.name}:{settings}" if settings else self.name

    def apply(self, image: Image.Image, seed: int = 0) -> Image.Image:
        """The perturbed image, RGB; `image` (any mode) does not change."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        operation = OPERATIONS[self.name]
        if not operation.random:
            return operation.function(rgb, **dict(self.parameters))
        digest = hashlib.sha256(f"{seed} {self} {rgb.size} ".encode())
        digest.update(rgb.tobytes())
        generator = np.random.default_rng(int.from_bytes(digest.digest(), "big"))
        return operation.function(rgb, rng=generator, **dict(self.parameters))


def perturbation(name: str, **given: float) -> Perturbation:
    """The perturbation `name`, with the default of every parameter that is not given.

    Raises:
        BadSpec: as for Perturbation.
    """
    known = OPERATIONS[name].parameters if name in OPERATIONS else ()
    values = {parameter.name: parameter.default for parameter in known} | given
    return Perturbation(name, tuple(values.items()))


def parse(text: str) -> Perturbation:
    """NAME[:KEY=VALUE[,KEY=VALUE]...] -> perturbation.

    Raises:
        BadExpression: with the column of the first error.
    """
    name, colon, rest = text.partition(":")
    if name not in OPERATIONS:
        raise _wrong(text, 0, f"{name!r} is not a perturbation", f"use one of {', '.join(OPERATIONS)}")
    values: dict[str, float] = {}
    column = len(name) + 1
    for setting in rest.split(",") if colon else ():
        key, value = _setting(text, column, OPERATIONS[name], setting)
        if key in values:
            raise _wrong(text, column, f"{key} is given twice", "remove one of them")
        values[key] = value
        column += len(setting) + 1
    return perturbation(name, **values)


def _setting(text: str, column: int, operation: Operation, setting: str) -> tuple[str, float]:
    key, equals, value = setting.partition("=")
    known = {parameter.name: parameter for parameter in operation.parameters}
    if key not in known:
        remedy = f"use {' or '.join(known)}" if known else "remove it, since this perturbation has no parameters"
        raise _wrong(text, column, f"{key!r} is not a parameter", remedy)
    at_value = column + len(key) + len(equals)
    try:
        number = float(value)
    except ValueError:
        raise _wrong(text, at_value, f"{value!r} is not a number", f"use {known[key].needed}") from None
    if not known[key].allows(number):
        raise _wrong(text, at_value, f"{value!r} is not allowed for {key}", f"use {known[key].needed}")
    return key, number


def _wrong(text: str, offset: int, problem: str, remedy: str) -> BadExpression:
    return BadExpression("perturbation", text, offset + 1, problem, remedy)


def _each(name: str, parameter: str, *values: float) -> tuple[Perturbation, ...]:
    return tuple(perturbation(name, **{parameter: value}) for value in values)


SUITES: Final[Mapping[str, tuple[Perturbation, ...]]] = {
    # Pontorno et al. 2026, Fig. 4 and the published evaluation script.
    "paper": (
        perturbation("resize", scale=0.5),
        perturbation("flip"),
        perturbation("noise", std=0.05),
        perturbation("salt-pepper", amount=0.02),
        *_each("jpeg", "q", 90, 80, 70, 60, 50, 40, 30, 20),
        perturbation("blur", kernel=3, sigma=1),
        perturbation("blur", kernel=5, sigma=2),
        *_each("rotate", "angle", 30, 180),
        perturbation("crop", keep=0.95),
    ),
    # Ojha et al. 2023 (UniversalFakeDetect), robustness figure.
    "ufd": (
        *_each("jpeg", "q", 100, 90, 80, 70, 60, 50, 40, 30),
        *_each("blur", "sigma", 0, 1, 2, 3, 4),
    ),
    # Schinas and Papadopoulos 2024 (SIDBench).
    "sidbench": (
        *_each("jpeg", "q", 95, 90, 50, 30),
        *_each("blur", "sigma", 2, 4),
        *(perturbation("blur-jpeg", sigma=sigma, q=q) for sigma, q in product((2, 4), (95, 90, 50, 30))),
    ),
    # What messengers, web pages and phones do to an image.
    "delivery": (
        *_each("rescale", "side", 512, 256, 128),
        perturbation("webp", q=80),
        perturbation("letterbox"),
        perturbation("corner"),
        perturbation("screenshot"),
    ),
}
