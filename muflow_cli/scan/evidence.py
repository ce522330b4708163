"""What comparisons within a batch need of every image, kept beside its results: perceptual hash and features.

A file of rows of one length; it is mapped, not held in memory. Beside a JSON-lines report it outlives a run that was
killed, so that a resumed one need not score an image again; otherwise it has no name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.components import Sample
from muflow_cli.errors import CannotWrite
from muflow_cli.files import growing, nameless, open_regular

# So that no file of another program is taken for one of these; a multiple of a number's size, so that rows are aligned.
_HEAD: Final = b"muflow.batch/1 \n"
_DIGEST: Final = 32
_NEAR: Final = 8
_CHECK: Final = 8


def evidence_path(report: Path) -> Path:
    """The file beside a JSON-lines report."""
    return report.with_name(report.name + ".batch")


class Evidence:
    """Rows of content hash, perceptual hash and features, each with a check.

    Args:
        file: open for reading and writing, empty or of an earlier run; its rows are kept as far as their checks are
            right.
        key: of the run; rows of another run are forgotten.
        count: F, features of an image; 0 = none.
        fresh: forget all rows; the file changes with the first row that is added.

    Attributes:
        count: F.
        near: content hash -> perceptual hash of every image.
    """

    def __init__(self, file: BinaryIO, key: bytes, count: int, *, fresh: bool) -> None:
        self._file, self._key, self.count = file, key, count
        self._row = np.dtype(
            [
                ("sha256", np.uint8, _DIGEST),
                ("near", ">u8"),
                ("features", np.float16, count),
                ("check", np.uint8, _CHECK),
            ]
        )
        self._rows: dict[str, int] = {}
        self.near: dict[str, int] = {}
        if not fresh:
            self._recover()

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._rows

    def add(self, sha256: str, near: int, features: NDArray[np.float16]) -> None:
        """Keep what is known of one image, once."""
        if sha256 in self._rows:
            return
        row = np.zeros(1, dtype=self._row)
        row["sha256"][0] = np.frombuffer(bytes.fromhex(sha256), dtype=np.uint8)
        row["near"], row["features"] = near, features
        row["check"][0] = np.frombuffer(self._check(row), dtype=np.uint8)
        if not self._rows:
            self._file.truncate(0)
            self._file.seek(0)
            self._file.write(_HEAD)
        self._file.seek(self._end)
        self._file.write(row.tobytes())
        self._remember(sha256, near)

    def sample(self, digests: Sequence[str]) -> Sample:
        """The features of the images, mapped."""
        self._file.flush()
        stored = np.memmap(self._file, self._row, "r", len(_HEAD), shape=(len(self._rows),))
        return Sample(digests, stored["features"], np.array([self._rows[digest] for digest in digests]))

    def _remember(self, sha256: str, near: int) -> None:
        self._rows[sha256] = len(self._rows)
        self.near[sha256] = near

    @property
    def _end(self) -> int:
        return len(_HEAD) + len(self._rows) * self._row.itemsize

    def _recover(self) -> None:
        """Read the rows that an earlier run left, up to the first that is not whole."""
        self._file.seek(0)
        self._file.read(len(_HEAD))
        while len(data := self._file.read(self._row.itemsize)) == self._row.itemsize:
            row = np.frombuffer(data, dtype=self._row)
            if bytes(row["check"][0]) != self._check(row):
                break
            self._remember(bytes(row["sha256"][0]).hex(), int(row["near"][0]))
        if self._rows:
            self._file.truncate(self._end)

    def _check(self, row: NDArray[np.void]) -> bytes:
        return hashlib.sha256(self._key + row.tobytes()[:-_CHECK]).digest()[:_CHECK]


@contextlib.contextmanager
def open_evidence(report: Path | None, key: bytes, count: int, *, resumed: bool) -> Iterator[Evidence]:
    """The evidence of a run; its file beside `report`, if there is one, stays until `discard_evidence`.

    Args:
        report: the JSON-lines report of the run.
        key: as `Evidence`.
        count: as `Evidence`.
        resumed: keep the rows of an earlier run.

    Raises:
        CannotWrite: with the system's reason, or where that file is not of a scan.
    """
    if report is None:
        with nameless() as file:
            yield Evidence(file, key, count, fresh=True)
        return
    path = evidence_path(report)
    if os.path.lexists(path) and not _is_evidence(path):
        why, remedy = "it is not what a scan keeps there", "move it away, or choose another name for the report"
        raise CannotWrite(str(path), why, remedy)
    with growing(path) as file:
        yield Evidence(file, key, count, fresh=not resumed)


def discard_evidence(report: Path) -> None:
    """Remove what an earlier run kept beside a report that is complete now."""
    path = evidence_path(report)
    if os.path.lexists(path) and _is_evidence(path):
        path.unlink(missing_ok=True)


def _is_evidence(path: Path) -> bool:
    """Whether a file is empty or begins like one of these; a link is none, whatever it leads to."""
    try:
        with open_regular(path) as file:
            return not path.is_symlink() and _HEAD.startswith(file.read(len(_HEAD)) or b"")
    except OSError:
        return False
