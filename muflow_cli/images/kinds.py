"""What the name of a file says beside its bytes: images that are not read, and archives that hide behind a name."""

from __future__ import annotations

from typing import Final

from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import TIFF_SIGNATURES

# Most raw files are TIFFs, whose first picture is a preview.
_RAW_NAMES: Final = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
_OTHER_NAMES: Final = (".jxl", ".psd", ".psb", ".exr", ".dds", ".jxr", ".wdp", ".hdp")
_ZIP: Final = b"PK\x03\x04"


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
