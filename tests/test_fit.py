from __future__ import annotations

import hashlib
import json
import math
import random
import re
import shutil
import signal
import subprocess
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, Muflow, draw_face, fit_arguments, write_faces
from scan_runs import begun, environment, forked

import muflow_cli
from muflow_cli.bundle import load
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import place
from muflow_cli.engine.scoring import ScoredUnit, score_stream
from muflow_cli.errors import BadSpec, CannotWrite
from muflow_cli.fit import FitRequest, fit
from muflow_cli.fit.features import work_bytes
from muflow_cli.fit.split import images_needed
from muflow_cli.images.find import find
from muflow_cli.images.loader import Loaded, LoadSpec
from muflow_cli.images.loader import load as load_images
from muflow_cli.presets import LIGHT, PAPER
from muflow_cli.progress import NoProgress
from muflow_cli.run_specs import InputSpec
from muflow_cli.settings import override, with_branches
from muflow_cli.specs import DetectorSpec, TargetKind

DiskUsage = namedtuple("DiskUsage", ("total", "used", "free"))


def tiny_request(reals: Path, weights: Path, spec: DetectorSpec, output: Path) -> FitRequest:
    return FitRequest(reals=(str(reals),), output=output, spec=spec, weights={"main": weights}, runtime=FP32)


