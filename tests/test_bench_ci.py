"""The shell steps of examples/ci/detector.yml, run as they stand on a tiny detector."""

from __future__ import annotations

import json
import os
import re
import subprocess
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import write_faces
from fork_server import executable

WORKFLOW = Path(__file__).parents[1] / "examples" / "ci" / "detector.yml"


def steps() -> dict[str, str]:
    """Name -> shell text of every step that has a block of it."""
    found = re.findall(r"- name: (.+)\n(?: {8}if: .+\n)? {8}run: \|\n((?:(?: {10}.*)?\n)+)", WORKFLOW.read_text())
    return {name: textwrap.dedent(text) for name, text in found}


@pytest.fixture
def checkout(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A repository with a detector, two real sources and two generators; `muflow` on its PATH."""
    for seed, name in enumerate(("real/first", "real/second", "fake/stylegan", "fake/sdxl")):
        write_faces(tmp_path / "data" / name, 8, seed=60 + seed)
    (tmp_path / "detector.safetensors").symlink_to(tiny_bundle)
    return tmp_path


def run(step: str, folder: Path, **more: str) -> subprocess.CompletedProcess[bytes]:
    """One step as the runner starts it: bash, stop at the first error, the workflow's variables."""
    variables = dict(re.findall(r"^ {6}([A-Z]+): (\S+)", WORKFLOW.read_text(), re.MULTILINE))
    own = {"PATH": f"{executable().parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    own["GITHUB_STEP_SUMMARY"] = str(folder / "summary.md")
    environment = {**os.environ, **variables, **own, **more}
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", steps()[step]]
    return subprocess.run(shell, cwd=folder, env=environment, capture_output=True, timeout=240, check=False)


def test_the_workflows_steps_measure_check_and_show(checkout: Path) -> None:
    assert set(steps()) == {"Measure and check", "Show"}
    failed = run("Measure and check", checkout, MIN_AUC="0.9999", MAX_FPR="1")
    assert failed.returncode == 1, failed.stderr
    suite = ElementTree.parse(checkout / "bench-out" / "junit.xml").getroot()[0]  # noqa: S314 - written here
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")

    # Accepted as the baseline, the same detector on the same images has not dropped.
    (checkout / "bench").mkdir()
    (checkout / "bench-out" / "bench.json").rename(checkout / "bench" / "baseline.json")
    held = run("Measure and check", checkout, MIN_AUC="0", MAX_FPR="1")
    assert held.returncode == 0, held.stderr
    report = json.loads((checkout / "bench-out" / "bench.json").read_bytes())
    assert len(report["gates"]) == 2 + 2 * 4
    assert {group["group"] for group in report["data"]["groups"]} == {"first", "second", "stylegan", "sdxl"}
    assert (checkout / "bench-out" / "bench.html").stat().st_size > 10_000

    assert run("Show", checkout).returncode == 0
    assert "macro AUC at the worst real source" in (checkout / "summary.md").read_text()
