"""Every image is turned upright exactly once, by the tag that ImageMagick, libexif and exiftool read."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from tiff_samples import Page, tiff

from muflow_cli.images.decode import decode
from muflow_cli.images.orientation import exif_orientation

MANY = 10_000_000
# How the sensor lay: the inverse of what a viewer does.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def scene() -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 1, 70), np.linspace(0, 1, 90))
    return Image.fromarray(np.stack([255 * x, 255 * y, 128 + 0 * x], axis=2).astype(np.uint8))


def stored(orientation: int) -> Image.Image:
    turn = STORED[orientation]
    return scene() if turn is None else scene().transpose(turn)


def exif(orientation: int, order: str = "<", kind: int = 3, count: int = 1, damage: bytes = b"") -> bytes:
    """An EXIF block with its orientation behind `damage`, directory entries of 12 bytes each."""
    value = struct.pack(order + {1: "B3x", 3: "HH", 4: "I"}[kind], *([orientation, 0] if kind == 3 else [orientation]))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    entries = damage + struct.pack(order + "HHI", 0x0112, kind, count) + value
    return b"Exif\0\0" + head + struct.pack(order + "H", len(entries) // 12) + entries + bytes(4)


def is_upright(data: bytes) -> bool:
    image = decode(data, MANY).image
    return image.size == scene().size and np.abs(np.asarray(image).astype(int) - np.asarray(scene())).mean() < 4


def encoded(image: Image.Image, container: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "AVIF", "MPO"])
def test_every_orientation_of_every_container_is_undone_once(container: str, orientation: int) -> None:
    assert is_upright(encoded(stored(orientation), container, exif=exif(orientation)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_of_heic_is_applied_once(orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    buffer = io.BytesIO()
    heif.from_pillow(stored(orientation)).save(buffer, quality=95, exif=exif(orientation))
    assert is_upright(buffer.getvalue())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [1, 3, 4], ids=["BYTE", "SHORT", "LONG"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_tag_is_read_in_every_type_whatever_stands_before_it(order: str, kind: int, orientation: int) -> None:
    # Text and numbers whose values lie far behind the block, and a type that does not exist.
    damage = b"".join(
        struct.pack(order + "HHII", tag, type_, count, 2**31)
        for tag, type_, count in ((0x010F, 2, 400), (0x0110, 99, 7))
    )
    assert exif_orientation(exif(orientation, order, kind, damage=damage)) == orientation
    page = Page(samples=np.asarray(stored(orientation)), tags={274: [orientation]})
    data = tiff(page, order=order)
    entry = struct.pack(order + "HHI", 274, 3, 1)
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], orientation)
    at = data.index(entry)
    assert is_upright(data[:at] + struct.pack(order + "HHI", 274, kind, 1) + value + data[at + 12 :])


def test_what_is_no_orientation_turns_nothing() -> None:
    for block in (b"", b"Exif\0\0", exif(0), exif(9), exif(6)[:16], b"garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        assert exif_orientation(block) == 1


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_an_orientation_in_xmp_alone_turns_nothing_as_in_browsers(container: str) -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    if container == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
        assert is_upright(encoded(scene(), container, pnginfo=info))
    else:
        assert is_upright(encoded(scene(), container, xmp=packet))


def test_exif_that_imagemagick_wrote_into_a_text_of_a_png_counts() -> None:
    from PIL.PngImagePlugin import PngInfo

    for is_compressed in (False, True):
        info = PngInfo()
        block = exif(6)
        info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=is_compressed)
        assert is_upright(encoded(stored(6), "PNG", pnginfo=info))
