"""Imports without garbage collection, since importing torch makes many objects and little garbage."""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quick_start() -> Iterator[None]:
    """Collect no garbage inside the block, and leave what it made out of later collections.

    Otherwise a scan of one image takes half of its time for that.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        if "triton" in sys.modules:  # part of torch's compiler; prints a warning at exit about frozen objects
            atexit.register(gc.unfreeze)
