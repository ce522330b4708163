"""`calibrate --adapt`: reals of a new source get the moments of the training reals, and nothing else changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, draw_face, write_faces
from PIL import Image
from typer.testing import CliRunner, Result

import muflow_cli
from muflow_cli.bench.data import known_to
from muflow_cli.bundle import load, save
from muflow_cli.calibrate.workflow import CalibrateRequest, CalibrateSummary, calibrate
from muflow_cli.calibration.calibration import source_digest
from muflow_cli.cli.app import app
from muflow_cli.engine.adaptation import PRIOR_IMAGES, adapted, between, training_moments
from muflow_cli.engine.devices import place
from muflow_cli.engine.projection import Adaptation, Moments, Projection, fit_projection
from muflow_cli.errors import BadBundle, CannotAdapt, IncompatibleOptions, TooFewToAdapt
from muflow_cli.images.find import find
from muflow_cli.images.loader import Loaded
from muflow_cli.images.loader import load as load_images
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import FeatureSpec, Normalisation, TargetKind

# Enough to adapt to and to calibrate on: the tiny detector's alpha of 0.1 in two tails needs 19.
COUNT = 72


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reals as those of the fit, under another light: paler, and with less contrast in blue."""
    folder = tmp_path_factory.mktemp("source")
    generator = np.random.default_rng(30)  # no two images are near copies
    for index in range(COUNT):
        levels = np.asarray(draw_face(generator)) * [0.6, 0.7, 0.4] + [70, 50, 110]
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"{index:03}.jpg", quality=90)
    return folder


def run(detector: Path, output: Path, *reals: Path, adapt: Path | None = None, **more) -> CalibrateSummary:
    request = CalibrateRequest(
        detector=detector,
        reals=tuple(map(str, reals)),
        adapt=() if adapt is None else (str(adapt),),
        output=output,
        runtime=FP32,
        **more,
    )
    return calibrate(request)


