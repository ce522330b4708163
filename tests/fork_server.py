"""The command in a process of its own within milliseconds: forked from a process that has loaded the libraries.

Importing torch takes longer than most tests of the command. `executable()` is the path of a `muflow` that hands its
arguments, streams, folder and environment to such a process and ends with the status of the fork. The fork runs the
command from `main` on as any other process does, and gets the signals that ask it to end, to stop and to go on; tests
of the start itself, or of other signals, start Python instead.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

_MUFLOW = """#!{python} -SE
import array, json, os, signal, socket, sys
if os.environ.get("PYTHONPATH") != {path!r}:  # other libraries than those that the server has loaded
    os.execv(sys.executable, [sys.executable, "-m", "muflow_cli", *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), {{os.fsdecode(k): os.fsdecode(v) for k, v in os.environb.items()}}])
server.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(request.encode("utf-8", "surrogateescape"))
server.shutdown(socket.SHUT_WR)
answers = server.makefile("r")
process = int(answers.readline())
stop = {{signal.SIGTSTP: signal.SIGSTOP}}
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, _: os.kill(process, stop.get(number, number)))
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


_SLOW_TO_LOAD = (
    *("FrEIA.framework", "FrEIA.modules", "imagehash", "jinja2", "rich.progress", "scipy.stats"),
    *("sklearn.mixture", "sklearn.neighbors", "sklearn.svm", "torch.nn.functional"),
    *("scipy.spatial.distance", "sklearn.decomposition", "sklearn.kernel_approximation", "sklearn.linear_model"),
    *("muflow_cli.bundle", "muflow_cli.engine.scoring", "muflow_cli.images.loader"),
)


@functools.cache
def executable() -> Path:
    """Path of a `muflow` that runs in a fork; the server starts at the first call and ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="muflow-")
    address = str(Path(folder.name) / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, __file__, str(listener.fileno())]
    server = subprocess.Popen(words, pass_fds=[listener.fileno()], env=environment, stdin=subprocess.DEVNULL)
    listener.close()

    @atexit.register
    def _end() -> None:
        server.kill()
        server.wait()
        folder.cleanup()

    path = Path(folder.name) / "muflow"
    path.write_text(_MUFLOW.format(python=sys.executable, address=address, path=os.environ.get("PYTHONPATH")))
    path.chmod(0o755)
    return path


def _preload() -> None:
    """Load what takes long and keeps no state: libraries and the rooms below the command."""
    for name in _SLOW_TO_LOAD:
        importlib.import_module(name)
    from muflow_cli.engine.backbones import import_torchvision

    import_torchvision()


def _serve(listener: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # finished forks are nobody's children
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(_watch(connection))
        connection.close()


def _watch(connection: socket.socket) -> int:
    """Run one command in a fork of its own, and end it if nobody waits for it any more."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    request = b"".join(iter(lambda: connection.recv(2**16), b""))
    process = os.fork()
    if not process:
        connection.close()
        _run(streams, json.loads(request.decode("utf-8", "surrogateescape")))
    connection.sendall(f"{process}\n".encode())
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(process)
    select.select([ended, _hung_up(connection)], [], [])
    if not select.select([ended], [], [], 0)[0]:
        os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    connection.sendall(f"{status}\n".encode())
    return 0


def _hung_up(connection: socket.socket) -> Any:
    """A descriptor that becomes readable when the other end of `connection` is closed altogether."""
    poll = select.epoll()
    poll.register(connection, select.EPOLLHUP)
    return poll


def _run(streams: list[int], request: tuple[list[str], str, dict[str, str]]) -> None:
    """Become the command: its streams, folder, environment and arguments; never returns."""
    arguments, folder, environment = request
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    errors = "surrogateescape" if sys.flags.utf8_mode else "strict"
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors=errors, closefd=False)  # type: ignore[misc] # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors=errors, closefd=False)  # type: ignore[misc] # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # type: ignore[misc] # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    sys.argv = ["muflow", *arguments]
    try:
        import torch

        torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0)))
        from muflow_cli.cli import main

        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter ends on an exception
        traceback.print_exc()
        status = 1
    _finish(status)


def _finish(status: int) -> None:
    """End as the interpreter does: threads joined, exit handlers run, streams flushed, 120 where that fails."""
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        status = 120
    os._exit(status)


if __name__ == "__main__":
    _preload()
    _serve(socket.socket(fileno=int(sys.argv[1])))
