"""Faster kernels change speed only: without engine/cpu every detector scores the same but for rounding."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from muflow_cli.bundle import load, save
from muflow_cli.engine.branch import Branch, Head
from muflow_cli.engine.flow import build_flow, plain
from muflow_cli.settings import apply
from muflow_cli.specs import ScoreKind

PACKAGE = Path(__file__).parents[1] / "muflow_cli"
DEFAULT = Path(__file__).parents[1] / "weights" / "default.safetensors"

CODE = """
import json, sys
import numpy as np, muflow_cli
from muflow_cli.bundle import load
from muflow_cli.engine.devices import place
from muflow_cli.run_specs import Runtime
columns = {}
for path in sys.argv[1:]:
    detector = load(path)
    (name, view), = detector.views.items()
    shape = (3, 1, view.size, view.size, 3)
    slope = np.arange(view.size, dtype=np.uint8)[:, None]
    coarse = np.random.default_rng(4).integers(0, 256, shape, np.uint8) // 8 + slope
    images = [{name: views} for views in coarse]
    for precision in ("fp32", "bf16"):
        scorer = detector.scorer(place(Runtime(device="cpu", precision=precision)))
        columns[f"{path} {precision}"] = [one.columns.tolist() for one in scorer.submit(images).result()]
fast = [name for name in sys.modules if name.startswith("muflow_cli.engine.cpu")]
print(json.dumps({"columns": columns, "fast": fast, "from": muflow_cli.__file__}))
"""


# Each of the two in a fork, from one process that has loaded torch alone.
FORKS = """
import os, sys
import torch
code, *folders = sys.argv[1:4]
del sys.argv[1:4]
for folder in folders:
    if not os.fork():
        sys.path.insert(0, folder)
        exec(code, {})
        sys.exit()
    if os.wait()[1]:
        sys.exit(folder)
"""


@pytest.fixture(scope="module")
def spatial_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector with a flow of 3x3 kernels, which engine/cpu computes in another way."""
    detector = load(tiny_bundle)
    spec = apply(detector.spec, {"flow": {"kernels": (3,)}})
    branch = detector.branches["main"]
    heads = [
        Head(h.projection, plain(build_flow(6, spec.branches[0].flow, 1)), h.density, ScoreKind.NLL)
        for h in branch.layer_heads()
    ]
    path = tmp_path_factory.mktemp("spatial") / "spatial.safetensors"
    other = Branch(spec.branches[0], branch.encoder, heads).requires_grad_(False)
    save(replace(detector, spec=spec, branches={"main": other}), path)
    return path


def test_without_the_folder_only_rounding_changes(tiny_bundle: Path, spatial_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "muflow_cli", ignore=shutil.ignore_patterns("cpu", "__pycache__"))
    assert not (tmp_path / "muflow_cli" / "engine" / "cpu").exists()
    folders = (PACKAGE.parent, tmp_path)
    words = [sys.executable, "-c", FORKS, CODE, *map(str, folders), str(tiny_bundle), str(spatial_bundle), str(DEFAULT)]
    done = subprocess.run(words, cwd=tmp_path.parent, env={}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    whole, without = map(json.loads, done.stdout.splitlines())
    assert [Path(one["from"]).parents[1] for one in (whole, without)] == list(folders)
    assert whole["fast"]
    assert not without["fast"]
    for name, columns in whole["columns"].items():
        path, precision = name.rsplit(" ", 1)
        exact = Path(path) != spatial_bundle and (precision == "fp32" or Path(path) == DEFAULT)
        tolerance = 0 if exact else 1e-4 if precision == "fp32" else 0.3
        np.testing.assert_allclose(without["columns"][name], columns, atol=tolerance, rtol=0, err_msg=name)


def test_a_fault_inside_the_folder_is_not_taken_for_its_absence(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "muflow_cli", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "muflow_cli" / "engine" / "cpu" / "accelerate.py").write_text("import no_such_module\n")
    words = [sys.executable, "-c", "import muflow_cli.engine.inference"]
    done = subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, check=False)
    assert done.returncode != 0
    assert b"no_such_module" in done.stderr
