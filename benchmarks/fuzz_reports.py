"""Fuzz of reports: `--verify` notices each mutation that changes a value, and `--resume` keeps what was written only.

Whether a mutation changes a value is decided by a strict reading of the JSON: key order, white space, escapes and the
spelling of one number are no change; another type (60 and 60.0, 0 and false), a repeated key and another line are. A
report that a forger sealed anew, with every check and digest computed again, passes by design: only a signature
would show it. Such forgeries are counted on a row of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_bundles import is_sentence, make_small
from mutations import hostile, leaves, mutate
from tiny import encoded, image

from muflow_cli.canonical import canonical_json
from muflow_cli.errors import MuflowError
from muflow_cli.output.digests import ResultsDigest, sealed
from muflow_cli.output.encode import (
    detector_from_json,
    line,
    line_key,
    result_from_json,
    run_from_json,
    summary_from_json,
    summary_to_json,
    with_check,
)
from muflow_cli.output.report_reader import read_head, read_report
from muflow_cli.scan.resume import resumable
from muflow_cli.verify import verify


def meaning(data: bytes) -> object:
    """What a report says, line by line, comparable; the bytes themselves where it is no JSON."""
    try:
        text = data.decode("utf-8-sig").rstrip()
        return [_strict(one) for one in (text.split("\n") if text.startswith('{"type"') else [text])]
    except (ValueError, RecursionError):
        return data


def _strict(text: str) -> str:
    """JSON with sorted keys in which nothing is lost: repeated keys, types of numbers, NaN."""

    def pairs(found: list[tuple[str, Any]]) -> Any:
        return sorted(("key", name, repr(value)) for name, value in found)

    return repr(json.loads(text, object_pairs_hook=pairs))


class Reports:
    """Mutated reports of one scan, as JSON and as JSON lines, beside the files that they name."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        os.chdir(folder)
        make_small(folder)
        self._write_files(Path("files"))
        words = [sys.executable, "-m", "muflow_cli", "scan", "files", "--detector", "small.safetensors", "-q"]
        done = subprocess.run([*words, "-o", "whole.json", "-o", "whole.jsonl"], check=False)  # noqa: S603
        assert done.returncode in (0, 1, 3)  # noqa: S101
        self._whole = {suffix: Path(f"whole.{suffix}").read_bytes() for suffix in ("json", "jsonl")}
        head = read_head(Path("whole.jsonl"))
        assert head is not None  # noqa: S101
        self._run, self._info = head.run, head.detector
        self._written = list(read_report(Path("whole.jsonl")).results)
        self._meaning = {suffix: meaning(data) for suffix, data in self._whole.items()}
        for suffix in self._whole:
            assert not list(verify(Path(f"whole.{suffix}")).differences)  # noqa: S101

    def _write_files(self, folder: Path) -> None:
        folder.mkdir()
        generator = np.random.default_rng(17)
        for number in range(8):
            (folder / f"{number}.jpg").write_bytes(encoded(image(generator, 64)))
        (folder / "8.jpg").write_bytes((folder / "7.jpg").read_bytes())
        (folder / "9.jpg").write_bytes((folder / "1.jpg").read_bytes()[:700])
        (folder / os.fsdecode(b"\xff <b>.png")).write_bytes(encoded(image(generator, 40), "PNG"))
        (folder / "text.png").write_bytes(b"no image at all\n")

    def make(self, number: int, generator: np.random.Generator) -> tuple[str, Path]:
        """Write one report; the mutation and where it lies."""
        self._suffix = ("json", "jsonl", "jsonl")[number % 3]
        mutations = _LINES if self._suffix == "jsonl" else _ALL
        name, mutation = list(mutations.items())[int(generator.integers(0, len(mutations)))]
        self._mutated = mutation(self._whole[self._suffix], generator)
        self._sealed, self._forged = name == "sealed anew", name in ("sealed anew", "forged check")
        self._path = Path(f"mutated.{self._suffix}").absolute()
        self._path.write_bytes(self._mutated)
        return f"{self._suffix}, {name}", self._path

    def outcome(self) -> str:
        """What became of it."""
        changed = meaning(self._mutated) != self._meaning[self._suffix]
        # Whoever knows how a check is made can write a line that `--resume` keeps.
        wrong = self._resumed() if self._suffix == "jsonl" and not self._forged else ""
        if wrong:
            return wrong
        try:
            sentences = [one.message for one in verify(self._path).differences]
        except MuflowError as error:
            return "refused" if is_sentence(str(error)) else f"FAILED: not one sentence: {str(error)[:300]!r}"
        if sentences:
            odd = next((sentence for sentence in sentences if not is_sentence(sentence)), None)
            return "differences named" if odd is None else f"FAILED: not one sentence: {odd[:300]!r}"
        if not changed:
            return "the same values, verified"
        if self._sealed:
            return "sealed anew, verified (only a signature shows it)"
        return "FAILED: unseen, a change was verified"

    def _resumed(self) -> str:
        """What is wrong with what `--resume` would keep of it; empty if nothing is."""
        try:
            kept = resumable(self._path, self._run, self._info)
        except MuflowError as error:
            return "" if is_sentence(str(error)) else f"FAILED: not one sentence: {str(error)[:300]!r}"
        if any(result not in self._written for result in kept.values()):
            return "FAILED: unseen, --resume keeps a result that was not written"
        return ""


