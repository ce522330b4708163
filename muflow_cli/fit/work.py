"""The work folder of a fit: the finished work of a killed run, so that `--resume` need not repeat it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from muflow_cli.canonical import canonical_json
from muflow_cli.engine.train_state import TrainState
from muflow_cli.errors import CannotWrite, MuflowError
from muflow_cli.files import locked, open_regular, replacing, write_whole
from muflow_cli.fit.parts import START_AGAIN, UnfinishedFit, check_part, read_sealed, write_sealed
from muflow_cli.tensor_file import BadTensorFile, hash_tensors, read_header, write

_KEY, _CHECKPOINT = "fit.json", "checkpoint.safetensors"
_STATE: Final = "state"
_SHA256: Final = "sha256"


class StoppedFit(CannotWrite):
    """A fit that could not write, whose finished work is kept."""

    def __init__(self, cause: CannotWrite, folder: Path) -> None:
        MuflowError.__init__(
            self, cause.problem, f"free some space and continue with --resume, since {folder} keeps the finished work"
        )


@dataclass(frozen=True, slots=True)
class Work:
    """Folder `OUTPUT.work` beside the output, or that of one branch in it; removed when the bundle is written.

    Attributes:
        folder: exists.
        label: the branch's name where there are several; part of the stages' names.
    """

    folder: Path
    label: str = ""

    def branch(self, name: str, *, labelled: bool) -> Work:
        """The folder of one branch."""
        folder = self.folder / f"branch.{name}"
        folder.mkdir(exist_ok=True)
        return Work(folder, name if labelled else "")

    def stage(self, name: str) -> str:
        """Name of a stage for the progress display."""
        return f"{self.label} {name}" if self.label else name

    def file(self, name: str) -> Path:
        """Path of a file in it."""
        return self.folder / name

    def done(self, stage: str) -> bool:
        """Whether `stage` was finished, by this run or an earlier one, with all of its parts as they were written.

        Raises:
            UnfinishedFit: if a part is damaged.
        """
        path = self.file(f"{stage}.done")
        if not path.exists():
            return False
        for name, sha256 in json.loads(read_sealed(path)).items():
            check_part(self.file(name), sha256)
        return True

    def finish(self, stage: str, parts: Mapping[str, str]) -> None:
        """Record that `stage` is finished; `parts` are its files and their SHA-256."""
        write_sealed(self.file(f"{stage}.done"), canonical_json(dict(parts)))

    def save_checkpoint(self, state: TrainState) -> None:
        """Write `state`, which replaces the previous checkpoint atomically."""
        tensors, rest = state.to_parts()
        metadata = {_STATE: canonical_json(rest).decode(), _SHA256: hash_tensors(tensors, rest)}
        with replacing(self.file(_CHECKPOINT)) as stream:
            write(stream, tensors, metadata)

    def load_checkpoint(self) -> TrainState | None:
        """The last state written, or None; UnfinishedFit if it is damaged."""
        path = self.file(_CHECKPOINT)
        try:
            with open_regular(path) as file:
                header = read_header(file)
                tensors = header.read(file).tensors
            rest = json.loads(header.metadata[_STATE])
            if header.metadata[_SHA256] != hash_tensors(tensors, rest):
                raise ValueError
            return TrainState.from_parts(tensors, rest)
        except FileNotFoundError:
            return None
        except (BadTensorFile, OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UnfinishedFit(f"the checkpoint {path} is damaged", START_AGAIN) from None


@contextlib.contextmanager
def open_work(output: Path, key: Mapping[str, Any], *, resume: bool, force: bool) -> Iterator[Work]:
    """The work folder for `output`, a new one or that of the run that was stopped; no other process can have it.

    The folder is removed when the block ends, and when the block raises an error that `resume` would meet again.

    Raises:
        UnfinishedFit: if it exists and neither `resume` nor `force` was given, if there is none to resume, or if it was
            made with other settings.
        CannotWrite: if it cannot be made, or another process has it.
        StoppedFit: where the block could not write after a part of its work was done.
    """
    folder = output.with_name(output.name + ".work")
    with locked(folder):
        if resume and not (folder / _KEY).exists():
            raise UnfinishedFit(f"there is no unfinished fit in {folder}", "start without --resume")
        if not resume and not force and folder.exists():
            remedy = "continue it with --resume, or start again with --force"
            raise UnfinishedFit(f"{folder} is left over from an unfinished fit", remedy)
        _prepare(folder, canonical_json(key), resume=resume)
        with _kept_or_removed(folder):
            yield Work(folder)


def _prepare(folder: Path, key: bytes, *, resume: bool) -> None:
    """Check that `folder` belongs to this fit, or empty it for this fit."""
    try:
        if not resume:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            write_whole(folder / _KEY, key)
        elif (folder / _KEY).read_bytes() != key:
            raise UnfinishedFit(
                f"{folder} was made with other images, settings or versions",
                "repeat that command, or start again with --force",
            )
    except OSError as error:
        raise CannotWrite(str(folder), error.strerror or str(error)) from None


@contextlib.contextmanager
def _kept_or_removed(folder: Path) -> Iterator[None]:
    """Remove `folder` when the block ends, unless a later run can go on from what it holds."""
    try:
        yield
    except CannotWrite as error:
        if any(path.is_file() and path.name != _KEY for path in folder.rglob("*")):
            raise StoppedFit(error, folder) from None
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except UnfinishedFit:
        raise
    except MuflowError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
