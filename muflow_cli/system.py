"""What differs between operating systems: everything that Windows or macOS lack is asked for here, and nowhere else."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final


def _module(name: str) -> Any:
    """A module that only some systems have; None elsewhere."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


fcntl, resource, msvcrt = _module("fcntl"), _module("resource"), _module("msvcrt")

# Signals that ask a process to end, as far as the system has them: SIGHUP is POSIX's, SIGBREAK that of Windows.
ENDING: Final[tuple[signal.Signals, ...]] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
# Flags of os.open; 0 where the system does not know them.
NO_FOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
NEW: Final[int] = os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW | _BINARY
# Without O_NONBLOCK a fifo put in a file's place would stop a run.
READING: Final[int] = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY
READING_WITHOUT_TRACE: Final[int] = READING | getattr(os, "O_NOATIME", 0)
# Whether a file can be removed while it is open, as POSIX allows and Windows does not.
REMOVES_OPEN_FILES: Final = os.name != "nt"
# What a full or failing disk says; it names no file.
OF_A_STREAM: Final = tuple(
    getattr(errno, name) for name in ("ENOSPC", "EIO", "EBADF", "EFBIG", "EDQUOT") if hasattr(errno, name)
)
_ASYNC: Final[int] = getattr(os, "O_ASYNC", 0)


def processors() -> int:
    """Number of processors that this process may use, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux and a few others
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def lock(descriptor: int) -> None:
    """Lock an open file for this process alone, until it is closed.

    Raises:
        BlockingIOError: where another process holds it.
        OSError: ENOSYS where the system has no locks; otherwise as it reports.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    if msvcrt is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        raise BlockingIOError(error.errno, error.strerror) from None


def after_fork(action: Callable[[], object]) -> None:
    """Call `action` in every process that is forked from this one; systems that do not fork never need it."""
    register = getattr(os, "register_at_fork", None)
    if register is not None:
        register(after_in_child=action)


def peak_memory() -> int:
    """The most memory that this process has held, bytes; 0 where the system does not say."""
    if resource is None:
        return 0
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def has_terminal() -> bool:
    """Whether somebody can be asked something on the terminal of this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


def died_of(status: int | None, name: str) -> bool:
    """Whether the exit status of a child says that the signal of this name ended it."""
    number = getattr(signal, name, None)
    return status is not None and number is not None and status == -number


def leave_no_core() -> None:
    """Let a crash of this process leave no copy of its memory on the disk."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time(seconds: int) -> None:
    """End this process by SIGXCPU once it has used so much processor time, where the system can."""
    if resource is not None:
        _lower(resource.RLIMIT_CPU, seconds)


def limit_memory(spare: int) -> None:
    """Let this process take `spare` bytes more than it has, where the system can tell and limit that."""
    if resource is None:
        return
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return  # a system that does not say how much it has given
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + spare)


def _lower(which: int, limit: int) -> None:
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def lift_limits() -> None:
    """Allow this process again what it could have before `limit_time` and `limit_memory`."""
    if resource is not None:
        for which in (resource.RLIMIT_CPU, resource.RLIMIT_AS):
            _, hard = resource.getrlimit(which)
            resource.setrlimit(which, (hard, hard))


def widen(pipe: BinaryIO, size: int) -> None:
    """Let a pipe hold `size` bytes, where the system can do that and allows it."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)


def go_first_without_memory() -> None:
    """If the machine runs out of memory, let this process go and not its owner, where the system can be told."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


@contextlib.contextmanager
def ending_with(owner: BinaryIO, seconds: int) -> Iterator[None]:
    """Let this process end after `seconds`, if they are not 0, and when the pipe from an owner that died is closed.

    The kernel ends it, in the middle of a codec too: inside the block the owner writes nothing, so that the next event
    on the pipe is its end, and the default action of SIGIO, as of SIGALRM for an owner that has stopped, ends a
    process. A system without these signals gets a thread that watches the clock; there the end of the pipe is seen
    only when the block is left.
    """
    timed = _alarm if hasattr(signal, "alarm") else _timer
    with timed(seconds) if seconds else contextlib.nullcontext():
        if fcntl is None or not _ASYNC:
            yield
            return
        flags = fcntl.fcntl(owner, fcntl.F_GETFL)
        fcntl.fcntl(owner, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(owner, fcntl.F_SETFL, flags | _ASYNC)
        try:
            yield
        finally:
            fcntl.fcntl(owner, fcntl.F_SETFL, flags)


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


@contextlib.contextmanager
def _timer(seconds: int) -> Iterator[None]:
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
