"""Load mutated bundles and score two images with each that loads; each is refused or scores as its fingerprint says.

    python benchmarks/bundle_fuzz.py --bundles 10000 [--bundle FILE]

The mutations are flipped bits, cuts, inserted and overwritten pieces anywhere in the file, and other spellings of its
header; and, with all digests computed anew as a forger would, hostile values in the head and other shapes, types and
values of tensors. A process of its own loads the bundles. The run fails on a crash, on a bundle that takes more than
--limit seconds, on an error that is not one sentence, on a changed byte that is overlooked, and on other scores under
the same fingerprints.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import hashlib
import io
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
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

HOSTILE: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 16, 63, 3000, 4096, 20_000, 10**6, 10**9, 10**18, 2**63, 2**70, 10**4000),
    *(0.0, -0.5, 1e-300, 0.5, 1e9, 1e30, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "../x", "a: b\nc", "\x1b[31m", "\ud800", "é", "0" * 100_000, "resnet50", "layer1", "quarter", "both"),
    *(None, True, False, [], {}, [[]], [0], [1] * 100_000, ["full"], {"a": 1}),
)


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


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON value are, the containers included."""
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from leaves(inner, (*path, key))


def forged_head(seed: Seed, generator: np.random.Generator) -> bytes:
    """One to three values of the head replaced, removed or added."""
    head = copy.deepcopy(seed.head)
    for _ in range(generator.integers(1, 4)):
        places = [path for path in leaves(head) if path[0] in ("spec", "calibration", "provenance", "format")]
        path = places[int(generator.integers(0, len(places)))]
        at = head
        for key in path[:-1]:
            at = at[key]
        value = HOSTILE[int(generator.integers(0, len(HOSTILE)))]
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
        part = {name: head["calibration"][name] for name in ("rule", "formats", "columns")}
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
        sentence = str(error)
        whole = "\n" not in sentence and len(sentence) < 1000 and sentence.isprintable() and sentence.count(": ") <= 1
        return "refused" if whole else f"FAILED: not one sentence: {sentence[:300]!r}"
    except Exception as error:  # noqa: BLE001 - what the run looks for
        return f"FAILED: {type(error).__name__}: {str(error)[:200]!r}"
    if identity != (good.fingerprint, good.calibration.fingerprint()):
        return "another detector, with another fingerprint" if forged else "FAILED: accepted with another fingerprint"
    if found != expected:
        return "FAILED: other verdicts under the same fingerprints"
    if not (forged or same_bytes or (detector.file is not None and not detector.file.provenance_covered)):
        return "FAILED: a changed byte was overlooked"
    return "the same detector"


def peak_kib() -> int:
    """Largest memory of this process since its peak was reset, KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def work(
    seeds: list[Path], folder: Path, numbers: range, seed: int, results: multiprocessing.connection.Connection
) -> None:
    """Mutate and load the bundles of these numbers; one message for each, before and after."""
    torch.set_num_threads(1)
    read = [(Seed.read(path), load(path)) for path in seeds]
    expected = [verdicts(good) for _, good in read]
    path = folder / "mutated.safetensors"
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here, not from the import of libraries
    before = peak_kib()
    for number in numbers:
        generator = np.random.default_rng([seed, number])
        # The second seed has a learned encoder, which takes long to build.
        which = len(read) - 1 if number % 50 == 0 else 0
        mutation, forged = MUTATIONS[number % len(MUTATIONS)]
        data = mutation(read[which][0], generator)
        path.write_bytes(data)
        results.send((number, mutation.__name__))
        begun = time.process_time()
        same = data == read[which][0].data
        said = outcome(path, read[which][1], expected[which], forged=forged, same_bytes=same)
        used = (peak_kib() - before) / 1024
        results.send((number, mutation.__name__, said, time.process_time() - begun, used))


def make_small(folder: Path) -> Path:
    """The bundle with fixed filters."""
    write_images(folder / "small", 60, seed=2)
    output = folder / "small.safetensors"
    fit(FitRequest(reals=(str(folder / "small"),), output=output, spec=override(LIGHT, SETTINGS), runtime=RUNTIME))
    return output


class Run:
    """What a run has found so far."""

    def __init__(self) -> None:
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.longest, self.peak, self.done, self.failed = (0.0, ""), 0.0, 0, 0

    def add(self, mutation: str, said: str, seconds: float = 0.0, used: float = 0.0) -> None:
        """Count one bundle."""
        self.counts[mutation, said] += 1
        self.longest = max(self.longest, (seconds, f"{mutation} {self.done}, {said}"))
        self.peak = max(self.peak, used)
        if said.startswith("FAILED"):
            print(f"{self.done} {mutation}: {said}", flush=True)
            self.failed += 1
        self.done += 1

    def watch(self, seeds: list[Path], folder: Path, options: argparse.Namespace) -> None:
        """Run a worker until all bundles are done, or until one crashes or hangs it."""
        ours, theirs = multiprocessing.Pipe()
        arguments = (seeds, folder, range(self.done, options.bundles), options.seed, theirs)
        process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
        process.start()
        theirs.close()
        mutation, patience = "start", 600.0
        try:
            while self.done < options.bundles:
                if not ours.poll(patience):
                    raise TimeoutError
                _, mutation, *result = ours.recv()
                patience = options.limit
                if result:
                    self.add(mutation, *result)
        except TimeoutError:
            self.add(mutation, "FAILED: hang")
        except EOFError:
            if mutation == "start":
                sys.exit("the worker did not start")
            self.add(mutation, "FAILED: crash")
        process.kill()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60, help="seconds that one bundle may take")
    parser.add_argument("--bundle", type=Path, help="bundle to mutate (default: two tiny ones, fitted here)")
    options = parser.parse_args()
    run = Run()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = [options.bundle] if options.bundle else [make_small(folder), make_detector(folder)]
        while run.done < options.bundles:
            run.watch(seeds, folder, options)
    for (mutation, said), count in sorted(run.counts.items()):
        print(f"{count:6} {mutation:15} {said}")
    seconds, which = run.longest
    print(f"{run.done} bundles, {run.failed} failed; memory +{run.peak:.0f} MB")
    print(f"longest {seconds:.2f} s of a processor, {which}")
    sys.exit(1 if run.failed else 0)


if __name__ == "__main__":
    main()
