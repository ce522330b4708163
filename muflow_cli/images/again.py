"""Inputs that a run has read, found and read once more by the paths that its results name."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, Final

from muflow_cli.files import NotAFile, open_regular
from muflow_cli.images.archives import split
from muflow_cli.images.error import ImageError
from muflow_cli.images.find import find
from muflow_cli.images.frames import without_frame
from muflow_cli.images.inputs import Input, InputKind, file_error
from muflow_cli.images.read import read_input
from muflow_cli.images.stdin import NAME as STDIN
from muflow_cli.images.stdin import is_stdin
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec

# Wider limits than those of any scan, so that every file that a scan read is read again.
LIMITS: Final = InputSpec(hidden=True, follow_links=True, max_bytes=2**40)


class Again:
    """Finds inputs again; an archive is read once if its members are looked up in their stored order.

    Attributes:
        stdin: path of the file that keeps what was read from standard input; empty where nothing is kept.
    """

    def __init__(self) -> None:
        self.stdin = ""
        self._archive = ""
        self._members: Iterator[Input | Unreadable] = iter(())

    def find(self, path: str) -> Input | Unreadable | None:
        """The current input at `path`."""
        if self.stdin and is_stdin(path):
            path = self.stdin + path.removeprefix(STDIN)
        path = path if os.path.lexists(path) else without_frame(path)
        archive, _ = split(path)
        if archive:
            if archive != self._archive:
                self._archive, self._members = archive, find([archive], LIMITS)
            for member in self._members:
                if member.path == path:
                    return member
            self._archive = ""  # not found from here on, so the next search starts from the beginning
        return next(find([path], LIMITS), None)

    def open(self, path: str, max_bytes: int) -> BinaryIO:
        """The bytes that lie at `path` now: a file of any length as it lies there, anything else at most `max_bytes`.

        Raises:
            ImageError: naming why they cannot be read.
        """
        source = self.find(path)
        if source is None:
            raise ImageError("not_found", "it is no longer there")
        if isinstance(source, Unreadable):
            raise ImageError(source.code, source.message)
        try:
            if source.kind in (InputKind.FILE, InputKind.STDIN):
                return io.BufferedReader(open_regular(source.location or source.path))
            return io.BytesIO(read_input(source, max_bytes))
        except NotAFile:
            raise ImageError("not_a_file", "it is no longer a file") from None
        except OSError as error:
            raise file_error(error) from error
