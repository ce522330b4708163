"""Send signals to every command at random moments from 0 s on: status 130, no result lost, nothing left behind.

    python benchmarks/signals.py --signals 100 --images 120
    python benchmarks/signals.py --signals 0 --kills 40 --commands fit,bench
    python benchmarks/signals.py --signals 0 --pairs 20 --commands scan,fit

Each run is a new process, as a user starts it. Before some runs the outputs exist already, and an interrupted run must
leave them as they were or replace them by whole ones. A run that ends before its signal is not counted. Python itself
needs some milliseconds before muflow's first line; a signal in that time ends the process by the system's default (a
shell shows 128 + its number), and these are counted apart.

With --kills, `fit` and `bench` are also killed (SIGKILL) at random moments and continued with --resume until they end.
What they then give must be what an unbroken run gives (fingerprints of detector and calibration; every figure), and
nothing else may be left. With --pairs, `scan` and `fit` are started twice with the same output.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from safetensors import safe_open
from tiny import SETTINGS, make_detector, write_images

from muflow_cli.bundle import load

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OLD = b"what was there before\n"
# What an interrupted run leaves for --resume: the finished work of a fit, the scores of a benchmark.
KEPT = ("a.safetensors.work", "a.json.scores.jsonl")
BAD = ("another outcome", "left behind")
KINDS = ("jsonl", "json", "csv", "sarif", "html", "txt")


def is_whole(path: Path) -> bool:
    """Whether an output is complete: no cut line, no cut document."""
    data = path.read_bytes()
    match path.suffix:
        case ".json" | ".sarif":
            return isinstance(json.loads(data), dict)
        case ".jsonl":
            return all(isinstance(json.loads(line), dict) for line in data.splitlines()) and data.endswith(b"\n")
        case ".csv":
            rows = list(csv.reader(data.decode().splitlines()))
            return len({len(row) for row in rows}) == 1
        case ".xml":
            return ElementTree.fromstring(data).tag == "testsuites"  # noqa: S314 - muflow wrote it
        case ".safetensors":
            with safe_open(path, framework="np") as bundle:
                return "muflow" in bundle.metadata()
    return data.rstrip().endswith(b"</html>") if path.suffix == ".html" else data.endswith(b"\n")


def results(path: Path) -> int:
    """Results in a JSON-lines report."""
    return path.read_bytes().count(b'{"type":"result"')


class Checks:
    """Runs one command again and again, and counts what it left."""

    def __init__(self, folder: Path, words: list[str], outputs: list[str], keeps: Callable[[str], bool]) -> None:
        self.folder, self.words, self.outputs, self.keeps = folder, words, outputs, keeps
        self.count: Counter[str] = Counter()
        begun = time.monotonic()
        subprocess.run(self.command(), stdin=subprocess.DEVNULL, capture_output=True, cwd=folder, check=False)  # noqa: S603
        self.seconds = time.monotonic() - begun
        self.clear()

    def command(self) -> list[str]:
        named = [word for name in self.outputs for word in ("-o", name)]
        return [sys.executable, "-m", "muflow_cli", *self.words, *named, "--force"]

    def clear(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                subprocess.run(["rm", "-r", path], check=True)  # noqa: S603, S607
            else:
                path.unlink()

    def one(self) -> None:
        """One run and one signal."""
        existed = random.random() < 0.5
        for name in self.outputs if existed else ():
            (self.folder / name).write_bytes(OLD)
        number = random.choice(SIGNALS)
        begun = time.monotonic()
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(self.command(), cwd=self.folder, **pipes) as process:  # type: ignore[call-overload] # noqa: S603
            # One time in four in the first half second, where libraries load.
            time.sleep(random.uniform(0, 0.5 if random.random() < 0.25 else self.seconds))
            process.send_signal(number)
            _, said = process.communicate()
        status = process.returncode
        if status == -number and b"in main" not in said:
            self.count["before the first line of muflow"] += 1
        elif status != 130:
            ended = status in (0, 1, 3) and b"interrupted" not in said
            self.count["ended before the signal" if ended else f"status {status}"] += 1
            if ended:
                self.seconds = min(self.seconds, time.monotonic() - begun)
            else:
                print(number, status, said.decode()[-600:])
        else:
            self.count["status 130"] += 1
            self.count["not one line"] += said.count(b"interrupted") != 1 or b"Traceback" in said
        self.check_files(existed=existed, scored=status == 130 and b"all results" in said)
        self.clear()

    def check_files(self, *, existed: bool, scored: bool) -> None:
        for path in self.folder.iterdir():
            if path.name not in self.outputs:
                if not self.keeps(path.name):
                    print("left behind:", path)
                    self.count["left behind"] += 1
            elif path.read_bytes() == OLD:
                self.count["kept"] += 1
                self.count["lost"] += scored
            else:
                self.count["damaged"] += not is_whole(path)
                self.count["whole outputs"] += 1
        self.count["lost"] += sum(existed and not (self.folder / name).exists() for name in self.outputs)
        if scored and "a.jsonl" in self.outputs:
            lines = results(self.folder / "a.jsonl")
            document = json.loads((self.folder / "a.json").read_bytes())
            self.count["lost"] += lines != len(document["results"])


def measure(base: Path, command: str, words: list[str], outputs: list[str], signals: int, minutes: float) -> int:
    """Interrupt one command so many times; the number of things that went wrong."""
    folder, temporary = base / command, base / f"{command}.tmp"
    folder.mkdir()
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    checks = Checks(folder, words, outputs, lambda left: left in KEPT)
    until = time.monotonic() + 60 * minutes
    while checks.count["status 130"] < signals and time.monotonic() < until:
        checks.one()
    for left in temporary.iterdir():
        print("left behind:", left)
        checks.count["left behind"] += 1
    print(f"{command}: {checks.seconds:.1f} s a run; {dict(checks.count)}", flush=True)
    good = {"status 130", "kept", "whole outputs", "before the first line of muflow", "ended before the signal"}
    return sum(number for name, number in checks.count.items() if name not in good)


def outcome(output: Path) -> object:
    """What must not depend on how a run came about."""
    if output.suffix == ".json":
        document = json.loads(output.read_bytes())
        return document["results"] if "muflow.scan" in document["schema"] else {**document, "run": None}
    detector = load(output)
    return detector.fingerprint, detector.calibration.fingerprint()


class Kills:
    """Runs one command again and again, kills it at random moments, and continues it until it has ended."""

    def __init__(self, folder: Path, words: list[str], output: str) -> None:
        self.folder, self.output = folder, output
        self.words = [sys.executable, "-m", "muflow_cli", *words, "-o", output]
        self.count: Counter[str] = Counter()
        begun = time.monotonic()
        self.run(None)
        self.seconds = time.monotonic() - begun  # of the shortest whole run so far
        self.unbroken = outcome(folder / output)
        (folder / output).unlink()

    def run(self, kill_after: float | None) -> int:
        """One run, killed or not; what it says is shown if it fails."""
        kept = any((self.folder / name).exists() for name in KEPT)
        self.count["runs that continued another"] += kept
        words = [*self.words, *(["--resume"] if kept else [])]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen(words, cwd=self.folder, **pipes) as process:  # type: ignore[call-overload] # noqa: S603
            if kill_after is not None:
                time.sleep(kill_after)
                process.kill()
            _, said = process.communicate()
        if process.returncode > 0:
            print(said.decode()[-600:])
            self.count[f"status {process.returncode}"] += 1
        return int(process.returncode)

    def loop(self, kills: int) -> None:
        """Kill so many times, and let the last run end."""
        status = 0
        while self.count["kills"] < kills or status:
            again = self.count["kills"] < kills
            # One time in three in the first half, so that several short runs follow each other.
            latest = self.seconds * (0.5 if random.random() < 1 / 3 else 1.1)
            begun = time.monotonic()
            status = self.run(random.uniform(0, latest) if again else None)
            if status == 0:
                self.seconds = min(self.seconds, time.monotonic() - begun)
            if status > 0:
                return
            self.count["kills"] += status < 0
            if (self.folder / self.output).exists():
                self.check(ended=status == 0)
                status = 0

    def check(self, *, ended: bool) -> None:
        """What a run has left that wrote its output and then ended, or was killed before it could."""
        self.count["runs that ended" if ended else "kills after the output"] += 1
        self.count["another outcome"] += outcome(self.folder / self.output) != self.unbroken
        for path in list(self.folder.iterdir()):
            if ended and path.name != self.output:
                print("left behind:", path.name)
                self.count["left behind"] += 1
            subprocess.run(["rm", "-r", path], check=True)  # noqa: S603, S607


def kill_and_resume(base: Path, command: str, words: list[str], output: str, kills: int) -> int:
    """Kill one command so many times, each time continued; the number of things that went wrong."""
    folder = base / f"{command}.killed"
    folder.mkdir()
    runs = Kills(folder, words, output)
    runs.loop(kills)
    print(f"{command}, killed: {runs.seconds:.1f} s a run; {dict(runs.count)}", flush=True)
    return sum(number for name, number in runs.count.items() if name in BAD or name.startswith("status"))


def together(base: Path, command: str, words: list[str], output: str, pairs: int) -> int:
    """Start one command twice, to the same output, so many times; the number of things that went wrong.

    Of two runs that overlap, the second one must end with status 2 and one sentence, and the first one must give what a
    run alone gives.
    """
    folder, count = base / f"{command}.twice", Counter[str]()
    folder.mkdir()
    whole = [sys.executable, "-m", "muflow_cli", *words, "-o", output, "--force"]
    begun = time.monotonic()
    subprocess.run(whole, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    seconds, alone = time.monotonic() - begun, outcome(folder / output)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    for _ in range(pairs):
        runs = []
        for wait in (0, random.uniform(0, 0.15 * seconds)):
            time.sleep(wait)
            runs.append(subprocess.Popen(whole, cwd=folder, **pipes))  # type: ignore[call-overload] # noqa: S603
        said = [run.communicate()[1] for run in runs]
        ended = [run.returncode for run in runs]
        refused = [text for text, status in zip(said, ended, strict=True) if status == 2]
        count["pairs"] += 1
        count["second run refused in one sentence"] += len(refused) == 1 and refused[0].count(b"\n") == 1
        # Both may write, one after the other, where the first one had ended.
        count["one after the other"] += not refused
        count["both refused"] += len(refused) == 2
        count["another outcome"] += outcome(folder / output) != alone
        count["left behind"] += [path.name for path in folder.iterdir()] != [output]
        count["status"] += any(status not in (0, 1, 2, 3) for status in ended)
    print(f"{command}, two at a time: {seconds:.1f} s a run; {dict(count)}", flush=True)
    return sum(count[name] for name in ("both refused", "another outcome", "left behind", "status"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--kills", type=int, default=0, help="of fit and of bench, each continued with --resume")
    parser.add_argument("--pairs", type=int, default=0, help="of runs of scan and of fit at the same time")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--minutes", type=float, default=60, help="most for each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default="scan,fit,calibrate,bench,ablate")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    random.seed(options.seed)
    for number in SIGNALS:  # nohup, or a shell that starts this in the background, lets muflow ignore some of them
        signal.signal(number, signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = "1"
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(base / "cache")  # else torch makes it beside our temporary files
        detector = make_detector(base)
        for folder, seed in (("images", 2), ("fakes", 3)):
            write_images(base / folder, options.images, seed=seed)
        common = ["--precision", "fp32", "--workers", "1", "-q"]
        tiny = [word for setting in SETTINGS for word in ("--set", setting)]
        weights = ["--encoder-weights", str(base / "weights.safetensors")]
        labelled = ["--real", str(base / "images"), "--fake", str(base / "fakes")]
        measured = [f"a.{kind}" for kind in ("json", "csv", "md", "xml", "html", "scores.csv")]
        commands = {
            "scan": (
                ["scan", str(base / "images"), "--detector", str(detector), "--batch-size", "4", *common],
                [f"a.{kind}" for kind in KINDS],
            ),
            "fit": (["fit", str(base / "reals"), *weights, *tiny, *common], ["a.safetensors"]),
            "calibrate": (["calibrate", str(detector), str(base / "images"), *common], ["a.safetensors"]),
            # Drawn images can be alike by chance.
            "bench": (["bench", str(detector), *labelled, "--overlap", "drop", *common], measured),
            "ablate": (
                ["ablate", str(detector), *labelled, "--fit-on", str(base / "reals"), "--axes", "target", *common],
                ["a.json", "a.csv", "a.md"],
            ),
        }
        for command in options.commands.split(","):
            words, outputs = commands[command]
            if options.signals:
                bad += measure(base, command, words, outputs, options.signals, options.minutes)
            if options.kills and command in ("fit", "bench"):
                bad += kill_and_resume(base, command, words, outputs[0], options.kills)
            if options.pairs and command in ("scan", "fit"):
                output = "a.json" if command == "scan" else outputs[0]
                bad += together(base, command, words, output, options.pairs)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
