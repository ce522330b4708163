"""Members of .zip and .tar archives as inputs: read in place, in stored order, never extracted to disk."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final, Protocol

from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import SIGNATURE_BYTES, is_image
from muflow_cli.images.inputs import (
    Input,
    InputKind,
    file_error,
    has_image_name,
    is_skipped,
    open_regular,
    read_all,
    too_large,
    unreadable,
)
from muflow_cli.records import Unreadable
from muflow_cli.specs import InputSpec

MAX_MEMBERS: Final = 200_000
# An archive may unpack to `max_bytes`, or to this many times its own size. Photographs do not compress; an image of one
# colour does, but then it is small.
MAX_RATIO: Final = 200


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def seek(self, position: int, /) -> int: ...


_ZIP: Final = (".zip",)
_TAR: Final = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
_COMPRESSED: Final[tuple[tuple[bytes, Callable[[IO[bytes]], _Stream]], ...]] = (
    (b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
)
_ENCRYPTED = 0x1
_BLOCK = 512
_OPEN_ARCHIVES: Final = 4  # an archive's directory may take 100 MB

# Everything that the archive modules and their decompressors raise on damaged or unusual archives.
_BROKEN: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    struct.error,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)


def is_archive(path: str) -> bool:
    """Whether a name has the extension of an archive."""
    return path.lower().endswith(_ZIP + _TAR)


def split(argument: str) -> tuple[str, str]:
    """Archive and member of `faces.zip!a/b.jpg`; ("", "") if no part before a `!` is an archive."""
    at = argument.find("!")
    while at != -1:
        archive = argument[:at]
        if "\0" not in archive and is_archive(archive) and os.path.isfile(archive):
            return archive, argument[at + 1 :]
        at = argument.find("!", at + 1)
    return "", ""


def members(path: str, spec: InputSpec, only: str | None = None) -> Iterator[Input | Unreadable]:
    """Images of an archive as `archive.zip!inner/name.jpg`, in stored order; or the one member named `only`.

    The rules for files in a folder decide which members are inputs; links and devices are not. The name of a member
    is only a label: absolute names and `..` reach nothing on disk. Members of a zip or a plain tar are read later, in
    place; those of a compressed tar are read here, since it cannot be entered in the middle. A damaged, truncated or
    exploding archive ends with one record for the archive.
    """
    any_member = False
    try:
        for member in (_zip if path.lower().endswith(_ZIP) else _tar)(path, spec, only):
            any_member = True
            yield member
        if only is not None and not any_member:
            yield Unreadable(path=f"{path}!{only}", code="not_found", message="the archive has no such member")
    except ImageError as error:
        yield unreadable(path, error)
    except _BROKEN as error:
        yield unreadable(path, _damage(error))


@dataclass(slots=True)
class _Allowance:
    """How many members and unpacked bytes an archive may still hold."""

    bytes: int
    members: int = MAX_MEMBERS

    def take(self, size: int) -> None:
        self.members -= 1
        self.bytes -= size
        if self.members < 0:
            raise ImageError(
                "too_many_members", f"the archive has more than {MAX_MEMBERS} members, so the rest is not read"
            )
        if self.bytes < 0:
            raise _bomb()


def _bomb() -> ImageError:
    message = f"the archive unpacks to more than {MAX_RATIO} times its size, so the rest is not read"
    return ImageError("archive_bomb", message)


def _is_wanted(label: str, name: str, spec: InputSpec, head: Callable[[], bytes]) -> bool:
    if any(is_skipped(label, part, spec) for part in name.split("/") if part not in ("", ".", "..")):
        return False
    return has_image_name(name) or is_image(head())


def _zip(path: str, spec: InputSpec, only: str | None) -> Iterator[Input]:
    archive = _opened_zip(path)
    allowance = _Allowance(max(spec.max_bytes, MAX_RATIO * os.path.getsize(path)))
    for index, info in enumerate(archive.infolist()):
        if only not in (None, info.filename) or info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
            continue
        label = f"{path}!{info.filename}"
        if only or _is_wanted(label, info.filename, spec, functools.partial(_zip_head, archive, info)):
            allowance.take(info.file_size if info.file_size <= spec.max_bytes else 0)
            yield Input(label, InputKind.ZIP_MEMBER, location=path, member=info.filename, index=index)


def _opened_zip(path: str) -> zipfile.ZipFile:
    """The archive at a path with its directory parsed, shared by all threads until the file changes.

    Raises:
        ImageError: not_a_file.
        OSError, zipfile.BadZipFile and other errors of _BROKEN.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
        raise ImageError("not_a_file", "the archive is not a regular file")
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return _parsed_zip(path, identity, os.getpid())


@functools.lru_cache(maxsize=_OPEN_ARCHIVES)
def _parsed_zip(path: str, identity: tuple[int, ...], process: int) -> zipfile.ZipFile:  # noqa: ARG001  part of the key
    # A forked process shares its parent's position in an open file, so each process opens the archive for itself. An
    # archive that leaves the cache is closed with the last reader that uses it.
    return zipfile.ZipFile(path)


def _zip_head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(info) as member:
            return member.read(SIGNATURE_BYTES)
    except _BROKEN:
        return b""  # an image neither by its name nor by what can be read of it


