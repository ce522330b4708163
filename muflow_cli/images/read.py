"""The bytes of any input: one reader for each kind of place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from muflow_cli.images.inputs import Input, InputKind, read_file
from muflow_cli.images.remote import read_remote
from muflow_cli.images.tars import read_tar_member
from muflow_cli.images.zips import read_zip_member

READERS: Final[Mapping[InputKind, Callable[[Input, int], bytes]]] = {
    InputKind.FILE: lambda input_, max_bytes: read_file(input_.location or input_.path, max_bytes),
    InputKind.ZIP_MEMBER: read_zip_member,
    InputKind.TAR_MEMBER: read_tar_member,
    InputKind.REMOTE: read_remote,
    InputKind.STDIN: lambda input_, max_bytes: read_file(input_.location, max_bytes),
}

_UNKNOWN: Final = 32 * 2**20  # what a server sends


def announced_bytes(input_: Input) -> int:
    """The length of an input before it is read, as far as it is known: an upper bound on the memory that it takes."""
    if input_.kind is InputKind.REMOTE:
        return _UNKNOWN
    if input_.kind not in (InputKind.FILE, InputKind.STDIN):
        return input_.size
    try:
        return os.stat(input_.location or input_.path).st_size
    except (OSError, ValueError):  # reading says what is wrong
        return 0


def read_input(input_: Input, max_bytes: int) -> bytes:
    """The whole content of an input, at most `max_bytes`, opened read-only.

    Raises:
        ImageError: as the reader of its kind.
    """
    return READERS[input_.kind](input_, max_bytes)
