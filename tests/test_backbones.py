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


def printed(code: str, *arguments: str) -> list[str]:
    """What a Python of its own prints, line by line; it must end well."""
    words = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_scan_loads_no_compiler(tiny_bundle: Path, reals: Path) -> None:
    image = min(reals.iterdir())
    code = (
        "import contextlib, os, sys; from muflow_cli.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(open(os.devnull, 'w')): main()\n"
        "print('torchvision' in sys.modules, *[n for n in ('torch._dynamo', 'sympy', 'triton') if n in sys.modules])"
    )
    assert printed(code, "scan", str(image), "--detector", str(tiny_bundle)) == ["True"]


def test_whoever_asks_for_the_compiler_gets_it() -> None:
    code = (
        "import sys; from muflow_cli.engine.backbones import import_torchvision\n"
        "import_torchvision()\n"
        "asked = sys.modules['torchvision.ops.roi_align'].is_compile_supported\n"
        "print([asked(device) for device in ('cpu', 'cuda', 'meta')])\n"
        "from torch._dynamo.utils import counters, is_compile_supported\n"
        "print([is_compile_supported(device) for device in ('cpu', 'cuda', 'meta')])"
    )
    asked, answered = printed(code)
    assert asked == answered


def test_another_name_of_the_compiler_loads_it_whole() -> None:
    code = (
        "import sys; from muflow_cli.engine import backbones\n"
        "sys.modules['torch._dynamo.utils'] = backbones._StandIn('torch._dynamo.utils')\n"
        "from torch._dynamo.utils import counters\n"
        "print(type(counters).__name__, type(sys.modules['torch._dynamo.utils']).__name__)"
    )
    assert printed(code) == ["defaultdict module"]


def test_a_compiler_that_is_loaded_already_stays() -> None:
    code = (
        "import sys, torch._dynamo.utils as before; from muflow_cli.engine.backbones import import_torchvision\n"
        "import_torchvision(); print(sys.modules['torch._dynamo.utils'] is before)"
    )
    assert printed(code) == ["True"]


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
