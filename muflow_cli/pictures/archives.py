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

from muflow_cli.pictures.decode import SIGNATURE_BYTES, PictureError, is_picture
from muflow_cli.pictures.sources import (
    Source,
    file_error,
    has_picture_name,
    is_skipped,
    open_regular,
    read_all,
    too_large,
    unreadable,
)
from muflow_cli.records import Unreadable
from muflow_cli.specs import InputSpec

MAX_MEMBERS: Final = 200_000
# Photographs do not compress; a picture of one colour does, but then few bytes are at stake. An archive may hold
# `max_bytes`, or so many times its own size.
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

# What the archive modules and their decompressors raise on damaged or unusual archives.
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
    """Whether a name ends like an archive's."""
    return path.lower().endswith(_ZIP + _TAR)


def split(argument: str) -> tuple[str, str]:
    """Archive and member of `faces.zip!a/b.jpg`; ("", "") where no archive stands before a `!`."""
    at = argument.find("!")
    while at != -1:
        archive = argument[:at]
        if "\0" not in archive and is_archive(archive) and os.path.isfile(archive):
            return archive, argument[at + 1 :]
        at = argument.find("!", at + 1)
    return "", ""


def members(path: str, spec: InputSpec, only: str | None = None) -> Iterator[Source | Unreadable]:
    """Pictures of an archive as `archive.zip!inner/name.jpg`, in stored order; or the one member named `only`.

    Members are inputs as files in a folder are; links and devices are not. A member's name is a label alone:
    absolute and `..` names reach nothing on disk. Zip members and those of a plain tar are read when they are asked
    for; those of a compressed tar on the way, since it cannot be entered in the middle. A damaged, truncated or
    exploding archive ends with one record for the archive.
    """
    found = False
    try:
        for member in (_zip if path.lower().endswith(_ZIP) else _tar)(path, spec, only):
            found = True
            yield member
        if only is not None and not found:
            yield Unreadable(path=f"{path}!{only}", code="not_found", message="the archive has no such member")
    except PictureError as error:
        yield unreadable(path, error)
    except _BROKEN as error:
        yield unreadable(path, _damage(error))


@dataclass(slots=True)
class _Allowance:
    """What an archive may still hold: members, and uncompressed bytes."""

    bytes: int
    members: int = MAX_MEMBERS

    def take(self, size: int) -> None:
        self.members -= 1
        self.bytes -= size
        if self.members < 0:
            raise PictureError("too_many_members", f"more than {MAX_MEMBERS} members: the rest is not read")
        if self.bytes < 0:
            raise _bomb()


def _bomb() -> PictureError:
    return PictureError("archive_bomb", f"it unpacks to more than {MAX_RATIO} times its size: the rest is not read")


def _is_wanted(label: str, name: str, spec: InputSpec, head: Callable[[], bytes]) -> bool:
    if any(is_skipped(label, part, spec) for part in name.split("/") if part not in ("", ".", "..")):
        return False
    return has_picture_name(name) or is_picture(head())


def _zip(path: str, spec: InputSpec, only: str | None) -> Iterator[Source]:
    # Held open by the readers of its members, closed with the last of them.
    archive = zipfile.ZipFile(path)
    allowance = _Allowance(max(spec.max_bytes, MAX_RATIO * os.path.getsize(path)))
    for info in archive.infolist():
        if only not in (None, info.filename) or info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
            continue
        read = functools.partial(_read_zipped, archive, info)
        label = f"{path}!{info.filename}"
        if only or _is_wanted(label, info.filename, spec, functools.partial(_zip_head, archive, info)):
            allowance.take(info.file_size if info.file_size <= spec.max_bytes else 0)
            yield Source(label, read)


def _zip_head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(info) as member:
            return member.read(SIGNATURE_BYTES)
    except _BROKEN:
        return b""  # no picture by its name, nor by what can be read of it


def _read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> bytes:
    if info.flag_bits & _ENCRYPTED:
        raise PictureError("encrypted", "the archive's member is encrypted: unpack it first", size=info.file_size)
    if info.file_size > max_bytes:
        raise too_large(info.file_size, max_bytes)
    try:
        with archive.open(info) as member:
            return read_all(member.read, info.file_size, max_bytes)
    except _BROKEN as error:
        raise PictureError("corrupt_member", f"the archive's member is damaged ({error})") from error


