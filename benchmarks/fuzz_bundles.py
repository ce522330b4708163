"""Fuzz of bundles: each is refused in one sentence, or scores two images as its fingerprint says.

The mutations are flipped bits, cuts, inserted and overwritten pieces anywhere in the file, and other spellings of its
header; and, with all digests computed anew as a forger would, hostile values in the head and other shapes, types and
values of tensors.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutations import hostile, leaves
from tiny import make_detector, write_images

from muflow_cli.bundle import load
from muflow_cli.calibration.judge import Judge
from muflow_cli.canonical import canonical_json
from muflow_cli.cli.info_command import info_command
from muflow_cli.detector import Detector, hash_tensors
from muflow_cli.errors import MuflowError
from muflow_cli.files import OutputFile, open_regular
from muflow_cli.fit import FitRequest, fit
from muflow_cli.presets import LIGHT
from muflow_cli.run_specs import Precision, Runtime
from muflow_cli.settings import override
from muflow_cli.tensor_file import DTYPES, read_header, write

# Fixed filters, small crops: a bundle that loads in a few milliseconds.
SETTINGS = (
    "view.kind=crops",
    "view.size=32",
    "view.count=2",
    "view.fit_count=2",
    "feature.encoder=forensic",
    "feature.layers=full",
    "feature.dimensions=4",
    "feature.grid=2",
    "flow.steps=2",
    "target.images_per_average=4",
    "target.n_averages=20",
    "target.components=2",
    "train.epochs=2",
    "train.calibration_share=0.4",
    "rule.alpha=0.1",
)
RUNTIME = Runtime(device="cpu", precision=Precision.FP32)


@dataclass(frozen=True)
class Seed:
    """A good bundle: its bytes, its head and its tensors."""

    data: bytes
    head: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @classmethod
    def read(cls, path: Path) -> Seed:
        with open_regular(path) as file:
            header = read_header(file)
            tensors = header.read(file).tensors
        return cls(path.read_bytes(), json.loads(header.metadata["muflow"]), tensors)


def changed_bytes(seed: Seed, generator: np.random.Generator) -> bytes:
    """One to four mutations anywhere in the file."""
    data = bytearray(seed.data)
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(generator.integers(1, 5)):
        # Headers decide most: half of the mutations start there.
        at = int(generator.integers(0, min(len(data), header) if generator.random() < 0.5 else len(data)))
        size = int(generator.integers(1, 33))
        changes = (
            (at, at + 1, bytes([data[at] ^ (1 << int(generator.integers(0, 8)))])),
            (at, at + size, generator.bytes(min(size, len(data) - at))),
            (max(1, at), len(data), b""),
            (at, at, generator.bytes(size)),
            (at, at, bytes(data[at : at + size])),
            (len(data), len(data), generator.bytes(size)),
            (at, at + 1, b"0123456789abcdef"[size % 16 : size % 16 + 1]),
        )
        start, stop, replacement = changes[int(generator.integers(0, len(changes)))]
        data[start:stop] = replacement
    return bytes(data)


def respelt(seed: Seed, generator: np.random.Generator) -> bytes:
    """The same content in another spelling of the header."""
    length = int.from_bytes(seed.data[:8], "little")
    text, rest = seed.data[8 : 8 + length], seed.data[8 + length :]
    header = json.loads(text)
    names = list(header)
    generator.shuffle(names)
    inner = header["__metadata__"]["muflow"]
    spellings: tuple[Callable[[], bytes], ...] = (
        lambda: text + b" " * 8,
        lambda: text.rstrip() + b"\n" * (len(text) - len(text.rstrip())) if text.endswith(b" ") else text + b"\t" * 8,
        lambda: json.dumps(header).encode(),
        lambda: json.dumps({name: header[name] for name in names}, separators=(",", ":")).encode(),
        lambda: text.replace(b"{", b'{"__metadata__":{"muflow":"{}"},', 1),
        lambda: text.replace(b'"muflow":"', b'"muflow":" ', 1),
        lambda: text.replace(b'"muflow":', b'"more":"","muflow":', 1),
        lambda: text.replace(b'\\"format\\":', b'\\"format\\":1,\\"format\\":', 1),
        lambda: json.dumps(header | {"__metadata__": {"muflow": json.dumps(json.loads(inner), indent=1)}}).encode(),
        lambda: text.replace(b"muflow", b"\\u006duflow", 1),
    )
    spelt = spellings[int(generator.integers(0, len(spellings)))]()
    return len(spelt).to_bytes(8, "little") + spelt + rest


def forged_head(seed: Seed, generator: np.random.Generator) -> bytes:
    """One to three values of the head replaced, removed or added."""
    head = copy.deepcopy(seed.head)
    for _ in range(generator.integers(1, 4)):
        places = [path for path in leaves(head) if path[0] in ("spec", "calibration", "provenance", "format")]
        path = places[int(generator.integers(0, len(places)))]
        at = head
        for key in path[:-1]:
            at = at[key]
        value = hostile(generator)
        action = generator.random()
        if action < 0.85:
            at[path[-1]] = copy.deepcopy(value)
        elif action < 0.95:
            del at[path[-1]]
        elif isinstance(at, dict):
            at["colour"] = copy.deepcopy(value)
    return sealed(head, seed.tensors)


def forged_tensors(seed: Seed, generator: np.random.Generator) -> bytes:
    """One tensor of another shape, type, name or value."""
    tensors = dict(seed.tensors)
    name = sorted(tensors)[int(generator.integers(0, len(tensors)))]
    tensor = tensors[name].clone()
    dtypes, extremes = list(DTYPES.values()), (0, -1, 1, 127, float("nan"), float("inf"), 1e300, 1e-40)
    flat = tensor.reshape(-1)
    if len(flat):
        flat[int(generator.integers(0, len(flat)))] = 0
    others: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: tensor,
        lambda: tensor[None],
        lambda: flat,
        lambda: tensor[:-1] if tensor.ndim else tensor[None],
        lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor[None],
        lambda: tensor.new_zeros(()),
        lambda: tensor.new_zeros(0),
        lambda: tensor.new_zeros((0, *tensor.shape)),
        lambda: tensor.to(dtypes[int(generator.integers(0, len(dtypes)))]),
        lambda: torch.full_like(tensor.double(), extremes[int(generator.integers(0, len(extremes)))]).to(tensor.dtype),
        lambda: tensor * 1e6 if tensor.is_floating_point() else tensor * 3,
        lambda: tensor.transpose(0, -1).contiguous() if tensor.ndim > 1 else tensor.flip(0),
    )
    tensors[name] = others[int(generator.integers(0, len(others)))]().contiguous()
    if generator.random() < 0.1:
        tensors[f"{name}x"] = tensors.pop(name)
    return sealed(copy.deepcopy(seed.head), tensors)


def sealed(head: dict[str, Any], tensors: dict[str, torch.Tensor]) -> bytes:
    """A bundle whose digests match whatever it says."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("calibration.")}
    with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError):  # what has no digest keeps the old one
        head["fingerprint"] = hash_tensors(own, {k: v for k, v in head["spec"].items() if k != "rule"})
        said = head["calibration"]
        part = {name: said[name] for name in ("rule", "formats", "columns", "features") if name in said}
        digest = hashlib.sha256(canonical_json(part))
        for name in sorted(tensors.keys() - own.keys()):
            array = tensors[name].numpy()
            digest.update(canonical_json([name.removeprefix("calibration."), array.dtype.str, list(array.shape)]))
            digest.update(array.tobytes())
        head["calibration_fingerprint"] = digest.hexdigest()
    with contextlib.suppress(ValueError):
        rest = {name: value for name, value in head.items() if name != "head_sha256"}
        head["head_sha256"] = hashlib.sha256(canonical_json(rest)).hexdigest()
    text = json.dumps(head, sort_keys=True, separators=(",", ":"))
    with tempfile.NamedTemporaryFile() as file:
        with OutputFile(Path(file.name), "wb") as stream:
            write(stream, tensors, {"muflow": text})
        return Path(file.name).read_bytes()


