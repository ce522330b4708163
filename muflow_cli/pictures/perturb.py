"""What happens to pictures on their way: pure picture -> picture functions, their texts (`jpeg:q=75`) and suites.

Every function takes and gives 8-bit RGB. Noise and random positions come from the seed, the parameters and the
picture's own pixels, so that a result depends neither on the order of the pictures nor on the number of workers.
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

Picture = Image.Image
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number of an operation: its default and the range it may take, both ends included."""

    name: str
    default: float
    low: float
    high: float
    whole: bool = False
    odd: bool = False  # or 0

    @property
    def needed(self) -> str:
        """What a value must be, for an error's sentence."""
        kind = "0 or an odd number" if self.odd else "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"

    def allows(self, value: float) -> bool:
        """Whether `value` is in the range and, where asked, whole or odd."""
        inside = self.low <= value <= self.high
        return inside and (not self.whole or value == int(value)) and (not self.odd or value == 0 or value % 2 == 1)


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of OPERATIONS: `function(picture, **parameters)`, and `rng` where something is `drawn`."""

    function: Callable[..., Picture]
    parameters: tuple[Parameter, ...] = ()
    drawn: bool = False


def _encoded(picture: Picture, format_: str, quality: int) -> Picture:
    stream = io.BytesIO()
    picture.save(stream, format_, quality=quality)
    with Image.open(stream) as decoded:
        return decoded.convert("RGB")


def _jpeg(picture: Picture, q: float) -> Picture:
    return _encoded(picture, "JPEG", int(q))


def _webp(picture: Picture, q: float) -> Picture:
    return _encoded(picture, "WEBP", int(q))


def _blur(picture: Picture, kernel: float, sigma: float) -> Picture:
    if sigma == 0:
        return picture.copy()
    # A window of given side as OpenCV's GaussianBlur (the paper), or as wide as four sigma (UniversalFakeDetect).
    radius = (int(kernel) - 1) // 2 if kernel else int(4 * sigma + 0.5)
    pixels = np.asarray(picture, np.float32)
    return _rounded(gaussian_filter(pixels, (sigma, sigma), radius=radius, mode="mirror", axes=(0, 1)))


def _blur_jpeg(picture: Picture, sigma: float, q: float) -> Picture:
    return _jpeg(_blur(picture, 0, sigma), q)


def _resize(picture: Picture, scale: float) -> Picture:
    return picture.resize(_scaled(picture, scale), BILINEAR).resize(picture.size, BILINEAR)


def _rescale(picture: Picture, side: float) -> Picture:
    longest = max(picture.size)
    # A service that limits the side of a picture leaves a smaller one alone.
    return picture.copy() if longest <= side else picture.resize(_scaled(picture, side / longest), LANCZOS)


def _flip(picture: Picture) -> Picture:
    return ImageOps.mirror(picture)


def _noise(picture: Picture, rng: Rng, std: float) -> Picture:
    pixels = np.asarray(picture, np.float32)
    return _rounded(pixels + 255 * std * rng.standard_normal(pixels.shape, np.float32))


def _salt_pepper(picture: Picture, rng: Rng, amount: float) -> Picture:
    pixels = np.array(picture)
    drawn = rng.random(pixels.shape[:2])
    pixels[drawn < amount] = 0
    pixels[drawn < amount / 2] = 255
    return Image.fromarray(pixels)


def _rotate(picture: Picture, angle: float) -> Picture:
    return picture.rotate(angle, BILINEAR)


def _crop(picture: Picture, rng: Rng, keep: float) -> Picture:
    width, height = _scaled(picture, keep)
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height)).resize(picture.size, BILINEAR)


def _corner(picture: Picture, keep: float) -> Picture:
    return picture.crop((0, 0, *_scaled(picture, keep)))


def _letterbox(picture: Picture, width: float, height: float) -> Picture:
    across, down = picture.size
    frame = (max(across, round(down * width / height)), max(down, round(across * height / width)))
    boxed = Image.new("RGB", frame)
    boxed.paste(picture, ((frame[0] - across) // 2, (frame[1] - down) // 2))
    return boxed


def _screenshot(picture: Picture, scale: float, margin: float) -> Picture:
    # Shown at another size between a light status bar and a light tool bar, and stored without loss.
    shown = picture.resize(_scaled(picture, scale), BILINEAR)
    bar = round(shown.height * margin)
    return ImageOps.expand(shown, (0, bar, 0, bar), (248, 248, 248))


def _scaled(picture: Picture, factor: float) -> tuple[int, int]:
    return max(1, round(picture.width * factor)), max(1, round(picture.height * factor))


def _rounded(pixels: np.ndarray[Any, np.dtype[np.float32]]) -> Picture:
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
    "flip": Operation(_flip),
    "noise": Operation(_noise, (Parameter("std", 0.05, 0, 1),), drawn=True),
    "salt-pepper": Operation(_salt_pepper, (Parameter("amount", 0.02, 0, 1),), drawn=True),
    "rotate": Operation(_rotate, (Parameter("angle", 30, -360, 360),)),
    "crop": Operation(_crop, (Parameter("keep", 0.95, 0.01, 1),), drawn=True),
    "corner": Operation(_corner, (Parameter("keep", 0.8, 0.01, 1),)),
    "letterbox": Operation(
        _letterbox, (Parameter("width", 16, 1, 100, whole=True), Parameter("height", 9, 1, 100, whole=True))
    ),
    "screenshot": Operation(_screenshot, (Parameter("scale", 0.75, 0.01, 8), Parameter("margin", 0.1, 0, 2))),
}


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One operation with all its parameters, in the order of its row in OPERATIONS.

    `kernel` of blur is the side of its window in pixels, 0 = four sigma either way; `sigma`, `side` are in pixels;
    `std` of noise is in units of the full range; `amount`, `keep`, `scale`, `margin` are shares; `angle` is in degrees.

    Raises:
        BadSpec: if the operation is unknown, or a parameter is missing, foreign or out of range.
    """

    name: str
    parameters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in OPERATIONS:
            raise BadSpec("perturbation", self.name, f"one of {', '.join(OPERATIONS)}")
        known = OPERATIONS[self.name].parameters
        if tuple(name for name, _ in self.parameters) != tuple(parameter.name for parameter in known):
            given = ", ".join(name for name, _ in self.parameters)
            raise BadSpec(f"parameters of {self.name}", given or "none", ", ".join(p.name for p in known) or "none")
        for parameter, (_, value) in zip(known, self.parameters, strict=True):
            if not parameter.allows(value):
                raise BadSpec(f"{parameter.name} of {self.name}", f"{value:g}", parameter.needed)

    def __str__(self) -> str:
        """Canonical text, every parameter written: `parse(str(p)) == p`."""
        settings = ",".join(f"{name}={_number(value)}" for name, value in self.parameters)
        return f"{self.name}:{settings}" if settings else self.name

    def apply(self, picture: Picture, seed: int = 0) -> Picture:
        """The perturbed picture, RGB; `picture` (any mode) is left as it is."""
        rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
        operation = OPERATIONS[self.name]
        drawn = {"rng": self._generator(rgb, seed)} if operation.drawn else {}
        return operation.function(rgb, **drawn, **dict(self.parameters))

    def _generator(self, picture: Picture, seed: int) -> Rng:
        digest = hashlib.sha256(f"{seed} {self} {picture.size} ".encode())
        digest.update(picture.tobytes())
        return np.random.default_rng(int.from_bytes(digest.digest(), "big"))


