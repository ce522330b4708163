"""Fuzz images, archives, bundles and reports: no traceback, no crash, no hang, nothing changed unseen.

    python benchmarks/fuzz.py --log FOLDER [--kinds images,archives,bundles,reports] [--inputs 10000] [--seed 0]
    python benchmarks/fuzz.py --log FOLDER --kinds images --only 1234

Each input is drawn from the seed and its number, so any of them can be made again: --only writes it to FOLDER and says
what becomes of it. A process of its own takes one input after the other. FOLDER/KIND.jsonl gets a line for each, and a
run that was ended goes on where it stopped. The slowest input, the one that takes most memory, and each that fails are
kept in FOLDER. The table is made from these lines. Exit status 1 if an input failed: a traceback, a crash, more than
--limit seconds, an error that is not one sentence, a change that passed unseen.

Time is of the clock, so the load of the machine is in it. Memory is the most that the process had beyond what it had
before the input, and with it all that the processes have that decode for it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Protocol

import numpy as np

KINDS = ("images", "archives", "bundles", "reports")


class Kind(Protocol):
    """A kind of input; it is made with a folder of its own, in which it may write."""

    def make(self, number: int, generator: np.random.Generator) -> tuple[str, Path]:
        """Write one input: what was done to it, and where it lies."""

    def outcome(self) -> str:
        """What muflow makes of it; starts with "FAILED" where that is wrong. What it raises is a traceback."""


def kind_of(name: str, folder: Path) -> Kind:
    """The kind of this name; each loads only what it needs."""
    if name == "images":
        from fuzz_images import Images

        return Images(folder)
    if name == "archives":
        from fuzz_archives import Archives

        return Archives(folder)
    if name == "bundles":
        from fuzz_bundles import Bundles

        return Bundles(folder)
    from fuzz_reports import Reports

    return Reports(folder)


class Memory:
    """The most memory of this process and of those that it started, since `start`."""

    def __init__(self) -> None:
        self._before, self._children = 0, 0
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self) -> None:
        """Forget the peaks so far."""
        for process in ("self", *processes_below("self")):
            with contextlib.suppress(OSError):
                Path(f"/proc/{process}/clear_refs").write_text("5")
        self._before, self._children = status_of("self", "VmRSS"), 0

    def mib(self) -> float:
        """The peak: what this process had beyond `start`, and all that its children had."""
        self._look()
        return (status_of("self", "VmHWM") - self._before + self._children) / 1024

    def _watch(self) -> None:
        while True:  # a child may be killed before anybody asks
            self._look()
            time.sleep(0.02)

    def _look(self) -> None:
        self._children = max(self._children, sum(status_of(child, "VmHWM") for child in processes_below("self")))


def processes_below(process: str) -> list[str]:
    """Those that a process has started, and theirs."""
    found = []
    with contextlib.suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                found += (thread / "children").read_text().split()
    return [*found, *(below for child in found for below in processes_below(child))]


def status_of(process: str, name: str) -> int:
    """A figure of a process, KiB; 0 if it is gone."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{process}/status").read_text().split(f"{name}:")[1].split()[0])
    return 0


def work(name: str, numbers: list[int], seed: int, keep: str, results: multiprocessing.connection.Connection) -> None:
    """Make and try the inputs of these numbers; one message before each, and one after."""
    with tempfile.TemporaryDirectory() as folder:
        kind = kind_of(name, Path(folder))
        memory = Memory()
        for number in numbers:
            made, path = kind.make(number, np.random.default_rng([seed, KINDS.index(name), number]))
            results.send({"number": number, "made": made, "path": str(path)})
            memory.start()
            begun = time.monotonic()
            try:
                outcome = kind.outcome()
            except Exception as error:  # noqa: BLE001 - what the run looks for
                outcome = f"FAILED: traceback, {type(error).__name__}: {str(error)[:200]!r}"
                traceback.print_exc()
            seconds = time.monotonic() - begun
            line = {"number": number, "made": made, "outcome": outcome, "seconds": seconds, "mib": memory.mib()}
            if keep:
                shutil.copy(path, keep)
            results.send(line)
            results.recv()  # the owner has kept the input if it wants it


