"""Where the time of a fit goes, and its memory over more and more files.

    python benchmarks/fit_throughput.py stages FOLDER --encoder-weights FILE [--epochs 5] [--json]
    python benchmarks/fit_throughput.py products [--json]
    python benchmarks/fit_throughput.py files 1000 5000 20000 [--side 72] [--json]
    python benchmarks/fit_throughput.py plan 70000

`stages` fits the preset `light` and prints seconds by stage; then it trains a few epochs once more on random features
of the same shapes under torch's profiler, and prints the share of the training loop's time that is spent in matrix
products. `products` prints that share for more and more channels, up to the preset `paper`. `files` fits a tiny
detector to more and more small files, each in a process of its own: peak memory, with and without the pages of mapped
files, seconds, and the disk that was announced beside what was used. `plan` prints the disk that a fit of so many
pictures announces.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny import SETTINGS, make_detector, write_pictures
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.train_state import TrainHooks
from muflow_cli.engine.training import train
from muflow_cli.fit import FitRequest, fit
from muflow_cli.fit.cache import map_shapes, work_bytes
from muflow_cli.specs import LIGHT, PAPER, PRESETS, DetectorSpec, TrainSpec
from muflow_cli.watch import Silent

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")


def share_in_products(spec: DetectorSpec, pictures: int, epochs: int) -> float:
    """Of the training loop's own time, the share in matrix products, forwards and backwards."""
    shapes = map_shapes(spec.feature, spec.view)
    features = [torch.randn(pictures, min(spec.feature.dimensions or c, c), h, w) for c, h, w in shapes]
    targets = [standard_normal(f.shape[1]) for f in features]
    held = [f[: pictures // 5] for f in features]
    schedule = TrainSpec(epochs=epochs, batch_size=spec.train.batch_size, learning_rate=spec.train.learning_rate)
    everywhere = _ExperimentalConfig(profile_all_threads=True)
    own: list[tuple[str, float]] = []
    # Scale after scale: side by side, a thread's time would hold its waiting for the others.
    for scale in zip(features, held, targets, strict=True):
        with profile(activities=[ProfilerActivity.CPU], experimental_config=everywhere) as seen:
            train(*([one] for one in scale), spec.flow, schedule, hooks=TrainHooks())
        own += [(event.key.split("::")[-1], event.self_cpu_time_total) for event in seen.key_averages()]
    in_products = sum(taken for name, taken in own if any(word in name for word in PRODUCTS))
    return in_products / sum(taken for _, taken in own)


def standard_normal(dimensions: int) -> Mixture:
    return Mixture(torch.ones(1), torch.zeros(1, dimensions), torch.eye(dimensions)[None])


def stages(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        request = FitRequest(
            reals=(str(options.folder),),
            output=Path(name) / "d.safetensors",
            spec=LIGHT,
            weights=options.encoder_weights,
        )
        begun = time.perf_counter()
        summary = fit(request, Silent())
        total = time.perf_counter() - begun
    return {
        "pictures": summary.used,
        "seconds": {name: round(taken, 2) for name, taken in summary.seconds.items()},
        "total_seconds": round(total, 2),
        "training_share_in_products": round(share_in_products(LIGHT, summary.train, options.epochs), 3),
    }


def products(_: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for dimensions in (64, 256, 0):
        spec = replace(LIGHT, feature=replace(LIGHT.feature, dimensions=dimensions))
        found[f"light, {dimensions or 'all'} dimensions"] = round(share_in_products(spec, 880, 1), 3)
    return found | {"paper": round(share_in_products(PAPER, 10, 1), 3)}


def files(options: argparse.Namespace) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_detector(root)
        for count in options.counts:
            folder = root / f"{count}"
            write_pictures(folder, count, seed=count, side=options.side)
            rows.append({"files": count, **peak_of_fit(root, folder)})
    return {"rows": rows}


def peak_of_fit(root: Path, folder: Path) -> dict[str, Any]:
    """Peak memory of a fit in a process of its own; the disk it announced, and the most that its work folder took."""
    output = root / f"{folder.name}.safetensors"
    words = ["-o", str(output), "--encoder-weights", str(root / "weights.safetensors"), "--json"]
    for setting in (*SETTINGS, "view.size=128"):
        words += ["--set", setting]
    begun = time.perf_counter()
    # The child reports its own peak: that of `subprocess` children is the largest of all so far.
    code = "import resource, sys\nfrom muflow_cli.cli import app\ntry:\n    app(sys.argv[1:])\nfinally:\n"
    code += "    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    command = [sys.executable, "-c", code, "fit", str(folder), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, **pipes) as child,  # noqa: S603 - this very program
        Watch(child.pid, root, output.name) as watched,
    ):
        _, stderr = child.communicate()
    if child.returncode:
        raise SystemExit(stderr)
    said = re.search(r"take up to (.*) of disk", stderr)
    return {
        "peak_mib": round(int(re.findall(r"peak (\d+)", stderr)[-1]) / 1024, 1),
        "peak_without_files_mib": round(watched.memory / 2**10, 1),
        "seconds": round(time.perf_counter() - begun, 1),
        "disk_announced": said.group(1) if said else "nothing",
        "disk_used_mib": round(watched.disk / 2**20, 1),
    }


class Watch:
    """What a process took at the most while the block ran, as far as it was looked at.

    Attributes:
        memory: KiB of its own; pages of mapped files, which the system takes back when it needs them, left out.
        disk: bytes of the work folders beside its output.
    """

    def __init__(self, process: int, folder: Path, output: str) -> None:
        self.status, self.folder, self.output = Path(f"/proc/{process}/status"), folder, output
        self.memory = self.disk = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            places = [p for p in self.folder.iterdir() if self.output in p.name and p.is_dir()]
            self.disk = max(self.disk, sum(bytes_in(place) for place in places))
            with contextlib.suppress(OSError):  # the process has ended
                found = re.search(r"RssAnon:\s+(\d+) kB", self.status.read_text(encoding="ascii"))
                self.memory = max(self.memory, int(found.group(1)) if found else 0)


def bytes_in(folder: Path) -> int:
    try:
        return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    except OSError:  # a file was removed in between
        return 0


def plan(options: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for name, spec in PRESETS.items():
        found[name] = f"{work_bytes(spec, options.count) / 2**30:.1f} GiB of disk"
    return {"pictures": options.count, **found}


def table(found: dict[str, Any]) -> None:
    for name, value in found.items():
        for line in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            print(f"{name:28} {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("stages")
    one.add_argument("folder", type=Path)
    one.add_argument("--encoder-weights", type=Path, required=True)
    one.add_argument("--epochs", type=int, default=5)
    one.set_defaults(run=stages)
    kinds.add_parser("products").set_defaults(run=products)
    two = kinds.add_parser("files")
    two.add_argument("counts", type=int, nargs="+")
    two.add_argument("--side", type=int, default=72)
    two.set_defaults(run=files)
    three = kinds.add_parser("plan")
    three.add_argument("count", type=int)
    three.set_defaults(run=plan)
    options = parser.parse_args()
    found = options.run(options)
    print(json.dumps(found)) if options.json else table(found)


if __name__ == "__main__":
    main()
