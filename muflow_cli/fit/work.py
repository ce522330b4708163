"""The work folder of a fit: the finished work of a killed run, so that `--resume` need not repeat it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from muflow_cli.canonical import canonical_json
from muflow_cli.engine.train_state import TrainState
from muflow_cli.errors import CannotWrite, MuflowError
from muflow_cli.files import write_whole

_KEY, _CHECKPOINT = "fit.json", "checkpoint.safetensors"


class UnfinishedFit(MuflowError):
    """A work folder is in the way, or belongs to another fit, or is damaged."""


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
        """Whether `stage` was finished, by this run or an earlier one."""
        return self.file(f"{stage}.done").exists()

    def finish(self, stage: str) -> None:
        """Record that `stage` is finished."""
        self.file(f"{stage}.done").touch()

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def save_checkpoint(self, state: TrainState) -> None:
        """Write `state`, which replaces the previous checkpoint atomically."""
        tensors, rest = state.to_parts()
        write_whole(self.file(_CHECKPOINT), to_safetensors(tensors, {"state": canonical_json(rest).decode()}))

    def load_checkpoint(self) -> TrainState | None:
        """The last state written, or None; UnfinishedFit if it is damaged."""
        path = self.file(_CHECKPOINT)
        if not path.exists():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                rest = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return TrainState.from_parts(tensors, rest)
        except (SafetensorError, ValueError, KeyError, TypeError):
            remedy = "fit again without --resume, with --force"
            raise UnfinishedFit(f"the checkpoint {path} is damaged", remedy) from None


def open_work(output: Path, key: dict[str, Any], *, resume: bool, force: bool) -> Work:
    """The work folder for `output`: a new one, or that of the killed run.

    Raises:
        UnfinishedFit: if a folder exists and neither `resume` nor `force` was given, if there is none to resume, or if
            it was made with other settings.
    """
    folder = output.with_name(output.name + ".work")
    if resume:
        try:
            stored = (folder / _KEY).read_bytes()
        except OSError:
            raise UnfinishedFit(f"there is no unfinished fit in {folder}", "start without --resume") from None
        if stored != canonical_json(key):
            raise UnfinishedFit(
                f"{folder} was made with other images, settings or versions",
                "repeat that command, or start with --force",
            )
        return Work(folder)
    if folder.exists() and not force:
        raise UnfinishedFit(
            f"{folder} is left over from an unfinished fit", "continue it with --resume, or start again with --force"
        )
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        write_whole(folder / _KEY, canonical_json(key))
    except OSError as error:
        raise CannotWrite(str(folder), error.strerror or str(error)) from None
    return Work(folder)
