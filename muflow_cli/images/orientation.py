"""EXIF orientation -> upright pixels.

The tag is read directly from the first directory, whatever damaged entry stands before it, and as BYTE, SHORT or LONG,
as ImageMagick, libexif and exiftool read it. An orientation in XMP alone counts for nothing, as in browsers. The
containers of AVIF and HEIC have a rotation of their own, which their decoders apply or pass on.
"""

from __future__ import annotations

from typing import Final

from PIL import Image

from muflow_cli.images.containers.tiff import Reader, Tag

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_WIDTHS: Final = {1: 1, 3: 2, 4: 4}  # bytes of a BYTE, SHORT and LONG
_EXIF: Final = b"Exif\0\0"
_RAW_PROFILES: Final = ("Raw profile type exif", "Raw profile type APP1")


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """An image turned by its EXIF orientation, 1..8; any other value leaves it as it is."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)  # FLIP_LEFT_RIGHT is 0


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of an image that Pillow has opened and loaded, 1..8; 1 where it has none."""
    exif = image.info.get("exif")
    if exif is None:
        profile = next((image.info[name] for name in _RAW_PROFILES if name in image.info), "")
        exif = _from_hexadecimal(profile)
    return exif_orientation(exif)


def exif_orientation(exif: bytes) -> int:
    """Orientation in an EXIF block, 1..8; 1 where the block has none or cannot be read, since the pixels can."""
    block = exif.removeprefix(_EXIF)
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    reader = Reader(block)
    field = next((field for field in reader.fields(reader.first) if field.tag == Tag.ORIENTATION), None)
    if field is None:
        return 1
    value = reader.number(block[field.start : field.start + _WIDTHS.get(field.type, 0)])
    return value if value in _TURNS else 1


def _from_hexadecimal(profile: str) -> bytes:
    """EXIF block as ImageMagick writes it into the text of a PNG: a blank line, its kind, its length, hex digits."""
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b""