def test_the_same_images_and_seed_give_the_same_fingerprints(
    muflow: Muflow, reals: Path, tiny_weights: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    # The fixture was fitted in this process; this one in another, from renamed copies in another order.
    copies = tmp_path / "copies"
    copies.mkdir()
    for index, path in enumerate(sorted(reals.iterdir(), reverse=True)):
        shutil.copy(path, copies / f"{index:03}-{path.stem}")
    output = tmp_path / "again.safetensors"
    # Its training may be shorter, since order decides which images meet in a batch, so the flow may differ anyway.
    shorter = ["--set", "train.epochs=1", "--set", "target.n_averages=20"]
    done = muflow(*fit_arguments(copies, tiny_weights, output), *shorter, "--json")
    assert done.returncode == 0, done.stderr
    first, again = load(tiny_bundle), load(output)
    summary = json.loads(done.stdout)
    assert summary["used"] == 80
    assert again.fitted_on.tolist() == first.fitted_on.tolist()
    assert again.calibration.source_digest == first.calibration.source_digest
    # From the same folder nothing may differ.
    repeated = muflow(*fit_arguments(reals, tiny_weights, tmp_path / "third.safetensors"), "--json")
    assert json.loads(repeated.stdout)["fingerprint"] == first.fingerprint
    assert json.loads(repeated.stdout)["calibration_fingerprint"] == first.calibration.fingerprint()


def test_training_and_calibration_images_are_apart(tiny_bundle: Path) -> None:
    detector = load(tiny_bundle)
    fitted = {bytes(row).hex() for row in detector.fitted_on}
    assert not fitted & {facts.sha256 for facts in detector.calibration.facts}
    assert len(fitted) == detector.provenance.train + detector.provenance.validation


def scan_scores(detector: Detector, folder: Path) -> dict[str, np.ndarray]:
    """Content hash -> columns of every image in `folder`, read and scored as a scan does."""
    spec = LoadSpec(views=detector.views, inputs=InputSpec(), workers=1, ahead=8)
    loaded = load_images(find((str(folder),), InputSpec()), spec)
    stream = score_stream(loaded, detector.scorer(place(FP32)))
    return {
        item.unit.facts.sha256: item.columns
        for item in stream
        if isinstance(item, ScoredUnit) and isinstance(item.unit, Loaded)
    }


def test_stored_calibration_scores_are_those_that_a_scan_gives(tiny_bundle: Path, reals: Path) -> None:
    detector = load(tiny_bundle)
    scanned = scan_scores(detector, reals)
    rows = np.stack([scanned[facts.sha256] for facts in detector.calibration.facts])
    np.testing.assert_allclose(rows, detector.calibration.scores, rtol=1e-6)


def test_a_fit_that_is_killed_and_resumed_ends_in_the_same_bundle(
    muflow: Muflow, reals: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    longer = ["--set", "train.epochs=16", "--set", "train.stop_patience=16", "--set", "target.n_averages=20"]
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert muflow(*fit_arguments(reals, tiny_weights, whole), *longer).returncode == 0
    work = tmp_path / "broken.safetensors.work"
    checkpoint = work / "branch.main" / "checkpoint.safetensors"
    words = forked(*fit_arguments(reals, tiny_weights, broken), *longer)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, env=environment())
    deadline = time.monotonic() + 200
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(3).random() * 0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # the fork ends after its caller
    assert not broken.exists(), "the run ended before it could be killed"
    resumed = muflow(*fit_arguments(reals, tiny_weights, broken), *longer, "--resume")
    assert (resumed.returncode, resumed.stdout) == (0, b"")
    assert load(broken).fingerprint == load(whole).fingerprint
    assert not work.exists()


def test_the_disk_that_a_fit_takes_is_stated_before_it_starts_and_holds(
    reals: Path, tiny_weights: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "d.safetensors"
    longer = ["--set", "view.size=128", "--set", "train.epochs=100", "--set", "train.stop_patience=100"]
    words = forked(*fit_arguments(reals, tiny_weights, output), *longer)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, env=environment())
    work = tmp_path / "d.safetensors.work"
    deadline = time.monotonic() + 200
    while not (work / "branch.main" / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTSTP)
    taken = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    process.kill()
    taken += tiny_bundle.stat().st_size  # which comes last
    stated = re.search(
        rb"fitting to 80 images takes up to (\d+) MiB of disk; \d+ MiB are free", process.communicate()[1]
    )
    assert stated is not None
    assert taken <= int(stated[1]) * 2**20 < 1.2 * taken + 2**20


def test_a_fit_that_cannot_find_room_is_refused_before_it_reads(
    reals: Path, tiny_spec: DetectorSpec, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = work_bytes(tiny_spec, 80)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: DiskUsage(2 * needed, needed + 1, needed - 1))
    with pytest.raises(CannotWrite) as caught:
        fit(tiny_request(reals, tiny_weights, tiny_spec, tmp_path / "d"))
    stated = f"fitting to 80 images takes up to {math.ceil(needed / 2**20)} MiB of disk, but only"
    assert stated in caught.value.problem
    assert caught.value.remedy == "choose a writable folder with enough free space"
    assert not left(tmp_path)


def test_without_resume_an_unfinished_fit_is_not_overwritten_and_resume_needs_one(
    muflow: Muflow, reals: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    output = tmp_path / "d.safetensors"
    (tmp_path / "d.safetensors.work").mkdir()
    done = muflow(*fit_arguments(reals, tiny_weights, output))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"is left over from an unfinished fit: continue it with --resume, or start again with --force" in done.stderr
    done = muflow(*fit_arguments(reals, tiny_weights, tmp_path / "other"), "--resume")
    assert done.returncode == 2
    assert b"there is no unfinished fit" in done.stderr


def test_a_folder_that_is_not_there_is_one_sentence(muflow: Muflow, tiny_weights: Path, tmp_path: Path) -> None:
    done = muflow(*fit_arguments(tmp_path / "nowhere", tiny_weights, tmp_path / "d.safetensors"))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"nowhere' does not exist: check the spelling and the folder" in done.stderr


def test_bad_reals_are_skipped_and_counted(muflow: Muflow, reals: Path, tiny_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(reals, folder)
    first = folder / "0000.jpg"
    shutil.copy(first, folder / "the same again.jpg")
    (folder / "cut.jpg").write_bytes(first.read_bytes()[:-400])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not an input")
    (folder / "no extension").write_bytes((folder / "0001.jpg").read_bytes())
    (folder / "0001.jpg").unlink()
    output = tmp_path / "d.safetensors"
    done = muflow(*fit_arguments(folder, tiny_weights, output), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["used"] == 80
    assert summary["skipped"] == {"duplicate": 1, "empty": 1, "not_an_image": 1, "truncated": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.safetensors", "mixed"]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_too_few_images_say_how_many_and_why(muflow: Muflow, tiny_weights: Path, tmp_path: Path) -> None:
    write_faces(tmp_path / "few", 12, seed=9)
    done = muflow(*fit_arguments(tmp_path / "few", tiny_weights, tmp_path / "d.safetensors"))
    assert done.returncode == 2
    assert b"fit needs at least 48 real images" in done.stderr
    assert b"needs 19" in done.stderr
    assert b"found 12" in done.stderr
    assert left(tmp_path) == ["few"]


def test_nothing_readable_is_one_sentence_and_leaves_nothing(
    muflow: Muflow, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    for index in range(48):
        (tmp_path / "bad" / f"{index}.jpg").write_bytes(b"nothing")
    done = muflow(*fit_arguments(tmp_path / "bad", tiny_weights, tmp_path / "d.safetensors"))
    assert done.returncode == 2
    assert b"48 not_an_image" in done.stderr
    assert b"Traceback" not in done.stderr
    assert left(tmp_path) == ["bad"]
    done = muflow(*fit_arguments(tmp_path / "absent", tiny_weights, tmp_path / "d.safetensors"))
    assert done.returncode == 2
    assert b"does not exist" in done.stderr
    assert left(tmp_path) == ["bad"]


def test_outputs_that_cannot_be_are_refused_before_anything_is_read(
    muflow: Muflow, reals: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    for output, words in (
        (taken, b"exists: choose another name, or replace it with --force"),
        (tmp_path / "no" / "folder" / "d.safetensors", b"No such file or directory"),
        (Path("/proc/d.safetensors"), b"cannot write /proc/d.safetensors"),
        (tmp_path, b"it is a folder"),
    ):
        done = muflow(*fit_arguments(reals, tiny_weights, output))
        assert (done.returncode, done.stdout) == (2, b"")
        assert words in done.stderr
        assert done.stderr.count(b"\n") == 1
    assert taken.read_bytes() == b"mine"
    assert left(tmp_path) == ["taken.safetensors"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--preset", "huge"], "--preset is huge: use one of light, lite, paper"),
        (["--set", "feature.encoder=vgg"], "encoder is vgg: use one of resnet18"),
        (["--set", "flow.steps=-2"], "steps is -2: use a value from 0 to 256"),
        (["--set", "nothing"], "NAME=VALUE"),
        (["--alpha", "1.5"], "alpha is 1.5"),
        (["--components", "many"], "--components is many"),
        (["--device", "abacus"], "device is abacus"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    reals: Path,
    tiny_weights: Path,
    tmp_path: Path,
    words: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert begun([*fit_arguments(reals, tiny_weights, tmp_path / "d.safetensors"), *words], monkeypatch) == 2
    shown, said = capsys.readouterr()
    assert shown == ""
    assert sentence in said
    assert "Traceback" not in said
    assert not left(tmp_path)


def test_a_conformal_rule_needs_enough_calibration_images() -> None:
    needed, why = images_needed(LIGHT)
    assert needed == 260  # 15 % of 260 are 39, and (1 + 0) / (39 + 1) on each side is alpha / 2
    assert "39" in why


def test_the_published_averages_need_that_many_training_images() -> None:
    needed, why = images_needed(PAPER)
    assert needed == 715  # 70 % of 715 are 500
    assert "an average is over 500" in why


@pytest.mark.parametrize(
    "settings",
    [
        ["flow.steps=0"],
        ["target.kind=normal"],
        ["target.score_kind=mahalanobis"],
        ["feature.grid=1", "feature.dimensions=0"],
        ["feature.grid=0", "feature.normalisation=layernorm", "feature.dimensions=0", "flow.kernels=3,1"],
        ["view.kind=crops", "view.fit_count=2", "view.count=4"],
        ["target.components=0", "target.max_vectors=60"],
        ["flow.volume_preserving=true", "flow.kernels=3"],
        ["flow.spectral_penalty=0.01", "train.selection=held-out"],
    ],
)
def test_every_kind_of_detector_fits_and_scores(
    reals: Path, tiny_weights: Path, tmp_path: Path, tiny_spec: DetectorSpec, settings: list[str]
) -> None:
    spec = override(tiny_spec, [*settings, "train.epochs=1"])
    output = tmp_path / "d.safetensors"
    summary = fit(FitRequest(reals=(str(reals),), output=output, spec=spec, weights={"main": tiny_weights}))
    detector = load(output)
    assert detector.fingerprint == summary.fingerprint
    assert np.isfinite(detector.calibration.scores).all()
    if spec.branches[0].target.kind is TargetKind.MU:
        assert summary.provenance.branches["main"].effective_sample_size > 1


def two_branches(spec: DetectorSpec) -> DetectorSpec:
    """The tiny spec beside fixed filters on native crops of another size."""
    grain = (
        "grain=forensic,view.kind=crops,view.size=32,view.count=3,view.fit_count=2,feature.layers=full,feature.grid=0"
    )
    (added,) = with_branches(spec, [grain]).branches
    return DetectorSpec(branches=(*spec.branches, added), train=spec.train, rule=spec.rule)


@pytest.fixture(scope="module")
def two_branch_bundle(
    tmp_path_factory: pytest.TempPathFactory, reals: Path, tiny_weights: Path, tiny_spec: DetectorSpec
) -> Path:
    output = tmp_path_factory.mktemp("two") / "two.safetensors"
    spec = two_branches(tiny_spec)
    fit(FitRequest(reals=(str(reals),), output=output, spec=spec, weights={"main": tiny_weights}, runtime=FP32))
    return output


def test_two_branches_are_fitted_calibrated_together_and_scanned(
    two_branch_bundle: Path, tiny_bundle: Path, reals: Path
) -> None:
    detector, alone = load(two_branch_bundle), load(tiny_bundle)
    assert detector.columns == ("main/layer1", "main/layer2", "grain/full")
    assert set(detector.provenance.branches) == {"main", "grain"}
    assert detector.calibration.columns == detector.columns
    scanned = scan_scores(detector, reals)
    rows = np.stack([scanned[facts.sha256] for facts in detector.calibration.facts])
    assert np.isfinite(rows).all()
    # A scan looks at crops on a grid, a fit at random ones; where the view is the whole image, they are one.
    np.testing.assert_allclose(rows[:, :2], detector.calibration.scores[:, :2], rtol=1e-6)
    # A branch is what it would be by itself.
    own = detector.branches["main"].state_dict()
    assert all(np.array_equal(own[name], tensor) for name, tensor in alone.branches["main"].state_dict().items())
    np.testing.assert_allclose(detector.calibration.scores[:, :2], alone.calibration.scores, rtol=1e-6)


class Interrupt(NoProgress):
    """Stops a fit as the keyboard does, at a stage."""

    def __init__(self, stage: str, after: int) -> None:
        self.wanted, self.left, self.now = stage, after, ""

    def stage(self, name: str, total: int | None) -> None:  # noqa: ARG002 - a listener's signature
        self.now = name

    def advance(self, steps: int = 1) -> None:  # noqa: ARG002 - likewise
        self.left -= self.now == self.wanted
        if self.left < 0:
            raise KeyboardInterrupt


def test_two_branches_interrupted_anywhere_and_resumed_end_in_the_same_bundle(
    two_branch_bundle: Path, reals: Path, tiny_weights: Path, tiny_spec: DetectorSpec, tmp_path: Path
) -> None:
    output = tmp_path / "two.safetensors"
    spec = two_branches(tiny_spec)
    request = FitRequest(reals=(str(reals),), output=output, spec=spec, weights={"main": tiny_weights}, runtime=FP32)
    stages = [("main encode", 0), ("main train", 2), ("grain encode", 0), ("grain train", 1), ("calibrate", 3)]
    for number, (stage, after) in enumerate(stages):
        with pytest.raises(KeyboardInterrupt):
            fit(replace(request, resume=number > 0), Interrupt(stage, after))
        assert not output.exists()
    fit(replace(request, resume=True))
    again, whole = load(output), load(two_branch_bundle)
    assert again.fingerprint == whole.fingerprint
    assert again.calibration.fingerprint() == whole.calibration.fingerprint()
    assert left(tmp_path) == ["two.safetensors"]


def test_weights_for_a_branch_that_does_not_exist_are_refused_before_anything_is_read(
    reals: Path, tiny_weights: Path, tiny_spec: DetectorSpec, tmp_path: Path
) -> None:
    request = FitRequest(reals=(str(reals),), output=tmp_path / "d", spec=tiny_spec, weights={"other": tiny_weights})
    with pytest.raises(BadSpec, match=r"other=.*: use the name of a branch, main"):
        fit(request)
    assert left(tmp_path) == []


def test_the_disk_that_two_branches_take_is_counted_for_both(tiny_spec: DetectorSpec) -> None:
    both, main = two_branches(tiny_spec), tiny_spec
    grain = replace(tiny_spec, branches=both.branches[1:])
    index = 80 * (1024 + 256)  # one for both, and one row in the bundle
    assert work_bytes(both, 80) == work_bytes(main, 80) + work_bytes(grain, 80) - index


def test_info_shows_what_the_bundle_holds(muflow: Muflow, tiny_bundle: Path) -> None:
    done = muflow("info", tiny_bundle, "--json")
    shown, detector = json.loads(done.stdout), load(tiny_bundle)
    assert done.returncode == 0
    assert shown["fingerprint"] == detector.fingerprint
    assert (shown["format"], shown["provenance_covered"]) == (2, True)
    sha256 = hashlib.sha256(tiny_bundle.read_bytes()).hexdigest()
    assert shown["file_sha256"] == sha256
    assert shown["provenance"]["train"] == detector.provenance.train
    assert shown["calibration"]["images"] == len(detector.calibration)
    text = muflow("info", tiny_bundle)
    assert sha256.encode() in text.stdout
    assert detector.fingerprint.encode() in text.stdout


@pytest.mark.parametrize("content", [b"", b"not a bundle", bytes(1000)])
def test_info_on_something_else_is_one_sentence(muflow: Muflow, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    done = muflow("info", tmp_path / "x")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"truncated, damaged or not a safetensors file" in done.stderr


def test_averages_of_one_image_are_the_images_themselves(
    tmp_path: Path, reals: Path, tiny_weights: Path, tiny_spec: DetectorSpec
) -> None:
    """The density is that of the training reals, and nothing is encoded again."""
    spec = override(tiny_spec, ["target.images_per_average=1", "flow.steps=0", "feature.joint=true"])
    output = tmp_path / "one.safetensors"
    request = FitRequest(reals=(str(reals),), output=output, spec=spec, weights={"main": tiny_weights}, runtime=FP32)
    summary = fit(request)
    assert "encode averages" not in summary.seconds
    detector = load(output)
    assert detector.spec == replace(spec, rule=detector.calibration.rule)
    for head in detector.branches["main"].layer_heads():
        # The projected training reals are centred, and so is their density.
        torch.testing.assert_close(head.density.means, torch.zeros_like(head.density.means), atol=1e-4, rtol=0)
        assert head.projection.mean.shape[0] in {64 * 4, 128 * 4}


def test_a_fit_with_crops_calibrates_on_the_crops_of_a_scan(
    tmp_path: Path, tiny_weights: Path, tiny_spec: DetectorSpec
) -> None:
    folder = tmp_path / "reals"
    folder.mkdir()
    generator = np.random.default_rng(8)
    for number in range(60):
        draw_face(generator, 100).save(folder / f"{number}.png")
    spec = override(tiny_spec, ["view.kind=crops", "view.size=64", "view.count=4", "view.fit_count=2", "flow.steps=0"])
    output = tmp_path / "crops.safetensors"
    fit(FitRequest(reals=(str(folder),), output=output, spec=spec, weights={"main": tiny_weights}, runtime=FP32))
    calibration = load(output).calibration
    scanned = {r.facts.sha256: r.column_scores for r in muflow_cli.scan(folder, output, runtime=FP32)}
    for facts, scores in zip(calibration.facts, calibration.scores, strict=True):
        assert scores == pytest.approx(scanned[facts.sha256], abs=1e-6)
