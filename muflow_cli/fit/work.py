"""The work folder of a fit: what a killed run has done, so that `--resume` need not do it again."""

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

_KEY, _CHECKPOINT = "fit.json", "checkpoint.safetensors"


class UnfinishedFit(MuflowError):
    """A work folder is in the way, or is not the one that was asked to go on."""


@dataclass(frozen=True, slots=True)
class Work:
    """Folder `OUTPUT.work` beside the output; removed when the bundle is written."""

    folder: Path

    def file(self, name: str) -> Path:
        """Path of a file in it."""
        return self.folder / name

    def done(self, stage: str) -> bool:
        """Whether `stage` was finished, here or by the run before."""
        return self.file(f"{stage}.done").exists()

    def finish(self, stage: str) -> None:
        """Record that `stage` is finished."""
        self.file(f"{stage}.done").touch()

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def save_checkpoint(self, state: TrainState) -> None:
        """Keep `state`; the one before is replaced whole."""
        tensors, rest = state.to_parts()
        part = self.file(f"{_CHECKPOINT}.part")
        try:
            part.write_bytes(to_safetensors(tensors, {"state": canonical_json(rest).decode()}))
            part.replace(self.file(_CHECKPOINT))
        except OSError as error:
            raise CannotWrite(str(part), error.strerror or str(error)) from None

    def load_checkpoint(self) -> TrainState | None:
        """The state kept last, None where there is none."""
        path = self.file(_CHECKPOINT)
        if not path.exists():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                rest = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, ValueError, KeyError):
            raise UnfinishedFit(f"the checkpoint {path} is damaged: fit again without --resume, with --force") from None
        return TrainState.from_parts(tensors, rest)


def open_work(output: Path, key: dict[str, Any], *, resume: bool, force: bool) -> Work:
    """The work folder for `output`: new, or the one of the run that was killed.

    Raises:
        UnfinishedFit: where a folder is there and neither `resume` nor `force` was given, where there is none to
            resume, or where it was made by other settings.
    """
    folder = output.with_name(output.name + ".work")
    if resume:
        _check_same(folder, canonical_json(key))
        return Work(folder)
    if folder.exists() and not force:
        raise UnfinishedFit(f"{folder} is left of an unfinished fit: go on with --resume, or start again with --force")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        (folder / _KEY).write_bytes(canonical_json(key))
    except OSError as error:
        raise CannotWrite(str(folder), error.strerror or str(error)) from None
    return Work(folder)


def _check_same(folder: Path, key: bytes) -> None:
    try:
        found = (folder / _KEY).read_bytes()
    except OSError:
        raise UnfinishedFit(f"there is no unfinished fit in {folder}: start without --resume") from None
    if found != key:
        raise UnfinishedFit(
            f"{folder} was made with other pictures, settings or versions: repeat that command, or start with --force"
        )