def _documents(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(one) for one in (data.splitlines() if data.startswith(b'{"type"') else [data])]


def _joined(documents: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one, separators=(",", ":")).encode() + b"\n" for one in documents)


def _changed_bytes(data: bytes, generator: np.random.Generator) -> bytes:
    return mutate(data, [data], generator, 2000)


def _digit(data: bytes, generator: np.random.Generator) -> bytes:
    """One digit replaced by another."""
    digits = [at for at, byte in enumerate(data) if 48 <= byte < 58]
    at = digits[int(generator.integers(0, len(digits)))]
    return data[:at] + b"%d" % generator.integers(0, 10) + data[at + 1 :]


def _any_leaf(documents: Sequence[Any], generator: np.random.Generator) -> tuple[Any, Any]:
    """What holds a value somewhere in one of the documents, and its key or index there."""
    document = documents[int(generator.integers(0, len(documents)))]
    paths = list(leaves(document))
    *above, key = paths[int(generator.integers(0, len(paths)))]
    at: Any = document
    for step in above:
        at = at[step]
    return at, key


def _value(data: bytes, generator: np.random.Generator) -> bytes:
    """One value replaced, removed or added."""
    documents = _documents(data)
    at, key = _any_leaf(documents, generator)
    action = generator.random()
    if action < 0.75:
        at[key] = hostile(generator)
    elif action < 0.9:
        del at[key]
    elif isinstance(at, dict):
        at["colour"] = hostile(generator)
    return _joined(documents)


def _close_value(data: bytes, generator: np.random.Generator) -> bytes:
    """One value replaced by one that is close to it: the next number, another type, a neighbour's value."""
    documents = _documents(data)
    at, key = _any_leaf(documents, generator)
    value = at[key]
    if isinstance(value, bool):
        at[key] = (not value, int(value))[int(generator.integers(0, 2))]
    elif isinstance(value, int):
        at[key] = (value + 1, float(value), -value, bool(value))[int(generator.integers(0, 4))]
    elif isinstance(value, float):
        at[key] = (float(np.nextafter(value, 9e9)), round(value), -value, value * 2)[int(generator.integers(0, 4))]
    elif isinstance(value, str):
        at[key] = (value + " ", value.upper(), value[:-1], "")[int(generator.integers(0, 4))]
    elif value is None:
        at[key] = (False, 0, "", [])[int(generator.integers(0, 4))]
    else:
        at[key] = [] if isinstance(value, list) else {}
    return _joined(documents)


def _repeated_key(data: bytes, generator: np.random.Generator) -> bytes:
    """A key of the text put a second time before it, with another value."""
    starts = [at for at in range(len(data) - 1) if data[at : at + 1] in b"{," and data[at + 1 : at + 2] == b'"']
    at = starts[int(generator.integers(0, len(starts)))]
    key = data[at + 1 : data.find(b'"', at + 2) + 1]
    value = (b"0", b"null", b'"x"', b"true")[int(generator.integers(0, 4))]
    return data[: at + 1] + key + b":" + value + b"," + data[at + 1 :]


