"""Imports without pauses: torch's modules are many objects, and none of them is garbage."""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quick_start() -> Iterator[None]:
    """Load libraries without looking for garbage, and do not look through what was loaded later.

    Half of the time between a command and its end, where there is one picture to scan.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        if "triton" in sys.modules:  # comes with torch's compiler, and prints what is not taken apart at the end
            atexit.register(gc.unfreeze)
