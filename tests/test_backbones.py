"""Promises of engine/backbones.py: torchvision's networks as they are, without what a scan has no use for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from muflow_cli.engine.backbones import build_features, import_torchvision
from muflow_cli.engine.encoder_row import Library
from muflow_cli.engine.encoders import ENCODERS

# Each in a fork of its own, from one process that has loaded torch alone; what it prints goes to a file of its name.
FORKS = """
import os, sys
import torch
for name, code in zip(sys.argv[1::2], sys.argv[2::2]):
    if not os.fork():
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), 1)
        exec(code, {})
        sys.exit()
    if os.wait()[1]:
        sys.exit(name)
"""
SCANNED = """
import contextlib, os, sys; from muflow_cli.cli import main
sys.argv = ["muflow", "scan", "image", "--detector", "detector"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(open(os.devnull, "w")): main()
print("torchvision" in sys.modules, *[n for n in ("torch._dynamo", "sympy", "triton") if n in sys.modules])
"""
ASKED = """
import sys; from muflow_cli.engine.backbones import import_torchvision
import_torchvision()
asked = sys.modules["torchvision.ops.roi_align"].is_compile_supported
print([asked(device) for device in ("cpu", "cuda", "meta")])
from torch._dynamo.utils import counters, is_compile_supported
print([is_compile_supported(device) for device in ("cpu", "cuda", "meta")])
"""
ANOTHER_NAME = """
import sys; from muflow_cli.engine import backbones
sys.modules["torch._dynamo.utils"] = backbones._StandIn("torch._dynamo.utils")
from torch._dynamo.utils import counters
print(type(counters).__name__, type(sys.modules["torch._dynamo.utils"]).__name__)
"""
LOADED = """
import sys, torch._dynamo.utils as before; from muflow_cli.engine.backbones import import_torchvision
import_torchvision(); print(sys.modules["torch._dynamo.utils"] is before)
"""


@pytest.fixture(scope="module")
def printed(tiny_bundle: Path, reals: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each code prints, line by line; it must end well."""
    folder = tmp_path_factory.mktemp("compilers")
    (folder / "image").symlink_to(min(reals.iterdir()))
    (folder / "detector").symlink_to(tiny_bundle)
    codes = {"scanned": SCANNED, "asked": ASKED, "another name": ANOTHER_NAME, "loaded": LOADED}
    words = [sys.executable, "-c", FORKS, *(word for pair in codes.items() for word in pair)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {name: (folder / name).read_text().splitlines() for name in codes}


def test_a_scan_loads_no_compiler(printed: dict[str, list[str]]) -> None:
    assert printed["scanned"] == ["True"]


def test_whoever_asks_for_the_compiler_gets_it(printed: dict[str, list[str]]) -> None:
    asked, answered = printed["asked"]
    assert asked == answered


def test_another_name_of_the_compiler_loads_it_whole(printed: dict[str, list[str]]) -> None:
    assert printed["another name"] == ["defaultdict module"]


def test_a_compiler_that_is_loaded_already_stays(printed: dict[str, list[str]]) -> None:
    assert printed["loaded"] == ["True"]


@pytest.mark.parametrize("name", [name for name, row in ENCODERS.items() if row.library is Library.TORCHVISION])
def test_networks_are_torchvisions_but_for_their_values(name: str) -> None:
    row = ENCODERS[name]
    with torch.device("meta"):
        whole: nn.Module = getattr(import_torchvision().models, name)(weights=None)
    features = build_features(name, [layer.name for layer in row.layers])
    assert not features.training
    expected, found = whole.state_dict(), features.state_dict()
    assert found
    for key, tensor in found.items():
        assert tensor.is_meta
        assert (tensor.shape, tensor.dtype) == (expected[key].shape, expected[key].dtype)
