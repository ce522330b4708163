"""Links from a page to the files that it speaks of, relative to where the page lies."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from typing import Final
from urllib.parse import quote

# Names that a browser shows as an image: another file could be a page whose script runs when it is opened.
_SHOWN: Final = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|avif|hei[cf]|tiff?|jp2)$", re.IGNORECASE)
_ARCHIVE: Final = re.compile(r"\.(?:zip|cbz|tar|tgz|tbz2?|txz|tar\.\w+)(?=!)", re.IGNORECASE)


def archive_of(path: str) -> str | None:
    """The archive in the path of a member, `album.zip` in `album.zip!a/b.jpg`; None for a path that is no member's."""
    match = _ARCHIVE.search(path)
    return None if match is None else path[: match.end()]


def folder_of(path: str) -> str:
    """The folder or archive that an input lies in; `.` for a name alone."""
    folder, slash, _ = path.rpartition("/")
    return archive_of(path) or folder or slash or "."


def link_to(path: str, page: Path | None) -> str | None:
    """Address of an image file for the page at `page`; None where there is none that a browser should open.

    It is made of the two paths as they were typed, so that a page tells no folder of the machine that the user did not
    name. Every character but `/` that could begin a scheme, a query or a fragment is percent-encoded.
    """
    if "://" in path or archive_of(path) or not _SHOWN.search(path):
        return None
    encoded = quote(os.fsencode(path), safe="/")
    if PurePath(path).is_absolute():
        return f"file://{encoded}"
    if page is None or page.is_absolute():
        return None
    above = PurePath(os.path.normpath(page.parent)).parts
    return None if ".." in above else f"{'../' * len(above) or './'}{encoded}"
