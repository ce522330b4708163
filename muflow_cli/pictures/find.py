"""Arguments -> an ordered stream of inputs: files, folders, globs, archives, URLs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from muflow_cli.pictures import archives, globs, remote
from muflow_cli.pictures.sources import Source, entries, has_picture_name, is_skipped, sniff
from muflow_cli.records import Unreadable
from muflow_cli.specs import InputSpec

__all__ = ["Source", "find", "read_list"]

_READ_BYTES = 2**16


def find(arguments: Iterable[str], spec: InputSpec) -> Iterator[Source | Unreadable]:
    """Inputs in the order of the arguments, a folder's entries in the order of their names' bytes.

    An argument is a file, a folder (walked recursively), an archive or one member of it (`faces.zip!a/b.jpg`), a
    URL (http, https, s3) or, where no such file exists, a glob (`**` = any number of folders). What is named is
    always an input; in a folder, a glob or an archive, files are inputs that are named or begin like a picture,
    that are neither hidden nor excluded; symbolic links in a folder are followed only with `follow_links`, and then
    each folder is entered once. A path met twice is listed once, where it was met first. What cannot be read or
    found is a record in its place.
    """
    finder = _Finder(spec)
    for argument in arguments:
        yield from finder.inputs(argument)


def read_list(stream: BinaryIO, null: bool) -> Iterator[str]:  # noqa: FBT001  the two formats of --files-from
    """Paths of a list, one a line (LF or CRLF) or, with `null`, ended by NUL bytes; empty ones are left out."""
    rest = b""
    end = b"\0" if null else b"\n"
    while block := stream.read(_READ_BYTES):
        *whole, rest = (rest + block).split(end)
        yield from _names(whole, null)
    yield from _names([rest], null)


def _names(entries: Iterable[bytes], null: bool) -> Iterator[str]:  # noqa: FBT001  as read_list
    for entry in entries:
        name = entry if null else entry.removesuffix(b"\r")
        if name:
            yield os.fsdecode(name)


@dataclass(slots=True)
class _Finder:
    spec: InputSpec
    listed: set[str] = field(default_factory=set)  # absolute paths
    entered: set[tuple[int, int]] = field(default_factory=set)  # device and inode; kept only when links are followed

    def inputs(self, argument: str) -> Iterator[Source | Unreadable]:
        archive, member = archives.split(argument)
        if remote.is_remote(argument):
            yield from remote.find_remote(argument, self.spec) if self._is_new(argument) else ()
        elif "\0" not in argument and os.path.lexists(argument):
            yield from self._present(argument)
        elif archive:
            yield from archives.members(archive, self.spec, member) if self._is_new(argument) else ()
        elif globs.is_glob(argument):
            yield from self._matches(argument)
        else:
            yield from self._once(_record(argument, "not_found", "no such file or folder"))

    def _present(self, path: str) -> Iterator[Source | Unreadable]:
        if os.path.isdir(path):
            yield from self._walk(path)
        elif not os.path.exists(path):
            yield from self._once(_dangling(path))
        elif archives.is_archive(path) and os.path.isfile(path):
            yield from archives.members(path, self.spec) if self._is_new(path) else ()
        else:
            yield from self._once(Source(path))

    def _matches(self, pattern: str) -> Iterator[Source | Unreadable]:
        found = False
        for match in globs.expand(pattern, self.spec):
            found = True
            if isinstance(match, Unreadable):
                yield from self._once(match)
            elif not os.path.isfile(match) or archives.is_archive(match) or _is_input(match):
                yield from self._present(match)
        if not found:
            yield from self._once(_record(pattern, "not_found", "no file fits this pattern"))

    def _walk(self, folder: str) -> Iterator[Source | Unreadable]:
        # A stack, not recursion: folders may be nested deeper than Python calls.
        stack = self._entries(folder)
        while stack:
            entry = stack.pop()
            if isinstance(entry, Unreadable):
                yield from self._once(entry)
            elif is_skipped(entry.path, entry.name, self.spec):
                continue
            elif entry.is_symlink() and not os.path.exists(entry.path):
                yield from self._once(_dangling(entry.path))
            elif entry.is_dir(follow_symlinks=self.spec.follow_links):
                stack.extend(self._entries(entry.path))
            elif entry.is_file(follow_symlinks=self.spec.follow_links) and _is_input(entry.path):
                yield from self._once(Source(entry.path))

    def _entries(self, folder: str) -> list[os.DirEntry[str] | Unreadable]:
        """A folder's entries, last first; none where a chain of links led back to it."""
        if self.spec.follow_links:
            found = os.stat(folder)
            if (found.st_dev, found.st_ino) in self.entered:
                return []
            self.entered.add((found.st_dev, found.st_ino))
        return entries(folder)[::-1]

    def _once(self, found: Source | Unreadable) -> Iterator[Source | Unreadable]:
        if self._is_new(found.path):
            yield found

    def _is_new(self, path: str) -> bool:
        key = path if remote.is_remote(path) else os.path.abspath(path)
        if key in self.listed:
            return False
        self.listed.add(key)
        return True


def _is_input(path: str) -> bool:
    return has_picture_name(path) or sniff(path)


def _dangling(path: str) -> Unreadable:
    return _record(path, "dangling_link", "a symbolic link that leads nowhere")


def _record(path: str, code: str, message: str) -> Unreadable:
    return Unreadable(path=path, code=code, message=message)
