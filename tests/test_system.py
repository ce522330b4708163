"""Laws of the module that hides the differences between systems, and scans where parts of a system are missing."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_face

from muflow_cli import system

PACKAGE = Path(system.__file__).parent

# What Windows lacks, and macOS in part. (os.register_at_fork is left, since torch asks for the system's name instead.)
_MISSING = """
import os, signal, subprocess, sys, tempfile
sys.modules['fcntl'] = sys.modules['resource'] = sys.modules['pwd'] = sys.modules['grp'] = None
for name in ('sched_getaffinity', 'O_NOATIME', 'O_NOFOLLOW', 'O_NONBLOCK', 'O_ASYNC', 'O_NOCTTY', 'fork', 'getuid'):
    delattr(os, name)
for name in ('SIGHUP', 'SIGALRM', 'SIGXCPU', 'SIGKILL', 'SIGPIPE', 'alarm', 'setitimer'):
    delattr(signal, name)
"""


def test_a_scan_works_where_parts_of_the_system_are_missing(tmp_path):
    photos, elsewhere, report = tmp_path / "photos", tmp_path / "elsewhere", tmp_path / "r.json"
    photos.mkdir()
    generator = np.random.default_rng(1)
    draw_face(generator).save(photos / "a.jpg")
    draw_face(generator).save(photos / "b.tiff")  # decoded in a process of its own
    (photos / "c.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    elsewhere.mkdir()
    # Every Python process imports it when it starts, those that decode included.
    (elsewhere / "sitecustomize.py").write_text(_MISSING, encoding="utf-8")
    path = os.pathsep.join([str(elsewhere), str(PACKAGE.parent)])
    command = [sys.executable, "-m", "muflow_cli", "scan", str(photos), "-o", str(report), "--fail-on", "error"]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MUFLOW_DETECTOR": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    results = {Path(row["path"]).name: row for row in json.loads(report.read_bytes())["results"]}
    assert [name for name, row in results.items() if "error" not in row] == ["a.jpg", "b.tiff"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["elsewhere", "photos", "r.json"]


def test_nothing_else_asks_for_what_some_systems_lack():
    """So that the module stays the one place: the names that it looks up carefully stand nowhere else."""
    missing = (
        "fcntl",
        "msvcrt",
        "import resource",
        "sched_getaffinity",
        "signal.SIGHUP",
        "signal.SIGALRM",
        "signal.SIGXCPU",
        "signal.SIGKILL",
    )
    missing += (
        "signal.SIGPIPE",
        "O_NOFOLLOW",
        "O_NONBLOCK",
        "O_ASYNC",
        "O_NOATIME",
        "O_NOCTTY",
        "register_at_fork",
        "EDQUOT",
    )
    missing += (
        "os.fork",
        "os.getuid",
        "os.link(",
        "os.mkfifo",
        "signal.alarm",
        "setitimer",
        "os.sysconf",
        "os.statvfs",
    )
    code = [path for path in PACKAGE.rglob("*.py") if path.name != "system.py"]
    uses = {(path.name, name) for path in code for name in missing if name in _code_of(path)}
    assert not uses


def _code_of(path: Path) -> str:
    """The lines of a module without docstrings and comments that speak of signals."""
    lines = path.read_text(encoding="utf-8").split('"""')[::2]
    return "\n".join(line.split("#")[0] for part in lines for line in part.splitlines())


def test_a_lock_is_held_against_another_process_and_let_go_with_the_file(tmp_path):
    path = tmp_path / "lock"
    attempt = "import os, sys\nfrom muflow_cli import system\nsystem.lock(os.open(sys.argv[1], os.O_RDWR))"

    def other() -> str:
        command = [sys.executable, "-c", attempt, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=PACKAGE.parent).stderr

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    system.lock(descriptor)
    assert "BlockingIOError" in other()
    os.close(descriptor)
    assert other() == ""


def test_a_system_without_locks_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(system, "fcntl", None)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        system.lock(os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT))


def test_what_a_system_lacks_is_left_out(monkeypatch):
    for module, name in ((os, "register_at_fork"), (os, "sched_getaffinity"), (system.signal, "SIGXCPU")):
        monkeypatch.delattr(module, name)
    monkeypatch.setattr(system, "resource", None)
    system.after_fork(lambda: None)
    assert system.processors() >= 1
    assert system.peak_memory() == 0
    assert not system.died_of(-24, "SIGXCPU")


def test_lifted_limits_allow_what_there_was_before():
    code = (
        "import resource\nfrom muflow_cli import system\n"
        "kinds = (resource.RLIMIT_CPU, resource.RLIMIT_AS)\nbefore = list(map(resource.getrlimit, kinds))\n"
        "system.limit_time(9)\nsystem.limit_memory(2**30)\nlimited = list(map(resource.getrlimit, kinds))\n"
        "system.lift_limits()\nprint(limited != before, list(map(resource.getrlimit, kinds)) == before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


def test_a_widened_pipe_holds_more():
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb", buffering=0) as writer:
        system.widen(reader, 2**18)
        os.set_blocking(write, False)
        assert writer.write(bytes(2**18)) == 2**18
