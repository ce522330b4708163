"""Glob patterns -> paths, by the same rules for hidden names, exclusion and links as in a folder."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase

from muflow_cli.images.inputs import entries, is_skipped
from muflow_cli.records import Unreadable
from muflow_cli.specs import InputSpec


def is_glob(argument: str) -> bool:
    """Whether an argument contains glob characters."""
    return "\0" not in argument and glob.has_magic(argument)


def expand(pattern: str, spec: InputSpec) -> Iterator[str | Unreadable]:
    """Paths that match a pattern, ordered by the bytes of their names; `**` is any number of folders, but no link.

    The standard library's glob enters links to parents over and over, and hides folders that it cannot read.
    """
    root = os.sep if pattern.startswith(os.sep) else ""
    return _below(root, [part for part in pattern.split(os.sep) if part], spec)


def _below(base: str, parts: list[str], spec: InputSpec) -> Iterator[str | Unreadable]:
    if not parts:
        yield base or os.curdir
    elif parts[0] == "**":
        yield from _below(base, parts[1:], spec)
        if parts[1:]:  # a last `**` is the folder, which the caller walks
            yield from _children(base, "*", parts, spec)
    elif glob.has_magic(parts[0]):
        yield from _children(base, parts[0], parts[1:], spec)
    elif os.path.lexists(path := os.path.join(base, parts[0])):
        yield from _below(path, parts[1:], spec)


def _children(base: str, name: str, rest: list[str], spec: InputSpec) -> Iterator[str | Unreadable]:
    for entry in entries(base or os.curdir):
        if isinstance(entry, Unreadable):
            yield entry
            continue
        path = os.path.join(base, entry.name)
        entered = not rest or entry.is_dir(follow_symlinks=rest[0] != "**")
        if entered and fnmatchcase(entry.name, name) and not is_skipped(path, entry.name, spec, pattern=name):
            yield from _below(path, rest, spec)
