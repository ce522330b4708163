from __future__ import annotations

import gc

import pytest

from muflow_cli.cli.startup import quick_start


def test_garbage_is_collected_again_after_a_start() -> None:
    with quick_start():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.unfreeze()


def test_garbage_is_collected_again_after_a_start_that_failed() -> None:
    with pytest.raises(ImportError), quick_start():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()
