"""One container for all: every image cut, resized and stored alike, so that container and size give nothing away.

Noise, sharpness and what an earlier compression left behind still differ; the null baselines of `bench` measure them.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Final

from PIL import Image

from muflow_cli.errors import BadExpression
from muflow_cli.images.views import RESAMPLING
from muflow_cli.records import Facts
from muflow_cli.specs import ContainerSpec

_STEPS: Final = ("square", "resize", "jpeg")
_STEP: Final = re.compile(r"(?P<name>[a-z]+)(?:=(?P<value>[0-9]{1,6}))?")


def contained(image: Image.Image, facts: Facts, spec: ContainerSpec) -> tuple[Image.Image, Facts]:
    """The image as `spec` stores it, and the facts of what is stored; the SHA-256 remains that of the file.

    Args:
        image: RGB, upright.
        facts: of its file.
        spec: the container.
    """
    if spec.square:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if spec.resize and min(image.size) != spec.resize:
        scale = spec.resize / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), RESAMPLING)
    facts = replace(facts, width=image.width, height=image.height)
    if not spec.jpeg:
        return image, facts
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=spec.jpeg, subsampling="4:2:0")
    with Image.open(stream) as stored:
        stored.load()
    return stored, replace(facts, format="JPEG", bytes=len(stream.getbuffer()), jpeg_quality=spec.jpeg)


def parse_container(text: str) -> ContainerSpec:
    """STEP[,STEP]... -> specification; the steps are `square`, `resize=N` and `jpeg=Q`, in this order.

    Raises:
        BadExpression: with the column of the first error.
        BadSpec: for a number that is out of range.
    """
    values: dict[str, int] = {}
    column = 1
    for step in text.split(","):
        match = _STEP.fullmatch(step)
        name, value = (match["name"], match["value"]) if match else (step, None)
        if name not in _STEPS or (value is None) != (name == "square"):
            raise _wrong(text, column, f"{step!r} is not a step", "use square, resize=PIXELS or jpeg=QUALITY")
        if any(_STEPS.index(name) <= _STEPS.index(earlier) for earlier in values):
            raise _wrong(text, column, f"{name} stands after {list(values)[-1]}", "keep the order square, resize, jpeg")
        values[name] = int(value or 1)
        if not values[name]:
            raise _wrong(text, column, f"{step!r} does nothing", "remove it, or give a number above 0")
        column += len(step) + 1
    return ContainerSpec(square="square" in values, resize=values.get("resize", 0), jpeg=values.get("jpeg", 0))


def _wrong(text: str, column: int, problem: str, remedy: str) -> BadExpression:
    return BadExpression("container", text, column, problem, remedy)
