"""What tests of decoding processes share: which there are, whether they live, and an image that keeps one busy."""

from __future__ import annotations

import os
from pathlib import Path

from muflow_cli.images import worker


def slow_ppm(length: int = 30_000_000) -> bytes:
    """Pillow skips this comment byte by byte in Python, for seconds."""
    return b"P3\n#" + bytes([97]) * length + b"\n9 9\n255\n"


def end_idle() -> None:
    """End the decoding processes that wait for work."""
    worker._end_idle()


def alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def resident(process_id: int) -> int:
    """Bytes of memory that a process takes."""
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children(owner: int) -> list[int]:
    """Process ids of the decoding processes of another."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        mine = int(fields[1]) == owner and fields[0] != "Z"
        if mine and b"decoder import serve" in path.with_name("cmdline").read_bytes():
            found.append(int(path.parent.name))
    return found
