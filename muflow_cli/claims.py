"""What a run may write: its outputs are checked and claimed before its work, and none of them is what it reads."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from muflow_cli.errors import BadSpec, CannotResume, CannotWrite, OutputExists, OutputIsInput
from muflow_cli.files import locked, naming


@contextlib.contextmanager
def claimed(
    paths: Sequence[Path],
    *,
    force: bool,
    resumed: Path | None = None,
    earlier: Collection[Path] = (),
    inputs: Iterable[str | Path] = (),
) -> Iterator[None]:
    """Hold all outputs of a run from before its work to its end; arguments and errors as `check_outputs`.

    Raises:
        CannotWrite: also because another run is writing an output.
    """
    given = [*inputs]
    check_outputs(paths, force=force, resumed=resumed, earlier=earlier, inputs=given)
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.enter_context(locked(path))
        # Another run may have ended in between.
        check_outputs(paths, force=force, resumed=resumed, earlier=earlier, inputs=given)
        yield


def check_outputs(
    paths: Sequence[Path],
    *,
    force: bool,
    resumed: Path | None = None,
    earlier: Collection[Path] = (),
    inputs: Iterable[str | Path] = (),
) -> None:
    """Refuse unusable outputs before hours of work, not after them.

    Args:
        paths: of all outputs.
        force: existing files may be replaced.
        resumed: an output that may exist in any case.
        earlier: other outputs of the run that is resumed, which may be replaced.
        inputs: what the run reads; no output may be one of them, under whatever name.

    Raises:
        BadSpec: if two outputs are the same file.
        CannotWrite: for a folder, or if the folder of an output is missing or cannot be written.
        OutputIsInput: if the run reads an output.
        OutputExists: for an existing file.
        CannotResume: for a pipe or a device to resume.
    """
    guard = InputGuard(paths)
    for name in inputs:
        guard.check(name)
    taken: set[Path] = set()
    for path in paths:
        if path.resolve() in taken:
            raise BadSpec("-o", f"{path} twice", "a file of its own for each output")
        taken.add(path.resolve())
        if path.is_dir():
            raise CannotWrite(str(path), "it is a folder")
        if path == resumed and path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise CannotResume(str(path), "it is not a file")
        if path.is_file() and not force and path != resumed and path not in earlier:
            raise OutputExists(str(path))
        if not path.exists() or path.is_file():
            with naming(str(path)), tempfile.TemporaryFile(dir=path.resolve().parent):
                pass


def check_new_folder(folder: Path, arguments: Iterable[str]) -> None:
    """Refuse a folder that holds anything, and one inside a folder that is scanned.

    Args:
        folder: where copies are to go.
        arguments: what is scanned, as far as it is known before the run.

    Raises:
        CannotWrite: where it is no empty folder.
        OutputIsInput: where a scan would find the copies.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        what = "it is not empty" if folder.is_dir() else "it is no folder"
        raise CannotWrite(str(folder), what, "name a new folder for the copies, or an empty one")
    for argument in arguments:
        if Path(argument).is_dir() and folder.resolve().is_relative_to(Path(argument).resolve()):
            raise OutputIsInput(str(folder), argument)


class InputGuard:
    """Finds inputs that an output would replace: the same device and inode, whatever the names and links.

    Args:
        outputs: of the run; those that do not exist yet replace nothing.
    """

    def __init__(self, outputs: Iterable[Path]) -> None:
        self._outputs = {identity: path for path in outputs if (identity := _identity(path))}

    def check(self, name: str | Path) -> None:
        """Raise OutputIsInput if the file `name` is one of the outputs."""
        if self._outputs and (path := self._outputs.get(_identity(name) or (0, 0))):
            raise OutputIsInput(str(path), str(name))


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Device and inode of a regular file; None for anything else."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a path is reported as it was given
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
