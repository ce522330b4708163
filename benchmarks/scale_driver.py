"""What the driver of a cluster does for each input, without the cluster: memory and time against the number of inputs.

    nice -n 15 python benchmarks/scale_driver.py --detector faces.safetensors [--inputs 1000000] [--fdr 0.1]

Addresses that nobody serves are the inputs, and a stub answers with shards of scores that go through pickle as those of
workers do; everything else is the scan itself: listing, order, repeated content (one input in a hundred), verdicts,
digest, a JSON-lines report. Each line gives the inputs so far, the memory of the process, and the processor time of an
input since the line before.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from muflow_cli.agreement import Agreement, agreement
from muflow_cli.bundle import load
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import place
from muflow_cli.engine.scoring import Extras, ScoredUnit
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded
from muflow_cli.output.writers import OutputFormat
from muflow_cli.records import Facts, Result, Unreadable
from muflow_cli.run_specs import Runtime
from muflow_cli.scan.job import Job
from muflow_cli.scan.outputs import Destination
from muflow_cli.scan.run import NoListener, run
from muflow_cli.scan.settings import Comparison
from muflow_cli.scan.tally import Tally
from muflow_cli.scan.workflow import ScanRequest, Wanted
from muflow_cli.units import ScoredImage, Unit

SHARD = 128
REPEATED = 100


class Stub:
    """Scores drawn at random around those of the calibration, by the name of the input."""

    def __init__(self, detector: Detector) -> None:
        self.placement = place(Runtime(device="cpu"))
        self._detector = detector
        self._rng = np.random.default_rng(0)

    def agreement(self, detector: Detector, *, always: bool) -> Agreement:
        """Nothing is computed that could differ."""
        del always
        return agreement(detector, self.placement)

    def items(
        self, inputs: Iterable[Input | Unreadable], request: ScanRequest, extras: Extras, wanted: Wanted
    ) -> Generator[ScoredImage | Unreadable]:
        """As the workers of a cluster answer: a shard at a time."""
        source, number = iter(inputs), 0
        features = np.zeros(request.detector.feature_count if extras.features else 0, np.float16)
        while shard := list(islice(source, SHARD)):
            answer = []
            for item in shard:
                number += 1
                answer.append(self._image(item, number, features, near=wanted.near))
            yield from pickle.loads(pickle.dumps(answer))  # noqa: S301 - our own

    def _image(self, item: Input | Unreadable, number: int, features: np.ndarray, *, near: bool) -> ScoredImage:
        content = number - 1 if number % REPEATED == 0 else number
        digest = hashlib.sha256(str(content).encode())
        facts = Facts(sha256=digest.hexdigest(), bytes=90_000, format="JPEG", width=256, height=256, jpeg_quality=90)
        image = Loaded(item.path, facts, {}, None)
        scores = self._detector.calibration.scores
        columns = scores[self._rng.integers(len(scores))] + 0.01 * self._rng.normal(size=scores.shape[1])
        unit = ScoredUnit(Unit(image), columns, {}, features)
        return ScoredImage(image, [unit], int.from_bytes(digest.digest()[:8], "big") if near else None)


class Curve(NoListener):
    """Prints a line every so often."""

    def __init__(self, every: int) -> None:
        self._every, self._before = every, time.process_time()

    def result(self, result: Result, tally: Tally) -> None:  # noqa: ARG002 - the scan's protocol
        """Print memory and time where it is time to."""
        if tally.inputs % self._every == 0:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            now = time.process_time()
            micros = 1e6 * (now - self._before) / self._every
            print(
                f"{tally.inputs:>9} {pages * os.sysconf('SC_PAGE_SIZE') / 2**20:7.0f} MiB {micros:6.0f} us", flush=True
            )
            self._before = now


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=50_000)
    parser.add_argument("--fdr", type=float)
    options = parser.parse_args()
    detector = load(options.detector)

    def addresses() -> Iterator[str]:
        for number in range(options.inputs):
            yield f"https://images.invalid/{number // 1000:06}/{number:09}.jpg"

    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            detector=detector,
            detector_path=str(options.detector),
            arguments=addresses(),
            destinations=[Destination(OutputFormat.JSONL, Path(folder) / "report.jsonl")],
            runtime=Runtime(device="cpu"),
            comparison=Comparison(fdr=options.fdr),
        )
        summary = run(job, Curve(options.every), elsewhere=Stub(detector))
        size = (Path(folder) / "report.jsonl").stat().st_size
        print(f"{summary.inputs} inputs, {summary.duplicates} repeated, report of {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
