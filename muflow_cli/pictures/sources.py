"""One input: a path as reported, and the way to its bytes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import FileIO
from typing import Final

from muflow_cli.pictures.decode import SIGNATURE_BYTES, PictureError, is_picture
from muflow_cli.records import Unreadable
from muflow_cli.specs import InputSpec

# O_NONBLOCK: a fifo put in a file's place must not stop a run. O_NOATIME: reading leaves no trace, where permitted.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_TRACE = _FLAGS | getattr(os, "O_NOATIME", 0)

# A file with such a name is meant as a picture, so that what is wrong with it is worth a record.
_EXTENSIONS: Final = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".heic", ".heif", ".hif", ".avif", ".avifs", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".jp2", ".j2k", ".jpf", ".jpx", ".j2c"),
)

_CODES = {
    errno.ENOENT: ("not_found", "no such file"),
    errno.ENOTDIR: ("not_found", "no such file"),
    errno.ELOOP: ("dangling_link", "a symbolic link that leads nowhere"),
    errno.EACCES: ("permission", "no permission to read it"),
    errno.EPERM: ("permission", "no permission to read it"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """One input.

    Attributes:
        path: as reported; a file name that is not UTF-8 keeps its bytes (surrogateescape).
        reader: bytes of an input that is no file of its own (archive member, URL), given `max_bytes`.
    """

    path: str
    reader: Callable[[int], bytes] | None = None

    def read(self, max_bytes: int) -> bytes:
        """The whole content, at most `max_bytes`, opened read-only.

        Raises:
            PictureError: not_found, dangling_link, permission, not_a_file, too_large, read_error, and what a reader
                of archives or URLs says.
        """
        return read_file(self.path, max_bytes) if self.reader is None else self.reader(max_bytes)


def read_file(path: str, max_bytes: int) -> bytes:
    """The content of a regular file; anything else is refused without blocking.

    Raises:
        PictureError: as Source.read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise too_large(size, max_bytes)
            return read_all(file.read, size, max_bytes)
    except OSError as error:
        raise file_error(error) from error


def read_all(read: Callable[[int], bytes | None], expected: int, max_bytes: int) -> bytes:
    """Everything that `read(n)` gives, in as few calls as possible when `expected` bytes come.

    Raises:
        PictureError: too_large, as soon as more than `max_bytes` came.
    """
    data = read(min(expected, max_bytes) + 1) or b""
    if len(data) == expected:  # one read met the end, the usual case
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


def open_regular(path: str) -> FileIO:
    """A regular file opened so that nothing changes, not even its access time where the owner asks.

    Raises:
        PictureError: not_a_file, without blocking, where a folder, pipe, socket or device is in its place.
        OSError: as the operating system says.
    """
    try:
        descriptor = os.open(path, _NO_TRACE)
    except PermissionError:  # O_NOATIME is for the owner alone
        descriptor = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PictureError("not_a_file", "neither a regular file nor a folder")
    return FileIO(descriptor)


def too_large(size: int | None, max_bytes: int) -> PictureError:
    """The error of an input beyond `max_bytes`; `size` is None where it was not read to its end."""
    found = "it has" if size is None else f"its {size} bytes are"
    return PictureError("too_large", f"{found} more than the {max_bytes} bytes allowed", size=size)


def file_error(error: OSError) -> PictureError:
    """What the operating system said about a file, as a record's code and sentence."""
    code, message = _CODES.get(error.errno or 0, ("read_error", error.strerror or str(error)))
    return PictureError(code, message)


def unreadable(path: str, error: PictureError) -> Unreadable:
    """The record of one input that could not be read."""
    return Unreadable(path=path, code=error.code, message=error.message, sha256=error.sha256, bytes=error.bytes)


def has_picture_name(name: str) -> bool:
    """Whether a file name ends like a picture's."""
    return name.lower().endswith(_EXTENSIONS)


def sniff(path: str) -> bool:
    """Whether a file begins like a picture; True where it cannot be read, so that it becomes one error record."""
    try:
        with open_regular(path) as file:
            return is_picture(file.read(SIGNATURE_BYTES) or b"")
    except (OSError, PictureError):
        return True


def is_skipped(path: str, name: str, spec: InputSpec, named: str = "") -> bool:
    """Whether a folder's or an archive's entry is hidden or excluded, by its own name or by its path as reported.

    A pattern that itself begins with a dot (`named`) shows hidden names.
    """
    if name.startswith(".") and not (spec.hidden or named.startswith(".")):
        return True
    return any(fnmatchcase(name, pattern) or fnmatchcase(path, pattern) for pattern in spec.exclude)


def entries(folder: str) -> list[os.DirEntry[str] | Unreadable]:
    """What a folder holds, in the order of the names' bytes; one record where it cannot be listed.

    Directory order differs between file systems; two scans of a folder must list alike.
    """
    try:
        with os.scandir(folder) as found:
            return [*sorted(found, key=_name_bytes)]
    except OSError as error:
        reason = file_error(error).message
        message = f"the folder cannot be listed: {reason}"
        return [Unreadable(path=folder, code="unreadable_folder", message=message)]


def _name_bytes(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name)