class _Forwards:
    """A tar stream that is read once, forwards and within limits, whatever its headers say.

    A crafted header may point backwards (endless loop), ask for a block of any size, or skip terabytes of zeros.
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
            raise PictureError("corrupt_archive", "a header of the archive points backwards")
        self._advance(position)
        self.position = self.stream.seek(position)
        return self.position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.longest:
            raise PictureError("corrupt_archive", f"a header of the archive claims {size} bytes")
        self._advance(self.position + size)
        self.last = self.stream.read(size)
        self.position += len(self.last)
        return self.last

    def _advance(self, position: int) -> None:
        if self.allowed is not None and position > self.allowed:
            raise _bomb()

    def check_end(self) -> None:
        """Tell an archive that was read to its end mark, a block of zeros, from one that was cut.

        Raises:
            PictureError: truncated_archive, corrupt_archive; tarfile ends silently in both cases.
        """
        if len(self.last) < _BLOCK:
            raise PictureError("truncated_archive", "the archive has no end mark: members may be missing")
        if self.last.strip(b"\0"):
            raise PictureError("corrupt_archive", "a header of the archive is damaged: members may be missing")


@dataclass(frozen=True, slots=True)
class _Tar:
    """One tar archive being read: where it lies, what is asked of it."""

    path: str
    spec: InputSpec
    only: str | None
    is_plain: bool

    def members(self, stream: _Forwards) -> Iterator[Source]:
        allowance = _Allowance(0)  # bytes are counted by the stream
        with tarfile.open(fileobj=stream, mode="r:", errors="surrogateescape") as archive:  # type: ignore[call-overload]  # a stream that has what tarfile uses
            while (info := archive.next()) is not None:
                archive.members.clear()  # tarfile would keep every member's header
                allowance.take(0)
                if info.size < 0:
                    raise PictureError("corrupt_archive", "a header of the archive claims a negative size")
                if info.isreg() and self.only in (None, info.name):
                    yield from self._member(archive, info)

    def _member(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[Source]:
        label = f"{self.path}!{info.name}"
        content = archive.extractfile(info)
        if content is None:
            return
        head = b"" if has_picture_name(info.name) else content.read(SIGNATURE_BYTES)
        if self.only is None and not _is_wanted(label, info.name, self.spec, lambda: head):
            return
        if info.size > self.spec.max_bytes or (self.is_plain and not info.issparse()):
            yield Source(label, functools.partial(_read_slice, self.path, info.offset_data, info.size))
        else:
            data = head + content.read()
            yield Source(label, lambda _: data)


def _tar(path: str, spec: InputSpec, only: str | None) -> Iterator[Source]:
    with io.BufferedReader(open_regular(path)) as raw:
        head = raw.read(8)
        raw.seek(0)
        unpack = next((reader for magic, reader in _COMPRESSED if head.startswith(magic)), None)
        allowed = max(spec.max_bytes, MAX_RATIO * os.fstat(raw.fileno()).st_size) + _BLOCK * MAX_MEMBERS
        stream = _Forwards(unpack(raw) if unpack else raw, allowed if unpack else None, spec.max_bytes + _BLOCK)
        yield from _Tar(path, spec, only, is_plain=unpack is None).members(stream)
        if only is None:
            stream.check_end()


def _read_slice(path: str, offset: int, size: int, max_bytes: int) -> bytes:
    if size > max_bytes:
        raise too_large(size, max_bytes)
    try:
        with open_regular(path) as file:
            file.seek(offset)
            data = file.read(size) or b""
    except OSError as error:
        raise file_error(error) from error
    if len(data) < size:
        raise PictureError("truncated", "the archive ends within this member", size=size)
    return data


def _damage(error: BaseException) -> PictureError:
    if isinstance(error, OSError) and error.errno is not None:
        return file_error(error)
    if isinstance(error, EOFError) or "end of data" in str(error):
        return PictureError("truncated_archive", "the archive is cut short: members may be missing")
    return PictureError("corrupt_archive", f"the archive is damaged ({error}): members may be missing")