@pytest.fixture(scope="module")
def done(tiny_bundle: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The tiny detector adapted to 50 images of the source and calibrated on the other 22, and what was said of it."""
    output = tmp_path_factory.mktemp("adapted") / "adapted.safetensors"
    words = ["calibrate", tiny_bundle, "--adapt", source, "-o", output, "--precision", "fp32", "--json"]
    return output, CliRunner(env={"COLUMNS": "300"}).invoke(app, [*map(str, words)])


@pytest.fixture(scope="module")
def changed(done: tuple[Path, Result]) -> Path:
    return done[0]


def spread(seed: int, dimensions: int) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    return Moments(torch.randn(dimensions, generator=generator, dtype=torch.float64), root @ root.T)


def test_the_map_gives_one_source_the_moments_of_the_other() -> None:
    own, training = spread(1, 5), spread(2, 5)
    # So many images that those of the training reals no longer count.
    map_ = between(own, training, 10**9)
    matrix = map_.matrix.double()
    torch.testing.assert_close(matrix @ own.covariance @ matrix.T, training.covariance, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(matrix @ own.mean + map_.offset, training.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(matrix, matrix.T)


def test_a_source_that_is_like_the_training_reals_is_left_alone() -> None:
    training = spread(3, 4)
    map_ = between(training, training, 50)
    torch.testing.assert_close(map_.matrix, torch.eye(4), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(map_.offset, torch.zeros(4), rtol=1e-5, atol=1e-5)


def test_few_images_move_the_spread_less_than_many_and_the_mean_as_much() -> None:
    training = Moments(torch.zeros(2), torch.eye(2))
    own = Moments(torch.tensor([3.0, 0.0]), 4 * torch.eye(2))
    few, many = between(own, training, PRIOR_IMAGES), between(own, training, 10**6)
    assert float(many.matrix[0, 0]) == pytest.approx(0.5, abs=1e-3)
    assert float(few.matrix[0, 0]) == pytest.approx(2.5**-0.5, abs=1e-3)  # the variance 4 counts as much as 1
    for map_ in (few, many):
        torch.testing.assert_close(map_(own.mean[None, :, None, None]).flatten(), training.mean, rtol=0, atol=1e-5)


def test_a_direction_without_variance_stays_finite() -> None:
    flat = Moments(torch.zeros(3), torch.diag(torch.tensor([1.0, 1.0, 0.0])))
    for own, training in ((flat, spread(4, 3)), (spread(4, 3), flat), (flat, flat)):
        map_ = between(own, training, 50)
        assert bool(map_.matrix.isfinite().all())
        assert float(map_.matrix.abs().max()) < 1e4


@pytest.mark.parametrize("normalisation", Normalisation)
@pytest.mark.parametrize("dimensions", [0, 3])
def test_a_projection_holds_the_moments_of_what_it_gives(dimensions: int, normalisation: Normalisation) -> None:
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(40, 6, 2, 2, generator=generator) @ torch.randn(2, 2, generator=generator) + 1
    projection = fit_projection([pooled], FeatureSpec(dimensions=dimensions, grid=2, normalisation=normalisation))
    vectors = projection(pooled).movedim(1, -1).reshape(-1, projection.dimensions).double()
    assert projection.moments is not None
    torch.testing.assert_close(projection.moments.mean.double(), vectors.mean(dim=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(projection.moments.covariance.double(), vectors.T.cov(), rtol=1e-4, atol=1e-4)


def test_without_a_flow_the_density_of_single_reals_stands_for_stored_moments(tiny_bundle: Path) -> None:
    (branch,) = load(tiny_bundle).branches.values()
    head = branch.layer_heads()[0]
    stored = training_moments(branch)[0]
    assert torch.equal(stored.covariance, head.projection.moments.covariance)
    for one in branch.layer_heads():
        one.projection.moments = None
    with pytest.raises(CannotAdapt, match="its branch main holds no moments of the training reals: fit it again"):
        training_moments(branch)
    target = replace(branch.spec.target, kind=TargetKind.MU, images_per_average=1)
    branch.spec = replace(branch.spec, flow=replace(branch.spec.flow, steps=0), target=target)
    for one, moments in zip(branch.layer_heads(), training_moments(branch), strict=True):
        inverse = one.density.precisions_cholesky[0] @ one.density.precisions_cholesky[0].T
        torch.testing.assert_close(moments.covariance @ inverse, torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0)
        torch.testing.assert_close(moments.mean, one.density.means[0])


def test_the_images_that_adapt_get_the_moments_of_the_training_reals(changed: Path, source: Path) -> None:
    detector = load(changed)
    (branch,) = detector.branches.values()
    used = {bytes(row).hex() for row in detector.adapted_to}
    spec = detector.load_spec(InputSpec(), FP32, place(FP32))
    views = [
        item.views["main"]
        for item in load_images(find([str(source)], InputSpec()), spec)
        if isinstance(item, Loaded) and item.facts.sha256 in used
    ]
    pooled = branch.encoder(torch.from_numpy(np.concatenate(views)).permute(0, 3, 1, 2))
    for head, training, maps in zip(branch.layer_heads(), training_moments(branch), pooled, strict=True):
        before, after = (
            part(maps).movedim(1, -1).reshape(-1, 6)
            for part in (head.projection.with_adaptation(None), head.projection)
        )
        scale = training.covariance.diagonal().sqrt()
        assert float(((before.mean(dim=0) - training.mean) / scale).abs().max()) > 0.5
        assert float(((after.mean(dim=0) - training.mean) / scale).abs().max()) < 1e-3
        # The spread is shrunk towards that of the training reals, so it comes close.
        off = [
            float((part.T.cov() - training.covariance).norm() / training.covariance.norm()) for part in (before, after)
        ]
        assert off[1] < 0.75 * off[0]


def test_only_the_projections_change_and_the_bundle_says_to_what(tiny_bundle: Path, changed: Path) -> None:
    before, after = load(tiny_bundle), load(changed)
    kept = {name: tensor for name, tensor in after.tensors().items() if "adapt" not in name}
    assert kept.keys() == before.tensors().keys()
    assert all(torch.equal(tensor, before.tensors()[name]) for name, tensor in kept.items())
    assert after.fingerprint != before.fingerprint
    named = after.provenance.adaptation
    assert named is not None
    digests = sorted(bytes(row).hex() for row in after.adapted_to)
    assert (named.images, named.digest) == (50, source_digest(digests))
    assert replace(after.provenance, adaptation=None) == before.provenance
    assert len(after.calibration) == COUNT - 50
    assert not {facts.sha256 for facts in after.calibration.facts} & set(digests)
    assert set(digests) <= known_to(after).fitted
    assert len(known_to(after).fitted_near) == len(after.fitted_on) + 50


def test_an_adapted_detector_is_stored_and_refused_when_its_provenance_is_false(changed: Path, tmp_path: Path) -> None:
    detector = load(changed)
    save(detector, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == changed.read_bytes()
    false = replace(detector.provenance, adaptation=None)
    save(replace(detector, provenance=false), tmp_path / "false")
    with pytest.raises(BadBundle, match="names an adaptation that it does not hold"):
        load(tmp_path / "false")
    fewer = replace(detector.provenance.adaptation, images=49)
    save(replace(detector, provenance=replace(detector.provenance, adaptation=fewer)), tmp_path / "fewer")
    with pytest.raises(BadBundle, match="names other images than it was adapted to"):
        load(tmp_path / "fewer")


def test_neither_names_nor_order_nor_an_earlier_adaptation_matter(changed: Path, source: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(source.iterdir(), reverse=True)):
        shutil.copy(path, tmp_path / f"{number}.jpg")
    muflow_cli.calibrate(changed, adapt=tmp_path, output=tmp_path / "again", runtime=FP32)
    assert load(tmp_path / "again").fingerprint == load(changed).fingerprint
    assert load(tmp_path / "again").calibration.fingerprint() == load(changed).calibration.fingerprint()


def test_images_that_adapt_do_not_calibrate(tiny_bundle: Path, source: Path, tmp_path: Path) -> None:
    write_faces(tmp_path / "others", 20, seed=32)
    data = (source / "007.jpg").read_bytes()
    (tmp_path / "others" / "near.jpg").write_bytes(data + b"\0")  # the same photograph in other bytes
    summary = run(tiny_bundle, tmp_path / "out", tmp_path / "others", source, adapt=source)
    assert summary.adaptation is not None
    assert summary.adaptation.images == COUNT
    assert (summary.scored, summary.kept) == (20, 0)
    assert summary.left_out == {"adapted_to": COUNT, "near_copy": 1}
    again = run(tmp_path / "out", tmp_path / "later", tmp_path / "others", source)
    assert again.left_out == summary.left_out
    assert again.fingerprint == summary.fingerprint


def test_too_few_images_are_counted_before_anything_is_written(tiny_bundle: Path, source: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(source.iterdir())[:45]:
        shutil.copy(path, few)
    with pytest.raises(TooFewToAdapt) as caught:
        run(tiny_bundle, tmp_path / "out", adapt=few)
    assert str(caught.value) == (
        "--adapt needs 50 real images to adapt to and 19 to calibrate, found 45: add images, or give others to "
        "calibrate on as REAL"
    )
    with pytest.raises(TooFewToAdapt) as caught:
        run(tiny_bundle, tmp_path / "out", source, adapt=few)
    assert str(caught.value) == "--adapt needs 50 real images to adapt to, found 45: add images"
    with pytest.raises(IncompatibleOptions, match="--append cannot be combined with --adapt"):
        run(tiny_bundle, tmp_path / "out", source, adapt=source, append=True)
    assert [path.name for path in tmp_path.iterdir()] == ["few"]


def test_the_command_and_info_name_the_adaptation(done: tuple[Path, Result], tiny_bundle: Path) -> None:
    output, said = done
    assert said.exit_code == 0, said.stderr
    named = load(output).provenance.adaptation
    assert json.loads(said.stdout)["adaptation"]["digest"] == named.digest
    assert f"adapted        to 50 real images, SHA-256 of the set {named.digest}" in said.stderr
    assert "(changed, as scores do)" in said.stderr
    info = CliRunner().invoke(app, ["info", str(output)]).stdout
    assert f"adapted        {named.created} to 50 real images" in info
    assert "adapted" not in CliRunner().invoke(app, ["info", str(tiny_bundle)]).stdout


def test_adapted_tensors_give_the_projection_back() -> None:
    projection = fit_projection([torch.randn(20, 4, 2, 2)], FeatureSpec(dimensions=3, grid=2))
    own = projection.with_adaptation(Adaptation(torch.randn(3, 3), torch.randn(3)))
    again = Projection.empty(4, 3, adapted=True)
    again.load_state_dict(own.state_dict(), assign=True)
    x = torch.randn(5, 4, 2, 2)
    assert torch.equal(again(x), own(x))
    assert not torch.equal(own(x), projection(x))


def test_the_branch_that_was_given_does_not_change(tiny_bundle: Path) -> None:
    (branch,) = load(tiny_bundle).branches.values()
    before = {name: tensor.clone() for name, tensor in branch.state_dict().items()}
    adapted(branch, training_moments(branch), 50)
    assert branch.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in branch.state_dict().items())
