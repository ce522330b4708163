"""The only module that writes files, each complete or absent, or growing line by line; and how a file is opened."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from muflow_cli import system
from muflow_cli.errors import CannotWrite, OutputExists

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class NotAFile(OSError):
    """A folder, pipe, socket or device where a file is needed."""

    def __init__(self) -> None:
        super().__init__(errno.EINVAL, "not a regular file")


def open_regular(path: str | Path) -> io.FileIO:
    """Open a regular file for reading without changing anything, not even its access time if the user owns it.

    Raises:
        NotAFile: without blocking, for anything else.
        OSError: as the operating system reports it.
    """
    try:
        descriptor = os.open(path, system.READING_WITHOUT_TRACE)
    except PermissionError:  # only the owner may use O_NOATIME
        descriptor = os.open(path, system.READING)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAFile
    return io.FileIO(descriptor)


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
        with naming(self._label):
            try:
                while rest:
                    rest = rest[super().write(rest) or 0 :]
            except OSError:
                if start is not None:
                    with contextlib.suppress(OSError):  # a device has no length
                        self.truncate(start)
                raise
        return size


# What must not outlive the process, with what `abandon` needs to know; entered before it exists, since a signal may
# come between any two steps.
_temporary: Final[set[Path]] = set()
_empty: Final[set[Path]] = set()
_folders: Final[set[Path]] = set()
_locks: Final[dict[Path, int | None]] = {}
_appended: Final[set[Path]] = set()
_NO_LOCKS: Final = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def abandon() -> None:
    """Remove every unfinished file and every lock of this process, which is about to end at once, by a signal."""
    for path in [*_temporary, *(path for path in _empty if path.is_file() and path.stat().st_size == 0)]:
        with contextlib.suppress(OSError):
            path.unlink()
    for folder in [*_folders]:
        shutil.rmtree(folder, ignore_errors=True)
    for lock, descriptor in [*_locks.items()]:
        with contextlib.suppress(OSError):  # another process holds it
            opened = os.open(lock, os.O_RDWR | system.NO_FOLLOW) if descriptor is None else descriptor
            system.lock(opened)
            if not system.REMOVES_OPEN_FILES:
                os.close(opened)
            lock.unlink()


def is_own(path: str) -> bool:
    """Whether this process made a file or folder for its work, which goes when it ends."""
    return Path(path).resolve() in {*_temporary, *_folders, *_locks}


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
    if target in _appended:
        raise CannotWrite(str(path), "it is the log file of this run", "choose another name for one of them")
    if target.exists() and not (target.is_file() or target.is_dir()):
        yield
        return
    name = os.fsencode(target.name)
    # A name may have 255 bytes; two long names must not share a lock.
    short = os.fsdecode(name) if len(name) <= 200 else hashlib.sha256(name).hexdigest()
    lock = target.with_name(f".{short}.lock")
    if lock in _locks:
        raise _being_written(path)
    _locks[lock] = None
    acquired = False
    try:
        with naming(str(path)):
            acquired = _acquire(lock)
        if not acquired:
            raise _being_written(path)
        try:
            yield
        finally:
            if system.REMOVES_OPEN_FILES:
                # Removed while it is held, so nobody can have locked it; whoever opened it before sees it has no name.
                lock.unlink(missing_ok=True)
    finally:
        _close_lock(lock, remove=acquired and not system.REMOVES_OPEN_FILES)


def _close_lock(lock: Path, *, remove: bool) -> None:
    descriptor = _locks.pop(lock)
    if descriptor is not None:
        os.close(descriptor)
    if remove:
        with contextlib.suppress(OSError):  # another run has opened it since
            lock.unlink(missing_ok=True)


def _being_written(path: Path) -> CannotWrite:
    return CannotWrite(str(path), "another run is writing it", "wait until it has ended, or choose another name")


def _acquire(lock: Path) -> bool:
    """Lock the file, made if it is missing, and enter its descriptor in `_locks`; False if another process holds it."""
    while True:
        existed = lock.exists()
        _locks[lock] = descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | system.NO_FOLLOW, 0o600)
        try:
            system.lock(descriptor)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return not existed
        if os.fstat(descriptor).st_nlink:
            return True
        _locks[lock] = None  # the run that held it has just removed it
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, *, force: bool = True) -> Iterator[OutputFile]:
    """A temporary file that replaces `path` when the block ends: fsync, then rename.

    If the block raises, the temporary file is removed and `path` is untouched. A link stays, and the file that it
    points to is replaced. A device or a pipe is written to directly.

    Raises:
        OutputExists: if `path` exists and `force` is false.
        CannotWrite: with the system's reason.
    """
    if path.is_file() and not force:
        raise OutputExists(str(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with naming(str(path)):
            stream = OutputFile(path, "wb")
        with stream:
            yield stream
        return
    target = path.resolve()
    start = os.fsdecode(os.fsencode(target.name)[:100])
    temporary = target.with_name(f".{start}.{secrets.token_hex(8)}.part")
    _temporary.add(temporary)
    try:
        with naming(str(path)):
            # Nobody can foresee the name; were it there all the same, O_EXCL follows no link and opens no file.
            descriptor = os.open(temporary, system.NEW, 0o600)
        with OutputFile(descriptor, "wb", str(path)) as stream:
            yield stream
            with naming(str(path)):
                os.fsync(descriptor)
        with naming(str(path)):
            # The only way to read the umask is to set it.
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        _temporary.discard(temporary)


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """An empty folder for what is too large for memory, removed with all that it holds when the block ends."""
    folder = Path(tempfile.gettempdir()) / f"{prefix}{secrets.token_hex(8)}"
    _folders.add(folder)
    try:
        with naming(str(folder)):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _folders.discard(folder)


def write_whole(path: Path, data: bytes, *, force: bool = True) -> None:
    """Write all of `data` to `path` or nothing; raises as `replacing`."""
    with replacing(path, force=force) as stream:
        stream.write(data)


@contextlib.contextmanager
def growing(path: Path) -> Iterator[OutputFile]:
    """`path` open for reading and writing in place; created if missing.

    A file that was created and is still empty when the block ends is removed.

    Raises:
        CannotWrite: with the system's reason.
    """
    created = not path.exists()
    if created:
        _empty.add(path)
    try:
        with naming(str(path)):
            stream = OutputFile(path.resolve(), "x+b" if created else "r+b", str(path))
        empty = False
        try:
            with stream:
                try:
                    yield stream
                finally:
                    empty = created and os.fstat(stream.fileno()).st_size == 0
                with naming(str(path)):
                    os.fsync(stream.fileno())
        finally:
            if empty:
                path.resolve().unlink(missing_ok=True)
    finally:
        _empty.discard(path)


@contextlib.contextmanager
def appending(path: Path) -> Iterator[OutputFile]:
    """`path` open to write at its end, created if missing; no output of this process can be the same file meanwhile.

    Raises:
        CannotWrite: with the system's reason.
    """
    target = path.resolve()
    with naming(str(path)):
        stream = OutputFile(target, "ab", str(path))
    _appended.add(target)
    try:
        with stream:
            yield stream
    finally:
        _appended.discard(target)


@contextlib.contextmanager
def nameless() -> Iterator[OutputFile]:
    """An empty file without a name, for what is too large for memory; gone with the process, however that ends."""
    label = f"a temporary file in {tempfile.gettempdir()}"
    with contextlib.ExitStack() as stack:
        with naming(label):
            file = stack.enter_context(tempfile.TemporaryFile())
        yield stack.enter_context(OutputFile(os.dup(file.fileno()), "r+b", label))


def standard_output() -> OutputFile:
    """Standard output, unbuffered and named so in errors; closing it leaves the process's own stream open."""
    sys.stdout.flush()
    return OutputFile(os.dup(sys.stdout.fileno()), "wb", "standard output")


@contextlib.contextmanager
def naming(label: str) -> Iterator[None]:
    """Turn an OSError into a CannotWrite that names the output; a BrokenPipeError passes through."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(label, error.strerror or str(error)) from None
