"""The measurements of a benchmark, kept in a growing file beside its first output until all outputs are written.

A run that is interrupted or killed leaves the file; `--resume` measures the other images only. What is kept of an image
depends on its content, the detector's branches and the machine, never on its label or on the calibration.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from muflow_cli.canonical import from_json, to_json
from muflow_cli.environment import option_of, side_by_side
from muflow_cli.errors import CannotResume
from muflow_cli.files import OutputFile, growing, open_regular, replacing
from muflow_cli.output.encode import line, mismatch_note, with_check
from muflow_cli.output.inert import escape
from muflow_cli.records import Declared, Facts

SCHEMA: Final = "muflow.bench-scores/1"
_START: Final = line({"type": "scores", "schema": SCHEMA})[:-2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What is computed of one image, before it is judged.

    Attributes:
        facts: of its bytes.
        columns: (S,) nats per dimension.
        declared: what the file says of its own origin.
        near_hash: perceptual hash; None for a perturbed image.
        features: F float16, for comparisons within a batch; empty where none were asked for.
    """

    facts: Facts
    columns: tuple[float, ...]
    declared: Declared
    near_hash: int | None
    features: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """How measurements are made; those of two runs can stand side by side only where all of it is equal.

    Attributes:
        detector: fingerprint.
        device: that computes.
        precision: of the convolutions.
        versions: of the programs that compute.
        inputs: options that decide the result of an input, as `environment.deciding` gives them.
    """

    detector: str
    device: str
    precision: str
    versions: dict[str, str]
    inputs: dict[str, int | float | str | bool | None]

    def differing(self, before: Made) -> list[str]:
        """Names of the settings, options and versions that another run had otherwise."""
        pairs = {
            "detector": (before.detector, self.detector),
            "device": (before.device, self.device),
            "precision": (before.precision, self.precision),
            **side_by_side(before.versions, self.versions),
            **{option_of(name): (before.inputs.get(name), value) for name, value in self.inputs.items()},
        }
        return [name for name, (then, now) in pairs.items() if then != now]


def is_kept(path: Path) -> bool:
    """Whether a file is empty or begins as one of these; a link is none, whatever it leads to."""
    try:
        with open_regular(path) as file:
            first = file.read(len(_START)) or b""
    except OSError:
        return False
    return not path.is_symlink() and _START.startswith(first)


def kept_path(output: Path) -> Path:
    """The file in which a benchmark with this first output keeps its measurements."""
    return output.with_name(f"{output.name}.scores.jsonl")


class Kept:
    """The measurements of this run and, with `resume`, of those before it, in one file.

    The file is JSON lines: how the measurements are made, then one measurement a line. Each has a check, which is taken
    over the first line too. Nothing is written before the first measurement.

    Args:
        path: the file; whoever calls holds the right to write it.
        resume: keep and give back what the file holds.
        note: told, in a sentence, of lines that cannot be trusted; their images are measured again.
    """

    def __init__(self, path: Path, *, resume: bool, note: Callable[[str], None] = lambda _: None) -> None:
        self._path, self._resume, self._note = path, resume, note
        self._stack = contextlib.ExitStack()
        self._stream: OutputFile | None = None
        self._head = b""
        self._earlier: dict[str, dict[str, Measurement]] = {}
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self, made: Made) -> None:
        """Read what the runs before kept, and open the file.

        Raises:
            CannotResume: where it is another file, or its measurements were made differently.
        """
        self._head = line({"type": "scores", "schema": SCHEMA, **to_json(made)})
        if self._resume:
            self._read(made)
        self._stream = self._stack.enter_context(growing(self._path))
        self._begun = self._resume and self._stream.seek(0, os.SEEK_END) > 0

    def earlier(self, view: str) -> dict[str, Measurement]:
        """Content hash -> measurement that an earlier run kept.

        Args:
            view: the perturbation and its seed; empty for clean images.
        """
        return self._earlier.get(view, {})

    def keep(self, view: str, measurement: Measurement) -> None:
        """Add one measurement; CannotWrite with the system's reason."""
        assert self._stream is not None  # noqa: S101 - `begin` comes first
        if not self._begun:
            self._stream.seek(0)
            self._stream.truncate()
            self._stream.write(self._head)
            self._begun = True
        self._stream.write(self._line(view, measurement))

    def words(self) -> str:
        """What an interrupted run says of the file."""
        return f"; what was scored is kept in {escape(str(self._path))}, continue with --resume" if self._begun else ""

    def remove(self) -> None:
        """Remove the file, since the outputs hold everything now."""
        self._path.unlink(missing_ok=True)

    def _line(self, view: str, measurement: Measurement) -> bytes:
        return with_check(line({"type": "score", "view": view, **to_json(measurement)}), self._head)

    def _read(self, made: Made) -> None:
        """Take in the file's measurements; lines that cannot be trusted are removed from it."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        good, bad = list[tuple[int, int]](), 0
        with file:
            first = file.readline()
            if first != self._head and not self._head.startswith(first):  # a run may have been killed in the first line
                raise CannotResume(str(self._path), _why_not(first, made))
            whole = first == self._head
            while raw := file.readline():
                read = self._measurement(raw)
                if read is not None:
                    view, measurement = read
                    self._earlier.setdefault(view, {})[measurement.facts.sha256] = measurement
                    good.append((file.tell() - len(raw), len(raw)))
                else:
                    whole = False
                    bad += raw.endswith(b"\n")  # what has no end was being written when the run was killed
            if not whole:
                with replacing(self._path) as cleaned:
                    cleaned.write(self._head)
                    for start, size in good:
                        file.seek(start)
                        cleaned.write(file.read(size))
        if bad:
            self._note(mismatch_note(bad, "score", "image", self._path))

    def _measurement(self, raw: bytes) -> tuple[str, Measurement] | None:
        """View and measurement of a line, if it is what `keep` writes."""
        try:
            value = json.loads(raw)
            view = value["view"]
            body = {name: item for name, item in value.items() if name not in {"type", "view", "check"}}
            measurement = from_json(Measurement, body)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return (view, measurement) if self._line(view, measurement) == raw else None


def _why_not(first: bytes, made: Made) -> str:
    """Why a file with this first line cannot be continued by a run that measures as `made` says."""
    try:
        head = json.loads(first)
        before = from_json(Made, {name: value for name, value in head.items() if name not in {"type", "schema"}})
    except (ValueError, AttributeError, RecursionError):
        return "it does not hold the scores of a benchmark"
    return f"it was written with another {', '.join(made.differing(before)) or 'muflow'}"
