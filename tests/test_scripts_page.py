"""Every example of docs/scripts.md runs as it stands, in order, in the folder that the page describes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import write_faces
from fork_server import executable
from scan_runs import environment

PAGE = (Path(__file__).parents[1] / "docs" / "scripts.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """`faces.safetensors` and `photos/`, one of which is broken and one of which says that it is synthetic."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "faces.safetensors").write_bytes(tiny_bundle.read_bytes())
    write_faces(folder / "photos", 6, seed=22)
    (folder / "photos" / "broken.jpg").write_bytes((folder / "photos" / "0000.jpg").read_bytes()[:500])
    return folder


def test_every_example_runs_and_prints_no_error(desk: Path) -> None:
    # A scan that flags something ends with 1 and one with a broken file with 3: the page is about what is written.
    lines = ["status() { case $? in 0|1|3) ;; *) exit 9 ;; esac; }"]
    for number, example in enumerate(EXAMPLES, start=1):
        lines += [f"echo '--- {number}'", example, "status"]
    path = os.pathsep.join((str(executable().parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=desk,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "muflow: " not in done.stderr
    assert f"--- {len(EXAMPLES)}" in done.stdout