# Mutation, and whether its digests were computed anew.
MUTATIONS: tuple[tuple[Callable[[Seed, np.random.Generator], bytes], bool], ...] = (
    (changed_bytes, False),
    (changed_bytes, False),
    (respelt, False),
    (forged_head, True),
    (forged_head, True),
    (forged_tensors, True),
)


def verdicts(detector: Detector) -> bytes:
    """Scores and verdicts of two seeded images, to the last bit."""
    generator = np.random.default_rng(7)
    images = [generator.integers(0, 256, (80, 96, 3), dtype=np.uint8) for _ in range(2)]
    return repr(detector.score(images, RUNTIME)).encode()


def is_sentence(text: str) -> bool:
    """Whether a message is one that a user may be shown: one line, short, inert, at most one colon."""
    return "\n" not in text and len(text) < 1000 and text.isprintable() and text.count(": ") <= 1


def outcome(path: Path, good: Detector, expected: bytes, *, forged: bool, same_bytes: bool) -> str:
    """What became of one bundle; starts with "FAILED" where that is wrong."""
    try:
        detector = load(path)
        identity = detector.fingerprint, detector.calibration.fingerprint()
        Judge(detector.calibration).describe()
        with contextlib.redirect_stdout(io.StringIO()):
            info_command(path)
        found = verdicts(detector)
    except MuflowError as error:
        if not is_sentence(str(error)):
            return f"FAILED: not one sentence: {str(error)[:300]!r}"
        return "refused as " + ("damaged" if "damaged" in error.problem else "inconsistent or incomplete")
    if identity != (good.fingerprint, good.calibration.fingerprint()):
        return "another detector, with another fingerprint" if forged else "FAILED: unseen, another fingerprint"
    if found != expected:
        return "FAILED: unseen, other verdicts under the same fingerprints"
    if not (forged or same_bytes or (detector.file is not None and not detector.file.provenance_covered)):
        return "FAILED: unseen, a changed byte was overlooked"
    return "the same detector"


