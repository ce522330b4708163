"""Promises of pictures/pool.py: results in input order, bounded look-ahead, prompt end, nothing lost."""

from __future__ import annotations

import gc
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from muflow_cli.errors import BadSpec
from muflow_cli.pictures.decode import PictureError
from muflow_cli.pictures.find import Source
from muflow_cli.pictures.pool import Loaded, LoadSpec, load, sharpness
from muflow_cli.records import Unreadable
from muflow_cli.specs import InputSpec, View, ViewSpec


def encoded(level: int, side: int = 40, container: str = "PNG") -> bytes:
    grain = np.random.default_rng(level).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grain).save(buffer, container)
    return buffer.getvalue()


def spec(workers: int = 2, ahead: int = 4, **more: object) -> LoadSpec:
    return LoadSpec(**{"view": ViewSpec(size=32), "inputs": InputSpec(), "workers": workers, "ahead": ahead} | more)


def slow_source(number: int, seconds: float = 0.0) -> Source:
    def read(_: int) -> bytes:
        time.sleep(seconds)
        return encoded(number)

    return Source(str(number), read)


def decoding_threads() -> int:
    return sum(thread.name.startswith("decode") for thread in threading.enumerate())


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.004]), max_size=20), st.integers(1, 4), st.integers(1, 6))
def test_results_come_in_the_order_of_the_inputs(delays: list[float], workers: int, ahead: int) -> None:
    sources = [slow_source(number, seconds) for number, seconds in enumerate(delays)]
    results = list(load(sources, spec(workers, ahead)))
    assert [result.path for result in results] == [source.path for source in sources]


@pytest.mark.parametrize("ahead", [1, 3, 8])
def test_never_more_is_read_than_ahead_of_what_was_consumed(ahead: int) -> None:
    drawn, read = 0, 0

    def count_read(_: int) -> bytes:
        nonlocal read
        read += 1
        return encoded(1)

    def sources() -> Iterator[Source]:
        nonlocal drawn
        for number in range(30):
            drawn += 1
            yield Source(str(number), count_read)

    for consumed, _ in enumerate(load(sources(), spec(1, ahead)), start=1):
        time.sleep(0.003)
        assert read <= drawn <= consumed + ahead
    assert read == drawn == 30


def test_workers_run_ahead_while_the_consumer_is_busy() -> None:
    read: list[int] = []
    results = load((Source(str(n), lambda _, n=n: read.append(n) or encoded(n)) for n in range(20)), spec(2, 5))
    next(results)
    time.sleep(0.2)
    assert sorted(read) == [0, 1, 2, 3, 4, 5]
    results.close()


def test_closing_stops_the_workers_promptly() -> None:
    results = load((slow_source(number, 0.1) for number in range(1000)), spec(2, 64))
    next(results)
    assert decoding_threads() == 2
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 0.5  # the running pictures are finished, the 60 that wait are not begun
    assert decoding_threads() == 0


def test_workers_end_with_the_last_result() -> None:
    list(load([slow_source(1)], spec()))
    assert decoding_threads() == 0


def test_an_exception_of_the_sources_comes_after_the_results_before_it() -> None:
    def sources() -> Iterator[Source]:
        yield slow_source(0, 0.02)
        yield slow_source(1)
        raise OSError("the list broke")

    seen = []
    with pytest.raises(OSError, match="the list broke"):
        seen.extend(result.path for result in load(sources(), spec(2, 8)))
    assert decoding_threads() == 0
    results = load(sources(), spec(2, 8))
    assert [next(results).path, next(results).path] == ["0", "1"]
    results.close()


def test_a_bug_in_a_worker_is_raised_not_hidden() -> None:
    def broken(_: Image.Image) -> Image.Image:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(load([slow_source(1)], spec(transform=broken)))
    assert decoding_threads() == 0


