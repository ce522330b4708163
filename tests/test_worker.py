"""Promises of images/worker.py and triage.py: no image takes more time or memory than allowed, or ends a run."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import alive, children, resident, slow_ppm

from muflow_cli.images import loader, worker
from muflow_cli.images.budget import Budget
from muflow_cli.images.containers.jpeg import MAX_SCANS
from muflow_cli.images.error import ImageError
from muflow_cli.images.inputs import HASHED_BYTES, Input, InputKind
from muflow_cli.images.loader import Loaded, LoadSpec, load
from muflow_cli.images.triage import triage
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import View, ViewSpec

VIEWS = {"whole": ViewSpec(size=32), "crops": ViewSpec(kind=View.CROPS, size=16, count=4, fit_count=2, draft=False)}


def grain(width: int = 90, height: int = 70, mode: str = "RGB") -> Image.Image:
    levels = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


def encoded(container: str, image: Image.Image | None = None, **settings: object) -> bytes:
    buffer = io.BytesIO()
    (image or grain()).save(buffer, container, **settings)
    return buffer.getvalue()


def result(data: bytes, name: str = "a", **settings: object) -> Loaded | Unreadable:
    limits = {"inputs": InputSpec(**settings.pop("inputs", {}))}  # type: ignore[arg-type] # a mapping of limits
    spec = LoadSpec(**{"views": VIEWS, "workers": 2, "ahead": 4, **limits, **settings})
    (item,) = load([Input(name, InputKind.TAR_MEMBER, size=len(data), content=data)], spec)
    return item


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, before: bytes = b"") -> bytes:
    rows = zlib.compressobj(9)
    packed = [rows.compress(bytes(width + 1)) for _ in range(height)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", b"".join([*packed, rows.flush()])) + chunk(b"IEND", b"")
    )


@pytest.fixture
def idle() -> Iterator[list[worker.Worker]]:
    """The idle workers, none at first; their processes end with the test."""
    worker._end_idle()
    yield worker._idle
    worker._end_idle()


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("container", "mode"), [("JPEG", "RGB"), ("PNG", "LA"), ("TIFF", "RGB"), ("GIF", "P")])
def test_a_process_gives_what_a_thread_gives(
    container: str, mode: str, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(container, grain(mode=mode))
    results = []
    for isolated in (False, True):
        monkeypatch.setattr(loader, "triage", lambda _, __, isolated=isolated: worker_or_thread(isolated))
        results.append(result(data, crops_seed=seed, thumbnail=20))
    thread, process = results
    assert isinstance(thread, Loaded)
    assert isinstance(process, Loaded)
    assert (thread.path, thread.facts, thread.thumbnail) == (process.path, process.facts, process.thumbnail)
    assert list(thread.views) == list(process.views) == list(VIEWS)
    for branch in VIEWS:
        assert (thread.views[branch] == process.views[branch]).all()


def worker_or_thread(isolated: bool) -> object:
    from muflow_cli.images.triage import Triage

    return Triage(isolated=isolated)


def test_a_transform_stays_in_this_process_and_sees_the_whole_image() -> None:
    sizes = []

    def note(image: Image.Image) -> Image.Image:
        sizes.append((os.getpid(), image.size))
        return image

    assert isinstance(result(encoded("TIFF"), transform=note), Loaded)
    assert sizes == [(os.getpid(), (90, 70))]


def test_an_error_of_the_process_is_the_record_that_a_thread_gives() -> None:
    record = result(b"II*\0" + bytes(40))
    assert isinstance(record, Unreadable)
    assert (record.code, record.bytes, len(record.sha256 or "")) == ("corrupt", 44, 64)


@pytest.mark.parametrize("waits", [False, True])
def test_an_image_that_takes_too_long_is_one_record_and_the_next_is_loaded(
    waits: bool, idle: list[worker.Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    if waits:  # a process that uses no processor time counts too
        monkeypatch.setattr(worker, "PATIENCE", 0.5)
    start = time.monotonic()
    record = result(slow_ppm(100_000_000), inputs={"max_seconds": 1})
    assert isinstance(record, Unreadable)
    assert (record.code, len(record.sha256 or "")) == ("too_slow", 64)
    assert time.monotonic() - start < 20
    assert isinstance(result(encoded("TIFF")), Loaded)
    assert len(idle) == 1


def test_a_crash_is_one_record_and_the_next_image_is_loaded(idle: list[worker.Worker]) -> None:
    assert isinstance(result(encoded("TIFF")), Loaded)
    process = idle[0]._process
    assert process is not None

    def crash() -> None:
        while resident(process.pid) < 70_000_000:  # it has not received the image yet
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGSEGV)

    killer = threading.Thread(target=crash)
    killer.start()
    record = result(slow_ppm())
    killer.join()
    assert isinstance(record, Unreadable)
    assert (record.code, record.message) == ("decoder_crashed", "the decoder ended in the middle of it (SIGSEGV)")
    assert isinstance(result(encoded("TIFF")), Loaded)


def test_a_process_is_used_again(idle: list[worker.Worker]) -> None:
    processes = set()
    for _ in range(3):
        assert isinstance(result(encoded("TIFF")), Loaded)
        processes.add(idle[0]._process.pid)  # type: ignore[union-attr] # it has been started
    assert len(processes) == 1


def test_closing_ends_a_process_in_the_middle_of_an_image(idle: list[worker.Worker]) -> None:
    spec = LoadSpec(views=VIEWS, inputs=InputSpec(), workers=1, ahead=4)
    slow = slow_ppm()
    items = [Input("a", InputKind.TAR_MEMBER, content=encoded("TIFF"))]
    items += [Input("b", InputKind.TAR_MEMBER, size=len(slow), content=slow)]
    results = load(items, spec)
    next(results)
    time.sleep(0.3)
    (busy,) = children(os.getpid())
    start = time.monotonic()
    results.close()  # type: ignore[attr-defined] # a generator
    assert time.monotonic() - start < 2
    assert not idle
    assert not alive(busy)


def test_a_process_ends_with_an_owner_that_was_killed_in_the_middle_of_an_image(tmp_path: Path) -> None:
    slow = tmp_path / "a.ppm"
    slow.write_bytes(slow_ppm(100_000_000))
    program = f"""
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import LoadSpec, load
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import ViewSpec
list(load([Input({str(slow)!r})], LoadSpec(views={{"a": ViewSpec()}}, inputs=InputSpec(), workers=1, ahead=1)))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as owner:
        while not (busy := children(owner.pid)):
            time.sleep(0.05)
        while resident(busy[0]) < 110_000_000:  # it has started and received the image
            time.sleep(0.05)
        time.sleep(0.3)
        owner.kill()
    deadline = time.monotonic() + 2
    while alive(busy[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(busy[0])


def test_a_module_in_the_working_folder_is_not_imported(
    idle: list[worker.Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIL", "numpy", "msgspec", "struct"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert not idle
    assert isinstance(result(encoded("TIFF")), Loaded)
    assert not (tmp_path / "taken").exists()


def test_lack_of_memory_is_a_record_of_its_own() -> None:
    data = png(100_000_000, 1)  # the weights with which it is resized take 3 GB
    record = result(data, views={"whole": ViewSpec(size=32)})
    assert isinstance(record, Unreadable)
    assert (record.code, record.bytes, len(record.sha256 or "")) == ("out_of_memory", len(data), 64)


def test_lack_of_memory_on_a_thread_is_the_same_record() -> None:
    def hungry(_: Image.Image) -> Image.Image:
        raise MemoryError

    record = result(encoded("JPEG"), transform=hungry)
    assert isinstance(record, Unreadable)
    assert (record.code, len(record.sha256 or "")) == ("out_of_memory", 64)


def with_scans(count: int, **settings: object) -> bytes:
    data = encoded("JPEG", progressive=True, **settings)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (count - data.count(b"\xff\xda") + 1) + data[-2:]


def test_more_scans_than_encoders_write_are_refused_and_others_are_not() -> None:
    triage(with_scans(MAX_SCANS), 0)
    record = result(with_scans(MAX_SCANS + 1))
    assert isinstance(record, Unreadable)
    assert (record.code, len(record.sha256 or "")) == ("too_many_scans", 64)


def test_scans_behind_the_end_mark_do_not_count() -> None:
    assert isinstance(result(encoded("JPEG") + b"\xff\xda" * 500), Loaded)
    assert isinstance(result(encoded("JPEG", progressive=True) + with_scans(400)), Loaded)


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_junk_behind_the_start_of_a_jpeg_is_refused_at_once(end: bytes) -> None:
    start = time.process_time()
    record = result(b"\xff\xd8\xff\xe0\0\x10" + bytes(50_000_000) + end)
    assert isinstance(record, Unreadable)
    assert record.code == ("corrupt" if end else "truncated")
    assert time.process_time() - start < 1


def comments(count: int) -> bytes:
    data = encoded("JPEG")
    return data[:2] + b"\xff\xfe\0\2" * count + data[2:]


@pytest.mark.parametrize(
    ("make", "isolated"),
    [
        (lambda: encoded("JPEG"), False),
        (lambda: encoded("JPEG", progressive=True), False),
        (lambda: encoded("PNG"), False),
        (lambda: encoded("WEBP"), False),
        (lambda: encoded("WEBP", lossless=True), False),
        (lambda: encoded("WEBP", exif=b"Exif\0\0II*\0"), False),
        (lambda: encoded("BMP"), False),
        (lambda: b"text", False),
        (lambda: encoded("GIF"), True),
        (lambda: encoded("TIFF"), True),
        (lambda: encoded("PPM"), True),
        (lambda: b"Py", True),
        (lambda: comments(5000), True),
        (lambda: png(9, 9, chunk(b"tEXt", b"") * 3000), True),
        (lambda: png(9, 9, chunk(b"tEXt", bytes(9_000_000))), True),
        (lambda: png(70_000, 1), True),
        (lambda: encoded("JPEG") + bytes(2**26), True),
        (lambda: encoded("PNG")[:20], True),
        (lambda: encoded("WEBP")[:20], True),
        (lambda: encoded("BMP")[:20], True),
    ],
)
def test_only_what_is_proved_cheap_is_decoded_on_a_thread(make: Callable[[], bytes], isolated: bool) -> None:
    assert triage(make(), 0).isolated is isolated


def test_a_jpeg_cut_anywhere_is_triaged_without_an_error_of_ours() -> None:
    data = encoded("JPEG", progressive=True)
    for length in range(3, 700):
        try:
            triage(data[:length], 64)
        except ImageError as error:
            assert error.code == "truncated"  # noqa: PT017  most lengths raise nothing


def test_a_budget_never_lends_more_than_it_has_and_a_larger_claim_waits_to_be_alone() -> None:
    budget, lock = Budget(10), threading.Lock()
    held, most = 0, 0

    def work(amount: int) -> None:
        nonlocal held, most
        for _ in range(20):
            with budget.claim(amount):
                with lock:
                    held += min(amount, 10)
                    most = max(most, held)
                time.sleep(0.0005)
                with lock:
                    held -= min(amount, 10)

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (1, 4, 7, 10, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert 7 <= most <= 10
    assert held == 0


def test_inputs_that_bring_many_bytes_along_are_not_drawn_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_FILES", 1000)
    drawn = 0

    def inputs() -> Iterator[Input]:
        nonlocal drawn
        for number in range(12):
            drawn += 1
            yield Input(str(number), InputKind.TAR_MEMBER, size=600, content=bytes(600))

    release = threading.Event()

    def known(_: str) -> bool:
        release.wait(10)
        return True

    spec = LoadSpec(views=VIEWS, inputs=InputSpec(), workers=1, ahead=8)
    results = loader.load_unknown(inputs(), spec, known)
    threading.Timer(0.3, release.set).start()
    next(results)
    assert drawn <= 4
    assert len(list(results)) == 11


@pytest.mark.parametrize("kind", ["file", "zip", "tar"])
def test_a_large_file_without_a_signature_is_refused_by_its_first_bytes(kind: str, tmp_path: Path) -> None:
    import tarfile
    import zipfile

    from muflow_cli.images.find import find

    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(HASHED_BYTES + 1)
    archive = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("a.jpg", path.read_bytes())
    elif kind == "tar":
        with tarfile.open(archive, "w") as packed_tar:
            packed_tar.add(path, "a.jpg")
    found = list(find([str(path if kind == "file" else archive)], InputSpec()))
    (record,) = load(found, LoadSpec(views=VIEWS, inputs=InputSpec(), workers=1, ahead=1))
    assert isinstance(record, Unreadable)
    assert (record.code, record.sha256, record.bytes) == ("not_an_image", None, HASHED_BYTES + 1)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.jxl", b"\xff\x0a" + bytes(40), "JPEG XL"),
        ("a", b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        ("a.jpg", b"8BPS\0\1", "Photoshop"),
        ("a.exr", b"\x76\x2f\x31\x01", "OpenEXR"),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1", "camera raw"),
        ("a.NEF", b"II*\0\x08\0\0\0", "camera raw"),
        ("a.jpg", b"PK\3\4", "zip archive"),
    ],
)
def test_kinds_that_are_not_read_are_named(name: str, data: bytes, kind: str) -> None:
    record = result(data, name)
    assert isinstance(record, Unreadable)
    assert record.code == "unsupported"
    assert kind in record.message
    assert len(record.sha256 or "") == 64
