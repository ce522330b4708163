"""Every example of docs/api.md runs as it stands, in the folder that the page describes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_faces
from scan_runs import environment

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)

# One process for all of them, since importing torch takes longer than most of them; each has names of its own.
RUNNER = """
import sys, json
for number, example in enumerate(json.load(open("examples.json")), start=1):
    print(f"--- {number}", flush=True)
    exec(compile(example, f"example {number}", "exec"), {"__name__": "example"})
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """`faces.safetensors`, `reals/` that it was not fitted on, and `photos/`."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "faces.safetensors").write_bytes(tiny_bundle.read_bytes())
    write_faces(folder / "reals", 70, seed=21)
    write_faces(folder / "photos", 6, seed=22)
    (folder / "photos" / "broken.jpg").write_bytes((folder / "photos" / "0000.jpg").read_bytes()[:500])
    return folder


def test_every_example_of_the_api_page_runs(desk: Path) -> None:
    assert len(EXAMPLES) >= 10
    (desk / "examples.json").write_text(json.dumps(EXAMPLES))
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        cwd=desk,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    assert f"--- {len(EXAMPLES)}" in done.stdout
    assert "[1] " in done.stdout  # an image in memory is named by its position
    assert "missing.safetensors is not a file -> check the name of the detector" in done.stdout
    assert (desk / "small.safetensors").is_file()
    assert (desk / "mine.safetensors").is_file()


def test_the_page_names_every_public_function_and_no_other() -> None:
    import muflow_cli as muflow

    named = set(re.findall(r"muflow\.([A-Za-z]\w*)", PAGE)) - {"bench"}  # "muflow.bench/2" is a schema as well
    assert named - {"scan"} <= set(muflow.__all__)
    assert {"load", "fit", "calibrate", "scan"} <= named
