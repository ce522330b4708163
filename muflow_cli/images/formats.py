"""Which formats are read and which are only named, by how a file begins and by what its name ends with."""

from __future__ import annotations

from typing import Final

from PIL import Image

from muflow_cli.images.containers.boxes import brands
from muflow_cli.images.containers.png import PNG_SIGNATURE
from muflow_cli.images.containers.tiff import TIFF_SIGNATURES
from muflow_cli.images.error import ImageError

Image.init()  # fills Image.OPEN

# What cameras, phones and generators write. Containers that start other programs (EPS), have no signature (TGA) or
# hold no photographs are left out. TIFF has a module of its own.
FORMATS: Final = tuple(
    name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "JPEG2000", "AVIF", "PPM", "MPO") if name in Image.OPEN
)

HEIF_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
_BMP_HEADERS: Final = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
JPEG2000_SIGNATURES: Final = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_SIGNATURES: Final = (
    b"\xff\xd8\xff",
    PNG_SIGNATURE,
    b"GIF87a",
    b"GIF89a",
    *TIFF_SIGNATURES,
    *JPEG2000_SIGNATURES,
)
_CAMERA_RAW: Final = "a camera raw file"
# Images that are not read, so that their record can say what they are: position and bytes of the signature, name.
_UNREAD: Final = (
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\xff\xd8\xff\xf7", "a JPEG-LS image"),
    (0, b"II\xbc", "a JPEG XR image"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"DDS ", "a DirectDraw surface"),
    (0, b"#?RADIANCE", "a Radiance image"),
    (0, b"IIRO", _CAMERA_RAW),
    (0, b"IIRS", _CAMERA_RAW),
    (0, b"MMOR", _CAMERA_RAW),
    (0, b"IIU\0", _CAMERA_RAW),
    (0, b"FUJIFILMCCD-RAW", _CAMERA_RAW),
    (0, b"FOVb", _CAMERA_RAW),
    (0, b"\0MRM", _CAMERA_RAW),
    (6, b"HEAPCCDR", _CAMERA_RAW),
    (4, b"ftypcrx ", _CAMERA_RAW),
)
# Most raw files are TIFFs, whose first picture is a preview.
_RAW_NAMES: Final = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
_OTHER_NAMES: Final = (".jxl", ".psd", ".psb", ".exr", ".dds", ".jxr", ".wdp", ".hdp")
_ZIP: Final = b"PK\x03\x04"
SIGNATURE_BYTES: Final = 32


def is_image(head: bytes) -> bool:
    """Whether the first SIGNATURE_BYTES bytes of a file are the signature of a container that `decode` reads."""
    return (
        head.startswith(_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS)
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace())
        or bool(brands(head) & (HEIF_BRANDS | AVIF_BRANDS))
    )


def unread_format(head: bytes) -> str | None:
    """What a file is whose first SIGNATURE_BYTES bytes are those of an image that `decode` does not read."""
    return next((name for at, magic, name in _UNREAD if head.startswith(magic, at)), None)


def has_unread_name(name: str) -> bool:
    """Whether a file name has the extension of an image that is not read."""
    return name.lower().endswith(_RAW_NAMES + _OTHER_NAMES)


def check_name(path: str, data: bytes) -> None:
    """Refuse what the name and the first bytes of a file show not to be the image that a decoder would find in it.

    Raises:
        ImageError: unsupported.
    """
    if data.startswith(TIFF_SIGNATURES) and path.lower().endswith(_RAW_NAMES):
        message = "it is a camera raw file; convert it to JPEG, PNG or TIFF with a raw converter"
        raise ImageError("unsupported", message)
    if data.startswith(_ZIP):
        raise ImageError("unsupported", "it is a zip archive; unpack it, or give it a name that ends with .zip")
