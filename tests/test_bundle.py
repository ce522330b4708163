from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from safetensors.torch import save as to_safetensors

from muflow_cli.bundle import FORMAT, load, save
from muflow_cli.canonical import canonical_json
from muflow_cli.claims import check_outputs
from muflow_cli.detector import Detector, hash_tensors
from muflow_cli.engine.devices import place
from muflow_cli.errors import BadBundle, CannotWrite, OutputExists
from muflow_cli.files import OutputFile
from muflow_cli.run_specs import Precision, Runtime
from muflow_cli.tensor_file import DTYPES, write

DEFAULT = Path(__file__).parents[1] / "weights" / "default.safetensors"


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


def scores(detector: Detector) -> np.ndarray:
    ((name, view),) = detector.views.items()
    shape = (5, 1, view.size, view.size, 3)
    images = [{name: views} for views in np.random.default_rng(3).integers(0, 256, size=shape, dtype=np.uint8)]
    scorer = detector.scorer(place(Runtime(device="cpu", precision=Precision.FP32)))
    return np.stack([one.columns for one in scorer.submit(images).result()])


def write_bundle(path: Path, tensors: dict[str, torch.Tensor], head: str) -> None:
    """A bundle in the only spelling that is read, whatever its head says; types that no bundle has need the library."""
    if not all(tensor.dtype in DTYPES.values() for tensor in tensors.values()):
        save_file(tensors, path, {"muflow": head})
        return
    with OutputFile(path, "wb") as stream:
        write(stream, {name: tensor.contiguous() for name, tensor in tensors.items()}, {"muflow": head})


def canonical(head: dict[str, Any]) -> str:
    """The one spelling of a head; of one with NaN, which has none, the nearest."""
    return json.dumps(head, sort_keys=True, separators=(",", ":"))


