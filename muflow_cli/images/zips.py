"""Members of .zip archives: listed from the directory, read in place."""

from __future__ import annotations

import functools
import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO, Final

from muflow_cli.images.archive_limits import (
    BROKEN,
    MAX_MEMBERS,
    MAX_RATIO,
    Allowance,
    crowd,
    damage,
    is_archive,
    nested,
    why_left_out,
)
from muflow_cli.images.error import ImageError, reason_of
from muflow_cli.images.formats import SIGNATURE_BYTES
from muflow_cli.images.inputs import (
    Input,
    InputKind,
    check_large,
    has_image_name,
    has_image_signature,
    open_regular,
    read_all,
    too_large,
)
from muflow_cli.images.kinds import HEAD_BYTES, LINK, kind_of
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.skipped import Skip, Skipped, Why

# Members without an image's name whose first bytes are looked at; a tenth of a millisecond each.
MAX_SNIFFED: Final = 20_000
_ENTRY_BYTES: Final = 256  # of the directory for each member; more only where names are long
_ENCRYPTED: Final = 0x1
_OPEN_ARCHIVES: Final = 4  # an archive's directory may take 100 MB


def zip_inputs(path: str, spec: InputSpec, only: str | None, skip: Skip | None = None) -> Iterator[Input | Unreadable]:
    """The members that are wanted, in stored order, or those named `only`; `skip` is called with the others.

    Raises:
        ImageError: not_a_file, permission, too_many_members, archive_bomb.
        One of BROKEN: for a damaged archive.
    """
    archive, announced = _opened_zip(path)
    allowance = Allowance(max(spec.max_bytes, MAX_RATIO * os.path.getsize(path)))
    unnamed = 0
    for index, info in enumerate(archive.infolist()):
        if only not in (None, info.filename) or info.is_dir():
            continue
        label = f"{path}!{info.filename}"
        why = Why.LINK if stat.S_ISLNK(info.external_attr >> 16) else None
        why = why or (why_left_out(label, info.filename, spec) if only is None else None)
        if why is None and only is None and is_archive(info.filename):
            yield nested(label)
            continue
        head = None
        if why is None and only is None and not has_image_name(info.filename):
            unnamed += 1
            head = _zip_head(archive, info) if unnamed <= MAX_SNIFFED else b""
            why = None if has_image_signature(head) else Why.NOT_AN_IMAGE
        if why is not None:
            if skip is not None and unnamed <= MAX_SNIFFED:  # one record speaks for all members beyond
                kind = LINK if why is Why.LINK else kind_of(_zip_head(archive, info) if head is None else head)
                skip(Skipped(label, kind, why))
            continue
        allowance.take(info.file_size if info.file_size <= spec.max_bytes else 0)
        yield Input(label, InputKind.ZIP_MEMBER, location=path, member=info.filename, index=index, size=info.file_size)
    if only is None:
        yield from _unlisted(path, unnamed, len(archive.infolist()), announced)


def _unlisted(path: str, unnamed: int, listed: int, announced: int) -> Iterator[Unreadable]:
    """Records of an archive that may hold more than was listed.

    Args:
        path: of the archive.
        unnamed: members without an image's name.
        listed: members in its directory.
        announced: members that its end says the directory has.
    """
    if unnamed > MAX_SNIFFED:
        message = f"more than {MAX_SNIFFED} members have no image's name, and only those were looked into"
        yield Unreadable(path=path, code="too_many_members", message=message)
    if (listed - announced) % 2**16:  # writers that do not know large archives count in two bytes
        message = f"the archive lists {listed} members but announces {announced}, so some may be missing"
        yield Unreadable(path=path, code="corrupt_archive", message=message)


def _opened_zip(path: str) -> tuple[zipfile.ZipFile, int]:
    """The archive at a path with its directory parsed, and the number of members that its end announces.

    It is shared by all threads until the file changes.

    Raises:
        ImageError: not_a_file, too_many_members.
        OSError, zipfile.BadZipFile and other errors of BROKEN.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
        raise ImageError("not_a_file", "the archive is not a regular file")
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return _parsed_zip(path, identity, os.getpid())


@functools.lru_cache(maxsize=_OPEN_ARCHIVES)
def _parsed_zip(path: str, identity: tuple[int, ...], process: int) -> tuple[zipfile.ZipFile, int]:  # noqa: ARG001  part of the key
    # A forked process shares its parent's position in an open file, so each process opens the archive for itself. An
    # archive that leaves the cache is closed with the last reader that uses it.
    with open_regular(path) as raw, io.BufferedReader(raw) as file:
        members, directory_bytes = _zip_directory(file)
    if members > MAX_MEMBERS or directory_bytes > MAX_MEMBERS * _ENTRY_BYTES:
        raise crowd("so none is read; unpack it first")
    return zipfile.ZipFile(path), members


def _zip_directory(file: BinaryIO) -> tuple[int, int]:
    """Number of members and bytes of the directory as the end of a zip announces them; zeros where it does not.

    Parsing a directory of a million members takes 10 s and 600 MB. Source: APPNOTE 6.3.10, 4.3.14 to 4.3.16.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2**16 - 42))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or end + 22 > len(tail):
        return 0, 0
    members, directory_bytes = struct.unpack_from("<HL", tail, end + 10)
    if tail[end - 20 : end - 16] == b"PK\x06\x07" and end >= 20:
        file.seek(int.from_bytes(tail[end - 12 : end - 4], "little"))
        large = file.read(56)
        if large.startswith(b"PK\x06\x06") and len(large) == 56:
            members, directory_bytes = struct.unpack_from("<QQ", large, 32)
    return members, directory_bytes


def _zip_head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(info) as member:
            return member.read(HEAD_BYTES)
    except BROKEN:
        return b""  # an image neither by its name nor by what can be read of it


def read_zip_member(input_: Input, max_bytes: int) -> bytes:
    """The content of one member of a zip archive, its checksum verified.

    Raises:
        ImageError: not_found, permission, not_a_file, not_an_image, corrupt_archive, encrypted, too_large,
            unsupported, corrupt_member.
    """
    try:
        archive, _ = _opened_zip(input_.location)
    except BROKEN as error:
        raise damage(error) from error
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
            check_large(member.peek(SIGNATURE_BYTES), info.file_size)  # type: ignore[attr-defined]  # ZipExtFile has it
            return read_all(member.read, info.file_size, max_bytes)
    except NotImplementedError as error:
        message = f"the member is compressed by {_method(info)}, which is not read; unpack the archive first"
        raise ImageError("unsupported", message, size=info.file_size) from error
    except BROKEN as error:
        raise ImageError("corrupt_member", f"the member of the archive is damaged ({reason_of(error)})") from error


def _method(info: zipfile.ZipInfo) -> str:
    return {9: "deflate64", 93: "zstandard", 95: "xz", 98: "PPMd"}.get(
        info.compress_type, f"method {info.compress_type}"
    )
