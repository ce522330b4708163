"""Encoders of timm: named, built from the name alone, held by the bundle; hostile names reach nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FP32, Muflow
from safetensors.torch import save_file

from muflow_cli.bundle import load, save
from muflow_cli.detector import Detector
from muflow_cli.engine.branch import Encoder
from muflow_cli.engine.devices import place
from muflow_cli.engine.encoders import build_backbone, chosen_layers, encoder_row, layers_of
from muflow_cli.engine.inference import encoder_for_inference
from muflow_cli.engine.timm_models import timm_row
from muflow_cli.engine.weights import find_weights
from muflow_cli.errors import BadBundle, BadSpec, BadWeights, MissingExtra
from muflow_cli.fit import FitRequest, fit
from muflow_cli.presets import PRESETS
from muflow_cli.run_specs import Precision, Runtime
from muflow_cli.settings import override
from muflow_cli.specs import DetectorSpec, FeatureSpec, Statistics

timm = pytest.importorskip("timm")

SMALL = "timm:mobilenetv2_035"
# Name -> usual layers, an early layer, and the side of a view in the tests.
MODELS = {
    "resnet10t": (("layer1", "layer2", "layer3"), "layer1", 64),
    "mobilenetv2_035": (("blocks.1", "blocks.2", "blocks.4"), "blocks.1", 64),
    "tf_efficientnet_lite0": (("blocks.1", "blocks.2", "blocks.4"), "blocks.1", 64),
    "deit_tiny_patch16_224": (("blocks.2", "blocks.5", "blocks.8"), "blocks.1", 64),
    "cait_xxs24_224": (("blocks.5", "blocks.11", "blocks.17"), "blocks.0", 224),
    "vit_small_patch14_dinov2": (("blocks.2", "blocks.5", "blocks.8"), "blocks.0", 56),
}


def state_of(name: str) -> dict[str, torch.Tensor]:
    """Random tensors with timm's names."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = timm.create_model(name.removeprefix("timm:")).state_dict()
    drawn = {}
    for key, empty in shapes.items():
        value = torch.randn(empty.shape, generator=generator) * (empty[0].numel() if empty.dim() > 1 else 100) ** -0.5
        drawn[key] = 1 + value.abs() if key.endswith(("running_var", "norm1.weight", "norm2.weight")) else value
    return drawn


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "small.safetensors"
    save_file(state_of(SMALL), path)
    return path


@pytest.fixture(scope="session")
def small_bundle(
    tmp_path_factory: pytest.TempPathFactory, reals: Path, small_weights: Path, tiny_spec: DetectorSpec
) -> Path:
    output = tmp_path_factory.mktemp("timm") / "small.detector"
    settings = [f"feature.encoder={SMALL}", "feature.layers=blocks.1,blocks.2", "feature.statistics=both"]
    spec = override(tiny_spec, [*settings, "train.epochs=1"])
    fit(FitRequest(reals=(str(reals),), output=output, spec=spec, weights={"main": small_weights}, runtime=FP32))
    return output


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_as_the_row_says_in_both_precisions(name: str) -> None:
    usual, early, size = MODELS[name]
    assert tuple(layer.name for layer in chosen_layers(f"timm:{name}", ())) == usual
    feature = FeatureSpec(encoder=f"timm:{name}", layers=(early,), grid=2, statistics=Statistics.BOTH)
    (layer,) = layers_of(feature, size)
    network = Encoder.load(feature, state_of(name))
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        (map_,) = network.layer_maps(images)
        (wide,), (half,) = (
            encoder_for_inference(network, place(Runtime(device="cpu", precision=precision)))(images)
            for precision in (Precision.FP32, Precision.BF16)
        )
    assert tuple(map_.shape) == (2, layer.channels, size // layer.stride, size // layer.stride)
    assert wide.dtype == half.dtype == torch.float32
    assert not torch.equal(wide, half)
    assert float((wide - half).abs().max() / wide.abs().max()) < 0.03


def test_token_maps_are_the_patch_tokens_of_the_block() -> None:
    name = "deit_tiny_patch16_224"
    whole = timm.create_model(name, dynamic_img_size=True).eval()
    seen: list[torch.Tensor] = []
    whole.blocks[4].register_forward_hook(lambda _module, _input, output: seen.append(output))
    image = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    feature = FeatureSpec(encoder=f"timm:{name}", layers=("blocks.4",))
    with torch.inference_mode():
        whole(image)
        (map_,) = Encoder.load(feature, whole.state_dict()).backbone(image).values()
    # One class token, then 4 x 3 patches, row by row.
    torch.testing.assert_close(map_, seen[0][:, 1:].transpose(1, 2).reshape(1, -1, 4, 3))


def test_a_model_s_own_mean_and_deviation_are_used_and_held(small_bundle: Path) -> None:
    clip = encoder_row("timm:vit_base_patch32_clip_224")
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    detector = load(small_bundle)
    grey = torch.full((1, 3, 2, 2), 255 * 0.485)
    assert float(detector.branches["main"].encoder.normalise(grey)[0, 0, 0, 0]) == pytest.approx(0, abs=1e-5)
    assert "branches.main.encoder.normalise.shift" in detector.tensors()


def test_nothing_behind_the_last_layer_is_kept() -> None:
    kept = build_backbone("timm:resnet10t", chosen_layers("timm:resnet10t", ("layer1",))).state_dict()
    assert kept
    assert not [key for key in kept if "layer2" in key or "fc" in key or not key.startswith("network.")]


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:someone/model",
        "hf_hub:a/b",
        "local-dir:/tmp",
        "timm/resnet18",
        "../resnet18",
        "",
        "resnet18 ",
        "RESNET18",
    ],
)
def test_a_name_that_timm_does_not_list_reaches_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_settings: object) -> None:
        raise AssertionError("timm was asked for a model")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(BadSpec, match=r"encoder is timm:.*list_models"):
        encoder_row(f"timm:{name}")


