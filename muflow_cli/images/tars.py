"""Members of .tar archives, compressed or not: read once, forwards, within limits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Final, Protocol

from muflow_cli.images.archive_limits import MAX_MEMBERS, MAX_RATIO, Allowance, bomb, is_archive, nested, why_left_out
from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import SIGNATURE_BYTES
from muflow_cli.images.inputs import (
    Input,
    InputKind,
    check_large,
    file_error,
    has_image_name,
    has_image_signature,
    open_regular,
    too_large,
    unreadable,
)
from muflow_cli.images.kinds import HEAD_BYTES, LINK, SPECIAL, UNKNOWN, kind_of
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.skipped import Skip, Skipped, Why


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def seek(self, position: int, /) -> int: ...


_COMPRESSED: Final[tuple[tuple[bytes, Callable[[IO[bytes]], _Stream]], ...]] = (
    (b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
)
_BLOCK: Final = 512
_HEADER_BYTES: Final = 2**20  # of one member: long names and extended attributes


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
        self.header_left: int | None = _HEADER_BYTES  # None while content is read

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
        if self.header_left is not None:
            self.header_left -= size
            if self.header_left < 0:
                message = f"the header of a member is longer than {_HEADER_BYTES} bytes, so the rest is not read"
                raise ImageError("archive_bomb", message)
        self._advance(self.position + size)
        self.last = self.stream.read(size)
        self.position += len(self.last)
        return self.last

    def _advance(self, position: int) -> None:
        if self.allowed is not None and position > self.allowed:
            raise bomb()

    def check_end(self) -> None:
        """Check that the archive was read to its end mark, a block of zeros.

        Raises:
            ImageError: truncated_archive, corrupt_archive; tarfile ends silently in both cases.
        """
        if len(self.last) < _BLOCK:
            raise ImageError("truncated_archive", "the archive has no end mark, so members may be missing")
        if self.last.strip(b"\0"):
            raise ImageError("corrupt_archive", "a header of the archive is damaged, so members may be missing")


@dataclass(slots=True)
class Tar:
    """A tar archive while its members are listed; `only` is the one member that is wanted, if not all are.

    `skip` is called with members that are no inputs.
    """

    path: str
    spec: InputSpec
    only: str | None
    skip: Skip | None = None
    links: dict[str, list[str]] = field(default_factory=dict)  # target of hard links -> their names

    def inputs(self) -> Iterator[Input | Unreadable]:
        """The members that are wanted, in stored order, then those that are hard links to another member."""
        yield from self._pass(self._member)
        if self.links:  # a compressed tar cannot be entered in the middle, so it is read once more
            yield from self._pass(self._target)
        for name in sorted(name for names in self.links.values() for name in names):
            message = "the archive lacks the member that this hard link leads to"
            yield Unreadable(path=f"{self.path}!{name}", code="not_found", message=message)

    def _pass(self, listed: Callable[[_Member], Iterator[Input | Unreadable]]) -> Iterator[Input | Unreadable]:
        with io.BufferedReader(open_regular(self.path)) as raw:
            head = raw.read(8)
            raw.seek(0)
            unpack = next((reader for magic, reader in _COMPRESSED if head.startswith(magic)), None)
            allowed = max(self.spec.max_bytes, MAX_RATIO * os.fstat(raw.fileno()).st_size)
            longest = self.spec.max_bytes + _BLOCK
            stream = _Forwards(
                unpack(raw) if unpack else raw, allowed + _BLOCK * MAX_MEMBERS if unpack else None, longest
            )
            allowance = Allowance(allowed)  # of holes; the stream counts the other bytes
            with tarfile.open(fileobj=stream, mode="r:", errors="surrogateescape") as archive:  # type: ignore[call-overload]  # the stream has every method that tarfile calls
                while (info := archive.next()) is not None:
                    archive.members.clear()  # tarfile would keep the header of every member
                    if info.size < 0:
                        raise ImageError("corrupt_archive", "a header of the archive claims a negative size")
                    allowance.take(info.size if info.issparse() and info.size <= self.spec.max_bytes else 0)
                    stream.header_left = None
                    yield from listed(_Member(archive, info, in_place=unpack is None and not info.issparse()))
                    stream.header_left = _HEADER_BYTES
            if self.only is None:
                stream.check_end()

    def _member(self, member: _Member) -> Iterator[Input | Unreadable]:
        name = member.info.name
        label = f"{self.path}!{name}"
        if self.only not in (None, name) or member.info.isdir():
            return
        why = why_left_out(label, name, self.spec) if self.only is None else None
        if why is not None:
            self._skip(label, member, why)
        elif member.info.islnk():
            self.links.setdefault(member.info.linkname, []).append(name)
        elif member.info.isreg() and self.only is None and is_archive(name):
            yield nested(label)
        elif member.info.isreg():
            yield from self._inputs(member, [name])
        else:
            self._skip(label, member, Why.LINK if member.info.issym() else Why.SPECIAL)

    def _skip(self, label: str, member: _Member, why: Why, head: bytes | None = None) -> None:
        """Tell of a member that is no input."""
        if self.skip is None:
            return
        if not member.info.isreg() and not member.info.islnk():
            kind = LINK if member.info.issym() else SPECIAL
        else:
            stream = member.archive.extractfile(member.info) if head is None and member.info.isreg() else None
            kind = (
                kind_of(stream.read(HEAD_BYTES)) if stream is not None else UNKNOWN if head is None else kind_of(head)
            )
        self.skip(Skipped(label, kind, why))

    def _target(self, member: _Member) -> Iterator[Input | Unreadable]:
        if member.info.isreg():
            yield from self._inputs(member, self.links.pop(member.info.name, []))

    def _inputs(self, member: _Member, names: list[str]) -> Iterator[Input | Unreadable]:
        """The inputs of one member under all its names; the stream does not go back to read it again."""
        info = member.info
        stream = member.archive.extractfile(info) if names else None
        if stream is None:
            return
        named = [name for name in names if has_image_name(name) or self.only is not None]
        head = b"" if member.in_place and named == names else stream.read(HEAD_BYTES)
        is_image = has_image_signature(head)
        wanted = [f"{self.path}!{name}" for name in (names if is_image else named)]
        for name in names:
            if not is_image and name not in named:
                self._skip(f"{self.path}!{name}", member, Why.NOT_AN_IMAGE, head)
        content = None
        if wanted and not member.in_place:
            try:
                content = self._content(info.size, head, stream)
            except ImageError as error:
                yield from (unreadable(label, error) for label in wanted)
                return
        for label in wanted:
            yield Input(
                label,
                InputKind.TAR_MEMBER,
                location=self.path,
                member=info.name,
                offset=info.offset_data,
                size=info.size,
                content=content,
            )

    def _content(self, size: int, head: bytes, stream: IO[bytes]) -> bytes:
        if size > self.spec.max_bytes:
            raise too_large(size, self.spec.max_bytes)
        check_large(head, size)
        return head + stream.read()


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of a tar that is being read, and whether its bytes can be read later in place."""

    archive: tarfile.TarFile
    info: tarfile.TarInfo
    in_place: bool


def read_tar_member(input_: Input, max_bytes: int) -> bytes:
    """The content of one member of a tar archive: what was read on the way, or the member's place in the archive.

    Raises:
        ImageError: not_found, permission, not_a_file, not_an_image, read_error, truncated, too_large.
    """
    size = input_.size
    if size > max_bytes:
        raise too_large(size, max_bytes)
    if input_.content is not None:
        return input_.content
    try:
        with open_regular(input_.location) as file:
            file.seek(input_.offset)
            check_large(file.read(SIGNATURE_BYTES) or b"", size)
            file.seek(input_.offset)
            data = file.read(size) or b""
    except OSError as error:
        raise file_error(error) from error
    if len(data) < size:
        raise ImageError("truncated", "the archive ends in the middle of this member", size=size)
    return data