def test_a_bad_input_is_a_record_in_its_place_with_what_is_known_of_it(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(b"text")

    def refuse(_: int) -> bytes:
        raise PictureError("too_large", "more than allowed", size=7)

    before = Unreadable(path="link", code="dangling_link", message="leads nowhere")
    sources = [before, Source("big", refuse), Source(str(tmp_path / "text.jpg")), slow_source(3)]
    first, second, third, fourth = load(sources, spec())
    assert first is before
    assert isinstance(second, Unreadable)
    assert (second.path, second.code, second.bytes, second.sha256) == ("big", "too_large", 7, None)
    assert isinstance(third, Unreadable)
    assert (third.code, third.bytes, len(third.sha256 or "")) == ("not_a_picture", 4, 64)
    assert isinstance(fourth, Loaded)


def test_memory_does_not_grow_with_the_number_of_inputs() -> None:
    alive: list[int] = []
    for number, _ in enumerate(load((slow_source(n) for n in range(60)), spec(2, 4))):
        if number in (10, 50):
            gc.collect()
            alive.append(sum(isinstance(thing, Loaded) for thing in gc.get_objects()))
    assert alive[1] <= alive[0] + 4


CROPS = ViewSpec(kind=View.CROPS, size=16, fit_count=3, draft=False)


def crops(numbers: list[int], seed: int, workers: int) -> dict[str, bytes]:
    loaded = load([slow_source(n) for n in numbers], spec(workers, view=CROPS, crops_seed=seed))
    return {one.path: one.views.tobytes() for one in loaded if isinstance(one, Loaded)}


def test_random_crops_follow_seed_and_content_not_order_or_workers() -> None:
    forwards = crops([1, 2, 3, 4], 0, 1)
    assert crops([4, 3, 2, 1], 0, 3) == forwards
    assert crops([1, 2, 3, 4], 1, 1) != forwards


def test_two_files_of_one_seed_have_their_own_crops(tmp_path: Path) -> None:
    picture = Image.open(io.BytesIO(encoded(1, 200)))
    views = []
    for level in (1, 9):
        path = tmp_path / f"{level}.png"
        picture.save(path, compress_level=level)
        (one,) = load([Source(str(path))], spec(view=CROPS, crops_seed=0))
        assert isinstance(one, Loaded)
        views.append(one.views)
    assert (views[0] != views[1]).any()


def test_without_a_seed_the_scan_views_are_cut() -> None:
    (one,) = load([slow_source(1)], spec(view=CROPS))
    assert isinstance(one, Loaded)
    assert one.views.shape == (16, 16, 16, 3)


@pytest.mark.parametrize(("size", "expected"), [((400, 100), (96, 24)), ((50, 20), (50, 20)), ((30_000, 1), (96, 1))])
def test_a_thumbnail_keeps_the_shape_and_never_enlarges(size: tuple[int, int], expected: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    (one,) = load([Source("a", lambda _: buffer.getvalue())], spec(thumbnail=96))
    assert isinstance(one, Loaded)
    with Image.open(io.BytesIO(one.thumbnail or b"")) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", expected)


def test_a_transform_sees_the_picture_at_full_scale() -> None:
    sizes = []

    def note(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        return Image.new("RGB", image.size, "blue")

    (one,) = load([Source("a", lambda _: encoded(1, 400, "JPEG"))], spec(transform=note))
    assert sizes == [(400, 400)]
    assert isinstance(one, Loaded)
    assert (one.views == (0, 0, 255)).all()


def test_sharpness_is_the_deviation_of_the_laplacian() -> None:
    assert sharpness(np.full((8, 8, 3), 77, np.uint8)) == 0
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(64, axis=0)
    assert sharpness(ramp) == 0
    board = np.indices((64, 64)).sum(axis=0) % 2
    assert sharpness((10 * board[..., None].repeat(3, axis=2)).astype(np.uint8)) == pytest.approx(40)
    (one,) = load([slow_source(5)], spec())
    assert isinstance(one, Loaded)
    assert one.facts.sharpness == sharpness(one.views[0])


@pytest.mark.parametrize("name", ["workers", "ahead"])
def test_no_workers_or_no_room_is_refused(name: str) -> None:
    with pytest.raises(BadSpec, match=name):
        spec(**{name: 0})
