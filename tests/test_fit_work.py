"""The work folder of a fit: damaged, full, shared between two processes."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import FP32, write_faces
from scan_runs import environment, forked

from muflow_cli.bundle import load
from muflow_cli.errors import CannotWrite
from muflow_cli.files import locked
from muflow_cli.fit import FitRequest, fit
from muflow_cli.fit.parts import UnfinishedFit
from muflow_cli.presets import LIGHT
from muflow_cli.progress import NoProgress
from muflow_cli.settings import override

SETTINGS = (
    "view.kind=crops",
    "view.size=32",
    "view.count=2",
    "view.fit_count=2",
    "feature.encoder=forensic",
    "feature.layers=full",
    "feature.dimensions=4",
    "feature.grid=2",
    "flow.steps=2",
    "target.images_per_average=4",
    "target.n_averages=20",
    "target.components=1",
    "train.epochs=3",
    "train.checkpoint_every=1",
    "train.calibration_share=0.4",
    "rule.alpha=0.2",
)


class Stop(NoProgress):
    """Stops a fit as the keyboard does, when a stage begins."""

    def __init__(self, stage: str) -> None:
        self.wanted = stage

    def stage(self, name: str, total: int | None) -> None:  # noqa: ARG002 - a listener's signature
        if name == self.wanted:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> FitRequest:
    """A fit of a second: fixed filters, small crops, 32 images."""
    folder = tmp_path_factory.mktemp("reals")
    write_faces(folder, 32, seed=5)
    return FitRequest(reals=(str(folder),), output=Path("d"), spec=override(LIGHT, SETTINGS), runtime=FP32)


@pytest.fixture(scope="module")
def whole(request_: FitRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Fingerprint of the fit that nothing disturbs."""
    return fit(replace(request_, output=tmp_path_factory.mktemp("whole") / "d")).fingerprint