def _respelt(data: bytes, generator: np.random.Generator) -> bytes:
    """The same or nearly the same, spelt otherwise."""
    documents = _documents(data)
    spellings: tuple[Callable[[], bytes], ...] = (
        lambda: b"".join(json.dumps(one).encode() + b"\n" for one in documents),
        lambda: b"".join(
            json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"
            for one in documents
        ),
        lambda: b"".join(canonical_json(one) + b"\n" for one in documents),
        lambda: data + b" ",
        lambda: data + b"\n",
        lambda: data.replace(b"\n", b"\r\n"),
        lambda: data.replace(b".jpg", b"\\u002ejpg", 1),
        lambda: data.replace(b":0.", b":0.0", 1),
        lambda: data.replace(b":0.", b":00.", 1),
        lambda: data.replace(b":1,", b":1.0,", 1),
        lambda: data.replace(b":false", b":0", 1),
        lambda: b"\xef\xbb\xbf" + data,
    )
    return spellings[int(generator.integers(0, len(spellings)))]()


def _lines(data: bytes, generator: np.random.Generator) -> bytes:
    """Lines removed, repeated, swapped or cut."""
    lines = data.splitlines(keepends=True)
    first, second = (int(generator.integers(0, len(lines))) for _ in range(2))
    match int(generator.integers(0, 5)):
        case 0:
            del lines[first]
        case 1:
            lines.insert(second, lines[first])
        case 2:
            lines[first], lines[second] = lines[second], lines[first]
        case 3:
            lines[first] = lines[first][: int(generator.integers(0, len(lines[first])))]
        case _:
            del lines[first:]
    return b"".join(lines)


def _forged_check(data: bytes, generator: np.random.Generator) -> bytes:
    """A check replaced, or a result edited and its check computed anew, as `--resume` would take it."""
    lines = data.splitlines(keepends=True)
    at = int(generator.integers(1, len(lines) - 1))
    result = json.loads(lines[at])
    if generator.random() < 0.4:
        result["check"] = f"{int(generator.integers(0, 2**62)):016x}"
        return b"".join([*lines[:at], line(result), *lines[at + 1 :]])
    head = json.loads(lines[0])
    key = line_key(run_from_json(head["run"]), detector_from_json(head["detector"]))
    body = {name: value for name, value in result.items() if name != "check"}
    name = sorted(body.keys() - {"type"})[int(generator.integers(0, len(body) - 1))]
    body[name] = hostile(generator)
    # A forger who knows the key of the head writes a check that fits; only the digest over all results does not.
    return b"".join(
        [*lines[:at], with_check(json.dumps(body, separators=(",", ":")).encode() + b"\n", key), *lines[at + 1 :]]
    )


def _sealed_anew(data: bytes, generator: np.random.Generator) -> bytes:
    """A result edited, and every check and digest computed anew."""
    lines = data.splitlines(keepends=True)
    head, last = json.loads(lines[0]), json.loads(lines[-1])
    run, detector = run_from_json(head["run"]), detector_from_json(head["detector"])
    results = [json.loads(one) for one in lines[1:-1]]
    scored = [one for one in results if "error" not in one]
    edited = scored[int(generator.integers(0, len(scored)))]
    edited["score"] = float(generator.normal())
    digest, key, written = ResultsDigest(), line_key(run, detector), []
    for one in results:
        digest.add(result_from_json(one))
        written.append(with_check(line({name: value for name, value in one.items() if name != "check"}), key))
    ended = run_from_json({**head["run"], "finished": last["finished"]})
    summary = summary_from_json({**last["summary"], "results_sha256": digest.hexdigest()})
    last["summary"] = summary_to_json(sealed(summary, ended, detector))
    return b"".join([lines[0], *written, line(last)])


_ALL: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "bytes": _changed_bytes,
    "digit": _digit,
    "value": _value,
    "close value": _close_value,
    "repeated key": _repeated_key,
    "spelling": _respelt,
}
_LINES = {**_ALL, "lines": _lines, "forged check": _forged_check, "sealed anew": _sealed_anew}