def make_small(folder: Path) -> Path:
    """The bundle with fixed filters."""
    write_images(folder / "small", 60, seed=2)
    output = folder / "small.safetensors"
    fit(FitRequest(reals=(str(folder / "small"),), output=output, spec=override(LIGHT, SETTINGS), runtime=RUNTIME))
    return output


class Bundles:
    """Mutated and forged bundles of two detectors, one of them with a learned encoder, which takes long to build."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        paths = [make_small(folder), make_detector(folder)]
        self._seeds = [(Seed.read(path), load(path)) for path in paths]
        self._expected = [verdicts(good) for _, good in self._seeds]
        self._path = folder / "mutated.safetensors"
        for seed, good in self._seeds:  # otherwise every forgery would be refused for its digests alone
            self._path.write_bytes(sealed(copy.deepcopy(seed.head), seed.tensors))
            assert load(self._path).fingerprint == good.fingerprint, "the forger does not know the format"  # noqa: S101

    def make(self, number: int, generator: np.random.Generator) -> tuple[str, Path]:
        """Write one bundle; the mutation and where it lies."""
        self._which = len(self._seeds) - 1 if number % 50 == 0 else 0
        mutation, self._forged = MUTATIONS[number % len(MUTATIONS)]
        data = mutation(self._seeds[self._which][0], generator)
        self._path.write_bytes(data)
        self._same = data == self._seeds[self._which][0].data
        return mutation.__name__.replace("_", " "), self._path

    def outcome(self) -> str:
        """What became of it."""
        good, expected = self._seeds[self._which][1], self._expected[self._which]
        return outcome(self._path, good, expected, forged=self._forged, same_bytes=self._same)