@pytest.mark.parametrize(
    ("name", "why"),
    [("swin_tiny_patch4_window7_224", "cannot hold the tables"), ("eva02_tiny_patch14_224", "cannot hold the tables")],
)
def test_a_model_that_a_bundle_cannot_hold_is_refused(name: str, why: str) -> None:
    with pytest.raises(BadSpec, match=why):
        encoder_row(f"timm:{name}")


def test_views_of_a_size_that_a_model_cannot_take_are_one_sentence() -> None:
    with pytest.raises(BadSpec, match="size is 256: use 224, the only size that timm:cait_xxs24_224 takes"):
        layers_of(FeatureSpec(encoder="timm:cait_xxs24_224"), 256)
    with pytest.raises(BadSpec, match="size is 256: use a multiple of 14"):
        layers_of(FeatureSpec(encoder="timm:vit_small_patch14_dinov2"), 256)
    with pytest.raises(BadSpec, match=r"layers is layer9: use among act1, layer1"):
        chosen_layers("timm:resnet10t", ("layer9",))


def test_a_bundle_gives_the_same_detector_back(small_bundle: Path, small_weights: Path, tmp_path: Path) -> None:
    detector = load(small_bundle)
    assert detector.provenance.branches["main"].weights_sha256 == find_weights(SMALL, small_weights).sha256
    assert detector.provenance.versions["timm"] == timm.__version__
    save(detector, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == small_bundle.read_bytes()


def test_one_batch_of_16_scores_as_16_of_one_and_as_the_fit_did(small_bundle: Path, reals: Path) -> None:
    detector = load(small_bundle)
    views = np.random.default_rng(1).integers(0, 256, (16, 1, 64, 64, 3), dtype=np.uint8)
    scorer = detector.scorer(place(FP32))
    together = [one.columns for one in scorer.submit([{"main": own} for own in views]).result()]
    assert np.array_equal(together, [scorer.submit([{"main": own}]).result()[0].columns for own in views])
    results: Any = detector.score(sorted(reals.glob("*.jpg")), FP32)
    scored = {result.facts.sha256: result.column_scores for result in results}
    for facts, columns in zip(detector.calibration.facts, detector.calibration.scores, strict=True):
        assert np.array_equal(scored[facts.sha256], columns)


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where timm is not installed: its import fails, and nothing of it is remembered."""
    timm_row.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)


@pytest.mark.usefixtures("without_timm")
def test_without_timm_one_sentence_names_the_extra(small_bundle: Path) -> None:
    with pytest.raises(
        MissingExtra, match=r"timm:resnet18 needs .*not installed: run pip install 'muflow-cli\[timm\]'"
    ):
        encoder_row("timm:resnet18")
    with pytest.raises(
        BadBundle, match=r"small\.detector cannot be used here .*: run pip install 'muflow-cli\[timm\]'"
    ):
        load(small_bundle)


@pytest.mark.parametrize("name", ["timm:hf-hub:someone/model", "timm:resnet10t", "timm:mobilenetv2_100"])
def test_a_bundle_with_the_name_of_another_encoder_is_refused(small_bundle: Path, tmp_path: Path, name: str) -> None:
    detector: Detector = load(small_bundle)
    (branch,) = detector.spec.branches
    other = replace(branch, feature=replace(branch.feature, encoder=name))
    save(replace(detector, spec=replace(detector.spec, branches=(other,))), tmp_path / "d")
    with pytest.raises(BadBundle):
        load(tmp_path / "d")


def test_the_preset_lite_is_light_with_one_layer_of_another_encoder() -> None:
    lite, light = PRESETS["lite"], PRESETS["light"]
    (own,), (usual,) = lite.branches, light.branches
    assert replace(own, feature=usual.feature) == usual
    assert replace(own.feature, encoder=usual.feature.encoder, layers=()) == usual.feature
    assert [layer.name for layer in layers_of(own.feature, own.view.size)] == ["blocks.4"]
    assert replace(lite, preset="light", branches=light.branches) == light


def test_a_missing_tensor_is_named_as_timm_names_it() -> None:
    state = state_of("resnet10t")
    del state["layer1.0.conv2.weight"]
    feature = FeatureSpec(encoder="timm:resnet10t")
    with pytest.raises(BadWeights, match=r"lack the tensor layer1\.0\.conv2\.weight .* names of timm"):
        Encoder.load(feature, state)


def test_offline_the_sentence_says_what_to_fetch(muflow: Muflow, reals: Path, tmp_path: Path) -> None:
    # An address that refuses at once stands in for a machine without a network.
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    words = ("fit", reals, "-o", tmp_path / "d", "--encoder", "timm:mobilenetv2_100", "--alpha", "0.2")
    done = muflow(*words, "--set", "target.images_per_average=16", env=environment)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "cannot download the encoder weights timm/mobilenetv2_100.ra_in1k: fetch model.safetensors" in line
    assert "--encoder-weights model.safetensors" in line
    assert not list(tmp_path.glob("d*"))


def test_info_and_doctor_name_the_encoder(muflow: Muflow, small_bundle: Path) -> None:
    shown = muflow("info", small_bundle).stdout.decode()
    assert f"encoder {SMALL}" in shown
    assert "mean and deviation of each channel in 2 x 2 cells" in shown
    found = " ".join(muflow("doctor", env={"MUFLOW_DETECTOR": str(small_bundle)}).stdout.decode().split())
    assert f"encoder {SMALL}" in found
    assert timm.__version__ in found