def perturbation(name: str, **given: float) -> Perturbation:
    """The perturbation `name`, parameters that are not given at their defaults.

    Raises:
        BadSpec: as Perturbation.
    """
    known = OPERATIONS[name].parameters if name in OPERATIONS else ()
    values = {parameter.name: parameter.default for parameter in known} | given
    return Perturbation(name, tuple(values.items()))


def parse(text: str) -> Perturbation:
    """NAME[:KEY=VALUE[,KEY=VALUE]...] -> perturbation.

    Raises:
        BadExpression: naming the column of the first thing that is wrong.
    """
    name, colon, rest = text.partition(":")
    if name not in OPERATIONS:
        raise _wrong(text, 0, f"no perturbation is called {name!r}; there are {', '.join(OPERATIONS)}")
    values: dict[str, float] = {}
    column = len(name) + 1
    for setting in rest.split(",") if colon else ():
        key, value = _setting(text, column, OPERATIONS[name], setting)
        if key in values:
            raise _wrong(text, column, f"{key} is given twice")
        values[key] = value
        column += len(setting) + 1
    return perturbation(name, **values)


def _setting(text: str, column: int, operation: Operation, setting: str) -> tuple[str, float]:
    key, equals, value = setting.partition("=")
    known = {parameter.name: parameter for parameter in operation.parameters}
    if key not in known:
        takes = ", ".join(known) or "no parameter"
        raise _wrong(text, column, f"{key!r} is not a parameter here; it takes {takes}")
    at_value = column + len(key) + len(equals)
    try:
        number = float(value)
    except ValueError:
        raise _wrong(text, at_value, f"{key} needs a number, as in {key}={known[key].default:g}") from None
    if not known[key].allows(number):
        raise _wrong(text, at_value, f"{key} must be {known[key].needed}")
    return key, number


def _wrong(text: str, offset: int, problem: str) -> BadExpression:
    return BadExpression("perturbation", text, offset + 1, problem)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


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
    # What messengers, pages and phones do to a picture.
    "delivery": (
        *_each("rescale", "side", 512, 256, 128),
        perturbation("webp", q=80),
        perturbation("letterbox"),
        perturbation("corner"),
        perturbation("screenshot"),
    ),
}
