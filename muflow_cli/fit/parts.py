"""Files of a work folder, each with a digest: what a resumed fit reads is what an earlier one wrote."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.errors import CannotWrite, MuflowError
from muflow_cli.files import OutputFile, write_whole

START_AGAIN: Final = "start again with --force"
_DIGITS: Final = 64  # of a SHA-256


class UnfinishedFit(MuflowError):
    """A work folder is in the way, or belongs to another fit, or is damaged."""


def write_sealed(path: Path, content: bytes) -> None:
    """Write `content` after a line with its SHA-256, atomically; CannotWrite with the system's reason."""
    write_whole(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read_sealed(path: Path) -> bytes:
    """The content that `write_sealed` wrote; UnfinishedFit if any byte has changed."""
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise UnfinishedFit(f"cannot read {path} ({error.strerror})", START_AGAIN) from None
    content = stored[_DIGITS + 1 :]
    if stored[: _DIGITS + 1] != hashlib.sha256(content).hexdigest().encode() + b"\n":
        raise UnfinishedFit(f"{path} is damaged", START_AGAIN)
    return content


class Part:
    """A large file that is written from front to back, and mapped only when it is complete.

    Args:
        path: replaced if it exists.
        nbytes: reserved at once where the system can, so that a full disk is noticed before the work; 0 = unknown.

    Raises:
        CannotWrite: with the system's reason.
    """

    def __init__(self, path: Path, nbytes: int = 0) -> None:
        try:
            self._file = OutputFile(path, "wb")
        except OSError as error:
            raise CannotWrite(str(path), error.strerror or str(error)) from None
        self._digest = hashlib.sha256()
        if nbytes and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file.fileno(), 0, nbytes)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # not every file system can
                    self.close()
                    raise CannotWrite(str(path), error.strerror or str(error)) from None

    def write(self, values: NDArray[np.generic]) -> None:
        """Append an array; CannotWrite with the system's reason."""
        data = np.ascontiguousarray(values).data
        self._digest.update(data)
        self._file.write(data)

    def finish(self) -> str:
        """SHA-256 of the part, when it is on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CannotWrite(str(self._file.name), error.strerror or str(error)) from None
        self.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file; twice is once."""
        with contextlib.suppress(OSError):
            self._file.close()


def check_part(path: Path, sha256: str) -> None:
    """UnfinishedFit if the part at `path` is not the one whose `finish` returned `sha256`."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnfinishedFit(f"cannot read {path} ({error.strerror})", START_AGAIN) from None
    if found != sha256:
        raise UnfinishedFit(f"{path} is damaged", START_AGAIN)
