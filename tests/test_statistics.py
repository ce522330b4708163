"""What of a layer is modelled: means, deviations or both, from the map to the bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32

from muflow_cli.bundle import load, save
from muflow_cli.canonical import from_json, to_json
from muflow_cli.engine.branch import Encoder
from muflow_cli.engine.devices import place
from muflow_cli.engine.encoders import layers_of
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.projection import pool
from muflow_cli.engine.statistics import cell_statistics, channel_statistics
from muflow_cli.engine.weights import read_weights
from muflow_cli.errors import BadBundle, BadSpec
from muflow_cli.fit import FitRequest, fit
from muflow_cli.presets import LIGHT
from muflow_cli.run_specs import Precision, Runtime
from muflow_cli.settings import override
from muflow_cli.specs import DetectorSpec, FeatureSpec, Statistics

FORMATS = (torch.contiguous_format, torch.channels_last)


def maps(side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 5, side, side, generator=torch.Generator().manual_seed(seed)) * 2 + 40


def feature(statistics: Statistics, grid: int = 4, **more: object) -> FeatureSpec:
    return FeatureSpec(statistics=statistics, grid=grid, **more)  # type: ignore[arg-type] # its own fields


@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("side", "grid"), [(8, 4), (8, 1), (6, 4), (7, 3)])
def test_a_constant_map_has_the_deviation_0(
    side: int, grid: int, dtype: torch.dtype, memory: torch.memory_format
) -> None:
    constant = torch.tensor([0.0, 1 / 3, -77.7])[None, :, None, None].expand(2, 3, side, side).to(dtype)
    pooled = pool(constant.contiguous(memory_format=memory), feature(Statistics.STD, grid))
    assert torch.equal(pooled, torch.zeros(2, 3, grid, grid))


@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize(("side", "grid"), [(8, 4), (8, 1), (6, 4), (7, 3), (9, 2)])
def test_each_cell_holds_the_mean_and_the_deviation_of_its_positions(
    side: int, grid: int, memory: torch.memory_format
) -> None:
    map_ = maps(side).contiguous(memory_format=memory)
    means, deviations = cell_statistics(map_, grid)
    for row in range(grid):
        for column in range(grid):
            rows, columns = (slice(i * side // grid, -(-(i + 1) * side // grid)) for i in (row, column))
            cell = map_[:, :, rows, columns].flatten(2).double()
            torch.testing.assert_close(means[:, :, row, column].double(), cell.mean(dim=2), atol=1e-5, rtol=1e-6)
            expected = cell.std(dim=2, correction=0)
            torch.testing.assert_close(deviations[:, :, row, column].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_small_deviation_far_from_0_keeps_its_digits() -> None:
    map_ = (1000 + 0.1 * maps(16, seed=2) - 4).contiguous(memory_format=torch.channels_last)
    expected = map_.double().flatten(2).std(dim=2, correction=0).float()
    torch.testing.assert_close(pool(map_, feature(Statistics.STD, 1)).flatten(1), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("memory", FORMATS)
def test_both_is_the_means_and_then_the_deviations(memory: torch.memory_format) -> None:
    map_ = maps(8).contiguous(memory_format=memory)
    both = pool(map_, feature(Statistics.BOTH))
    mean, std = (pool(map_, feature(one)) for one in (Statistics.MEAN, Statistics.STD))
    torch.testing.assert_close(both[:, :5], mean)
    assert torch.equal(both[:, 5:], std)


def test_over_the_whole_map_they_are_what_batches_are_compared_by() -> None:
    map_ = maps(8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(pool(map_, feature(Statistics.BOTH, 1)).flatten(1), channel_statistics(map_))


@pytest.mark.parametrize("text", ["feature.statistics=median", "feature.statistics="])
def test_an_unknown_statistic_is_one_sentence(text: str) -> None:
    with pytest.raises(BadSpec, match=r"feature\.statistics is .*: use one of mean, std, both"):
        override(LIGHT, [text])


def test_a_deviation_needs_several_positions_in_a_cell() -> None:
    with pytest.raises(BadSpec, match="statistics is both: use mean with grid 0"):
        override(LIGHT, ["feature.statistics=both", "feature.grid=0"])
    single = feature(Statistics.STD, 4, encoder="resnet18", layers=("layer3",))
    with pytest.raises(BadSpec, match="grid is 4: use less than 4"):
        layers_of(single, 64)
    assert layers_of(single, 128)


def test_older_specs_keep_their_bytes() -> None:
    assert "statistics" not in to_json(FeatureSpec())
    written = to_json(feature(Statistics.STD))
    assert written["statistics"] == "std"
    assert from_json(FeatureSpec, written) == feature(Statistics.STD)
    for hostile in ("median", "", None, 3, ["std"]):
        with pytest.raises(ValueError, match=r"statistics|Expected|Invalid"):
            from_json(FeatureSpec, {**written, "statistics": hostile})


@pytest.fixture(scope="module", params=[Statistics.STD, Statistics.BOTH])
def fitted(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    reals: Path,
    tiny_weights: Path,
    tiny_spec: DetectorSpec,
) -> Path:
    output = tmp_path_factory.mktemp("statistics") / "d.safetensors"
    spec = override(tiny_spec, [f"feature.statistics={request.param.value}", "feature.dimensions=0", "train.epochs=1"])
    fit(FitRequest(reals=(str(reals),), output=output, spec=spec, weights={"main": tiny_weights}, runtime=FP32))
    return output


def test_a_bundle_gives_the_same_detector_back(fitted: Path, tmp_path: Path) -> None:
    detector = load(fitted)
    save(detector, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == fitted.read_bytes()
    spec = detector.spec.branches[0].feature
    assert spec.statistics is not Statistics.MEAN
    wide = [64 * spec.per_channel, 128 * spec.per_channel]
    assert [head.projection.dimensions for head in detector.branches["main"].layer_heads()] == wide
    assert np.isfinite(detector.calibration.scores).all()


def test_a_bundle_whose_tensors_belong_to_another_statistic_is_refused(fitted: Path, tmp_path: Path) -> None:
    detector = load(fitted)
    own = detector.spec.branches[0].feature.statistics
    other = Statistics.MEAN if own is Statistics.BOTH else Statistics.BOTH
    save(replace(detector, spec=override(detector.spec, [f"feature.statistics={other.value}"])), tmp_path / "d")
    with pytest.raises(BadBundle, match="is inconsistent"):
        load(tmp_path / "d")


def test_a_scan_scores_the_calibration_images_as_the_fit_did(fitted: Path, reals: Path) -> None:
    detector = load(fitted)
    results = detector.score(sorted(reals.glob("*.jpg")), FP32)
    scored = {result.facts.sha256: result.column_scores for result in results}  # type: ignore[union-attr] # all decode
    kept = detector.calibration
    for facts, columns in zip(kept.facts, kept.scores, strict=True):
        assert np.array_equal(scored[facts.sha256], columns)


def test_one_batch_of_16_scores_as_16_of_one(fitted: Path) -> None:
    views = np.random.default_rng(1).integers(0, 256, (16, 1, 64, 64, 3), dtype=np.uint8)
    scorer = load(fitted).scorer(place(FP32))
    together = [one.columns for one in scorer.submit([{"main": own} for own in views]).result()]
    alone = [scorer.submit([{"main": own}]).result()[0].columns for own in views]
    assert np.array_equal(together, alone)


def test_bf16_is_close_to_fp32(tiny_weights: Path) -> None:
    spec = feature(Statistics.BOTH, 2, encoder="resnet18", layers=("layer1", "layer2"))
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    encoder = Encoder.load(spec, read_weights(tiny_weights).tensors)
    wide, half = (
        PlacedEncoder(encoder, place(Runtime(device="cpu", precision=precision))).submit(images).result()
        for precision in (Precision.FP32, Precision.BF16)
    )
    for one, other in zip(wide, half, strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).abs().max() / one.abs().max()) < 0.02
