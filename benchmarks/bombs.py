"""Scan files that are made to take long or to fill the memory: time, memory and result of each, in a scan of its own.

    python benchmarks/bombs.py [--only NAME]

Each is a few kilobytes or megabytes that announce far more, or that a decoder walks through slowly. A photograph lies
beside it and must be scored. Time is of the clock; memory is the sum of the peaks of muflow and its processes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from fuzz import processes_below, status_of
from tiny import encoded, image, make_detector


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of one colour."""
    samples = {0: 1, 2: 3, 6: 4}[colour]
    row = bytes(1 + (width * depth * samples + 7) // 8)
    packer = zlib.compressobj(9)
    packed = [packer.compress(row) for _ in range(height)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", b"".join([*packed, packer.flush()])) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def progressive(scans: int, side: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    image(np.random.default_rng(1), side).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def tar_of_zeros(size: int) -> bytes:
    """A gzip-compressed tar of one member of zeros under an image's name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = size
        with Path("/dev/zero").open("rb") as zeros:
            archive.addfile(info, zeros)
    return buffer.getvalue()


def tar_of_holes(count: int, size: int) -> bytes:
    """A tar of sparse members that are one hole each (GNU, old format)."""
    members = []
    for number in range(count):
        header = bytearray(tarfile.TarInfo(f"{number}.png").tobuf(tarfile.GNU_FORMAT))
        header[156:157] = b"S"
        for at, value in ((124, 0), (386, size), (398, 0), (483, size)):
            header[at : at + 12] = b"%011o\0" % value
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        members.append(bytes(header))
    return b"".join(members) + bytes(1024)


def crowded_zip(count: int, suffix: str) -> bytes:
    """A zip of empty members, its end in the form for large archives."""
    local, directory = io.BytesIO(), io.BytesIO()
    for number in range(count):
        name = f"{number:07}{suffix}".encode()
        fields = struct.pack("<HHHHHLLLHH", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0)
        directory.write(
            b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHLL", 0, 0, 0, 0, local.tell()) + name
        )
        local.write(b"PK\3\4" + fields + name)
    start, size = local.tell(), directory.tell()
    large = b"PK\6\6" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, count, count, size, start)
    locator = b"PK\6\7" + struct.pack("<LQL", 0, start + size, 1)
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return local.getvalue() + directory.getvalue() + large + locator + end


BOMBS: Final[Mapping[str, Callable[[], dict[str, bytes]]]] = {
    "a photograph alone": dict,
    "PNG of 67 million x 1": lambda: {"a.png": png(67_000_000, 1)},
    "PNG of 1 x 67 million": lambda: {"a.png": png(1, 67_000_000)},
    "PNG of 100 million x 1": lambda: {"a.png": png(100_000_000, 1)},
    "PNG of 30,000 x 30,000": lambda: {"a.png": png(30_000, 30_000, depth=1)},
    "two PNGs of 10,000 x 10,000, RGBA": lambda: {name: png(10_000, 10_000, colour=6) for name in ("a.png", "b.png")},
    "PNG of 10,000 x 10,000, 16 bits": lambda: {"a.png": png(10_000, 10_000, depth=16, colour=2)},
    "plain PPM of 9,900 x 9,900, 4 KB": lambda: {"a.ppm": b"P3\n9900 9900\n255\n" + b"1 " * 2000},
    "PPM of 9,900 x 9,900, 10 levels": lambda: {"a.ppm": b"P5\n9900 9900\n10\n" + bytes(99 * 10**5)},
    "PPM with a comment of 60 MB": lambda: {"a.ppm": b"P3\n#" + b"a" * 60_000_000 + b"\n9 9\n255\n"},
    "JPEG of 2,000 scans": lambda: {"a.jpg": progressive(2000, 400)},
    "JPEG of 90 scans, 3,000 x 3,000": lambda: {"a.jpg": progressive(80, 3000)},
    "JPEG-like junk: 60 MB of markers": lambda: {"a.jpg": b"\xff\xd8" + b"\xff\xe0\0\2" * 15_000_000},
    "JPEG-like junk: 60 MB of FF": lambda: {"a.jpg": b"\xff\xd8\xff\xe0" + b"\xff" * 60_000_000},
    "JPEG-like junk: 60 MB of scans": lambda: {"a.jpg": b"\xff\xd8" + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 6_000_000},
    "tar.gz of 3 GB of zeros": lambda: {"a.tar.gz": tar_of_zeros(3 * 2**30)},
    "tar of 45 holes of 60 MB": lambda: {"a.tar": tar_of_holes(45, 60 * 2**20)},
    "zip of a million non-images": lambda: {"a.zip": crowded_zip(1_000_000, "")},
    "zip of 190,000 non-images": lambda: {"a.zip": crowded_zip(190_000, "")},
    "zip of 190,000 empty images": lambda: {"a.zip": crowded_zip(190_000, ".jpg")},
}


def scan(folder: Path, detector: Path) -> tuple[int, str, float, float]:
    """Exit status, what the results are, seconds and MiB of a scan of one folder."""
    report = folder.parent / "report.jsonl"
    report.unlink(missing_ok=True)
    words = [sys.executable, "-m", "muflow_cli", "scan", folder, "--detector", detector, "-q", "-o", report]
    begun, peaks = time.monotonic(), dict[str, int]()
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:  # noqa: S603
        while process.poll() is None:
            for one in (str(process.pid), *processes_below(str(process.pid))):
                peaks[one] = max(peaks.get(one, 0), status_of(one, "VmHWM"))
            time.sleep(0.02)
        said = process.communicate()[1]
    seconds = time.monotonic() - begun
    if b"Traceback" in said or not report.exists():
        return process.returncode, f"FAILED: {said.decode()[-200:]!r}", seconds, sum(peaks.values()) / 1024
    lines = [json.loads(line) for line in report.read_bytes().splitlines()[1:-1]]
    found = [line["error"]["code"] if "error" in line else "scored" for line in lines]
    own = [line for line in lines if line["path"].endswith("photograph.jpg")]
    whole = ", ".join(f"{found.count(kind)} {kind}" for kind in dict.fromkeys(found))
    scored = len(own) == 1 and "error" not in own[0]
    return process.returncode, whole if scored else f"FAILED: {whole}", seconds, sum(peaks.values()) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one of the names in the table")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        detector = make_detector(base)
        photograph = encoded(image(np.random.default_rng(2), 300))
        print("| input | bytes | status | results | seconds | MiB |\n|---|---|---|---|---|---|")
        for bomb, make in BOMBS.items():
            if options.only not in (None, bomb):
                continue
            folder = base / "files"
            folder.mkdir()
            files = make()
            for file, data in {**files, "photograph.jpg": photograph}.items():
                (folder / file).write_bytes(data)
            size = sum(map(len, files.values()))
            status, found, seconds, mib = scan(folder, detector)
            failed += found.startswith("FAILED")
            print(f"| {bomb} | {size:,} | {status} | {found} | {seconds:.1f} | {mib:,.0f} |", flush=True)
            subprocess.run(["rm", "-r", folder], check=True)  # noqa: S603, S607
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
