"""What archives of every kind have in common: the limits on what they unpack to, and how they fail."""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Final

from muflow_cli.images.error import ImageError, reason_of
from muflow_cli.images.inputs import file_error, why_skipped
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.skipped import Why

ZIP: Final = (".zip",)
TAR: Final = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")

MAX_MEMBERS: Final = 200_000
# An archive may unpack to `max_bytes`, or to this many times its own size. Photographs do not compress; an image of one
# colour does, but then it is small.
MAX_RATIO: Final = 200

# Everything that the archive modules and their decompressors raise on damaged or unusual archives.
BROKEN: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    struct.error,
    ArithmeticError,
    RuntimeError,
)


def is_archive(path: str) -> bool:
    """Whether a name has the extension of an archive."""
    return path.lower().endswith(ZIP + TAR)


@dataclass(slots=True)
class Allowance:
    """How many members and unpacked bytes an archive may still hold."""

    bytes: int
    members: int = field(default_factory=lambda: MAX_MEMBERS)

    def take(self, size: int) -> None:
        """Count a member of this size.

        Raises:
            ImageError: too_many_members, archive_bomb.
        """
        self.members -= 1
        self.bytes -= size
        if self.members < 0:
            raise crowd("so the rest is not read")
        if self.bytes < 0:
            raise bomb()


def crowd(consequence: str) -> ImageError:
    """The error for an archive of too many members; `consequence` ends the sentence."""
    return ImageError("too_many_members", f"the archive has more than {MAX_MEMBERS} members, {consequence}")


def nested(label: str) -> Unreadable:
    """The record of an archive that is a member of another."""
    message = "an archive inside an archive is not opened; unpack it first"
    return Unreadable(path=label, code="unsupported", message=message)


def bomb() -> ImageError:
    """The error for an archive that unpacks to too much."""
    message = f"the archive unpacks to more than {MAX_RATIO} times its size, so the rest is not read"
    return ImageError("archive_bomb", message)


def why_left_out(label: str, name: str, spec: InputSpec) -> Why | None:
    """Why a member is no input whatever it holds: it, or a folder above it, is hidden or excluded."""
    parts = (part for part in name.split("/") if part not in ("", ".", ".."))
    return next((why for part in parts if (why := why_skipped(label, part, spec))), None)


def damage(error: BaseException) -> ImageError:
    """The error for an archive that cannot be read; `error` is one of BROKEN."""
    if isinstance(error, OSError) and error.errno is not None:
        return file_error(error)
    if isinstance(error, EOFError) or "end of data" in str(error):
        return ImageError("truncated_archive", "the archive is cut short, so members may be missing")
    return ImageError("corrupt_archive", f"the archive is damaged ({reason_of(error)}), so members may be missing")