@pytest.fixture(scope="module")
def stopped(request_: FitRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a fit that was stopped just before its end."""
    output = tmp_path_factory.mktemp("stopped") / "d"
    with pytest.raises(KeyboardInterrupt):
        fit(replace(request_, output=output), Stop("calibrate"))
    return output.with_name("d.work")


def test_a_stopped_fit_goes_on_to_the_same_fingerprint(
    request_: FitRequest, whole: str, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "d.work")
    assert fit(replace(request_, output=tmp_path / "d", resume=True)).fingerprint == whole
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


PARTS = ["fit.json", "index.json", "views.main.u8", "branch.main/encode.done", "branch.main/pooled.0"]
PARTS += ["branch.main/vectors.0", "branch.main/checkpoint.safetensors"]


def test_every_file_of_a_work_folder_is_damaged_below(stopped: Path) -> None:
    found = {path.relative_to(stopped).as_posix() for path in stopped.rglob("*") if path.is_file()}
    assert found == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["emptied", "cut", "flipped", "gone"])
def test_a_damaged_work_folder_goes_on_to_the_same_fingerprint_or_says_start_again(
    request_: FitRequest, whole: str, stopped: Path, tmp_path: Path, part: str, damage: str
) -> None:
    work = tmp_path / "d.work"
    shutil.copytree(stopped, work)
    content = bytearray((work / part).read_bytes())
    if damage == "gone":
        (work / part).unlink()
    else:
        if damage == "flipped" and content:
            content[len(content) * 2 // 3] ^= 4
        (work / part).write_bytes(content[: {"emptied": 0, "cut": len(content) // 2}.get(damage, len(content))])
    again = replace(request_, output=tmp_path / "d", resume=True)
    try:
        assert fit(again).fingerprint == whole
    except UnfinishedFit as error:
        assert "--force" in error.remedy or error.remedy == "start without --resume"  # noqa: PT017
        assert work.exists()
        assert fit(replace(again, resume=False, force=True)).fingerprint == whole
    assert not work.exists()


def test_a_second_fit_beside_a_live_one_is_one_sentence(request_: FitRequest, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "d.work")
    before = sorted(path.read_bytes() for path in (tmp_path / "d.work").rglob("*") if path.is_file())
    request = replace(request_, output=tmp_path / "d")
    with locked(tmp_path / "d.work"):  # what the live fit holds
        for again in (replace(request, resume=True), replace(request, force=True), request):
            with pytest.raises(CannotWrite, match=r"another run is writing it\): wait until it has ended"):
                fit(again)
    assert before == sorted(path.read_bytes() for path in (tmp_path / "d.work").rglob("*") if path.is_file())
    assert not (tmp_path / "d").exists()


def test_a_live_fit_that_goes_on_is_not_disturbed_by_a_second_one(
    request_: FitRequest, whole: str, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "d.work")
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    words = forked("fit", *request_.reals, "-o", tmp_path / "d", "--precision", "fp32", "--resume", "-q", *settings)
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment()) as live:
        while not (tmp_path / ".d.work.lock").exists() and live.poll() is None:
            time.sleep(0.005)
        live.send_signal(signal.SIGTSTP)
        try:
            with pytest.raises(CannotWrite, match=r"/d \(another run is writing it\): wait until it has ended"):
                fit(replace(request_, output=tmp_path / "d", resume=True))
        finally:
            live.send_signal(signal.SIGCONT)
        _, said = live.communicate()
    assert (live.returncode, said) == (0, b"")
    assert load(tmp_path / "d").fingerprint == whole
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does to a fit, but for the number of the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", ["index.json", "views.main.u8", "branch.main/pooled.0", "branch.main/vectors.0"])
def test_where_the_disk_is_full_the_work_is_kept_and_goes_on_when_there_is_room(
    request_: FitRequest, whole: str, stopped: Path, tmp_path: Path, part: str
) -> None:
    request = replace(request_, output=tmp_path / "d")
    with largest_file((stopped / part).stat().st_size - 1), pytest.raises(CannotWrite) as caught:
        fit(request)
    assert caught.value.remedy.startswith("free some space and continue with --resume")
    assert not (tmp_path / "d").exists()
    assert fit(replace(request, resume=True)).fingerprint == whole
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("what", ["checkpoint", "bundle"])
def test_where_the_checkpoint_or_the_bundle_finds_no_room_the_work_is_kept(
    request_: FitRequest, whole: str, stopped: Path, tmp_path: Path, what: str
) -> None:
    shutil.copytree(stopped, tmp_path / "d.work")
    checkpoint = tmp_path / "d.work" / "branch.main" / "checkpoint.safetensors"
    if what == "checkpoint":
        checkpoint.unlink()
        shutil.rmtree(tmp_path / "d.work")
    request = replace(request_, output=tmp_path / "d", resume=what == "bundle")
    room = Room("train" if what == "checkpoint" else "write")
    with pytest.raises(CannotWrite, match=r"File too large.*continue with --resume"), room:
        fit(request, room)
    assert (tmp_path / "d.work" / "index.json").exists()
    assert fit(replace(request, resume=True)).fingerprint == whole
    assert load(tmp_path / "d").fingerprint == whole


class Room(NoProgress):
    """Lets no file grow from the beginning of a stage on."""

    def __init__(self, stage: str) -> None:
        self.wanted, self.exit = stage, contextlib.ExitStack()

    def stage(self, name: str, total: int | None) -> None:  # noqa: ARG002 - a listener's signature
        if name == self.wanted:
            self.exit.enter_context(largest_file(512))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.exit.close()


@pytest.mark.skipif(os.name != "posix", reason="needs posix_fallocate")
def test_space_is_reserved_before_anything_is_encoded(request_: FitRequest, stopped: Path, tmp_path: Path) -> None:
    class Encoded(NoProgress):
        """Counts what was encoded."""

        name, count = "", 0

        def stage(self, name: str, total: int | None) -> None:  # noqa: ARG002 - a listener's signature
            self.name = name

        def advance(self, steps: int = 1) -> None:
            self.count += steps * (self.name == "encode")

    seen, size = Encoded(), (stopped / "branch.main" / "pooled.0").stat().st_size
    shutil.copytree(stopped, tmp_path / "d.work", ignore=shutil.ignore_patterns("encode.done", "checkpoint*"))
    with largest_file(size - 1), pytest.raises(CannotWrite):
        fit(replace(request_, output=tmp_path / "d", resume=True), seen)
    assert seen.count == 0
