"""Glob patterns -> paths, by the same rules for hidden names, exclusion and links as in a folder."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from muflow_cli.images.inputs import entries, file_error, unreadable, why_skipped
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec

_ANY_FOLDERS: Final = "**"


def is_glob(argument: str) -> bool:
    """Whether an argument contains glob characters."""
    return "\0" not in argument and glob.has_magic(argument)


def expand(pattern: str, spec: InputSpec) -> Iterator[str | Unreadable]:
    """Paths that match a pattern, each once, ordered by the bytes of their names; `**` is any number of folders, but no
    link.

    Every folder is listed once, whatever the number of `**`: a path carries all positions of the pattern that it may
    have reached. The standard library's glob enters links to parents over and over, and hides folders that it cannot
    read.
    """
    drive, rest = os.path.splitdrive(pattern)
    rest = rest.replace(os.altsep, os.sep) if os.altsep else rest
    parts = tuple(part for part in rest.split(os.sep) if part)
    root = drive + (os.sep if rest.startswith(os.sep) else "")
    matcher = _Matcher(parts, spec)
    # A stack, not recursion: folders may be nested deeper than Python calls.
    stack: list[_Reached | Unreadable] = [_Reached(root, matcher.closed({0}))]
    while stack:
        reached = stack.pop()
        if isinstance(reached, Unreadable):
            yield reached
            continue
        if len(parts) in reached.positions:
            yield reached.path or os.curdir
        if open_ := reached.positions - {len(parts)}:
            stack += reversed(matcher.below(reached.path, open_))


@dataclass(frozen=True, slots=True)
class _Reached:
    """A path, and the positions in the pattern from which its entries go on."""

    path: str
    positions: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Matcher:
    parts: tuple[str, ...]
    spec: InputSpec

    def closed(self, positions: set[int]) -> frozenset[int]:
        """The positions with those behind each `**`, which may stand for no folder at all."""
        every = set(positions)
        for position in sorted(positions):
            while position < len(self.parts) and self.parts[position] == _ANY_FOLDERS:
                position += 1  # noqa: PLW2901  walks on from each
                every.add(position)
        # A last `**` is the folder itself, which the caller walks.
        return frozenset(every - {len(self.parts) - 1} if self.parts[-1:] == (_ANY_FOLDERS,) else every)

    def below(self, base: str, positions: frozenset[int]) -> list[_Reached | Unreadable]:
        """What follows `base`: a name of the pattern if it exists, and the entries that fit a part with magic."""
        found: dict[str, set[int]] = {}
        magic = {position for position in positions if glob.has_magic(self.parts[position])}
        for position in positions - magic:
            path = os.path.join(base, self.parts[position])
            if os.path.lexists(path):
                found.setdefault(path, set()).add(position + 1)
        records: list[_Reached | Unreadable] = []
        for entry in entries(base or os.curdir) if magic else ():
            if isinstance(entry, Unreadable):
                records.append(entry)
                continue
            path = os.path.join(base, entry.name)
            try:
                after = self._after(entry, path, magic)
            except OSError as error:  # it vanished, or lies behind a folder that may not be entered
                records.append(unreadable(path, file_error(error)))
                continue
            if after:
                found.setdefault(path, set()).update(after)
        ordered = sorted(found.items(), key=lambda item: os.fsencode(item[0]))
        return [*records, *(_Reached(path, self.closed(after)) for path, after in ordered)]

    def _after(self, entry: os.DirEntry[str], path: str, magic: set[int]) -> set[int]:
        """The positions that an entry leads to."""
        after = set()
        for position in magic:
            part = self.parts[position]
            name = "*" if part == _ANY_FOLDERS else part
            if not fnmatchcase(entry.name, name) or why_skipped(path, entry.name, self.spec, pattern=name):
                continue
            follow = position if part == _ANY_FOLDERS else position + 1
            is_last = follow == len(self.parts)
            links = not is_last and self.parts[follow] != _ANY_FOLDERS
            if is_last or entry.is_dir(follow_symlinks=links):
                after.add(follow)
        return after
