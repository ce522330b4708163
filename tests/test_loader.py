"""Promises of images/loader.py: order, bounded look-ahead, prompt end, one decoding for all branches."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from muflow_cli.errors import BadSpec
from muflow_cli.images.decode import decode
from muflow_cli.images.inputs import Input, InputKind
from muflow_cli.images.loader import Loaded, LoadSpec, Seen, load, load_unknown
from muflow_cli.images.prepare import sharpness
from muflow_cli.images.views import cut_views
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec, Runtime
from muflow_cli.specs import View, ViewSpec


def encoded(level: int, side: int = 40, container: str = "PNG") -> bytes:
    grain = np.random.default_rng(level).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grain).save(buffer, container)
    return buffer.getvalue()


def spec(workers: int = 2, ahead: int = 4, view: ViewSpec | None = None, **more: object) -> LoadSpec:
    views = {"main": view or ViewSpec(size=32)}
    return LoadSpec(**{"views": views, "inputs": InputSpec(), "workers": workers, "ahead": ahead} | more)


def from_bytes(path: str, data: bytes) -> Input:
    """An input that brings its bytes along, as a member of a compressed archive does."""
    return Input(path, InputKind.TAR_MEMBER, size=len(data), content=data)


def noise(number: int) -> Input:
    return from_bytes(str(number), encoded(number))


def loaded(items: list[Input], load_spec: LoadSpec) -> list[Loaded]:
    results = list(load(items, load_spec))
    assert all(isinstance(result, Loaded) for result in results)
    return results


def slowly(seconds: float) -> Callable[[Image.Image], Image.Image]:
    def transform(image: Image.Image) -> Image.Image:
        time.sleep(seconds)
        return image

    return transform


@pytest.fixture(autouse=True)
def threads_before() -> None:
    """Other tests of this process may have left iterators open, whose threads wait."""
    OTHERS.clear()
    OTHERS.update(threading.enumerate())


OTHERS: set[threading.Thread] = set()


def decoding_threads() -> int:
    return sum(thread.name.startswith("decode") for thread in threading.enumerate() if thread not in OTHERS)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from([0, 1, 4]), max_size=20), st.integers(1, 4), st.integers(1, 6))
def test_results_come_in_the_order_of_the_inputs(delays: list[int], workers: int, ahead: int) -> None:
    def wait_as_the_image_says(image: Image.Image) -> Image.Image:
        time.sleep(image.getpixel((0, 0))[0] / 1000)
        return image

    plain = {delay: io.BytesIO() for delay in delays}
    for delay, buffer in plain.items():
        Image.new("RGB", (40, 40), (delay, 0, 0)).save(buffer, "PNG")
    items = [from_bytes(str(number), plain[delay].getvalue()) for number, delay in enumerate(delays)]
    results = loaded(items, spec(workers, ahead, transform=wait_as_the_image_says))
    assert [result.path for result in results] == [item.path for item in items]


@pytest.mark.parametrize("ahead", [1, 3, 8])
def test_never_more_is_read_than_ahead_of_what_was_consumed(ahead: int) -> None:
    drawn, decoded = 0, 0

    def count(image: Image.Image) -> Image.Image:
        nonlocal decoded
        decoded += 1
        return image

    def inputs() -> Iterator[Input]:
        nonlocal drawn
        for number in range(30):
            drawn += 1
            yield noise(number)

    for consumed, _ in enumerate(load(inputs(), spec(1, ahead, transform=count)), start=1):
        time.sleep(0.003)
        assert decoded <= drawn <= consumed + ahead
    assert decoded == drawn == 30


def test_workers_run_ahead_while_the_consumer_is_busy() -> None:
    sizes: list[int] = []
    items = [from_bytes(str(number), encoded(number, 40 + number)) for number in range(20)]
    results = load(items, spec(2, 5, transform=lambda image: sizes.append(image.width) or image))
    next(results)
    time.sleep(0.2)
    assert sorted(sizes) == [40, 41, 42, 43, 44, 45]
    results.close()


def test_closing_stops_the_workers_promptly() -> None:
    results = load((noise(number) for number in range(1000)), spec(2, 64, transform=slowly(0.1)))
    next(results)
    assert decoding_threads() == 2
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 0.5  # the running images are finished, the 60 that wait never start
    assert decoding_threads() == 0


def test_a_runtime_without_a_number_of_workers_has_a_thread_per_core() -> None:
    assert Runtime().threads == len(os.sched_getaffinity(0))
    assert Runtime(workers=3).threads == 3
    with pytest.raises(BadSpec, match="workers is 0: use at least 1"):
        spec(0)


def test_workers_end_with_the_last_result() -> None:
    list(load([noise(1)], spec()))
    assert decoding_threads() == 0


def test_an_exception_of_the_inputs_comes_after_the_results_before_it() -> None:
    def inputs() -> Iterator[Input]:
        yield noise(0)
        yield noise(1)
        raise OSError("the list broke")

    slow = spec(2, 8, transform=slowly(0.02))
    paths = []
    with pytest.raises(OSError, match="the list broke"):
        paths.extend(result.path for result in load(inputs(), slow))
    assert decoding_threads() == 0
    results = load(inputs(), slow)
    assert [next(results).path, next(results).path] == ["0", "1"]
    results.close()


def test_a_bug_in_a_worker_is_raised_not_hidden() -> None:
    def broken(_: Image.Image) -> Image.Image:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(load([noise(1)], spec(transform=broken)))
    assert decoding_threads() == 0


def test_a_bad_input_is_a_record_in_its_place_with_what_is_known_of_it(tmp_path: Path) -> None:
    text, big = tmp_path / "text.jpg", tmp_path / "big.jpg"
    text.write_bytes(b"text")
    with big.open("wb") as file:
        file.truncate(5000)
    before = Unreadable(path="link", code="dangling_link", message="points to nothing")
    items = [before, Input(str(big)), Input(str(text)), from_bytes("3", encoded(3, 30))]
    first, second, third, fourth = load(items, spec(inputs=InputSpec(max_bytes=4999)))
    assert first is before
    assert isinstance(second, Unreadable)
    assert (second.path, second.code, second.bytes, second.sha256) == (str(big), "too_large", 5000, None)
    assert isinstance(third, Unreadable)
    assert (third.code, third.bytes, len(third.sha256 or "")) == ("not_an_image", 4, 64)
    assert isinstance(fourth, Loaded)


def test_known_content_is_hashed_and_not_decoded() -> None:
    unknown, seen, text = noise(1), noise(2), from_bytes("text", b"text")
    known = {hashlib.sha256(item.content or b"").hexdigest() for item in (seen, text)}
    results = list(load_unknown([unknown, seen, text], spec(), known.__contains__))
    assert [type(result) for result in results] == [Loaded, Seen, Seen]
    assert {result.key for result in results[1:] if isinstance(result, Seen)} == known


def test_memory_does_not_grow_with_the_number_of_inputs() -> None:
    alive: list[int] = []
    for number, _ in enumerate(load((noise(n) for n in range(60)), spec(2, 4))):
        if number in (10, 50):
            gc.collect()
            alive.append(sum(isinstance(thing, Loaded) for thing in gc.get_objects()))
    assert alive[1] <= alive[0] + 4


RESIZE = ViewSpec(size=32)
CROPS = ViewSpec(kind=View.CROPS, size=16, fit_count=3, draft=False)


def crops(numbers: list[int], seed: int, workers: int) -> dict[str, bytes]:
    results = loaded([noise(number) for number in numbers], spec(workers, view=CROPS, crops_seed=seed))
    return {result.path: result.views["main"].tobytes() for result in results}


def test_random_crops_follow_seed_and_content_not_order_or_workers() -> None:
    forwards = crops([1, 2, 3, 4], 0, 1)
    assert crops([4, 3, 2, 1], 0, 3) == forwards
    assert crops([1, 2, 3, 4], 1, 1) != forwards


def test_two_files_of_the_same_image_have_their_own_crops() -> None:
    image = Image.open(io.BytesIO(encoded(1, 200)))
    views = []
    for level in (1, 9):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=level)
        (result,) = loaded([from_bytes("a", buffer.getvalue())], spec(view=CROPS, crops_seed=0))
        views.append(result.views["main"])
    assert (views[0] != views[1]).any()


def test_without_a_seed_the_scan_views_are_cut() -> None:
    (result,) = loaded([noise(1)], spec(view=CROPS))
    assert result.views["main"].shape == (16, 16, 16, 3)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("container", ["PNG", "JPEG"])
def test_a_branch_sees_beside_others_what_it_sees_alone(container: str, seed: int | None) -> None:
    item = from_bytes("a", encoded(1, 200, container))
    branches = {"crops": CROPS, "whole": ViewSpec(size=32, draft=False), "more": CROPS}
    (together,) = loaded([item], spec(views=branches, crops_seed=seed))
    assert list(together.views) == list(branches)
    for name, view in branches.items():
        (alone,) = loaded([item], spec(views={name: view}, crops_seed=seed))
        assert (together.views[name] == alone.views[name]).all()


def test_one_branch_gets_the_views_of_its_own_decoding() -> None:
    data = encoded(1, 600, "JPEG")
    for view, draft_side in ((ViewSpec(size=64), 64), (ViewSpec(size=64, draft=False), 0), (CROPS, 0)):
        (result,) = loaded([from_bytes("a", data)], spec(view=view))
        assert (result.views["main"] == cut_views(decode(data, 10**7, draft_side=draft_side).image, view)).all()


def test_a_jpeg_is_decoded_at_reduced_scale_only_if_no_branch_needs_more() -> None:
    small, large, full = ViewSpec(size=32), ViewSpec(size=128), ViewSpec(size=32, draft=False)
    for views, draft_side in (
        ({"a": small}, 32),
        ({"a": small, "b": large}, 128),
        ({"a": small, "b": full}, 0),
        ({"a": small, "b": CROPS}, 0),
    ):
        assert spec(views=views).draft_side == draft_side
    assert spec(view=small, transform=lambda image: image).draft_side == 0


def test_sharpness_is_that_of_the_first_branch() -> None:
    for views in ({"a": RESIZE, "b": CROPS}, {"b": CROPS, "a": RESIZE}):
        (result,) = loaded([from_bytes("a", encoded(1, 200))], spec(views=views))
        assert result.facts.sharpness == sharpness(result.views[next(iter(views))][0])


@pytest.mark.parametrize(("size", "expected"), [((400, 100), (96, 24)), ((50, 20), (50, 20)), ((30_000, 1), (96, 1))])
def test_a_thumbnail_keeps_the_shape_and_never_enlarges(size: tuple[int, int], expected: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    (result,) = loaded([from_bytes("a", buffer.getvalue())], spec(thumbnail=96))
    with Image.open(io.BytesIO(result.thumbnail or b"")) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", expected)


def test_a_transform_sees_the_image_at_full_scale() -> None:
    sizes = []

    def note(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        return Image.new("RGB", image.size, "blue")

    (result,) = loaded([from_bytes("a", encoded(1, 400, "JPEG"))], spec(transform=note))
    assert sizes == [(400, 400)]
    assert (result.views["main"] == (0, 0, 255)).all()


def test_sharpness_is_the_deviation_of_the_laplacian() -> None:
    assert sharpness(np.full((8, 8, 3), 77, np.uint8)) == 0
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(64, axis=0)
    assert sharpness(ramp) == 0
    board = np.indices((64, 64)).sum(axis=0) % 2
    assert sharpness((10 * board[..., None].repeat(3, axis=2)).astype(np.uint8)) == pytest.approx(40)
    (result,) = loaded([noise(5)], spec())
    assert result.facts.sharpness == sharpness(result.views["main"][0])


@pytest.mark.parametrize(("name", "value"), [("workers", -1), ("ahead", 0), ("views", {})])
def test_nonsense_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadSpec, match=name):
        spec(**{name: value})