def split_file(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and its tensors' bytes."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_file(path: Path, header: dict[str, Any], tensors: bytes) -> None:
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


def read_head(path: Path) -> dict[str, Any]:
    return json.loads(split_file(path)[0]["__metadata__"]["muflow"])


def with_head(source: Path, path: Path, text: str) -> Path:
    """A copy of the bundle `source` whose head is `text`."""
    header, tensors = split_file(source)
    header["__metadata__"]["muflow"] = text
    join_file(path, header, tensors)
    return path


def changed_head(source: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the bundle `source` with another head, its tensors and its digests left alone."""
    head = read_head(source)
    change(head)
    return with_head(source, path, canonical(head))


def forged(source: Path, path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> Path:
    """A copy of the bundle `source` by someone who made its digests match: only its content can give it away."""
    head, tensors = read_head(source), load_file(source)
    change(head, tensors)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("calibration.")}
    spec = {name: value for name, value in head["spec"].items() if name != "rule"}
    sealed = "head_sha256" in head
    with contextlib.suppress(ValueError):  # NaN has no canonical form, and so no digest
        head["fingerprint"] = hash_tensors(own, spec)
        if sealed:
            rest = {name: value for name, value in head.items() if name != "head_sha256"}
            head["head_sha256"] = hashlib.sha256(canonical_json(rest)).hexdigest()
    write_bundle(path, tensors, canonical(head))
    return path


def test_save_then_load_scores_the_same(detector: Detector, tmp_path: Path) -> None:
    save(detector, tmp_path / "again.safetensors")
    again = load(tmp_path / "again.safetensors")
    assert np.array_equal(scores(detector), scores(again))
    assert again.fingerprint == detector.fingerprint
    assert again.calibration.fingerprint() == detector.calibration.fingerprint()
    assert again.provenance == detector.provenance
    assert again.spec == detector.spec
    assert again.columns == detector.columns == ("main/layer1", "main/layer2")


def test_the_same_detector_gives_the_same_bytes(detector: Detector, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(detector, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_bundle_holds_the_state_dicts_of_its_branches(detector: Detector, tiny_bundle: Path) -> None:
    stored = load_file(tiny_bundle)
    expected = {f"branches.main.{key}" for key in detector.branches["main"].state_dict()}
    expected |= {"fitted_on", "fitted_near"}
    assert {name for name in stored if not name.startswith("calibration.")} == expected


def test_the_fingerprint_follows_every_tensor_and_the_spec(detector: Detector) -> None:
    changed = replace(detector, spec=replace(detector.spec, preset="other"))
    assert changed.fingerprint != detector.fingerprint
    fewer = replace(detector, fitted_on=detector.fitted_on[1:])
    assert fewer.fingerprint != detector.fingerprint
    found = {detector.fingerprint}
    settings_ = {"preset": "light"}
    tensors = detector.tensors()
    for name, tensor in tensors.items():
        other = tensor.clone()
        other.view(-1)[:1].view(torch.uint8)[0] ^= 1
        if tensor.numel():
            found.add(hash_tensors(tensors | {name: other}, settings_))
    assert len(found) == 1 + sum(tensor.numel() > 0 for tensor in tensors.values())


def test_a_rule_leaves_the_fingerprint_alone(detector: Detector) -> None:
    rule = replace(detector.spec.rule, alpha=0.2)
    other = replace(
        detector,
        spec=replace(detector.spec, rule=rule),
        calibration=replace(detector.calibration, rule=rule),
    )
    assert other.fingerprint == detector.fingerprint
    assert other.calibration.fingerprint() != detector.calibration.fingerprint()


def test_an_existing_file_is_replaced_only_with_force(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExists, match="--force"):
        save(detector, path)
    assert path.read_bytes() == b"mine"
    save(detector, path, force=True)
    assert load(path).fingerprint == detector.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


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
    path = changed_head(tiny_bundle, tmp_path / "new", lambda head: head.update(format=FORMAT + 1))
    with pytest.raises(BadBundle, match=rf"has format {FORMAT + 1}, but this muflow reads up to {FORMAT}: upgrade"):
        load(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"format":', '{"format": 0}', '{"format": true}', "[" * 100_000]
)
def test_a_head_that_says_nothing_is_one_sentence(tiny_bundle: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(BadBundle, match="headless has a damaged header: get the file again"):
        load(with_head(tiny_bundle, tmp_path / "headless", text))


@pytest.mark.parametrize(
    "tensor",
    [
        "branches.main.encoder.backbone.conv1.weight",
        "branches.main.heads.0.projection.mean",
        "branches.main.heads.1.flow.steps.0.bias_in",
        "branches.main.heads.0.density.means",
        "branches.main.heads.0.density.weights",
        "fitted_on",
        "calibration.scores",
    ],
)
def test_a_missing_tensor_is_one_sentence(tiny_bundle: Path, tmp_path: Path, tensor: str) -> None:
    path = forged(tiny_bundle, tmp_path / "gone", lambda _, tensors: tensors.pop(tensor))
    with pytest.raises(BadBundle, match=rf"gone lacks {tensor}: |gone is inconsistent \(the calibration "):
        load(path)


@pytest.mark.parametrize(
    "name", ["other", "branches.main.heads.2.density.means", "branches.other.x", "calibration.other", "branches.main.x"]
)
def test_a_tensor_that_belongs_to_nothing_is_one_sentence(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    path = forged(tiny_bundle, tmp_path / "more", lambda _, tensors: tensors.update({name: torch.zeros(3)}))
    with pytest.raises(BadBundle, match="more is inconsistent"):
        load(path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("branches.main.heads.0.projection.mean", torch.zeros(65)),
        ("branches.main.heads.0.projection.mean", torch.zeros(64, dtype=torch.float64)),
        ("branches.main.heads.0.projection.mean", torch.full((64,), torch.nan)),
        ("branches.main.heads.0.projection.mean", torch.zeros(64, dtype=torch.bfloat16)),
        ("branches.main.heads.0.projection.axes", torch.zeros(64, 7)),
        ("branches.main.heads.0.flow.steps.0.permutation", torch.zeros(6, dtype=torch.int64)),
        ("branches.main.heads.0.flow.steps.0.permutation", torch.arange(6, dtype=torch.int32)),
        ("branches.main.heads.0.flow.steps.0.permutation", torch.arange(6).float()),
        ("branches.main.heads.0.flow.steps.0.scale", torch.zeros(6)),
        ("branches.main.heads.0.density.weights", torch.ones(2, dtype=torch.float64)),
        ("branches.main.heads.0.density.means", torch.zeros(1, 6)),
        ("branches.main.encoder.backbone.conv1.weight", torch.zeros(1)),
        ("fitted_on", torch.zeros(4, 32)),
        ("fitted_on", torch.zeros(4, 31, dtype=torch.uint8)),
        ("fitted_on", torch.zeros(0)),
        ("calibration.scores", torch.zeros(3, 2, dtype=torch.float64)),
        ("calibration.scores", torch.zeros(3, 2, dtype=torch.bfloat16)),
    ],
)
def test_a_tensor_that_does_not_fit_is_one_sentence(
    tiny_bundle: Path, tmp_path: Path, name: str, tensor: torch.Tensor
) -> None:
    path = forged(tiny_bundle, tmp_path / "wrong", lambda _, tensors: tensors.update({name: tensor}))
    with pytest.raises(BadBundle, match=r"^[^:]*wrong is (inconsistent \([^:]*\)|truncated, damaged or [^:]*): [^:]*$"):
        load(path)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the scalars of a JSON value are."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, inner in enumerate(value) for leaf in leaves(inner, (*path, index))]
    return [path]


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, str):
        return f"{value[:-1]}{chr(ord(value[-1]) ^ 1)}" if value else "x"
    return value + 1


def test_every_value_of_the_head_is_covered_by_a_digest(tiny_bundle: Path, tmp_path: Path) -> None:
    head = read_head(tiny_bundle)
    for leaf in leaves(head):

        def change(head: dict[str, Any], leaf: tuple[Any, ...] = leaf) -> None:
            at: Any = head
            for key in leaf[:-1]:
                at = at[key]
            at[leaf[-1]] = other(at[leaf[-1]])

        with pytest.raises(BadBundle):
            load(changed_head(tiny_bundle, tmp_path / "changed", change))


@pytest.mark.parametrize(
    "part",
    ["format", "spec", "provenance", "calibration", "fingerprint", "calibration_fingerprint", "head_sha256"],
)
def test_a_head_without_a_part_is_one_sentence(tiny_bundle: Path, tmp_path: Path, part: str) -> None:
    path = changed_head(tiny_bundle, tmp_path / "headless", lambda head: head.pop(part))
    with pytest.raises(BadBundle, match=r"headless[^:]*: [^:]*$"):
        load(path)
    if part not in ("format", "head_sha256", "fingerprint"):
        path = forged(tiny_bundle, tmp_path / "forged", lambda head, _: without(head, part))
        with pytest.raises(BadBundle, match=r"forged[^:]*: [^:]*$"):
            load(path)


def without(head: dict[str, Any], part: str) -> None:
    """Remove a part of the head; of the spec, a part of that, since the digests need one."""
    if part == "spec":
        del head["spec"]["train"]
    else:
        del head[part]


def in_spec(*path: Any, value: Any) -> Callable[[dict[str, Any], object], None]:
    def change(head: dict[str, Any], _: object) -> None:
        at: Any = head["calibration" if path[0] == "rule" else "spec"]  # the rule is stored with the calibration
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


def in_flow(**changes: object) -> dict[str, object]:
    return {"steps": 2, "kernels": [1], "hidden_ratio": 1.0, "clamp": 2.0, "matched_init": True, **changes}


HOSTILE = [
    (("branches", 0, "flow", "steps"), 10**9),
    (("branches", 0, "flow", "steps"), -1),
    (("branches", 0, "flow", "kernels"), [10**9 + 1]),
    (("branches", 0, "flow", "kernels"), [1] * 10**6),
    (("branches", 0, "flow", "clamp"), float("nan")),
    (("branches", 0, "flow", "clamp"), float("inf")),
    (("branches", 0, "flow", "hidden_ratio"), 1e300),
    (("branches", 0, "feature", "grid"), 3000),
    (("branches", 0, "feature", "grid"), 9),  # of the smaller map of 8 x 8 positions
    (("branches", 0, "feature", "grid"), 10**9),
    (("branches", 0, "feature", "grid"), 1e30),
    (("branches", 0, "feature", "dimensions"), 10**12),
    (("branches", 0, "feature", "dimensions"), 10**4000),
    (("branches", 0, "feature", "encoder"), "a: b\nc"),
    (("branches", 0, "feature", "encoder"), []),
    (("branches", 0, "feature", "layers"), ["layer9"]),
    (("branches", 0, "feature", "layers"), "layer1"),
    (("branches", 0, "view", "size"), 8),
    (("branches", 0, "view", "size"), 20_000),
    (("branches", 0, "view", "size"), 10**6),
    (("branches", 0, "view"), {"kind": "crops", "size": 2048, "count": 4096, "fit_count": 4, "draft": False}),
    (("branches", 0, "flow"), in_flow(steps=256, kernels=[31], hidden_ratio=16.0)),
    (("branches", 0, "view", "count"), 10**12),
    (("branches", 0, "view", "size"), "64"),
    (("branches", 0, "target", "components"), 2**70),
    (("branches", 0, "name"), "../x"),
    (("branches",), []),
    (("branches",), {}),
    (("branches",), None),
    (("train", "seed"), -1),
    (("rule", "alpha"), 2),
    (("rule", "by"), ["colour"]),
    (("preset",), None),
    (("preset",), "half a pair \ud800"),
    (("colour",), 1),
]


@pytest.mark.parametrize(("path", "value"), HOSTILE, ids=[f"{p[-1]}={str(v)[:12]}" for p, v in HOSTILE])
def test_a_hostile_spec_is_one_sentence_at_once(
    tiny_bundle: Path, tmp_path: Path, path: tuple[Any, ...], value: object
) -> None:
    bundle = forged(tiny_bundle, tmp_path / "hostile", in_spec(*path, value=value))
    before, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadBundle, match=r"^[^:]*hostile [^:]*: [^:]*$") as caught:
        load(bundle)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert time.process_time() - before < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 * 1024  # KiB


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train": 3}, "counts other images"),
        ({"train_digest": "0" * 64}, "names another set of images"),
        ({"branches": {}}, "names other branches"),
        ({"created": "yesterday"}, "yesterday"),
    ],
)
def test_a_provenance_that_contradicts_the_rest_is_one_sentence(
    tiny_bundle: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = forged(tiny_bundle, tmp_path / "other", lambda head, _: head["provenance"].update(changes))
    with pytest.raises(BadBundle, match=rf"other is inconsistent \([^:]*{reason}[^:]*\): "):
        load(path)


def test_a_calibration_with_other_columns_is_one_sentence(tiny_bundle: Path, tmp_path: Path) -> None:
    def change(head: dict[str, Any], _: object) -> None:
        head["calibration"]["columns"] = ["main/layer1", "main/layer3"]

    # Its fingerprint is checked after its columns.
    with pytest.raises(BadBundle, match=r"holds the columns main/layer1, main/layer3, not those of the detector"):
        load(forged(tiny_bundle, tmp_path / "columns", change))


def spellings(text: bytes) -> dict[str, bytes]:
    """The same header in other ways, each of which every reader of JSON takes for the same."""
    head = json.loads(text)
    return {
        "padding": text + b" " * 8,
        "tab": text.rstrip() + b"\t" * (len(text) - len(text.rstrip())) if text.endswith(b" ") else text + b"\t" * 8,
        "white space": json.dumps(head).encode(),
        "order": json.dumps(dict(reversed(head.items())), separators=(",", ":")).encode(),
        "repeated key": text.replace(b"{", b'{"__metadata__":{"muflow":"{}"},', 1),
        "more metadata": text.replace(b'"muflow":', b'"more":"","muflow":', 1),
        "escape": text.replace(b"muflow", b"\\u006duflow", 1),
        "repeated format": text.replace(b'\\"format\\":', b'\\"format\\":1,\\"format\\":', 1),
        "infinite format": text.replace(b'\\"format\\":2', b'\\"format\\":Infinity', 1),
        "long number": text.replace(b'\\"format\\":2', b'\\"format\\":' + b"9" * 5000, 1),
        "brackets": b"[" * 100_000 + b"]" * 100_000,
    }


@pytest.mark.parametrize("name", spellings(b'{"__metadata__":{"muflow":"{\\"format\\":2}"}}'))
def test_another_spelling_of_the_header_is_refused(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    data = tiny_bundle.read_bytes()
    length = int.from_bytes(data[:8], "little")
    spelt = spellings(data[8 : 8 + length])[name]
    assert spelt != data[8 : 8 + length]
    (tmp_path / "spelt").write_bytes(len(spelt).to_bytes(8, "little") + spelt + data[8 + length :])
    with pytest.raises(BadBundle, match=r"^[^:]*spelt [^:]*: get the file again"):
        load(tmp_path / "spelt")


@pytest.mark.parametrize("length", [2**22, 2**32, 2**63])
def test_a_header_of_gigabytes_is_refused_unread(tmp_path: Path, length: int) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.write(length.to_bytes(8, "little") + b'{"')
        file.truncate(2**33)  # holds no data on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadBundle, match="not a safetensors file"):
        load(tmp_path / "huge")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB


def test_bytes_after_the_end_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "longer").write_bytes(tiny_bundle.read_bytes() + b"\0")
    with pytest.raises(BadBundle, match="longer is truncated, damaged"):
        load(tmp_path / "longer")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadBundle, match="pipe is not a file"):
        load(tmp_path / "pipe")


def test_a_detector_does_not_change_when_its_file_does(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "d"
    shutil.copy(tiny_bundle, path)
    detector, expected = load(path), load(tiny_bundle)
    assert detector.file is not None
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))  # as `cp other d` does, in place
    os.truncate(path, 0)  # mapped memory would end the process with SIGBUS
    assert np.array_equal(scores(detector), scores(expected))
    assert hash_tensors(detector.tensors(), {}) == hash_tensors(expected.tensors(), {})
    assert detector.file.sha256 == hashlib.sha256(content).hexdigest()


def test_a_copy_in_memory_is_not_the_file(detector: Detector) -> None:
    assert detector.file is not None
    assert replace(detector, fitted_on=detector.fitted_on[1:]).file is None


def test_the_library_of_the_format_writes_the_same_bytes(tiny_bundle: Path) -> None:
    header, _ = split_file(tiny_bundle)
    assert to_safetensors(load_file(tiny_bundle), header["__metadata__"]) == tiny_bundle.read_bytes()


@pytest.mark.parametrize("part", ["spec", "provenance", "calibration"])
def test_a_part_nested_a_hundred_thousand_deep_is_one_sentence(tiny_bundle: Path, tmp_path: Path, part: str) -> None:
    head = json.dumps(read_head(tiny_bundle) | {part: "HERE"}).replace('"HERE"', "[" * 100_000 + "]" * 100_000)
    with pytest.raises(BadBundle, match=r"deep (has a damaged header|is inconsistent)"):
        load(with_head(tiny_bundle, tmp_path / "deep", head))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_never_overlooked(tiny_bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(tiny_bundle.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    position = data.draw(st.integers(0, 8 + length - 1) | st.integers(8 + length, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "flipped"
    path.write_bytes(content)
    with pytest.raises(BadBundle):
        load(path)


def as_format_1(source: Path, path: Path) -> Path:
    """The bundle `source` in the names of muflow 0.1, with that version's fingerprints."""
    head, tensors = read_head(source), load_file(source)
    for name in ("fitted_near", "calibration.near_hash"):  # that version knew no near copies
        del tensors[name]
    (branch,) = head["spec"]["branches"]
    spec = {"preset": head["spec"]["preset"], "train": head["spec"]["train"], "rule": head["calibration"]["rule"]}
    spec |= {group: dict(branch[group]) for group in ("view", "feature", "flow", "target")}
    spec["feature"]["cuts"] = spec["feature"].pop("layers")
    spec["target"] |= {"mean_size": spec["target"].pop("images_per_average"), "means": spec["target"].pop("n_averages")}
    layers = [column.removeprefix("main/") for column in head["calibration"]["columns"]]
    old = {_old_name(name, layers): tensor for name, tensor in tensors.items()}
    own = {name: tensor for name, tensor in old.items() if not name.startswith("calibration.")}
    calibration = head["calibration"] | {"pictures": head["calibration"]["images"], "scales": len(layers)}
    for name in ("images", "columns"):
        del calibration[name]
    digest = hashlib.sha256(canonical_json({"rule": calibration["rule"], "formats": calibration["formats"]}))
    for name in sorted(name for name in old if name.startswith("calibration.")):
        array = old[name].numpy()
        digest.update(canonical_json([name.removeprefix("calibration."), array.dtype.str, list(array.shape)]))
        digest.update(array.tobytes())
    provenance = dict(head["provenance"])
    provenance |= provenance.pop("branches")["main"]
    for name in ("stopped", "selected"):  # nor why training ended
        provenance.pop(name, None)
    old_head = {
        "format": 1,
        "fingerprint": hash_tensors(own, {name: value for name, value in spec.items() if name != "rule"}),
        "spec": spec,
        "provenance": provenance,
        "calibration": calibration,
        "calibration_fingerprint": digest.hexdigest(),
    }
    write_bundle(path, old, canonical(old_head))
    return path


def _old_name(name: str, layers: list[str]) -> str:
    if not name.startswith("branches."):
        return name
    rest = name.removeprefix("branches.main.")
    if rest.startswith("encoder."):
        return rest.replace("encoder.backbone.", "encoder.", 1)
    _, index, part, key = rest.split(".", 3)
    group = {"projection": "space", "flow": "flow", "density": "target"}[part]
    key = "projection" if key == "axes" else key.replace("steps.", "step", 1)
    return f"{group}.{layers[int(index)]}.{key}"


def test_a_bundle_of_format_1_scores_as_it_did(detector: Detector, tiny_bundle: Path, tmp_path: Path) -> None:
    again = load(as_format_1(tiny_bundle, tmp_path / "old"))
    assert np.array_equal(scores(again), scores(detector))
    assert np.array_equal(again.calibration.scores, detector.calibration.scores)
    assert again.columns == detector.columns
    made = replace(detector.provenance.branches["main"], stopped="", selected=None)
    assert again.provenance == replace(detector.provenance, branches={"main": made})
    assert again.fingerprint == replace(detector, fitted_near=None).fingerprint
    save(again, tmp_path / "new")
    assert load(tmp_path / "new").fingerprint == again.fingerprint


def test_the_default_detector_is_covered_by_digests_and_names_its_columns() -> None:
    detector = load(DEFAULT)
    assert detector.columns == ("main/full", "main/half", "main/quarter")
    assert detector.file is not None
    assert detector.file.provenance_covered


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.update(calibration=None),
        lambda head: head.update(fingerprint="0" * 64),
        lambda head: head.update(calibration_fingerprint="0" * 64),
        lambda head: head["spec"]["flow"].update(steps=3),
        lambda head: head["spec"]["feature"].pop("cuts"),
        lambda head: head["spec"]["feature"].update(cuts=7),
        lambda head: head["provenance"].pop("components"),
        lambda head: head.update(provenance=[]),
        lambda head: head.update(spec=[]),
        lambda head: head["calibration"].pop("scales"),
        lambda head: head["calibration"].update(pictures=-1),
    ],
)
def test_a_damaged_bundle_of_format_1_is_one_sentence(
    tiny_bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    old = as_format_1(tiny_bundle, tmp_path / "old")
    with pytest.raises(BadBundle, match=r"^[^:]*changed [^:]*: [^:]*$"):
        load(changed_head(old, tmp_path / "changed", change))


@pytest.mark.parametrize("name", ["space.layer9.mean", "space", "other.layer1.mean", "flow.layer1.step9.x"])
def test_an_unknown_tensor_of_format_1_is_one_sentence(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    old = as_format_1(tiny_bundle, tmp_path / "old")

    def change(_: object, tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = torch.zeros(2)

    path = forged(old, tmp_path / "more", change)
    with pytest.raises(BadBundle, match=r"^[^:]*more [^:]*: [^:]*$"):
        load(path)


def test_no_code_is_run_by_a_bundle(tiny_bundle: Path) -> None:
    code = (
        "import sys; from muflow_cli.bundle import load\n"
        "sys.addaudithook(lambda event, args: event.startswith('pickle') and sys.exit(f'{event} {args}'))\n"
        "load(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, tiny_bundle], check=True, timeout=120)


def test_a_file_that_cannot_be_written_is_refused_and_nothing_is_left(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="cannot write /proc/none/file"):
        save(detector, Path("/proc/none/file"))
    with pytest.raises(CannotWrite, match="it is a folder"):
        check_outputs([tmp_path], force=True)
    assert not list(tmp_path.iterdir())


def test_the_rule_of_the_specification_is_that_of_the_calibration(detector: Detector, tmp_path: Path) -> None:
    rule = replace(detector.calibration.rule, alpha=0.2)
    changed = replace(detector, calibration=replace(detector.calibration, rule=rule))
    save(changed, tmp_path / "changed.safetensors")
    for one in (changed, load(tmp_path / "changed.safetensors")):
        assert one.spec.rule == one.calibration.rule == rule
    assert changed.fingerprint == detector.fingerprint
