"""Work that a cluster of machines shares: shards in, results out in their order. The only module that imports Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Generic, TypeVar

from muflow_cli.errors import BadSpec, ClusterFailed, MissingExtra, MuflowError

# Read when Ray is imported. A scan tells nobody that it ran; and below `uv run` Ray would start its workers by another
# `uv run`, in a folder where there is no project.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

_S = TypeVar("_S")
_R = TypeVar("_R")

# A worker with more cores than these would wait for Python's lock; machines with more hold several workers.
_CORES: Final = 8
# Shards that a worker has at a time, so that it decodes the next while it scores the last of one.
_AT_A_TIME: Final = 2
# Shards under way or finished too early, for each worker: the bound on the memory of whoever takes the results.
_AHEAD: Final = 3
_ATTEMPTS: Final = 3
_SAME_VERSION: Final = "check that every machine has this version of muflow"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSpec:
    """Which cluster.

    Attributes:
        address: as Ray writes it; empty = one on this machine alone, unless RAY_ADDRESS names one.
        cores: that each worker takes; 0 = up to 8, or its share of the machine beside each GPU.
    """

    address: str = ""
    cores: int = 0


def parse_engine(text: str, cores: int) -> ClusterSpec | None:
    """`ray` or `ray:ADDRESS`; None for `local`.

    Raises:
        BadSpec: for anything else.
    """
    name, colon, address = text.partition(":")
    if text == "local":
        return None
    if name != "ray" or (colon and not address):
        raise BadSpec("--engine", text, "local, ray or ray:ADDRESS")
    return ClusterSpec(address=address, cores=cores)


@contextlib.contextmanager
def open_cluster(spec: ClusterSpec) -> Iterator[Cluster]:
    """A connection to a cluster; one that had to be started for it ends with the block.

    Raises:
        MissingExtra: without Ray.
        ClusterFailed: where nothing answers.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtra("--engine ray", "ray") from None
    connected = ray.is_initialized()
    if not connected:
        _connect(ray, spec.address)
    cluster = Cluster(ray, spec.cores)
    try:
        yield cluster
    finally:
        cluster.close()
        if not connected:
            ray.shutdown()


def _connect(ray: ModuleType, address: str) -> None:
    _check_address(address)
    handler = signal.getsignal(signal.SIGTERM)
    quiet = {"configure_logging": False, "log_to_driver": False}
    logging.getLogger("ray").setLevel(logging.ERROR)  # stderr is the scan's
    try:
        ray.init(address=address or None, include_dashboard=None if address else False, **quiet)
    except Exception as error:  # Ray raises the base class too
        ray.shutdown()  # what it had started
        what = f"no Ray cluster answers at {address}" if address else "Ray cannot be started on this machine"
        reason = " ".join(str(error).split()).replace(": ", ", ")
        raise ClusterFailed(f"{what} ({reason})", "check the address, and that the versions of Ray agree") from error
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in its place, which knows nothing of an output