class Log:
    """The lines of one kind, in a file that a later run continues."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._path = folder / f"{name}.jsonl"
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith(b"\n")]
        self._file = self._path.open("ab")
        if lines and not lines[-1].endswith(b"\n"):
            self._file.truncate(sum(map(len, lines[:-1])))

    def add(self, line: dict[str, Any], path: Path) -> None:
        """One input; it is kept where it is the worst so far, or failed."""
        for measure in ("seconds", "mib"):
            if line[measure] >= max((one[measure] for one in self.lines), default=0):
                for old in self.folder.glob(f"{self.name}-most-{measure}-*"):
                    old.unlink()
                shutil.copy(path, self.folder / f"{self.name}-most-{measure}-{line['number']}{path.suffix}")
        if line["outcome"].startswith("FAILED"):
            print(f"{self.name} {line['number']}, {line['made']}: {line['outcome']}", flush=True)
            shutil.copy(path, self.folder / f"{self.name}-failed-{line['number']}{path.suffix}")
        self.lines.append(line)
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def table(self) -> int:
        """Print what the lines add up to; the number of inputs that failed."""
        counts = collections.Counter(line["outcome"] for line in self.lines)
        failed = {name: count for name, count in counts.items() if name.startswith("FAILED")}
        tracebacks = sum(count for name, count in failed.items() if "traceback" in name)
        unseen = sum(count for name, count in failed.items() if name.startswith("FAILED: unseen"))
        print(f"{self.name}: {len(self.lines)} mutations, {tracebacks} tracebacks, {unseen} changes unseen, "
              f"{sum(failed.values()) - tracebacks - unseen} other failures")  # fmt: skip
        for outcome, count in counts.most_common():
            print(f"{count:8} {outcome}")
        for measure, unit in (("seconds", "s"), ("mib", "MiB")):
            most = max(self.lines, key=lambda line: line[measure])
            middle = float(np.median([line[measure] for line in self.lines]))
            what = f"{most['made']}, number {most['number']}, {most['outcome']}"
            print(f"  most {most[measure]:.2f} {unit} ({what}); median {middle:.3f} {unit}")
        return sum(failed.values())


class Watch:
    """Workers that try the inputs that a log lacks; one that crashes or hangs is replaced."""

    def __init__(self, log: Log, options: argparse.Namespace) -> None:
        done = {line["number"] for line in log.lines}
        self.numbers = [number for number in range(options.inputs) if number not in done]
        self._log, self._options = log, options
        self._until = time.monotonic() + 60 * options.minutes
        self._current = dict[str, Any]()  # the input in work

    @property
    def going(self) -> bool:
        """Whether there are inputs and time left."""
        return bool(self.numbers) and time.monotonic() < self._until

    def worker(self) -> None:
        """One worker, to its end."""
        ours, theirs = multiprocessing.Pipe()
        arguments = (self._log.name, list(self.numbers), self._options.seed, "", theirs)
        process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
        process.start()
        theirs.close()
        try:
            self._follow(ours)
        except TimeoutError:
            self._failed("hang")
        except (EOFError, OSError):
            self._failed("crash")
        process.kill()
        process.join()

    def _follow(self, worker: multiprocessing.connection.Connection) -> None:
        patience = 600.0  # for its start
        while self.going:
            if not worker.poll(patience):
                raise TimeoutError
            line, patience = worker.recv(), self._options.limit
            if "outcome" in line:
                self._add(line)
                worker.send(None)
            else:
                self._current = line

    def _failed(self, how: str) -> None:
        if not self._current:
            sys.exit(f"the worker for {self._log.name} did not start")
        said = {"number": self._current["number"], "made": self._current["made"], "outcome": f"FAILED: {how}"}
        self._add(said | {"seconds": self._options.limit if how == "hang" else 0.0, "mib": 0.0})

    def _add(self, line: dict[str, Any]) -> None:
        self._log.add(line, Path(self._current["path"]))
        self.numbers.remove(line["number"])
        self._current = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True, help="folder of the lines and of the inputs that are kept")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--inputs", type=int, default=10_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=150, help="seconds that one input may take")
    parser.add_argument("--minutes", type=float, default=600, help="most for each kind; a later run goes on")
    parser.add_argument("--only", type=int, help="one number, whose input is written to the folder")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    options.log.mkdir(parents=True, exist_ok=True)
    if options.only is not None:
        ours, theirs = multiprocessing.Pipe()
        ours.send(None)
        threading.Thread(target=lambda: [print(ours.recv()) for _ in range(2)]).start()
        work(options.kinds, [options.only], options.seed, str(options.log.absolute()), theirs)
        return
    logs = [Log(options.log, name) for name in options.kinds.split(",")]
    for log in logs:
        watch = Watch(log, options)
        while watch.going:
            watch.worker()
    sys.exit(1 if sum([log.table() for log in logs if log.lines]) else 0)


if __name__ == "__main__":
    main()
