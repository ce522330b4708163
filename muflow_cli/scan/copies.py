"""Copies of flagged images, each checked against the hash that was scored; no original is touched, no file replaced."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from muflow_cli.claims import check_new_folder
from muflow_cli.errors import CannotWrite
from muflow_cli.files import OutputFile, naming, replacing
from muflow_cli.images.again import Again
from muflow_cli.images.error import ImageError
from muflow_cli.images.frames import without_frame
from muflow_cli.images.inputs import file_error
from muflow_cli.output.inert import cell, escape
from muflow_cli.output.tabular import write_row
from muflow_cli.records import Result, Scored

MANIFEST: Final = "manifest.csv"
SUMS: Final = "SHA256SUMS"
_COLUMNS: Final = ("copy", "source", "sha256", "bytes", "problem")
_PART: Final = 2**20  # bytes
_LONGEST_NAME: Final = 120  # characters
# What no system allows in a name, or reads as a folder.
_UNSAFE: Final = frozenset('/\\:*?"<>|')


class FlaggedCopies:
    """A folder of copies, `manifest.csv` with a row for each flagged result, and `SHA256SUMS` for `sha256sum -c`.

    Each content is copied once, under the first 16 digits of its SHA-256 and the name of the first input that had it.

    Args:
        folder: that `claims.check_new_folder` has let pass.
        manifest: open stream of the manifest.
        sums: open stream of the sums.
        max_bytes: limit on a member of an archive or a remote image, as in the scan; files are copied in parts.
        note: told, in a sentence, of images that could not be copied.

    Attributes:
        again: finds the inputs.
    """

    def __init__(
        self, folder: Path, manifest: BinaryIO, sums: BinaryIO, max_bytes: int, note: Callable[[str], None]
    ) -> None:
        self._folder, self._manifest, self._sums = folder, manifest, sums
        self._max_bytes, self._note = max_bytes, note
        self._names: dict[str, str] = {}
        self.again = Again()
        write_row(manifest, _COLUMNS)

    def add(self, result: Result) -> None:
        """Copy the image of a result if it is flagged.

        Raises:
            CannotWrite: with the system's reason.
        """
        if not isinstance(result, Scored) or not result.flagged:
            return
        sha256, problem = result.facts.sha256, ""
        if sha256 not in self._names:
            try:
                self._names[sha256] = self._copy(result)
            except ImageError as error:
                problem = error.message
                self._note(f"{escape(result.path)} is flagged but was not copied, because {problem}")
        name = self._names.get(sha256, "")
        write_row(self._manifest, [name, cell(result.path), sha256, result.facts.bytes, cell(problem)])

    def _copy(self, result: Scored) -> str:
        """Name of the copy; ImageError where the input is no longer what was scored."""
        sha256 = result.facts.sha256
        name = f"{sha256[:16]}-{safe_name(without_frame(result.path))}"
        path = self._folder / name
        if os.path.lexists(path):
            raise ImageError("name_taken", f"a file {name} is there already")
        with self.again.open(result.path, self._max_bytes) as source, replacing(path, force=False) as copy:
            digest = hashlib.sha256()
            while part := _read(source):
                digest.update(part)
                copy.write(part)
            if digest.hexdigest() != sha256:
                raise ImageError("changed", "its content is no longer what was scored")
        with naming(str(path)), path.open("rb") as written:
            if hashlib.file_digest(written, "sha256").hexdigest() != sha256:
                path.unlink()
                raise CannotWrite(str(path), "what was written is not what is read back", "check the disk")
        self._sums.write(f"{sha256}  {name}\n".encode())
        return name


def _read(source: BinaryIO) -> bytes:
    try:
        return source.read(_PART)
    except OSError as error:
        raise file_error(error) from error


def safe_name(path: str) -> str:
    """The last part of a path as a name for any system: no separators, nothing invisible, not too long."""
    last = path.replace("\\", "/").rpartition("/")[2].rpartition("!")[2] or "image"
    plain = "".join("_" if c in _UNSAFE or not c.isprintable() else c for c in last)
    stem, dot, extension = plain.rpartition(".")
    extension = f"{dot}{extension}"[:16] if stem else ""
    # Bytes, not characters, are what a file system counts.
    room = _LONGEST_NAME - len(extension.encode())
    return (stem or plain).encode()[:room].decode("utf-8", "ignore").rstrip(". ") + extension.rstrip(". ")


@contextlib.contextmanager
def open_copies(folder: Path | None, max_bytes: int, note: Callable[[str], None]) -> Iterator[FlaggedCopies | None]:
    """Where a run copies flagged images to; None without such a folder.

    Raises:
        CannotWrite: with the system's reason, or because the folder is not empty.
    """
    if folder is None:
        yield None
        return
    check_new_folder(folder, ())
    with naming(str(folder)):
        folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        with naming(str(folder)):
            streams = [stack.enter_context(OutputFile(folder / name, "xb")) for name in (MANIFEST, SUMS)]
        yield FlaggedCopies(folder, *streams, max_bytes=max_bytes, note=note)  # type: ignore[misc,arg-type] # two streams
