"""Every command of the README runs, in order, in a folder such as a reader would have."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_face

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, flags=re.DOTALL)
# The suite itself is what this block starts.
OWN = "pip install uv && uv run pytest\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: the clone's examples, real pictures, pictures to scan, drawn ones for the benchmark."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "examples").symlink_to(ROOT / "examples")
    for seed, (name, count) in enumerate((("reals", 270), ("more_reals", 60), ("photos", 8), ("fakes", 12))):
        (folder / name).mkdir()
        generator = np.random.default_rng([7, seed])
        for index in range(count):
            draw_face(generator, 96).save(folder / name / f"{index:03}.jpg", quality=90)
    return folder


def environment(home: Path) -> dict[str, str]:
    """The test's own `muflow`, one thread, an empty home."""
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = {**os.environ, "PATH": binaries, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    found.pop("MUFLOW_DETECTOR", None)
    return found


def run(kind: str, text: str, desk: Path) -> subprocess.CompletedProcess[bytes]:
    # A clone of its own would install everything again; this one's environment is the one under test.
    command = text.replace("pip install uv && uv run muflow", "muflow")
    words = [sys.executable, "-c", command] if kind == "python" else ["bash", "-c", command]
    return subprocess.run(words, cwd=desk, env=environment(desk), capture_output=True, timeout=280, check=False)


def test_every_block_of_the_readme_runs(desk: Path) -> None:
    ran = 0
    for kind, text in BLOCKS:
        if text == OWN:
            continue
        done = run(kind, text, desk)
        said = done.stderr.decode()
        assert "Traceback" not in said, said
        assert "muflow: " not in said, said
        # A scan that flags something exits with 1 and one that meets a broken file with 3: both are its job.
        assert done.returncode in (0, 1, 3), (text, done.returncode, said)
        ran += 1
    assert ran >= 7
    assert json.loads((desk / "bench.json").read_text())["schema"] == "muflow.bench/1"


def test_the_quick_start_prints_what_the_readme_shows(desk: Path) -> None:
    (shown,) = re.findall(r"<!-- quick start output -->\n+```\w*\n(.*?)```", README, flags=re.DOTALL)
    done = run("sh", "muflow scan examples --json", desk)
    results = {Path(r["path"]).name: r for r in json.loads(done.stdout)["results"]}
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert {row[0] for row in rows} == set(results)
    for name, verdict, *p_value in rows:
        result = results[name]
        if "error" in result:
            assert verdict == result["error"]["code"]
        else:
            assert verdict == result["verdict"].replace(" ", "-")
            assert float(p_value[0]) == pytest.approx(result["p_value"], abs=0.03)


def test_the_readme_says_how_to_test_and_links_to_what_is_there() -> None:
    assert OWN in [text for _, text in BLOCKS]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
