from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muflow_cli.bundle import FORMAT, check_writable, load, save, write_atomically
from muflow_cli.detector import Detector
from muflow_cli.engine.scoring import place
from muflow_cli.errors import BadBundle, CannotWrite, OutputExists
from muflow_cli.specs import Precision


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


def views() -> list[np.ndarray]:
    return list(np.random.default_rng(3).integers(0, 256, size=(5, 1, 64, 64, 3), dtype=np.uint8))


def rewrite_head(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the JSON that muflow wrote, leaving the tensors alone."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    head = json.loads(header["__metadata__"]["muflow"])
    change(head)
    header["__metadata__"]["muflow"] = json.dumps(head)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def rename_tensor(path: Path, old: str, new: str) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header[new] = header.pop(old)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_save_then_load_scores_the_same(detector: Detector, tmp_path: Path) -> None:
    save(detector, tmp_path / "again.safetensors")
    again = load(tmp_path / "again.safetensors")
    placement = place("cpu", Precision.FP32)
    scores = [d.scorer(placement).scale_scores(views()) for d in (detector, again)]
    assert np.array_equal(*scores)
    assert again.fingerprint == detector.fingerprint
    assert again.calibration is not None
    assert detector.calibration is not None
    assert again.calibration.fingerprint() == detector.calibration.fingerprint()
    assert again.provenance == detector.provenance


def test_the_same_detector_gives_the_same_bytes(detector: Detector, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(detector, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_fingerprint_follows_every_tensor_and_the_spec(detector: Detector) -> None:
    changed = replace(detector, spec=replace(detector.spec, preset="other"))
    assert changed.fingerprint != detector.fingerprint
    fewer = replace(detector, fitted_on=detector.fitted_on[1:])
    assert fewer.fingerprint != detector.fingerprint


def test_a_calibration_leaves_the_fingerprint_alone(detector: Detector) -> None:
    assert replace(detector, calibration=None).fingerprint == detector.fingerprint


def test_an_existing_file_is_replaced_only_with_force(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExists, match="--force"):
        save(detector, path)
    assert path.read_bytes() == b"mine"
    save(detector, path, force=True)
    assert load(path).fingerprint == detector.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


def test_a_place_that_cannot_be_written_is_refused_and_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="cannot write /proc/none/file"):
        write_atomically(Path("/proc/none/file"), b"x", force=False)
    with pytest.raises(CannotWrite):
        check_writable(tmp_path, force=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 0.5, -1])
def test_a_truncated_bundle_is_one_sentence(tiny_bundle: Path, tmp_path: Path, keep: float) -> None:
    data = tiny_bundle.read_bytes()
    length = int(len(data) * keep) if isinstance(keep, float) else keep
    (tmp_path / "cut").write_bytes(data[:length])
    with pytest.raises(BadBundle, match=r"cut is truncated, damaged or not a safetensors file: get the file again"):
        load(tmp_path / "cut")


def test_other_files_are_told_apart(tmp_path: Path, tiny_weights: Path) -> None:
    with pytest.raises(BadBundle, match="not a muflow detector"):
        load(tiny_weights)
    with pytest.raises(BadBundle, match="is not a file"):
        load(tmp_path)
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(BadBundle, match="not a safetensors file"):
        load(tmp_path / "note.txt")


def test_a_newer_format_says_upgrade(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "new"
    path.write_bytes(tiny_bundle.read_bytes())
    rewrite_head(path, lambda head: head.update(format=FORMAT + 1))
    with pytest.raises(BadBundle, match=rf"has format {FORMAT + 1}, this muflow reads up to {FORMAT}: upgrade"):
        load(path)


@pytest.mark.parametrize(
    "tensor",
    [
        "encoder.conv1.weight",
        "space.layer1.mean",
        "flow.layer2.step0.bias_in",
        "target.layer1.means",
        "fitted_on",
        "calibration.scores",
    ],
)
def test_a_missing_tensor_is_one_sentence(tiny_bundle: Path, tmp_path: Path, tensor: str) -> None:
    path = tmp_path / "gone"
    path.write_bytes(tiny_bundle.read_bytes())
    rename_tensor(path, tensor, "calibration.other" if tensor.startswith("calibration") else "other")
    with pytest.raises(BadBundle, match=r"gone (lacks|is inconsistent|is damaged)"):
        load(path)


@pytest.mark.parametrize("part", ["spec", "provenance", "calibration", "fingerprint", "calibration_fingerprint"])
def test_a_head_without_a_part_is_one_sentence(tiny_bundle: Path, tmp_path: Path, part: str) -> None:
    path = tmp_path / "headless"
    path.write_bytes(tiny_bundle.read_bytes())
    rewrite_head(path, lambda head: head.pop(part))
    with pytest.raises(BadBundle, match="headless"):
        load(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_never_overlooked(tiny_bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(tiny_bundle.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    place_ = data.draw(st.integers(0, 8 + length - 1) | st.integers(8 + length, len(content) - 1))
    content[place_] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "flipped"
    path.write_bytes(content)
    try:
        again = load(path)
    except BadBundle:
        return
    # A bit of white space or of the record of where it comes from may flip unseen; nothing that decides a score may.
    assert again.fingerprint == load(tiny_bundle).fingerprint
