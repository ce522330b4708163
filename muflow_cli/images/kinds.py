"""What a file is by its first bytes, in words: the one table of kinds, those that are read and those that are not."""

from __future__ import annotations

from typing import Final

from muflow_cli.images.containers.boxes import brands
from muflow_cli.images.formats import AVIF_BRANDS, HEIF_BRANDS, is_image, unread_format

HEAD_BYTES: Final = 512
TEXT: Final = "text file"
UNKNOWN: Final = "file of unknown kind"
FOLDER: Final = "folder"
LINK: Final = "symbolic link"
SPECIAL: Final = "special file"

_MATROSKA: Final = b"\x1a\x45\xdf\xa3"
# Position and bytes of a signature -> kind. The first that fits counts, so a longer signature stands before its start.
_SIGNATURES: Final = (
    (0, b"\xff\xd8\xff", "JPEG image"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG image"),
    (0, b"GIF8", "GIF image"),
    (0, b"BM", "BMP image"),
    (8, b"WEBP", "WebP image"),
    (0, b"II*\0", "TIFF image"),
    (0, b"MM\0*", "TIFF image"),
    (0, b"\0\0\1\0", "icon"),
    (8, b"AVI ", "AVI video"),
    (0, b"\0\0\1\xba", "MPEG video"),
    (0, b"\0\0\1\xb3", "MPEG video"),
    (0, b"FLV\1", "Flash video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media file"),
    (4, b"moov", "QuickTime video"),
    (4, b"mdat", "QuickTime video"),
    (8, b"WAVE", "WAV recording"),
    (0, b"OggS", "Ogg file"),
    (0, b"fLaC", "FLAC recording"),
    (0, b"ID3", "MP3 recording"),
    (0, b"\xff\xfb", "MP3 recording"),
    (0, b"%PDF-", "PDF document"),
    (0, b"%!PS", "PostScript document"),
    (0, b"{\\rtf", "RTF document"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Office document"),
    (30, b"[Content_Types].xml", "Office document"),
    (30, b"mimetypeapplication/vnd.oasis", "OpenDocument file"),
    (30, b"mimetypeapplication/epub", "e-book"),
    (0, b"PK\3\4", "zip archive"),
    (0, b"PK\5\6", "zip archive"),
    (0, b"\x1f\x8b", "gzip file"),
    (0, b"BZh", "bzip2 file"),
    (0, b"\xfd7zXZ\0", "xz file"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard file"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (0, b"Rar!\x1a\7", "RAR archive"),
    (257, b"ustar", "tar archive"),
    (0, b"SQLite format 3\0", "SQLite database"),
    (0, b"\x7fELF", "program"),
    (0, b"MZ", "program"),
    (0, b"\xcf\xfa\xed\xfe", "program"),
    (0, b"wOFF", "font"),
    (0, b"wOF2", "font"),
    (0, b"OTTO", "font"),
    (0, b"\0\1\0\0\0", "font"),
)
# Major brands of ISO base media files (ISO/IEC 14496-12) that are no MP4 video.
_BRANDS: Final = {b"qt  ": "QuickTime video", b"M4A ": "M4A recording", b"M4B ": "M4A recording"}
_MARKUP: Final = ((b"<!doctype html", "HTML page"), (b"<html", "HTML page"), (b"<svg", "SVG drawing"))


def kind_of(head: bytes) -> str:
    """What a file is, in the singular.

    Args:
        head: its first HEAD_BYTES bytes, or all of it.
    """
    if not head:
        return "empty file"
    if name := unread_format(head):
        return name.removeprefix("a ").removeprefix("an ")
    if head[4:8] == b"ftyp":
        return _base_media(head)
    if head.startswith(_MATROSKA):
        return "WebM video" if b"webm" in head[:64] else "Matroska video"
    found = next((name for at, magic, name in _SIGNATURES if head.startswith(magic, at)), None)
    if found is not None:
        return found
    return "other image" if is_image(head) else _text(head)


def _base_media(head: bytes) -> str:
    if brands(head) & AVIF_BRANDS:
        return "AVIF image"
    if brands(head) & HEIF_BRANDS:
        return "HEIC image"
    return _BRANDS.get(head[8:12], "MP4 video")


def _text(head: bytes) -> str:
    """Text of any encoding whose first bytes look like it, or what nobody knows."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    for magic, name in _MARKUP:
        if start.startswith(magic) or (start.startswith(b"<?xml") and magic in start):
            return name
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return TEXT
    controls = sum(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in head)
    return UNKNOWN if controls else TEXT
