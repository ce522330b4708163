"""Where the time of a fit goes, and how its memory grows with the number of files.

    python benchmarks/fit_throughput.py stages FOLDER --encoder-weights FILE [--epochs 5] [--json]
    python benchmarks/fit_throughput.py products [--json]
    python benchmarks/fit_throughput.py files 1000 5000 20000 [--side 72] [--json]
    python benchmarks/fit_throughput.py plan 70000

`stages` fits the preset `light` and prints the seconds of each stage. Then it trains a few epochs on random features of
the same shapes under torch's profiler, and prints the share of the training loop's time that matrix products take.
`products` prints that share for a growing number of channels, up to the preset `paper`. `files` fits a tiny detector to
a growing number of small files, each time in a separate process; it prints the peak memory with and without the pages
of mapped files, the seconds, and the disk that the fit announced and used. `plan` prints the disk that a fit announces
for a number of images.
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
from pathlib import Path
from typing import Any

import torch
from tiny import SETTINGS, make_detector, write_images
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.train_state import TrainHooks
from muflow_cli.engine.training import train
from muflow_cli.fit import FitRequest, fit
from muflow_cli.fit.features import map_shapes, work_bytes
from muflow_cli.presets import LIGHT, PAPER, PRESETS
from muflow_cli.progress import NoProgress
from muflow_cli.settings import apply
from muflow_cli.specs import DetectorSpec, TrainSpec

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")


def share_in_products(spec: DetectorSpec, images: int, epochs: int) -> float:
    """Share of the training loop's own time that matrix products take, forwards and backwards."""
    (branch,) = spec.branches
    shapes = map_shapes(branch.feature, branch.view.size)
    features = [torch.randn(images, min(branch.feature.dimensions or c, c), h, w) for c, h, w in shapes]
    targets = [Mixture.normal(f.shape[1]) for f in features]
    held_out = [f[: images // 5] for f in features]
    schedule = TrainSpec(epochs=epochs, batch_size=spec.train.batch_size, learning_rate=spec.train.learning_rate)
    everywhere = _ExperimentalConfig(profile_all_threads=True)
    own: list[tuple[str, float]] = []
    # One layer after the other: side by side, a thread's time would include its waiting for the others.
    for layer in zip(features, held_out, targets, strict=True):
        with profile(activities=[ProfilerActivity.CPU], experimental_config=everywhere) as profiled:
            train(*([part] for part in layer), branch.flow, schedule, hooks=TrainHooks())
        own += [(event.key.split("::")[-1], event.self_cpu_time_total) for event in profiled.key_averages()]
    in_products = sum(taken for name, taken in own if any(word in name for word in PRODUCTS))
    return in_products / sum(taken for _, taken in own)


def stages(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        request = FitRequest(
            reals=(str(options.folder),),
            output=Path(name) / "d.safetensors",
            spec=LIGHT,
            weights={"main": options.encoder_weights},
        )
        begun = time.perf_counter()
        summary = fit(request, NoProgress())
        total = time.perf_counter() - begun
    return {
        "images": summary.used,
        "seconds": {name: round(taken, 2) for name, taken in summary.seconds.items()},
        "total_seconds": round(total, 2),
        "training_share_in_products": round(share_in_products(LIGHT, summary.train, options.epochs), 3),
    }


def products(_: argparse.Namespace) -> dict[str, Any]:
    shares: dict[str, Any] = {}
    for dimensions in (64, 256, 0):
        spec = apply(LIGHT, {"feature": {"dimensions": dimensions}})
        shares[f"light, {dimensions or 'all'} dimensions"] = round(share_in_products(spec, 880, 1), 3)
    return shares | {"paper": round(share_in_products(PAPER, 10, 1), 3)}


def files(options: argparse.Namespace) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_detector(root)
        for count in options.counts:
            folder = root / f"{count}"
            write_images(folder, count, seed=count, side=options.side)
            rows.append({"files": count, **peak_of_fit(root, folder)})
    return {"rows": rows}


def peak_of_fit(root: Path, folder: Path) -> dict[str, Any]:
    """Peak memory of a fit in a separate process, the disk that it announced, and the most that it took."""
    output = root / f"{folder.name}.safetensors"
    words = ["-o", str(output), "--encoder-weights", str(root / "weights.safetensors"), "--json"]
    for setting in (*SETTINGS, "view.size=128"):
        words += ["--set", setting]
    begun = time.perf_counter()
    # The child reports its own peak, because the kernel gives its parent only the largest of all children so far.
    code = "import resource, sys\nfrom muflow_cli.cli.app import app\ntry:\n    app(sys.argv[1:])\nfinally:\n"
    code += "    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    command = [sys.executable, "-c", code, "fit", str(folder), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, **pipes) as child,  # noqa: S603 - this very program
        PeakWatch(child.pid, root, output.name) as watched,
    ):
        _, stderr = child.communicate()
    if child.returncode:
        raise SystemExit(stderr)
    announced = re.search(r"takes up to (.*?) of disk", " ".join(stderr.split()))
    return {
        "peak_mib": round(int(re.findall(r"peak (\d+)", stderr)[-1]) / 1024, 1),
        "peak_without_files_mib": round(watched.memory / 2**10, 1),
        "seconds": round(time.perf_counter() - begun, 1),
        "disk_announced": announced.group(1) if announced else "nothing",
        "disk_used_mib": round(watched.disk / 2**20, 1),
    }


class PeakWatch:
    """The most memory and disk that a process took while the block ran, looked at ten times a second.

    Attributes:
        memory: KiB of its own, without the pages of mapped files, which the system takes back when it needs them.
        disk: bytes of the work folders beside its output.
    """

    def __init__(self, process: int, folder: Path, output: str) -> None:
        self.status, self.folder, self.output = Path(f"/proc/{process}/status"), folder, output
        self.memory = self.disk = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> PeakWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            folders = [p for p in self.folder.iterdir() if self.output in p.name and p.is_dir()]
            self.disk = max(self.disk, sum(bytes_in(folder) for folder in folders))
            with contextlib.suppress(OSError):  # the process has ended
                resident = re.search(r"RssAnon:\s+(\d+) kB", self.status.read_text(encoding="ascii"))
                self.memory = max(self.memory, int(resident.group(1)) if resident else 0)


def bytes_in(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:  # a file was removed in between
        return 0


def plan(options: argparse.Namespace) -> dict[str, Any]:
    disk = {name: f"{work_bytes(spec, options.count) / 2**30:.1f} GiB of disk" for name, spec in PRESETS.items()}
    return {"images": options.count, **disk}


def table(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        for line in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            print(f"{name:28} {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    kinds = parser.add_subparsers(required=True)
    stages_parser = kinds.add_parser("stages")
    stages_parser.add_argument("folder", type=Path)
    stages_parser.add_argument("--encoder-weights", type=Path, required=True)
    stages_parser.add_argument("--epochs", type=int, default=5)
    stages_parser.set_defaults(run=stages)
    kinds.add_parser("products").set_defaults(run=products)
    files_parser = kinds.add_parser("files")
    files_parser.add_argument("counts", type=int, nargs="+")
    files_parser.add_argument("--side", type=int, default=72)
    files_parser.set_defaults(run=files)
    plan_parser = kinds.add_parser("plan")
    plan_parser.add_argument("count", type=int)
    plan_parser.set_defaults(run=plan)
    options = parser.parse_args()
    figures = options.run(options)
    print(json.dumps(figures)) if options.json else table(figures)


if __name__ == "__main__":
    main()
