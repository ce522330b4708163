"""The only module that writes files: each is complete or absent, or grows line by line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from muflow_cli.errors import BadSpec, CannotWrite, OutputExists

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputFile(io.FileIO):
    """An unbuffered file in which each write is complete or, if the disk is full, leaves no trace.

    Args:
        file: path or open descriptor.
        mode: as `open` takes it.
        label: the output's name in an error; the path if empty.
    """

    def __init__(self, file: Path | int, mode: str, label: str = "") -> None:
        super().__init__(file, mode)
        self._label = label or str(file)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of `data`; CannotWrite leaves the file's length unchanged. A closed reader is a BrokenPipeError."""
        start = self.tell() if self.seekable() else None
        rest = memoryview(data).cast("B")
        size = len(rest)
        with _naming(self._label):
            try:
                while rest:
                    rest = rest[super().write(rest) or 0 :]
            except OSError:
                if start is not None:
                    with contextlib.suppress(OSError):  # a device has no length
                        self.truncate(start)
                raise
        return size


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the right to write the file or folder `path`; a second run that asks for it is refused at once.

    The lock is an empty hidden file beside the target of `path`, so it works before `path` exists and while it is
    replaced. The system lets go of it when the process ends, however it ends. Where the file system has no locks, the
    file itself is the lock. A device or a pipe needs no lock.

    Raises:
        CannotWrite: because another run is writing `path`, or with the system's reason.
    """
    target = path.resolve()
    if target.exists() and not (target.is_file() or target.is_dir()):
        yield
        return
    name = os.fsencode(target.name)
    # A name may have 255 bytes; two long names must not share a lock.
    short = os.fsdecode(name) if len(name) <= 200 else hashlib.sha256(name).hexdigest()
    lock = target.with_name(f".{short}.lock")
    with _naming(str(path)):
        descriptor = _locked_descriptor(lock)
    if descriptor is None:
        raise CannotWrite(str(path), "another run is writing it", "wait until it has ended, or choose another name")
    try:
        yield
    finally:
        # Removed while it is held, so nobody can have locked it; whoever opened it before sees that it has no name.
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked_descriptor(lock: Path) -> int | None:
    """Descriptor of the lock file, locked; None if another process holds it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        existed = lock.exists()
        descriptor = os.open(lock, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno in _NO_LOCKS and not existed:
                return descriptor
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                return None
            raise
        os.close(descriptor)  # the run that held it has just removed it


_NO_LOCKS: Final = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def replacing(path: Path, *, force: bool = True) -> Iterator[OutputFile]:
    """A temporary file in `path`'s folder that replaces `path` when the block ends: fsync, then rename.

    If the block raises, the temporary file is removed and `path` is untouched. A device or a pipe is written to
    directly.

    Raises:
        OutputExists: if `path` exists and `force` is false.
        CannotWrite: with the system's reason.
    """
    if path.is_file() and not force:
        raise OutputExists(str(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with _naming(str(path)):
            stream = OutputFile(path, "wb")
        with stream:
            yield stream
        return
    with _naming(str(path)):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".part")
    temporary = Path(name)
    try:
        with OutputFile(descriptor, "wb", str(path)) as stream:
            yield stream
            with _naming(str(path)):
                os.fsync(descriptor)
        with _naming(str(path)):
            # The only way to read the umask is to set it.
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes, *, force: bool = True) -> None:
    """Write all of `data` to `path` or nothing; raises as `replacing`."""
    with replacing(path, force=force) as stream:
        stream.write(data)


@contextlib.contextmanager
def growing(path: Path) -> Iterator[OutputFile]:
    """`path` open for reading and writing in place, locked against a second run; created if missing.

    A file that was created and is still empty when the block ends is removed.

    Raises:
        CannotWrite: with the system's reason, or because another run writes it.
    """
    with _naming(str(path)):
        created = not path.exists()
        stream = OutputFile(path, "x+b" if created else "r+b")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotWrite(str(path), "another run is writing it") from None
        try:
            yield stream
        finally:
            if created and os.fstat(stream.fileno()).st_size == 0:
                path.unlink(missing_ok=True)
        with _naming(str(path)):
            os.fsync(stream.fileno())


def standard_output() -> OutputFile:
    """Standard output, unbuffered and named so in errors; closing it leaves the process's own stream open."""
    sys.stdout.flush()
    return OutputFile(os.dup(sys.stdout.fileno()), "wb", "standard output")


@contextlib.contextmanager
def _naming(label: str) -> Iterator[None]:
    """Turn an OSError into a CannotWrite that names the output; a BrokenPipeError passes through."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(label, error.strerror or str(error)) from None


def check_outputs(paths: Sequence[Path], *, force: bool, resumed: Path | None = None) -> None:
    """Refuse unusable outputs before hours of work, not after them.

    Args:
        paths: of all outputs.
        force: existing files may be replaced.
        resumed: an output that may exist in any case.

    Raises:
        BadSpec: if two outputs are the same file.
        CannotWrite: for a folder, or if the folder of an output is missing or cannot be written.
        OutputExists: for an existing file.
    """
    taken: set[Path] = set()
    for path in paths:
        if path.resolve() in taken:
            raise BadSpec("-o", f"{path} twice", "a file of its own for each output")
        taken.add(path.resolve())
        if path.is_dir():
            raise CannotWrite(str(path), "it is a folder")
        if path.is_file() and not force and path != resumed:
            raise OutputExists(str(path))
        if not path.exists() or path.is_file():
            with _naming(str(path)), tempfile.TemporaryFile(dir=path.parent):
                pass
