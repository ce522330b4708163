"""Promises about files: one writer at a time, and nothing that was there is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scan_runs import environment

from muflow_cli.errors import CannotWrite
from muflow_cli.files import locked

HOLD = (
    "import sys, pathlib; from muflow_cli.files import locked\nwith locked(pathlib.Path(sys.argv[1])): print(); input()"
)


def test_a_lock_is_held_by_one_process_until_that_ends_or_is_killed_and_leaves_nothing(tmp_path: Path) -> None:
    path, link = tmp_path / "out.json", tmp_path / "link.json"
    link.symlink_to(path)
    for end in (subprocess.Popen.kill, lambda process: process.communicate(b"\n")):
        words = [sys.executable, "-c", HOLD, str(path)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
            assert process.stdout is not None
            process.stdout.readline()
            for name in (path, link):
                with pytest.raises(CannotWrite, match="another run is writing it"), locked(name):
                    pass
            end(process)
        with locked(path):
            assert (tmp_path / ".out.json.lock").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["link.json"]


def test_a_folder_and_a_name_of_full_length_can_be_locked_and_a_device_needs_none(tmp_path: Path) -> None:
    for path in (tmp_path / "work", tmp_path / ("n" * 255), Path("/dev/null")):
        with locked(path), locked(tmp_path / "other"):
            pass
    assert list(tmp_path.iterdir()) == []