def _check_address(address: str) -> None:
    """ClusterFailed where nothing listens at HOST:PORT, which Ray would find out in more than a minute."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ClusterFailed(
            f"no Ray cluster answers at {address} ({reason})", "check the address, and that Ray runs there"
        ) from error


class Cluster:
    """The workers of a cluster.

    Attributes:
        workers: their number: one for each GPU where there are any, else one for so many cores.
        cores: of each.
        has_gpus: each worker has a GPU of its own.
    """

    def __init__(self, ray: ModuleType, cores: int) -> None:
        self._ray = ray
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        processors = [int(node.get("CPU", 0)) for node in nodes]
        self.has_gpus = gpus > 0
        self.cores = cores or max(1, sum(processors) // gpus if gpus else min(_CORES, max(processors, default=1)))
        self.workers = gpus or max(1, sum(number // self.cores for number in processors))
        self._idle: list[Any] = []  # they have loaded what they need, which takes seconds
        self._crews = count()

    def ask(self, question: Callable[[], _R]) -> _R:
        """The answer of one worker."""
        (answer,) = self.map(lambda _: lambda _: question(), [None], workers=1)
        return answer

    def map(
        self, make: Callable[[int], Callable[[_S], _R]], shards: Iterable[_S], workers: int | None = None
    ) -> Generator[_R]:
        """The result of every shard, in their order.

        A shard whose worker or machine is lost is done again by another worker. Few shards are under way at a time,
        and none is drawn far ahead of the results that were taken.

        Args:
            make: called in each worker with its number of cores; gives what is done to a shard. It is pickled.
            shards: drawn in the calling thread; an exception of theirs comes after the results before it.
            workers: how many of them work; None = all.

        Raises:
            MuflowError: as in a worker.
            ClusterFailed: where a shard is lost three times.
        """
        hired = [self._idle.pop() if self._idle else self.start() for _ in range(workers or self.workers)]
        crew = _Crew(self._ray, self, _Job(next(self._crews), [self._ray.put(make)]), hired)
        try:
            yield from _in_order(crew, shards)
        finally:
            self._idle += crew.released()

    def start(self) -> Any:
        """A new worker."""
        needs = {"num_cpus": self.cores, "num_gpus": int(self.has_gpus), "max_concurrency": _AT_A_TIME}
        return self._ray.remote(**needs)(Worker).remote(self.cores, str(Path.cwd()))

    def close(self) -> None:
        """End the workers."""
        for worker in self._idle:
            self._ray.kill(worker)
        self._idle.clear()


@dataclass(frozen=True, slots=True)
class _Job:
    """What workers do to shards: its number, and a list with Ray's reference to what makes the work.

    A reference within a list stays one until a worker asks for it, which it does once, not for every shard.
    """

    number: int
    make: list[Any]


@dataclass(slots=True)
class _Task(Generic[_S]):
    """A shard on its way."""

    index: int
    shard: _S
    attempts: int = 0
    worker: Any = None


class _Crew:
    """Workers that do the same to every shard; where one is lost, another takes its place."""

    def __init__(self, ray: ModuleType, cluster: Cluster, job: _Job, workers: list[Any]) -> None:
        self._ray, self._cluster, self._job, self._workers = ray, cluster, job, workers
        self._lost = (
            *(ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.WorkerCrashedError),
            *(ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError),
        )
        self._busy: dict[Any, _Task[Any]] = {}

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self._workers)

    @property
    def under_way(self) -> int:
        """Number of shards that were given out."""
        return len(self._busy)

    @property
    def has_room(self) -> bool:
        """Whether a worker can take a shard."""
        return len(self._busy) < _AT_A_TIME * len(self._workers)

    def give(self, task: _Task[Any]) -> None:
        """Give a shard to the worker that has the fewest."""
        task.worker = min(
            self._workers, key=lambda worker: sum(other.worker is worker for other in self._busy.values())
        )
        task.attempts += 1
        self._busy[task.worker.do.remote(self._job, task.shard)] = task

    def finished(self) -> tuple[list[tuple[_Task[Any], Any]], list[_Task[Any]]]:
        """Waits: shards with their results, and shards that were lost."""
        ready, _ = self._ray.wait(list(self._busy), num_returns=1)
        done, lost = [], []
        for reference in ready:
            task = self._busy.pop(reference)
            try:
                done.append((task, self._ray.get(reference)))
            except self._lost as error:
                if task.attempts >= _ATTEMPTS:
                    problem = f"a part of the work ended {_ATTEMPTS} workers of the cluster ({_reason(error)})"
                    raise ClusterFailed(problem, f"{_SAME_VERSION}, or look for the cause on one machine") from error
                self._replace(task.worker)
                lost.append(task)
        return done, lost

    def released(self) -> list[Any]:
        """The workers that have nothing to do; the others are ended."""
        busy = [task.worker for task in self._busy.values()]
        for worker in self._workers:
            if worker in busy:
                self._ray.kill(worker)
        return [worker for worker in self._workers if worker not in busy]

    def _replace(self, worker: Any) -> None:
        """Start another in the place of a worker that was lost, once for all its shards."""
        if worker in self._workers:
            with contextlib.suppress(Exception):
                self._ray.kill(worker)
            self._workers[self._workers.index(worker)] = self._cluster.start()


class _Tasks(Generic[_S]):
    """What is to be done: shards that were lost, then new ones.

    Attributes:
        failure: the exception that ended the shards too early.
    """

    def __init__(self, shards: Iterable[_S]) -> None:
        self._drawn, self._again = enumerate(shards), deque[_Task[_S]]()
        self._ended = False
        self.failure: Exception | None = None

    def lost(self, tasks: Iterable[_Task[_S]]) -> None:
        """Do these again."""
        self._again.extend(tasks)

    def draw(self) -> _Task[_S] | None:
        """The next one; None where there is none."""
        if self._again:
            return self._again.popleft()
        if not self._ended:
            try:
                return _Task(*next(self._drawn))
            except StopIteration:
                self._ended = True
            except Exception as error:  # noqa: BLE001  raised after the results before it
                self.failure, self._ended = error, True
        return None


def _in_order(crew: _Crew, shards: Iterable[_S]) -> Iterator[Any]:
    tasks, early, expected = _Tasks(shards), dict[int, Any](), 0
    while True:
        while crew.has_room and crew.under_way + len(early) < _AHEAD * crew.size and (task := tasks.draw()):
            crew.give(task)
        if expected in early:
            yield _checked(early.pop(expected))
            expected += 1
        elif crew.under_way:
            done, lost = crew.finished()
            early.update((task.index, result) for task, result in done)
            tasks.lost(lost)
        elif tasks.failure is not None:
            raise tasks.failure
        else:
            return


def _checked(result: _R | MuflowError) -> _R:
    if isinstance(result, MuflowError):
        raise result
    return result


class Worker:
    """A process of the cluster; what it does is made with the first shard of a job, so that an error is an answer.

    Args:
        cores: that it has.
        folder: in which the caller works, for relative paths.
    """

    def __init__(self, cores: int, folder: str) -> None:
        self._cores = cores
        self._number = -1  # of the job whose work it has
        self._work: Callable[[Any], Any] = lambda shard: shard
        self._lock = threading.Lock()
        with contextlib.suppress(OSError):
            os.chdir(folder)

    def do(self, job: _Job, shard: Any) -> Any:
        """The result of a shard."""
        try:
            with self._lock:
                if self._number != job.number:
                    self._work, self._number = _made(job)(self._cores), job.number
            return self._work(shard)
        except MuflowError as error:
            return error


def _made(job: _Job) -> Callable[[int], Callable[[Any], Any]]:
    """What makes the work of a job; ClusterFailed where this machine lacks the modules that it is of."""
    import ray

    try:
        make: Callable[[int], Callable[[Any], Any]] = ray.get(job.make[0])
    except Exception as error:
        problem = f"a machine of the cluster cannot take part ({_reason(error)})"
        raise ClusterFailed(problem, _SAME_VERSION) from error
    return make


def _reason(error: Exception) -> str:
    """The last line of what an error says, for the brackets of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().replace(": ", ", ")[:200]
