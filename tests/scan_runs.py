"""What tests of `scan` share: the command in a process of its own, and the folder of everything that has gone wrong."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_face
from fork_server import executable
from PIL import Image

from muflow_cli.cli import app


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "muflow_cli", *map(str, arguments)]


def forked(*arguments: object) -> list[str]:
    """The same within milliseconds, but for how Python starts."""
    return [str(executable()), *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name not in {"MUFLOW_DETECTOR", "NO_COLOR"}}
    return {**found, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}


def run(*arguments: object, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """One run of the command to its end."""
    given = {"capture_output": True, "env": environment(), "timeout": 240} | more
    return subprocess.run([executable(), *map(str, arguments)], **given)  # noqa: PLW1510 # the status is what tests look at


def begun(words: Sequence[object], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of a command in this process, for tests of what it says and not of how it starts and ends."""
    monkeypatch.setattr(sys, "argv", ["muflow", *map(str, words)])
    return app.run()


def lines(data: bytes) -> list[dict[str, Any]]:
    """The objects of a JSON-lines report."""
    return [json.loads(one) for one in data.splitlines()]


def result_lines(path: Path) -> list[bytes]:
    """The lines of a JSON-lines report that must not depend on how it came about."""
    return [one for one in path.read_bytes().splitlines() if one.startswith(b'{"type":"result"')]


def without_check(line: bytes) -> bytes:
    """The canonical line, which `results_sha256` is taken over."""
    return re.sub(rb',"check":"[0-9a-f]{16}"}$', b"}", line)


def encoded(image: Image.Image, container: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, **how)
    return buffer.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a few kilobytes that says it has `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def hostile(folder: Path) -> dict[str, str]:
    """Fill `folder`; its inputs' names -> the code of their error, "" where they are to be scored."""
    folder.mkdir()
    face = draw_face(np.random.default_rng(3), 80)
    jpeg = encoded(face, "JPEG")
    turned = Image.Exif()
    turned[274] = 6
    grey16 = Image.fromarray(np.asarray(face.convert("L")).astype(np.uint16) * 257)
    palette = face.quantize(32)
    frames = [draw_face(np.random.default_rng(seed), 80) for seed in (4, 5)]
    contents = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "text.jpg": (b"this is no image at all\n" * 9, "not_an_image"),
        "zero.png": (b"", "empty"),
        "bomb.png": (bomb(), "too_many_pixels"),
        "cmyk.jpg": (encoded(face.convert("CMYK"), "JPEG"), ""),
        "grey16.png": (encoded(grey16, "PNG"), ""),
        "palette.png": (encoded(palette, "PNG", transparency=3), ""),
        "grey.jpg": (encoded(face.convert("L"), "JPEG"), ""),
        "animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), ""),
        "turned.jpg": (encoded(face, "JPEG", exif=turned), ""),
        "one.png": (encoded(face.resize((1, 1)), "PNG"), ""),
        "line.png": (encoded(face.resize((30_000, 1)), "PNG"), ""),
        "plain.jpg": (jpeg, ""),
        "plain copy.jpg": (jpeg, ""),
        "name\udcff\n<b>.jpg": (encoded(frames[1], "JPEG"), ""),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "inside.jpg").write_bytes(encoded(frames[0], "JPEG"))
    expected = {name: code for name, (_, code) in contents.items()}
    return expected | {"gone.jpg": "dangling_link", "folder.png/inside.jpg": ""}