def read_zip_member(input_: Input, max_bytes: int) -> bytes:
    """The content of one member of a zip archive, its checksum verified.

    Raises:
        ImageError: not_found, permission, not_a_file, corrupt_archive, encrypted, too_large, unsupported,
            corrupt_member.
    """
    try:
        archive = _opened_zip(input_.location)
    except _BROKEN as error:
        raise _damage(error) from error
    directory = archive.infolist()
    if input_.index >= len(directory) or directory[input_.index].filename != input_.member:
        raise ImageError("not_found", "the archive has changed and no longer has this member")
    info = directory[input_.index]
    if info.flag_bits & _ENCRYPTED:
        raise ImageError("encrypted", "the member is encrypted; unpack the archive first", size=info.file_size)
    if info.file_size > max_bytes:
        raise too_large(info.file_size, max_bytes)
    try:
        with archive.open(info) as member:
            return read_all(member.read, info.file_size, max_bytes)
    except NotImplementedError as error:
        message = f"the member is compressed by {_method(info)}, which is not read; unpack the archive first"
        raise ImageError("unsupported", message, size=info.file_size) from error
    except _BROKEN as error:
        raise ImageError("corrupt_member", f"the member of the archive is damaged ({error})") from error


def _method(info: zipfile.ZipInfo) -> str:
    return {9: "deflate64", 93: "zstandard", 95: "xz", 98: "PPMd"}.get(
        info.compress_type, f"method {info.compress_type}"
    )


class _Forwards:
    """A tar stream that is read once, forwards and within limits, whatever its headers claim.

    A crafted header may point backwards (an endless loop), claim a block of any size, or skip terabytes of zeros.
    """

    def __init__(self, stream: _Stream, allowed: int | None, longest: int) -> None:
        self.stream = stream
        self.allowed = allowed
        self.longest = longest
        self.position = 0
        self.last = b""

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> int:
        if position < self.position:
            raise ImageError("corrupt_archive", "a header of the archive points backwards")
        self._advance(position)
        self.position = self.stream.seek(position)
        return self.position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.longest:
            raise ImageError("corrupt_archive", f"a header of the archive claims {size} bytes")
        self._advance(self.position + size)
        self.last = self.stream.read(size)
        self.position += len(self.last)
        return self.last

    def _advance(self, position: int) -> None:
        if self.allowed is not None and position > self.allowed:
            raise _bomb()

    def check_end(self) -> None:
        """Check that the archive was read to its end mark, a block of zeros.

        Raises:
            ImageError: truncated_archive, corrupt_archive; tarfile ends silently in both cases.
        """
        if len(self.last) < _BLOCK:
            raise ImageError("truncated_archive", "the archive has no end mark, so members may be missing")
        if self.last.strip(b"\0"):
            raise ImageError("corrupt_archive", "a header of the archive is damaged, so members may be missing")


@dataclass(frozen=True, slots=True)
class _Tar:
    """A tar archive while its members are listed; `only` is the one member that is wanted, if not all are."""

    path: str
    spec: InputSpec
    only: str | None
    is_plain: bool

    def members(self, stream: _Forwards) -> Iterator[Input | Unreadable]:
        allowance = _Allowance(0)  # the stream counts the bytes
        with tarfile.open(fileobj=stream, mode="r:", errors="surrogateescape") as archive:  # type: ignore[call-overload]  # the stream has every method that tarfile calls
            while (info := archive.next()) is not None:
                archive.members.clear()  # tarfile would keep the header of every member
                allowance.take(0)
                if info.size < 0:
                    raise ImageError("corrupt_archive", "a header of the archive claims a negative size")
                if info.isreg() and self.only in (None, info.name):
                    yield from self._input(archive, info)

    def _input(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[Input | Unreadable]:
        label = f"{self.path}!{info.name}"
        stream = archive.extractfile(info)
        if stream is None:
            return
        head = b"" if has_image_name(info.name) else stream.read(SIGNATURE_BYTES)
        if self.only is None and not _is_wanted(label, info.name, self.spec, lambda: head):
            return
        content = None
        if not self.is_plain or info.issparse():
            if info.size > self.spec.max_bytes:
                yield unreadable(label, too_large(info.size, self.spec.max_bytes))
                return
            content = head + stream.read()
        yield Input(
            label,
            InputKind.TAR_MEMBER,
            location=self.path,
            member=info.name,
            offset=info.offset_data,
            size=info.size,
            content=content,
        )


def _tar(path: str, spec: InputSpec, only: str | None) -> Iterator[Input | Unreadable]:
    with io.BufferedReader(open_regular(path)) as raw:
        head = raw.read(8)
        raw.seek(0)
        unpack = next((reader for magic, reader in _COMPRESSED if head.startswith(magic)), None)
        allowed = max(spec.max_bytes, MAX_RATIO * os.fstat(raw.fileno()).st_size) + _BLOCK * MAX_MEMBERS
        stream = _Forwards(unpack(raw) if unpack else raw, allowed if unpack else None, spec.max_bytes + _BLOCK)
        yield from _Tar(path, spec, only, is_plain=unpack is None).members(stream)
        if only is None:
            stream.check_end()


def read_tar_member(input_: Input, max_bytes: int) -> bytes:
    """The content of one member of a tar archive: what was read on the way, or the member's place in the archive.

    Raises:
        ImageError: not_found, permission, not_a_file, read_error, truncated, too_large.
    """
    size = input_.size
    if size > max_bytes:
        raise too_large(size, max_bytes)
    if input_.content is not None:
        return input_.content
    try:
        with open_regular(input_.location) as file:
            file.seek(input_.offset)
            data = file.read(size) or b""
    except OSError as error:
        raise file_error(error) from error
    if len(data) < size:
        raise ImageError("truncated", "the archive ends in the middle of this member", size=size)
    return data


def _damage(error: BaseException) -> ImageError:
    if isinstance(error, OSError) and error.errno is not None:
        return file_error(error)
    if isinstance(error, EOFError) or "end of data" in str(error):
        return ImageError("truncated_archive", "the archive is cut short, so members may be missing")
    return ImageError("corrupt_archive", f"the archive is damaged ({error}), so members may be missing")
