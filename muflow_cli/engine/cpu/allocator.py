"""glibc's memory allocator, told to keep the memory of freed activations."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from functools import cache
from typing import Final

# Names and numbers of glibc's malloc.h. A larger threshold for mmap is refused.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MMAP_FROM: Final = 32 * 2**20
_TRIM_FROM: Final = 256 * 2**20


@cache
def keep_memory() -> None:
    """Keep freed memory instead of giving it back and faulting it in again at every layer; once per process."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_FROM)
