"""Promises of `--engine ray`: the report of one machine, whatever dies; on a cluster of this machine alone."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import FP32, write_faces
from scan_runs import hostile, lines

from muflow_cli.bundle import load
from muflow_cli.cluster import Cluster, ClusterSpec, open_cluster, parse_engine
from muflow_cli.engine.branch import Encoder
from muflow_cli.engine.devices import place
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.scoring import Extras
from muflow_cli.engine.weights import find_weights
from muflow_cli.errors import BadSpec, ClusterFailed
from muflow_cli.fit.elsewhere import ClusterEncoding
from muflow_cli.fit.features import encode
from muflow_cli.fit.work import Work
from muflow_cli.images.find import find
from muflow_cli.images.hash_lists import HashLists
from muflow_cli.output.writers import OutputFormat, Per
from muflow_cli.progress import NoProgress
from muflow_cli.records import Scored
from muflow_cli.run_specs import ClipSpec, InputSpec
from muflow_cli.scan import elsewhere
from muflow_cli.scan.elsewhere import ClusterScoring, SameLists, ShardScoring
from muflow_cli.scan.job import Job
from muflow_cli.scan.outputs import Destination
from muflow_cli.scan.run import run
from muflow_cli.scan.settings import Comparison
from muflow_cli.scan.workflow import Scan, ScanRequest, Wanted
from muflow_cli.specs import DetectorSpec


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two workers of one core each."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")

    try:
        ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    except Exception as error:
        ray.shutdown()
        if "timed out during startup" not in str(error):
            raise
        pytest.skip("Ray gives its own processes 30 s to start, and this machine is too busy")
    with open_cluster(ClusterSpec(cores=1)) as cluster:
        yield cluster
    ray.shutdown()


def processes(folder: Path) -> set[int]:
    return {int(path.name.split(".")[0]) for path in folder.iterdir()}


def test_shards_keep_their_order_lose_nothing_and_are_not_drawn_far_ahead(cluster: Cluster, tmp_path: Path) -> None:
    drawn = 0

    def shards() -> Iterator[int]:
        nonlocal drawn
        for number in range(16):
            drawn += 1
            yield number

    def tenfold(_: int) -> Callable[[int], int]:
        def work(number: int) -> int:
            (tmp_path / f"{os.getpid()}.{time.monotonic_ns()}").touch()
            time.sleep(0.1)
            return 10 * number

        return work

    results = cluster.map(tenfold, shards())
    taken = [next(results)]
    time.sleep(0.5)
    assert drawn <= 1 + 3 * cluster.workers
    first = processes(tmp_path)
    os.kill(min(first), signal.SIGKILL)
    taken += results
    assert taken == [10 * number for number in range(16)]
    assert processes(tmp_path) - first  # another worker took the place of the killed one


def report(path: Path, bundle: Path, folder: Path, scoring: ClusterScoring | None = None, **settings: object) -> Path:
    kinds = (OutputFormat.JSONL, OutputFormat.CSV, OutputFormat.HTML)
    job = Job(
        **{
            "detector": load(bundle),
            "detector_path": str(bundle),
            "arguments": [str(folder)],
            "destinations": [Destination(kind, path.with_suffix(f".{kind.value}")) for kind in kinds],
            "runtime": FP32,
        }
        | settings
    )
    run(job, elsewhere=scoring)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of every fate and an animation; and a video, under its own name and under that of an image."""
    folder = tmp_path_factory.mktemp("scanned") / "in"
    hostile(folder)
    write_faces(folder / "more", 12, seed=5)
    if find_spec("av") is not None:
        from clip_samples import filmed, write_clip

        write_clip(folder / "clip.mp4", filmed(1))
        (folder / "really a clip.jpg").write_bytes((folder / "clip.mp4").read_bytes())
    return folder


@pytest.fixture(scope="module")
def lists(folder: Path) -> HashLists:
    """One file of the folder is known."""
    path = folder.parent / "known.txt"
    path.write_text(hashlib.sha256((folder / "grey.jpg").read_bytes()).hexdigest())
    return HashLists([path])


def without_times(path: Path) -> list[dict[str, object]]:
    """The lines of a report short of the run block, of times, and of the checks over both."""
    times = ("seconds", "images_per_second", "stages", "bottleneck")
    absent = ("run", *times, "head_sha256", "report_sha256")
    head, *results, end = lines(path.read_bytes())
    summary = end["summary"]
    assert summary["results_sha256"]
    return [{name: value for name, value in line.items() if name not in absent} for line in (head, *results, summary)]


def images_of(page: Path) -> list[str]:
    return re.findall(r"data:image/[^\"')]+", page.read_text(encoding="utf-8"))


class Here:
    """The same work in this process."""

    has_gpus, cores, workers = False, 1, 1

    def ask(self, question: Callable[[], Any]) -> Any:
        return question()

    def map(self, make: Callable[[int], Callable[[Any], Any]], shards: Iterable[Any]) -> Iterator[Any]:
        work = make(self.cores)
        yield from map(work, shards)


@pytest.fixture(scope="module")
def wanted(lists: HashLists) -> dict[str, Any]:
    """Everything that a worker has a part in."""
    inputs = InputSpec(all_frames=True, clips=ClipSpec(frames=3))
    return {"comparison": Comparison(fdr=0.2), "inputs": inputs, "hash_lists": lists, "per": Per.FRAME}


