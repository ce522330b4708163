"""What an input is, which names count as inputs, and how a file is read without changing it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from io import FileIO
from typing import Final

from muflow_cli import files
from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import SIGNATURE_BYTES, has_unread_name, is_image, unread_format
from muflow_cli.images.kinds import HEAD_BYTES
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.skipped import Why

# A file with such a name is meant to be an image, so whatever is wrong with it deserves a record.
_EXTENSIONS: Final = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".heic", ".heif", ".hif", ".avif", ".avifs", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".jp2", ".j2k", ".jpf", ".jpx", ".j2c"),
)

# A larger file that does not begin like an image is refused by its first bytes: neither read nor hashed. Thirty sparse
# files of this size take a second; photographs that are larger have a signature.
HASHED_BYTES: Final = 32 * 2**20

_CODES = {
    errno.ENOENT: ("not_found", "no such file"),
    errno.ENOTDIR: ("not_found", "no such file"),
    errno.ELOOP: ("dangling_link", "the symbolic link points to nothing"),
    errno.EACCES: ("permission", "no permission to read it"),
    errno.EPERM: ("permission", "no permission to read it"),
}


class InputKind(StrEnum):
    """Where the bytes of an input lie."""

    FILE = "file"
    ZIP_MEMBER = "zip_member"
    TAR_MEMBER = "tar_member"
    REMOTE = "remote"
    STDIN = "stdin"


@dataclass(frozen=True, slots=True)
class Input:
    """One input: plain data that can be pickled and read again in another process; `read.read_input` gives its bytes.

    Attributes:
        path: as reported; a file name that is not UTF-8 keeps its bytes (surrogateescape).
        kind: where the bytes lie.
        location: path of the archive, the address as fsspec opens it, or the file that keeps standard input; empty for
            a file, which lies at `path`.
        member: name of the archive's member.
        index: position of a zip member in the archive's directory; an archive may repeat a name.
        offset: first byte of a tar member's data.
        size: length of a member's data, in bytes, as its archive announces it.
        content: the bytes of a tar member that cannot be read again in place, because its archive is compressed or
            the member is sparse.
        group: of the list that named it; empty where the list has none.
        frame: of an animation, or page of a document, from 1, or EMBEDDED; a file whose first it is not lies at
            `location`.
    """

    path: str
    kind: InputKind = InputKind.FILE
    location: str = ""
    member: str = ""
    index: int = 0
    offset: int = 0
    size: int = 0
    content: bytes | None = None
    group: str = ""
    frame: int = 1


def read_file(path: str, max_bytes: int) -> bytes:
    """The content of a regular file, at most `max_bytes`; anything else is refused without blocking.

    Raises:
        ImageError: not_found, dangling_link, permission, not_a_file, too_large, not_an_image, read_error.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise too_large(size, max_bytes)
            if size > HASHED_BYTES:
                check_large(file.read(SIGNATURE_BYTES) or b"", size)
                file.seek(0)
            return read_all(file.read, size, max_bytes)
    except OSError as error:
        raise file_error(error) from error
    except ValueError as error:  # no file system has a name with a NUL
        raise ImageError("not_found", "no such file") from error


def read_all(read: Callable[[int], bytes | None], expected: int, max_bytes: int) -> bytes:
    """Everything that `read(n)` returns, in as few calls as possible if that is `expected` bytes.

    Raises:
        ImageError: too_large, as soon as more than `max_bytes` have come.
    """
    data = read(min(expected, max_bytes) + 1) or b""
    if len(data) == expected:  # one read reached the end, the usual case
        return data
    parts = [data]
    total = len(data)
    while data and total <= max_bytes:
        data = read(min(max_bytes + 1 - total, 2**20)) or b""
        parts.append(data)
        total += len(data)
    if total > max_bytes:
        raise too_large(None, max_bytes)
    return b"".join(parts)


def check_large(head: bytes, size: int) -> None:
    """Refuse a file of more than HASHED_BYTES that does not begin like any image, read or not.

    Raises:
        ImageError: not_an_image.
    """
    if size > HASHED_BYTES and not has_image_signature(head):
        message = "its first bytes are not those of an image, so the rest was not read"
        raise ImageError("not_an_image", message, size=size)


def open_regular(path: str) -> FileIO:
    """As `files.open_regular`, which changes nothing.

    Raises:
        ImageError: not_a_file, without blocking, if the path is a folder, pipe, socket or device.
        OSError: as the operating system reports it.
    """
    try:
        return files.open_regular(path)
    except files.NotAFile:
        raise ImageError("not_a_file", "it is neither a regular file nor a folder") from None


def too_large(size: int | None, max_bytes: int) -> ImageError:
    """The error for an input larger than `max_bytes`; `size` is None if it was not read to its end."""
    subject = "it has" if size is None else f"its {size} bytes are"
    return ImageError("too_large", f"{subject} more than the {max_bytes} bytes allowed", size=size)


def file_error(error: OSError) -> ImageError:
    """The error for a file that the operating system cannot open or read."""
    code, message = _CODES.get(error.errno or 0, ("read_error", error.strerror or str(error)))
    return ImageError(code, message)


def unreadable(path: str, error: ImageError) -> Unreadable:
    """The record of an input that cannot be scored."""
    return Unreadable(path=path, code=error.code, message=error.message, sha256=error.sha256, bytes=error.bytes)


def has_image_name(name: str) -> bool:
    """Whether a file name has the extension of an image, of a kind that is read or not."""
    return name.lower().endswith(_EXTENSIONS) or has_unread_name(name)


def has_image_signature(head: bytes) -> bool:
    """Whether the first SIGNATURE_BYTES bytes of a file are those of an image, of a kind that is read or not."""
    return is_image(head) or unread_format(head) is not None


def head_of(path: str) -> bytes | None:
    """The first HEAD_BYTES bytes of a regular file; None if it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(HEAD_BYTES) or b""
    except (OSError, ImageError):
        return None


def why_skipped(path: str, name: str, spec: InputSpec, pattern: str = "") -> Why | None:
    """Why an entry of a folder or an archive is no input whatever it holds: hidden or excluded; None if it may be one.

    Args:
        path: as reported; matched against the patterns of `spec.exclude`.
        name: of the entry alone; matched likewise, and hidden if it begins with a dot.
        spec: what is hidden and excluded.
        pattern: the glob that led to the entry; one that begins with a dot shows hidden names.
    """
    if name.startswith(".") and not (spec.hidden or pattern.startswith(".")):
        return Why.HIDDEN
    excluded = any(fnmatchcase(name, glob) or fnmatchcase(path, glob) for glob in spec.exclude)
    return Why.EXCLUDED if excluded else None


def entries(folder: str) -> list[os.DirEntry[str] | Unreadable]:
    """What a folder holds, ordered by the bytes of the names; one record if it cannot be listed.

    The order of a directory differs between file systems; two scans of a folder must list it alike.
    """
    try:
        with os.scandir(folder) as listing:
            return [*sorted(listing, key=lambda entry: os.fsencode(entry.name))]
    except OSError as error:
        message = f"the folder cannot be listed ({file_error(error).message})"
        return [Unreadable(path=folder, code="unreadable_folder", message=message)]
