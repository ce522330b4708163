"""An exported model, and a scan by another library, give the scores that torch gives in float32."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32

from muflow_cli.agreement import agreement
from muflow_cli.bundle import load
from muflow_cli.detector import Detector
from muflow_cli.engine import backends, graphs
from muflow_cli.engine.devices import place
from muflow_cli.engine.encoders import build_backbone, chosen_layers
from muflow_cli.engine.probes import probe_images
from muflow_cli.engine.scoring import Extras
from muflow_cli.errors import BadSpec, CannotExport, MissingExtra, OutputExists
from muflow_cli.export import export
from muflow_cli.run_specs import Backend, Runtime

OTHERS = [Backend.ONNXRUNTIME, Backend.OPENVINO]


def installed(*packages: str) -> None:
    """Skip where a package is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, which is not installed")


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


@pytest.fixture(scope="module")
def written(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector in ONNX."""
    installed("onnx", "onnxscript", "onnxruntime")
    path = tmp_path_factory.mktemp("export") / "tiny.onnx"
    summary = export(detector, path)
    assert summary.files == (str(path),)
    assert summary.inputs == {"views.main": "uint8 (B, 64, 64, 3)"}
    assert summary.outputs == {"columns.main": ("main/layer1", "main/layer2")}
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this module's own, so that each graph is made once and none is left behind."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))


def columns(detector: Detector, views: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return detector.branches["main"](torch.from_numpy(views))[0].numpy()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_an_onnx_model_gives_torch_s_columns_for_any_number_of_views(
    detector: Detector, written: Path, count: int
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
    views = np.random.default_rng(count).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    (given,) = session.run(["columns.main"], {"views.main": views})
    np.testing.assert_allclose(given, columns(detector, views), atol=1e-4, rtol=1e-4)


def test_an_onnx_model_says_whose_it_is_and_how_images_become_views(detector: Detector, written: Path) -> None:
    import onnxruntime

    said = onnxruntime.InferenceSession(str(written)).get_modelmeta().custom_metadata_map
    assert said["muflow.fingerprint"] == detector.fingerprint
    assert said["muflow.calibration_fingerprint"] == detector.calibration.fingerprint()
    assert json.loads(said["muflow.views"])["main"]["size"] == 64
    assert json.loads(said["muflow.columns"]) == {"main": ["main/layer1", "main/layer2"]}
    assert set(said) >= {"muflow.version", "muflow.container", "muflow.faces"}


def test_an_existing_model_is_not_replaced(detector: Detector, written: Path) -> None:
    before = written.read_bytes()
    with pytest.raises(OutputExists):
        export(detector, written)
    assert written.read_bytes() == before


def test_another_suffix_is_refused(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match=r"ends in \.onnx or \.xml"):
        export(detector, tmp_path / "tiny.pt")


def test_openvino_s_own_format_gives_torch_s_columns(
    detector: Detector, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("openvino")
    import openvino

    graph = written.read_bytes()  # exported once is enough
    monkeypatch.setattr("muflow_cli.export.to_onnx", lambda *_: graph)
    assert export(detector, tmp_path / "tiny.xml").files == (str(tmp_path / "tiny.xml"), str(tmp_path / "tiny.bin"))
    views = probe_images(64)[:5]
    model = openvino.Core().read_model(tmp_path / "tiny.xml")
    given = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([views])
    np.testing.assert_allclose(given["columns.main"], columns(detector, views), atol=1e-4, rtol=1e-4)
    assert detector.fingerprint.encode() in (tmp_path / "tiny.xml").read_bytes()


def test_a_model_with_other_scores_is_not_written(
    detector: Detector, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = backends.onnxruntime(written.read_bytes(), 1)
    monkeypatch.setattr("muflow_cli.export.to_onnx", lambda *_: b"")
    monkeypatch.setattr(
        "muflow_cli.export.RUNTIMES", {Backend.ONNXRUNTIME: lambda *_: lambda views: [run(views)[0] + np.float32(0.01)]}
    )
    with pytest.raises(CannotExport, match=r"differ from those of torch by up to 0\.01"):
        export(detector, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backend", OTHERS)
def test_a_scorer_gives_the_same_scores_maps_and_features_whatever_computes(
    detector: Detector, backend: Backend
) -> None:
    installed("onnx", "onnxscript", backend.value)
    images = [{"main": view[None]} for view in probe_images(64)[:3]]
    extras = Extras(maps=True, features=True)
    ours = detector.scorer(place(FP32)).submit(images, extras).result()
    theirs = detector.scorer(place(Runtime(backend=backend))).submit(images, extras).result()
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(other.columns, own.columns, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(other.maps["main"], own.maps["main"], atol=1e-3, rtol=1e-3)
        np.testing.assert_allclose(other.features, own.features, atol=1e-3, rtol=1e-2)


def test_the_calibration_is_compared_with_another_library_once_its_graph_is_cached(
    detector: Detector, home: Path
) -> None:
    installed("onnx", "onnxscript", "onnxruntime")
    placement = place(Runtime(backend=Backend.ONNXRUNTIME))
    found = agreement(detector, placement)
    assert found.before is not None
    assert found.now.library.startswith("onnxruntime ")
    assert found.deviation is not None
    assert 0 < found.deviation < 0.01
    assert list((home / "muflow" / "graphs").glob("*.graph"))
    again = load_again(detector)
    assert again.scorer(placement).ready


def test_a_damaged_graph_in_the_cache_is_made_again(detector: Detector) -> None:
    installed("onnx", "onnxscript", "onnxruntime")
    branch = detector.branches["main"]
    graph, path = graphs.graph_of(branch), graphs.cached(branch)
    assert path is not None
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert len(graphs.graph_of(branch)) == len(graph)
    assert len(path.read_bytes()) == len(whole)


def test_onnx_runtime_sends_nothing_and_writes_nothing_of_its_own(detector: Detector, home: Path) -> None:
    installed("onnx", "onnxscript", "onnxruntime")
    scorer = detector.scorer(place(Runtime(backend=Backend.ONNXRUNTIME)))
    scorer.submit([{"main": probe_images(64)[:1]}]).result()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert {path.name for path in home.iterdir()} == {"muflow"}


def test_without_a_cache_that_can_be_written_auto_is_torch(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    branch = detector.branches["main"]
    assert graphs.is_kept(branch)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    assert not graphs.is_kept(branch)


def load_again(detector: Detector) -> Detector:
    """The same detector without what it has prepared."""
    from dataclasses import replace

    return replace(detector)


@pytest.mark.parametrize("backend", OTHERS)
def test_without_the_extra_one_sentence_names_the_command(
    detector: Detector, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_PACKAGES", ("no_such_package",))
    extra = "onnx" if backend is Backend.ONNXRUNTIME else "openvino"
    with pytest.raises(MissingExtra, match=rf"--backend {backend} needs .* pip install 'muflow-cli\[{extra}\]'"):
        load_again(detector).scorer(place(Runtime(backend=backend)))
    output = tmp_path / ("tiny.onnx" if backend is Backend.ONNXRUNTIME else "tiny.xml")
    with pytest.raises(MissingExtra, match=rf"muflow export .* pip install 'muflow-cli\[{extra}\]'"):
        export(detector, output)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "forensic"])
def test_encoders_can_be_traced_for_any_number_of_views(name: str) -> None:
    layers = chosen_layers(name, ())
    backbone = build_backbone(name, layers[:1] if name != "forensic" else layers)
    images = torch.zeros(3, 3, 64, 64, device="cpu" if name == "forensic" else "meta")
    batch = torch.export.Dim("images", min=1)
    with torch.no_grad():
        program = torch.export.export(backbone, (images,), dynamic_shapes=({0: batch},), strict=False)
    assert len(program.graph.find_nodes(op="placeholder")) > 0
