"""Promises of images/decode.py: every container becomes correct RGB, every damaged file one ImageError."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from muflow_cli.images.decode import DecodedImage, decode
from muflow_cli.images.error import ImageError, reason_of
from muflow_cli.images.formats import is_image

MANY = 10_000_000


def encoded(image: Image.Image, container: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, **options)
    return buffer.getvalue()


def scene(width: int = 70, height: int = 90) -> Image.Image:
    """A smooth image, so that lossy containers stay near it, different in each corner."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray(np.stack([255 * x, 255 * y, 128 + 0 * x], axis=2).astype(np.uint8))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, MANY).image).astype(int)


def refusal(data: bytes, max_pixels: int = MANY) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, max_pixels)
    return caught.value


def test_hash_length_and_size_are_those_of_the_bytes_that_were_decoded() -> None:
    data = encoded(scene(), "PNG")
    facts = decode(data, MANY).facts
    assert (facts.sha256, facts.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (facts.format, facts.width, facts.height, facts.jpeg_quality) == ("PNG", 70, 90, None)


@pytest.mark.parametrize("container", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_containers_give_back_the_pixels(container: str) -> None:
    options = {"lossless": True} if container == "WEBP" else {}
    assert (pixels(encoded(scene(), container, **options)) == np.asarray(scene())).all()


@pytest.mark.parametrize("container", ["JPEG", "WEBP", "AVIF", "MPO"])
def test_lossy_containers_stay_near_the_pixels(container: str) -> None:
    assert np.abs(pixels(encoded(scene(), container, quality=95)) - np.asarray(scene())).mean() < 3


def test_heic_is_read_where_its_decoder_is_installed() -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    buffer = io.BytesIO()
    heif.from_pillow(scene()).save(buffer, quality=95)
    decoded = decode(buffer.getvalue(), MANY)
    assert decoded.facts.format == "HEIF"
    assert np.abs(np.asarray(decoded.image).astype(int) - np.asarray(scene())).mean() < 3


def test_heic_without_its_decoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    error = refusal(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))
    assert error.code == "needs_heif"
    assert "muflow-cli[heif]" in error.message


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_stored_size_is_reported_of_an_image_that_is_turned(container: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encoded(scene(), container, exif=exif), MANY)
    assert (decoded.facts.width, decoded.facts.height) == scene().size
    assert decoded.image.size == scene().size[::-1]


def test_damaged_exif_does_not_cost_the_image() -> None:
    assert pixels(encoded(scene(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage")).shape == (90, 70, 3)


def grey_ramp() -> np.ndarray:
    return np.tile(np.arange(256, dtype=np.uint16), (20, 1))


@pytest.mark.parametrize("container", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bit_grey_is_scaled_not_clipped(container: str) -> None:
    decoded = pixels(encoded(Image.fromarray(grey_ramp() * 257), container))
    assert (decoded == grey_ramp()[..., None]).all()


def test_sixteen_bit_colour_is_scaled_not_clipped() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in np.repeat(grey_ramp() * 257, 3, axis=1).astype(">u2"))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 256, 20, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    assert (pixels(data) == grey_ramp()[..., None]).all()


def test_pixels_without_a_defined_white_are_refused_not_guessed() -> None:
    for image in (scene().convert("F"), scene().convert("I")):
        assert refusal(encoded(image, "TIFF")).code == "unsupported_pixels"


def half_transparent(mode: str) -> Image.Image:
    image = Image.new("RGBA", (40, 20), (200, 0, 0, 255))
    image.paste((200, 0, 0, 0), (0, 0, 20, 20))
    return image.convert(mode)


@pytest.mark.parametrize("container", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(container: str, mode: str) -> None:
    options = {"lossless": True} if container == "WEBP" else {}
    decoded = pixels(encoded(half_transparent(mode), container, **options))
    assert (decoded[:, :20] == 255).all()
    assert (decoded[:, 20:] < 255).any()


@pytest.mark.parametrize(("container", "transparency"), [("PNG", 0), ("PNG", b"\0\xff"), ("GIF", 0)])
def test_transparency_of_a_palette_is_laid_on_white(container: str, transparency: int | bytes) -> None:
    image = Image.new("P", (40, 20), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.paste(0, (0, 0, 20, 20))
    decoded = pixels(encoded(image, container, transparency=transparency))
    assert (decoded[:, :20] == 255).all()
    assert (decoded[:, 20:] == (200, 0, 0)).all()


def test_transparent_colours_are_laid_on_white() -> None:
    image = half_transparent("RGB")
    image.paste((1, 2, 3), (0, 0, 20, 20))
    assert (pixels(encoded(image, "PNG", transparency=(1, 2, 3)))[:, :20] == 255).all()
    for mode, dark in (("L", 7), ("1", 0), ("I;16", 700)):
        image = Image.new(mode, (8, 8), dark)
        image.putpixel((0, 0), 255)
        decoded = pixels(encoded(image, "PNG", transparency=dark))
        assert (decoded[1:] == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_simple_modes_keep_black_and_white(mode: str) -> None:
    image = Image.new("L", (40, 20), 255)
    image.paste(0, (0, 0, 20, 20))
    decoded = pixels(encoded(image.convert(mode), "PNG"))
    assert (decoded[:, :20] == 0).all()
    assert (decoded[:, 20:] == 255).all()


@pytest.mark.parametrize("container", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours_adobe_inversion_included(container: str) -> None:
    decoded = pixels(encoded(scene().convert("CMYK"), container))
    assert np.abs(decoded - np.asarray(scene())).mean() < 4


@pytest.mark.parametrize("container", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_first_frame_of_many_is_the_image(container: str) -> None:
    options = {"lossless": True} if container == "WEBP" else {}
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    decoded = pixels(encoded(frames[0], container, save_all=True, append_images=frames[1:], **options))
    assert np.abs(decoded - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (30_000, 1), (1, 30_000)])
def test_extreme_shapes_are_images(size: tuple[int, int]) -> None:
    for container in ("PNG", "JPEG"):
        assert decode(encoded(Image.new("RGB", size, "red"), container), MANY, draft_side=256).image.size == size


@pytest.mark.parametrize("progressive", [False, True])
def test_quality_of_an_ijg_jpeg_is_estimated_exactly(progressive: bool) -> None:
    for quality in range(1, 101):
        data = encoded(scene(16, 16), "JPEG", quality=quality, progressive=progressive)
        assert decode(data, MANY).facts.jpeg_quality == quality


def test_a_large_jpeg_is_decoded_at_the_smallest_scale_that_leaves_the_draft_side() -> None:
    data = encoded(scene(1024, 1600), "JPEG")
    decoded = decode(data, MANY, draft_side=256)
    assert decoded.image.size == (256, 400)
    assert (decoded.facts.width, decoded.facts.height) == (1024, 1600)
    assert decode(encoded(scene(1023, 1600), "JPEG"), MANY, draft_side=256).image.size == (512, 800)
    assert decode(data, MANY).image.size == (1024, 1600)


@pytest.mark.parametrize("container", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"])
def test_too_many_pixels_are_refused_from_the_header_alone(container: str) -> None:
    data = encoded(Image.new("RGB", (300, 200)), container)
    assert refusal(data, 300 * 200 - 1).code == "too_many_pixels"
    assert decode(data, 300 * 200).image.size == (300, 200)


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    bomb += struct.pack(">I", zlib.crc32(b"IHDR" + header)) + struct.pack(">I", 0) + b"IDAT" + bytes(4)
    assert refusal(bomb).code == "too_many_pixels"


def test_empty_and_foreign_files_say_so() -> None:
    assert refusal(b"").code == "empty"
    for data in (
        b"Dear reader, this is text.\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"PK\x03\x04",
        b"BMW is a car",
        bytes(99),
    ):
        assert refusal(data).code == "not_an_image"


def test_an_error_carries_the_hash_and_length_of_what_was_read() -> None:
    error = refusal(b"text")
    assert (error.sha256, error.bytes) == (hashlib.sha256(b"text").hexdigest(), 4)
    assert "0x" not in error.message  # no address: two runs report alike


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP"])
def test_every_cut_is_truncated_or_costs_no_pixel(container: str) -> None:
    data = encoded(scene(), container)
    whole = pixels(data)
    for end in [*range(12, len(data), 61), *range(len(data) - 20, len(data))]:
        try:
            assert (pixels(data[:end]) == whole).all()
        except ImageError as error:
            assert error.code == "truncated"  # noqa: PT017  either outcome is right, silence about lost rows is not


@pytest.mark.parametrize("container", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM"])
def test_every_container_is_known_by_its_signature(container: str) -> None:
    assert is_image(encoded(scene(), container)[:32])


@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_an_image_error(data: bytes) -> None:
    is_image(data)
    assert refusal(data).code


@cache
def seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = scene()
    return [
        encoded(image, "JPEG", exif=exif),
        encoded(image, "JPEG", progressive=True),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "PNG", exif=exif),
        encoded(image.quantize(16), "PNG", transparency=3),
        encoded(image, "WEBP", exif=exif),
        encoded(image.convert("RGBA"), "WEBP", lossless=True),
        encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)]),
        encoded(image, "TIFF"),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "TIFF", compression="jpeg"),
        encoded(image, "BMP"),
        encoded(image, "JPEG2000"),
        encoded(image, "AVIF"),
    ]


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    at = chance.randrange(len(changed))
    changes: list[Callable[[], None]] = [
        lambda: changed.__delitem__(slice(at, None)),
        lambda: changed.__delitem__(slice(at, at + chance.randrange(1, 99))),
        lambda: changed.__setitem__(slice(at, at + 4), chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))),
        lambda: [changed.__setitem__(chance.randrange(len(changed)), chance.randrange(256)) for _ in range(12)],
        lambda: [
            changed.__setitem__(chance.randrange(min(300, len(changed))), chance.randrange(256)) for _ in range(3)
        ],
    ]
    chance.choice(changes)()
    return bytes(changed)


def test_damaged_files_are_an_image_or_an_image_error_and_nothing_is_printed(capfd: pytest.CaptureFixture) -> None:
    chance = random.Random(7)
    outcomes = {DecodedImage: 0, ImageError: 0}
    for number in range(600):
        data = mutated(chance.choice(seeds()), chance)
        try:
            outcome: DecodedImage | ImageError = decode(data, MANY, draft_side=256 * (number % 2))
        except ImageError as error:
            outcome = error
        outcomes[type(outcome)] += 1
    assert min(outcomes.values()) > 50  # the mutations neither spare nor destroy everything
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("said", "clause"),
    [
        ("Invalid input: Unexpected end: Extent in box", "Invalid input, Unexpected end, Extent in box"),
        ("two\nlines \x1b[31mred", "two lines ?[31mred"),
        ("word " * 100, "word " * 31 + "..."),
        ("", "ValueError"),
    ],
)
def test_what_a_library_says_becomes_one_clause(said: str, clause: str) -> None:
    assert reason_of(ValueError(said)) == clause
