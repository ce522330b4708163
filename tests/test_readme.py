"""Every command of the README runs, in order, in a folder such as a reader has; the examples of the API page parse."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_face
from fork_server import executable

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, flags=re.DOTALL)
# This block starts the suite itself.
SUITE = "pip install uv && uv run pytest\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: the clone's examples, real images, images to scan, drawn ones for the benchmark."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "examples").symlink_to(ROOT / "examples")
    for seed, (name, count) in enumerate((("reals", 270), ("more_reals", 60), ("photos", 8), ("fakes", 12))):
        (folder / name).mkdir()
        generator = np.random.default_rng([7, seed])
        for index in range(count):
            draw_face(generator, 96).save(folder / name / f"{index:03}.jpg", quality=90)
    # A reader's fit takes minutes; what it prints and writes does not depend on how long it trains, nor a benchmark's
    # on how often it resamples.
    (folder / ".config" / "muflow").mkdir(parents=True)
    (folder / ".config" / "muflow" / "config.toml").write_text(
        "[fit]\nepochs = 2\naverages = 40\n\n[bench]\nresamples = 100\n"
    )
    return folder


def environment(home: Path) -> dict[str, str]:
    """The test's own `muflow`, one thread, an empty home."""
    binaries = os.pathsep.join((str(executable().parent), str(Path(sys.executable).parent), os.environ["PATH"]))
    variables = {**os.environ, "PATH": binaries, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    variables.pop("MUFLOW_DETECTOR", None)
    variables.pop("XDG_CONFIG_HOME", None)
    return variables


def run(text: str, desk: Path) -> subprocess.CompletedProcess[bytes]:
    # A clone of its own would install everything again; the environment under test is this one.
    command = text.replace("pip install uv && uv run muflow", "muflow")
    return subprocess.run(
        ["bash", "-c", command], cwd=desk, env=environment(desk), capture_output=True, timeout=280, check=False
    )


def test_every_block_of_the_readme_runs(desk: Path) -> None:
    ran = 0
    for kind, text in BLOCKS:
        if text == SUITE:
            continue
        if kind == "python":
            with contextlib.chdir(desk):
                exec(compile(text, "README.md", "exec"), {"__name__": "example"})  # noqa: S102 - our own page
            ran += 1
            continue
        done = run(text, desk)
        messages = done.stderr.decode()
        assert "Traceback" not in messages, messages
        assert "muflow: " not in messages, messages
        # A scan that flags something exits with 1, and one that meets a broken file with 3. Both are its job.
        assert done.returncode in (0, 1, 3), (text, done.returncode, messages)
        ran += 1
    assert ran >= 7
    assert json.loads((desk / "bench.json").read_text())["schema"] == "muflow.bench/2"
    assert (desk / "verdicts.html").read_bytes().startswith(b"<!")


def test_the_quick_start_prints_what_the_readme_shows(desk: Path) -> None:
    (shown,) = re.findall(r"<!-- quick start output -->\n+```\w*\n(.*?)```", README, flags=re.DOTALL)
    done = run("muflow scan examples --json", desk)
    results = {Path(r["path"]).name: r for r in json.loads(done.stdout)["results"]}
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert {row[0] for row in rows} == set(results)
    for name, verdict, *figures in rows:
        result = results[name]
        if "error" in result:
            assert verdict == result["error"]["code"]
        else:
            assert verdict == result["verdict"]
            assert float(figures[0]) == pytest.approx(result["p_value"], abs=0.03)
            assert figures[1] == result["declared"]["origin"]


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_every_python_block_parses(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_the_library_example_of_the_readme_is_three_lines() -> None:
    (block,) = [text for kind, text in BLOCKS if kind == "python"]
    assert len([line for line in block.splitlines() if line]) == 3


@pytest.mark.parametrize(
    "page",
    ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))],
)
def test_links_lead_to_what_is_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_readme_says_how_to_test() -> None:
    assert SUITE in [text for _, text in BLOCKS]


def test_the_table_of_extensions_names_tables_that_exist() -> None:
    rows = re.findall(r"`([A-Z_]+)` in `([a-z_/]+\.py)`", README)
    assert {name for name, _ in rows} >= {"ENCODERS", "RULES", "WRITERS", "OPERATIONS", "LAYOUTS"}
    for name, file in rows:
        assert re.search(rf"^{name}\b", (ROOT / "muflow_cli" / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
