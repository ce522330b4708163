"""What computed a calibration is recorded, and a scan that computes other scores says so, or refuses."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32
from scan_runs import run

from muflow_cli import agreement as of_agreement
from muflow_cli.agreement import TOLERANCE, agreement, computed, fastest
from muflow_cli.bundle import load, save
from muflow_cli.calibration.computed import Computed
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import place
from muflow_cli.engine.probes import PROBES, probe_images
from muflow_cli.errors import BadCalibration, BadSpec, ScoresDiffer
from muflow_cli.fit import FitRequest, fit
from muflow_cli.run_specs import Backend, Precision, Runtime

BF16 = Runtime(device="cpu", precision=Precision.BF16)
DEFAULT = Path(__file__).parents[1] / "weights" / "default.safetensors"


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


def moved(detector: Detector, spreads: float) -> Detector:
    """The detector as if its probes had scored so many standard deviations higher when it was calibrated elsewhere."""
    stored = detector.calibration.computed
    assert stored is not None
    probes = stored.probes + spreads * detector.calibration.scores.std(axis=0)
    by = replace(stored.by, instructions="AVX512")
    return replace(detector, calibration=replace(detector.calibration, computed=Computed(probes, by)))


def test_probe_images_are_the_same_on_every_machine() -> None:
    digests = {side: hashlib.sha256(probe_images(side).tobytes()).hexdigest()[:16] for side in (64, 224)}
    assert digests == {64: "e7cece2fbb128aa7", 224: "e0401058bfa04dea"}


def test_probe_images_differ_and_use_the_whole_range() -> None:
    images = probe_images(224)
    assert images.shape == (PROBES, 224, 224, 3)
    assert images.min() == 0
    assert images.max() == 255
    assert len(np.unique(images.reshape(PROBES, -1), axis=0)) == PROBES
    assert all(image.std() > 3 for image in images)


def test_a_fit_records_what_computed_the_calibration(detector: Detector) -> None:
    stored = detector.calibration.computed
    assert stored is not None
    assert (stored.by.device, stored.by.precision) == ("cpu", "fp32")
    assert stored.by.library.startswith("torch ")
    again = computed(detector.scorer(place(FP32)), detector.views)
    np.testing.assert_allclose(again.probes, stored.probes, atol=1e-5)


def test_the_record_survives_a_round_trip_and_is_covered_by_the_fingerprint(detector: Detector, tmp_path: Path) -> None:
    other = moved(detector, 1.0)
    save(other, tmp_path / "other.safetensors")
    back = load(tmp_path / "other.safetensors")
    assert back.fingerprint == detector.fingerprint
    assert back.calibration.fingerprint() == other.calibration.fingerprint() != detector.calibration.fingerprint()
    assert back.calibration.computed is not None
    assert back.calibration.computed.by == other.calibration.computed.by  # type: ignore[union-attr] # it has one


def test_a_bundle_of_an_earlier_version_keeps_its_fingerprints_and_cannot_be_checked(tmp_path: Path) -> None:
    old = load(DEFAULT)
    assert old.calibration.computed is None
    save(old, tmp_path / "again.safetensors")
    assert load(tmp_path / "again.safetensors").calibration.fingerprint() == old.calibration.fingerprint()
    found = agreement(old, place(FP32))
    assert (found.deviation, found.remark) == (None, None)
    assert "cannot check" in str(agreement(old, place(Runtime(backend=Backend.ONNXRUNTIME))).remark)
    with pytest.raises(ScoresDiffer, match="holds no scores of the probe images"):
        found.require()


def test_nothing_is_scored_where_nothing_differs(detector: Detector) -> None:
    found = agreement(replace(detector), place(FP32))
    assert (found.deviation, found.remark) == (0.0, None)
    found.require()


@pytest.mark.parametrize("spreads", [0.5, 2.0])
def test_differences_are_measured_in_standard_deviations_of_the_calibration(detector: Detector, spreads: float) -> None:
    found = agreement(moved(detector, spreads * TOLERANCE), place(FP32))
    assert found.deviation == pytest.approx(spreads * TOLERANCE, rel=0.05)
    assert (found.remark is None) == (spreads < 1)


def test_bfloat16_is_measured_against_the_calibration_in_float32(detector: Detector) -> None:
    found = agreement(detector, place(BF16))
    assert found.deviation is not None
    assert 0 < found.deviation < 5


@pytest.mark.parametrize("probes", [np.zeros((8, 3)), np.zeros((0, 2)), np.full((8, 2), np.nan)])
def test_scores_of_probes_that_do_not_fit_are_refused(detector: Detector, probes: np.ndarray) -> None:
    stored = detector.calibration.computed
    assert stored is not None
    with pytest.raises(BadCalibration, match="probe images"):
        replace(detector.calibration, computed=replace(stored, probes=probes))


def test_scan_warns_and_with_strict_refuses(detector: Detector, reals: Path, tmp_path: Path) -> None:
    path = tmp_path / "moved.safetensors"
    save(moved(detector, 0.3), path)
    arguments = ["scan", reals / "0000.jpg", "--detector", path, "--precision", "fp32", "--exit-zero", "--json"]
    warned = run(*arguments)
    assert warned.returncode == 0
    assert "differ by up to 0.3 standard deviations" in " ".join(warned.stderr.decode().split())
    refused = run(*arguments, "--strict")
    assert refused.returncode == 2
    assert refused.stderr.decode().startswith(
        "muflow: --strict cannot be met, because the calibration was computed in "
    )
    assert refused.stdout == b""


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ({"device": "cuda"}, "cpu with --backend onnxruntime"),
        ({"precision": Precision.BF16}, "fp32 with --backend onnxruntime"),
    ],
)
def test_other_libraries_compute_in_float32_on_processors_alone(runtime: dict[str, str], reason: str) -> None:
    with pytest.raises(BadSpec, match=reason):
        place(Runtime(backend=Backend.ONNXRUNTIME, **runtime))


def test_only_torch_fits(reals: Path, tmp_path: Path) -> None:
    request = FitRequest(
        reals=(str(reals),), output=tmp_path / "d.safetensors", runtime=Runtime(backend=Backend.OPENVINO)
    )
    with pytest.raises(BadSpec, match="torch, which alone fits a detector"):
        fit(request)


def test_auto_is_torch_wherever_nothing_else_was_measured_to_be_faster(detector: Detector) -> None:
    assert fastest(detector, Runtime(backend=Backend.AUTO)) == Runtime(backend=Backend.TORCH)  # a ResNet-18
    assert fastest(load(DEFAULT), Runtime(backend=Backend.AUTO)) == Runtime(backend=Backend.TORCH)
    for backend in (Backend.TORCH, Backend.ONNXRUNTIME, Backend.OPENVINO):
        assert fastest(detector, Runtime(backend=backend)).backend is backend
    assert place(Runtime(backend=Backend.AUTO)) == place(Runtime())


def test_auto_is_onnx_runtime_where_it_is_faster_and_can_be_compared(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(of_agreement, "FASTER", frozenset({"resnet18"}))
    auto = Runtime(device="cpu", backend=Backend.AUTO)
    here = torch.backends.cpu.get_cpu_capability() == "AVX2"
    assert fastest(detector, auto).backend is (Backend.ONNXRUNTIME if here else Backend.TORCH)
    assert fastest(detector, replace(auto, precision=Precision.BF16)).backend is Backend.TORCH
    unknown = replace(detector, calibration=replace(detector.calibration, computed=None))
    assert fastest(unknown, auto).backend is Backend.TORCH
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert fastest(detector, auto).backend is Backend.TORCH
