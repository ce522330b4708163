"""Arguments -> an ordered stream of inputs: files, folders, globs, archives, addresses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from muflow_cli.errors import NoSuchInput
from muflow_cli.files import is_own
from muflow_cli.images import archives, globs, remote
from muflow_cli.images.archive_limits import is_archive
from muflow_cli.images.clips import is_clip
from muflow_cli.images.embedded import embedded_video, may_embed
from muflow_cli.images.error import ImageError
from muflow_cli.images.frames import MOST_FRAMES, frame_count, frame_path
from muflow_cli.images.inputs import (
    Input,
    InputKind,
    entries,
    file_error,
    has_image_name,
    has_image_signature,
    head_of,
    unreadable,
    why_skipped,
)
from muflow_cli.images.kinds import FOLDER, LINK, SPECIAL, kind_of
from muflow_cli.images.lists import ListedPath
from muflow_cli.images.read import read_input
from muflow_cli.images.stdin import StandardInput, inputs_of
from muflow_cli.images.video import can_read_clips
from muflow_cli.records import EMBEDDED, Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.skipped import Skip, Skipped, Why


def find(arguments: Iterable[str], spec: InputSpec, skip: Skip | None = None) -> Iterator[Input | Unreadable]:
    """Inputs in the order of the arguments; the entries of a folder ordered by the bytes of their names.

    An argument is a file, a folder (walked recursively), an archive or one of its members (`faces.zip!a/b.jpg`), an
    address (http, https, s3), standard input (`stdin.StandardInput`) or, if no such file exists, a glob (`**` = any
    number of folders); a path from a list (`lists.ListedPath`) is never a glob. A file that is an argument is always
    an input. A file in a folder, a glob or an archive is an input if it has the extension or the signature of an image
    and is neither hidden nor excluded. An archive in a folder is opened where `spec.archives` allows it, and one in an
    archive is a record. Symbolic links in a folder are followed only with `follow_links`, and then each folder is
    entered once. A path that comes up twice is listed once, the first time. An input that does not exist or cannot be
    read becomes a record. `skip` is called with everything in a folder or an archive that is no input.
    """
    for _, item in find_each(arguments, spec, skip):
        yield item


def find_each(
    arguments: Iterable[str], spec: InputSpec, skip: Skip | None = None
) -> Iterator[tuple[str, Input | Unreadable]]:
    """As `find`, each input with the argument that led to it."""
    finder = _Finder(spec, skip)
    for argument in arguments:
        group = argument.group if isinstance(argument, ListedPath) else ""
        for item in finder.inputs(argument):
            found = replace(item, group=group) if group and isinstance(item, Input) else item
            yield argument, found
            if isinstance(found, Input):
                yield from ((argument, part) for part in _parts(found, spec))


def _parts(first: Input, spec: InputSpec) -> Iterator[Input | Unreadable]:
    """What else of the file of an input is one by the settings; nothing where it cannot be read, as its record says."""
    if spec.all_frames:
        yield from _later_frames(first, spec)
    if spec.embedded_video and spec.clips is not None and _names_video(first, spec):
        location = first.location or first.path
        yield replace(first, path=frame_path(first.path, EMBEDDED), location=location, frame=EMBEDDED)


def _names_video(first: Input, spec: InputSpec) -> bool:
    """Whether a file holds a video behind its image, or says so where it does not, which a record will tell."""
    try:
        head = head_of(first.path) if first.kind is InputKind.FILE else None
        if head is not None and not may_embed(head):
            return False
        return embedded_video(read_input(first, spec.max_bytes)) is not None
    except ImageError as error:
        return error.code == "no_video"
    except MemoryError:
        return False


def _later_frames(first: Input, spec: InputSpec) -> Iterator[Input | Unreadable]:
    """The frames of an input after its first one."""
    try:
        count = frame_count(read_input(first, spec.max_bytes))
    except (ImageError, MemoryError):
        return
    for frame in range(2, min(count, MOST_FRAMES) + 1):
        yield replace(first, path=frame_path(first.path, frame), location=first.location or first.path, frame=frame)
    if count > MOST_FRAMES:
        message = f"it has {count} frames, and only the first {MOST_FRAMES} are scored"
        yield Unreadable(path=frame_path(first.path, MOST_FRAMES + 1), code="too_many_frames", message=message)


def missing(arguments: Iterable[str], spec: InputSpec) -> list[str]:
    """Those of the arguments that name nothing: no file, no folder, no member of an archive, no match of a pattern.

    An address is not asked for. What exists and cannot be read is not missing.
    """
    absent = []
    for argument in arguments:
        if remote.is_remote(argument) or ("\0" not in argument and os.path.lexists(argument)):
            continue
        first = next(find([argument], spec), None)
        if isinstance(first, Unreadable) and first.code == "not_found" and first.path == argument:
            absent.append(argument)
    return absent


def check_present(arguments: Iterable[str], spec: InputSpec) -> None:
    """Refuse arguments that name nothing.

    Raises:
        NoSuchInput: naming them.
    """
    if absent := missing(arguments, spec):
        raise NoSuchInput(absent)


@dataclass(slots=True)
class _Finder:
    spec: InputSpec
    skip: Skip | None = None
    listed: set[str] = field(default_factory=set)  # absolute paths of inputs
    told: set[str] = field(default_factory=set)  # and of what was skipped, which an argument may still name
    entered: set[tuple[int, int]] = field(default_factory=set)  # device and inode; filled only if links are followed

    def inputs(self, argument: str) -> Iterator[Input | Unreadable]:
        archive, member = archives.split(argument)
        if isinstance(argument, StandardInput):
            yield from inputs_of(argument, self.spec) if self._is_new(argument.file) else ()
        elif remote.is_remote(argument):
            yield from remote.find_remote(argument, self.spec, self.skip) if self._is_new(argument) else ()
        elif "\0" not in argument and os.path.lexists(argument):
            yield from self._present(argument)
        elif archive:
            yield from archives.members(archive, self.spec, member, self.skip) if self._is_new(argument) else ()
        elif globs.is_glob(argument) and not isinstance(argument, ListedPath):
            yield from self._matches(argument)
        else:
            yield from self._once(_missing(argument))

    def _present(self, path: str) -> Iterator[Input | Unreadable]:
        if os.path.isdir(path):
            yield from self._walk(path)
        elif os.path.islink(path) and (record := _broken_link(path)):
            yield from self._once(record)
        elif is_archive(path) and os.path.isfile(path):
            yield from archives.members(path, self.spec, skip=self.skip) if self._is_new(path) else ()
        else:
            yield from self._once(Input(path))

    def _matches(self, pattern: str) -> Iterator[Input | Unreadable]:
        any_match = False
        for match in globs.expand(pattern, self.spec):
            any_match = True
            if isinstance(match, Unreadable):
                yield from self._once(match)
            elif not os.path.isfile(match) or is_archive(match) or self._is_input(match):
                yield from self._present(match)
        if not any_match:
            yield from self._once(_record(pattern, "not_found", "no file matches this pattern"))

    def _walk(self, folder: str) -> Iterator[Input | Unreadable]:
        # A stack, not recursion: folders may be nested deeper than Python calls.
        stack = self._entries(folder)
        while stack:
            entry = stack.pop()
            if isinstance(entry, Unreadable):
                yield from self._once(entry)
                continue
            if why := why_skipped(entry.path, entry.name, self.spec):
                self._skip(entry.path, why)
                continue
            if entry.is_symlink() and (record := _broken_link(entry.path)):
                yield from self._once(record)
                continue
            try:
                is_folder = entry.is_dir(follow_symlinks=self.spec.follow_links)
                is_file = entry.is_file(follow_symlinks=self.spec.follow_links)
            except OSError as error:  # it vanished, or lies behind a folder that may not be entered
                yield from self._once(unreadable(entry.path, file_error(error)))
                continue
            if is_folder:
                stack.extend(self._entries(entry.path))
            elif is_file:
                yield from self._file(entry.path)
            else:
                self._skip(entry.path, Why.LINK if entry.is_symlink() else Why.SPECIAL)

    def _file(self, path: str) -> Iterator[Input | Unreadable]:
        """What a file in a folder gives."""
        if is_archive(path):
            if not self.spec.archives:
                self._skip(path, Why.ARCHIVE)
            elif self._is_new(path):
                yield from archives.members(path, self.spec, skip=self.skip)
        elif self._is_input(path):
            yield from self._once(Input(path))

    def _is_input(self, path: str) -> bool:
        """Whether a file has the name or the first bytes of an image, or cannot be read, which its record will say."""
        if has_image_name(path):
            return True
        head = head_of(path)
        if head is None or has_image_signature(head):
            return True
        if self.spec.clips is not None and can_read_clips() and is_clip(path, self.spec):
            return True
        self._skip(path, Why.NOT_AN_IMAGE, kind_of(head))
        return False

    def _skip(self, path: str, why: Why, kind: str | None = None) -> None:
        """Tell once of something that is no input; the first bytes of a file say its kind, unless it is given."""
        key = os.path.abspath(path)
        if self.skip is None or key in self.listed or key in self.told:
            return
        if why is Why.HIDDEN and is_own(path):
            return
        self.told.add(key)
        if kind is None and os.path.islink(path):
            kind = LINK
        elif kind is None and os.path.isdir(path):
            kind = FOLDER
        elif kind is None:
            kind = kind_of(head_of(path) or b"") if os.path.isfile(path) else SPECIAL
        self.skip(Skipped(path, kind, why))

    def _entries(self, folder: str) -> list[os.DirEntry[str] | Unreadable]:
        """The entries of a folder, last first; none if a chain of links led back to it."""
        if self.spec.follow_links:
            try:
                status = os.stat(folder)
            except OSError:
                return entries(folder)  # a record that says why it cannot be listed
            if (status.st_dev, status.st_ino) in self.entered:
                return []
            self.entered.add((status.st_dev, status.st_ino))
        return entries(folder)[::-1]

    def _once(self, item: Input | Unreadable) -> Iterator[Input | Unreadable]:
        if self._is_new(item.path):
            yield item

    def _is_new(self, path: str) -> bool:
        key = path if remote.is_remote(path) else os.path.abspath(path)
        if key in self.listed:
            return False
        self.listed.add(key)
        return True


def _broken_link(path: str) -> Unreadable | None:
    """The record of a symbolic link that leads nowhere, or to a place that may not be entered."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return _record(path, "dangling_link", "the symbolic link points to nothing")
    except OSError as error:
        return unreadable(path, file_error(error))
    return None


def _missing(path: str) -> Unreadable:
    """The record of an argument that is not there, or that a folder hides which may not be entered."""
    try:
        os.lstat(path)
    except PermissionError as error:
        return unreadable(path, file_error(error))
    except (OSError, ValueError):
        pass
    return _record(path, "not_found", "no such file or folder")


def _record(path: str, code: str, message: str) -> Unreadable:
    return Unreadable(path=path, code=code, message=message)
