"""The bytes of any input: one reader for each kind of place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from muflow_cli.images.archives import read_tar_member, read_zip_member
from muflow_cli.images.inputs import Input, InputKind, read_file
from muflow_cli.images.remote import read_remote

READERS: Final[Mapping[InputKind, Callable[[Input, int], bytes]]] = {
    InputKind.FILE: lambda input_, max_bytes: read_file(input_.path, max_bytes),
    InputKind.ZIP_MEMBER: read_zip_member,
    InputKind.TAR_MEMBER: read_tar_member,
    InputKind.REMOTE: read_remote,
}


def read_input(input_: Input, max_bytes: int) -> bytes:
    """The whole content of an input, at most `max_bytes`, opened read-only.

    Raises:
        ImageError: as the reader of its kind.
    """
    return READERS[input_.kind](input_, max_bytes)
