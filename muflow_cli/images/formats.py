"""Which formats are read, which are only named, and how a file of each begins."""

from __future__ import annotations

from typing import Final

from PIL import Image

Image.init()  # fills Image.OPEN

# What cameras, phones and generators write. Containers that start other programs (EPS), have no signature (TGA) or
# hold no photographs are left out. TIFF has a module of its own.
FORMATS: Final = tuple(
    name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "JPEG2000", "AVIF", "PPM", "MPO") if name in Image.OPEN
)

HEIF_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
_BMP_HEADERS: Final = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
TIFF_SIGNATURES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG2000_SIGNATURES: Final = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_SIGNATURES: Final = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
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


def brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO base media file (ISO/IEC 14496-12, box `ftyp`)."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