@pytest.fixture(scope="module")
def alone(tiny_bundle: Path, folder: Path, wanted: dict[str, Any]) -> Path:
    """The report of this machine."""
    return report(folder.parent / "alone.jsonl", tiny_bundle, folder, **wanted)


@pytest.mark.parametrize("where", ["here", "ray"])
def test_the_report_is_that_of_one_machine(
    where: str,
    request: pytest.FixtureRequest,
    tiny_bundle: Path,
    folder: Path,
    wanted: dict[str, Any],
    alone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(elsewhere, "_SHARD", 5)  # copies of an image lie in several shards
    cluster = cast(Cluster, Here()) if where == "here" else request.getfixturevalue("cluster")
    shared = report(
        tmp_path / "shared.jsonl", tiny_bundle, folder, ClusterScoring(cluster, tiny_bundle, FP32), **wanted
    )
    assert without_times(alone) == without_times(shared)
    assert alone.with_suffix(".csv").read_bytes() == shared.with_suffix(".csv").read_bytes()
    shown = images_of(shared.with_suffix(".html"))
    assert shown
    assert images_of(alone.with_suffix(".html")) == shown
    *results, summary = without_times(shared)
    assert any(line.get("duplicate_of") for line in results)
    assert any(line.get("frame") == 2 for line in results)
    assert any(line.get("clip") for line in results) is (find_spec("av") is not None)
    assert summary["known"] == 1


def test_maps_that_a_cluster_encodes_are_those_of_this_machine(
    cluster: Cluster, tiny_spec: DetectorSpec, tiny_weights: Path, tmp_path: Path
) -> None:
    branch = tiny_spec.branches[0]
    found = find_weights(branch.feature.encoder, tiny_weights)
    placement = place(FP32)
    encoder = PlacedEncoder(Encoder.load(branch.feature, found.tensors), placement)
    views = np.random.default_rng(0).integers(0, 256, (21, 64, 64, 3), dtype=np.uint8)
    shared = ClusterEncoding(cluster, branch.feature, found.tensors, placement).maps
    maps = []
    for name, how in (("alone", None), ("shared", shared)):
        (tmp_path / name).mkdir()
        maps.append(encode(encoder, views, range(1, 21), Work(tmp_path / name), NoProgress(), how))
    for alone, other in zip(*maps, strict=True):
        assert alone.tobytes() == other.tobytes()


def test_work_that_ends_every_worker_is_one_sentence(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muflow_cli.cluster._ATTEMPTS", 2)

    def deadly(_: int) -> Callable[[int], int]:
        return lambda _: os.kill(os.getpid(), signal.SIGKILL) or 0

    with pytest.raises(ClusterFailed, match="ended 2 workers of the cluster"):
        list(cluster.map(deadly, [1]))


def test_what_is_known_is_not_scored_again(tiny_bundle: Path, folder: Path) -> None:
    request = ScanRequest(detector=load(tiny_bundle), runtime=FP32)
    scoring = ClusterScoring(cast(Cluster, Here()), tiny_bundle, FP32)
    first = list(Scan(request).results(find([str(folder)], request.inputs)))
    earlier = {result.facts.sha256: result for result in first[:9] if isinstance(result, Scored)}
    resumed = Scan(request, earlier=earlier, elsewhere=scoring)
    assert list(resumed.results(find([str(folder)], request.inputs))) == first
    assert (resumed.taken_over, resumed.unseen) == (len(earlier), 0)


def test_a_stop_ends_it_after_the_input(tiny_bundle: Path, folder: Path) -> None:
    request = ScanRequest(detector=load(tiny_bundle), runtime=FP32)
    asked = iter([False, False, True])
    scan = Scan(request, stop=lambda: next(asked), elsewhere=ClusterScoring(cast(Cluster, Here()), tiny_bundle, FP32))
    assert len(list(scan.results(find([str(folder)], request.inputs)))) == 3
    assert scan.interrupted


def test_another_detector_at_the_path_is_refused(tiny_bundle: Path) -> None:
    shards = ShardScoring(
        bundle=str(tiny_bundle),
        fingerprint="0" * 64,
        runtime=FP32,
        inputs=InputSpec(),
        thumbnails=(0, 0),
        extras=Extras(),
        wanted=Wanted(),
    )
    with pytest.raises(ClusterFailed, match="another detector at"):
        shards(1)


def test_other_lists_of_hashes_at_the_path_are_refused(lists: HashLists) -> None:
    with pytest.raises(ClusterFailed, match="other lists of hashes"):
        SameLists(lists.paths, "0" * 64).opened()


def test_engines_are_named_in_one_way() -> None:
    assert parse_engine("local", 3) is None
    assert parse_engine("ray", 3) == ClusterSpec(cores=3)
    assert parse_engine("ray:10.0.0.1:6379", 0) == ClusterSpec(address="10.0.0.1:6379")
    for wrong in ("spark", "ray:"):
        with pytest.raises(BadSpec, match="use local, ray or ray:ADDRESS"):
            parse_engine(wrong, 0)
