"""Ray as the engine: one task measures one revision and returns its rows; this process alone writes them.

No lock is shared, and workers need no disk in common with the store. This is the only module that imports ray, and it is imported
when the engine is asked for.

>>> with open_ray(source, CollectOptions(engine="ray"), Limits()) as engine:  # doctest: +SKIP
...     print(engine.notes[0])
measuring on 16 workers of 2 nodes, each with 8 CPUs
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.checkpoints.source_needs import local_folder
from olmo_dynamics.collection.engines.cluster_nodes import ClusterNode, Seen, WorkerSize, check_seen, counting, looking
from olmo_dynamics.collection.engines.interruption import Interruption
from olmo_dynamics.collection.engines.outcome import Outcome
from olmo_dynamics.collection.engines.ray_connection import connect, show_token
from olmo_dynamics.collection.engines.remote_work import RemoteWork
from olmo_dynamics.collection.engines.silenced_threads import silenced_threads
from olmo_dynamics.collection.limits import Limits
from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.options import CollectOptions
from olmo_dynamics.collection.setup import CollectionSetup
from olmo_dynamics.collection.throughput import Throughput
from olmo_dynamics.errors import EngineError, OptionError, counted
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress

RETRIES = 3
"""Tries after the first for a revision whose worker or node dies."""

QUEUED = 2
"""Tasks given to Ray for each worker, so that none waits for the next one."""

_TURN = 0.2  # seconds between two looks at signals and bytes
_NODES = 2.0  # seconds between two looks at the nodes
_ANSWER = 60.0  # seconds for a node's first answer


def load_ray() -> Any:
    """The package ray.

    Raises:
        OptionError: it is not installed.
    """
    show_token()
    try:
        import ray
    except ImportError:
        raise OptionError(
            "engine ray needs Ray, which is not installed; pip install 'olmo-dynamics[ray]'", option="engine"
        ) from None
    return ray


@contextmanager
def open_ray(source: Source, options: CollectOptions, limits: Limits) -> Iterator[RayEngine]:
    """Connect to a cluster, or start one here, and check that its workers can measure the source.

    Raises:
        OptionError: Ray is not installed.
        EngineError: there is no such cluster, or a node runs another version, or does not see the source's folder.
    """
    with connected(options.address) as ray:
        nodes = ClusterNode.of(ray.nodes())
        size = WorkerSize.of(nodes, threads=limits.threads, on_gpu=options.device.startswith("cuda"))
        _check_nodes(ray, [node for node in nodes if size.on(node)], source)
        yield RayEngine(ray, size, limits.bytes_per_second)


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The package ray, connected to a cluster while the context lasts; a connection that this process has is used, and kept.

    Raises:
        OptionError: Ray is not installed.
        EngineError: there is no such cluster.
    """
    ray = load_ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        connect(ray, address)
    try:
        with silenced_threads("ray_"):  # which print what befalls nodes, at length
            yield ray
    finally:
        if is_ours:
            ray.shutdown()


def _check_nodes(ray: Any, nodes: Sequence[ClusterNode], source: Source) -> None:
    """Ask each node what it sees; one that dies meanwhile is no worker."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

    look, folder = looking(), str(local_folder(source) or "")
    here = Seen(*look(folder))
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = [
        task.options(scheduling_strategy=OnNode(node.key, soft=False), name="look").remote(folder) for node in nodes
    ]
    for node, answer in zip(nodes, asked, strict=True):
        try:
            seen = Seen(*ray.get(answer, timeout=_ANSWER))
        except ray.exceptions.GetTimeoutError:
            raise EngineError(
                f"node {node.address} must start a worker within {_ANSWER:.0f} s (got no answer); look at its logs"
            ) from None
        except ray.exceptions.RayError as error:
            if any(each.key == node.key for each in ClusterNode.of(ray.nodes())):
                raise EngineError(
                    f"node {node.address} must be able to start a worker ({_brief(error)}); look at its logs"
                ) from None
            continue
        check_seen(seen, here, node.address, source=source.name, folder=folder)


class RayEngine:
    """Measures with the workers of a cluster, one revision at a time each."""

    def __init__(self, ray: Any, size: WorkerSize, rate: float | None) -> None:
        self._ray, self._size, self._rate = ray, size, rate
        self._nodes: list[ClusterNode] = []
        self._looked = float("-inf")
        self._shown = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """The number of workers."""
        nodes = [node for node in self._living() if self._size.on(node)]
        each = counted(self._size.cpus, "CPU") + (" and a GPU" if self._size.gpus else "")
        return (f"measuring on {counted(self._workers, 'worker')} of {counted(len(nodes), 'node')}, each with {each}",)

    def throughput(self, setup: CollectionSetup) -> Throughput | None:
        """None: workers may differ."""
        return None

    def outcomes(self, opener: Opener, revisions: Sequence[Revision], listener: Progress) -> Generator[Outcome]:
        """One outcome for each revision, as they are finished; Ctrl-C gives those that are finished, and cancels the others.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM.
            EngineError: the work cannot be sent to workers.
        """
        if not revisions:
            return
        tasks = _Tasks(self._ray, self._size, opener, revisions, listener)
        waiting = deque(each.name for each in revisions)
        with Interruption() as interruption:
            try:
                while waiting or tasks.running:
                    self._fill(tasks, waiting, listener)
                    yield from tasks.finished(num_returns=1, timeout=_TURN)
                    if interruption.asked:
                        yield from tasks.finished(num_returns=len(tasks.running), timeout=0)
                        raise KeyboardInterrupt
            finally:
                tasks.cancel()

    def _fill(self, tasks: _Tasks, waiting: deque[str], listener: Progress) -> None:
        """Give Ray as many tasks as its workers can soon begin; each gets its share of the rate."""
        before, workers = self._shown, self._workers
        self._shown = workers
        if workers < before:
            listener.note(
                f"{counted(before - workers, 'worker')} died, {workers} left; unfinished revisions are tried again"
            )
        listener.begin(counted(workers, "worker"))
        while waiting and len(tasks.running) < QUEUED * max(1, workers):
            active = max(1, min(workers, len(tasks.running) + len(waiting)))
            tasks.submit(waiting.popleft(), None if self._rate is None else self._rate / active)

    @property
    def _workers(self) -> int:
        return self._size.workers(self._living())

    def _living(self) -> list[ClusterNode]:
        """The nodes that were alive a moment ago."""
        if time.monotonic() - self._looked > _NODES:
            self._nodes, self._looked = ClusterNode.of(self._ray.nodes()), time.monotonic()
        return self._nodes


class _Tasks:
    """The tasks of one collection, by the references to their results."""

    def __init__(
        self, ray: Any, size: WorkerSize, opener: Opener, revisions: Sequence[Revision], listener: Progress
    ) -> None:
        self.running: dict[Any, str] = {}
        self._ray = ray
        try:
            self._work = ray.put(RemoteWork.of(opener, revisions, size.cpus))
        except Exception as error:
            raise EngineError(
                f"recorders must be such that they can be pickled for workers ({_brief(error)})"
            ) from None
        self._task = ray.remote(
            num_cpus=size.cpus, num_gpus=size.gpus, max_calls=0, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )(_measuring())
        first = opener.first(opener.groups.get(revisions[0].name, opener.setup.groups)).fetch_plan.nbytes
        listener.expect(revisions=len(revisions), nbytes=len(revisions) * first)
        self._meter = _Meter(ray, listener, first)
        self._version = version("olmo-dynamics")

    def submit(self, name: str, rate: float | None) -> None:
        """Give Ray one more revision to measure."""
        task = self._task.options(name=f"measure {name}")
        self.running[task.remote([self._work], name, rate, self._meter.actor, self._version)] = name

    def finished(self, *, num_returns: int, timeout: float) -> Iterator[Outcome]:
        """The outcomes that are there, after a wait for so many of them."""
        if not self.running:
            return
        ready, _ = self._ray.wait(list(self.running), num_returns=num_returns, timeout=timeout)
        self._meter.show(self.running.values())
        for result in ready:
            outcome = self._outcome(result, self.running.pop(result))
            if outcome.measured is not None:
                self._meter.finish(outcome.name, outcome.measured.usage.fetched)
            yield outcome

    def cancel(self) -> None:
        """Give up what is not finished."""
        for result in self.running:
            with suppress(Exception):
                self._ray.cancel(result, force=True)
        self._meter.close()

    def _outcome(self, result: Any, name: str) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(result)
        except Exception as error:
            return Outcome(name, error=EngineError(f"no worker could measure {name} ({_brief(error)})"))
        return outcome


class _Meter:
    """The bytes that workers have measured of revisions under way, for the progress bar: they tell an actor, which is asked."""

    def __init__(self, ray: Any, listener: Progress, each: int) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

        here = OnNode(ray.get_runtime_context().get_node_id(), soft=True)
        self._ray, self._listener, self._each = ray, listener, each
        self._shown: dict[str, int] = {}
        self.actor = ray.remote(num_cpus=0, scheduling_strategy=here)(counting()).remote()
        self._asked = self.actor.totals.remote()

    def show(self, running: Collection[str]) -> None:
        """Show the bytes of the revisions under way, if the actor has answered; a second try counts what it adds."""
        ready, _ = self._ray.wait([self._asked], timeout=0)
        if not ready:
            return
        with suppress(self._ray.exceptions.RayError):
            totals = self._ray.get(self._asked)
            for name in running:
                self._advance(name, min(totals.get(name, 0), self._each))
            self._asked = self.actor.totals.remote()

    def finish(self, name: str, nbytes: int) -> None:
        """Show all bytes of a revision."""
        self._advance(name, nbytes)
        del self._shown[name]

    def close(self) -> None:
        """End the actor."""
        with suppress(Exception):
            self._ray.kill(self.actor)

    def _advance(self, name: str, total: int) -> None:
        self._listener.advance(total - self._shown.get(name, 0))
        self._shown[name] = total


def _measuring() -> Callable[..., Any]:
    """The function of a task; a nested one is sent as it is, so that a worker can say itself that it has another version."""

    def measure(work: list[Any], name: str, rate: float | None, meter: Any, version: str) -> Any:
        from importlib import metadata

        import ray

        found = metadata.version("olmo-dynamics")
        if found != version:
            raise RuntimeError(f"the worker runs olmo_dynamics {found}, not {version}")
        from olmo_dynamics.settings import wait_without_spinning

        wait_without_spinning()  # before torch is imported with the work
        return ray.get(work[0]).measure(name, rate, lambda nbytes: meter.add.remote(name, nbytes))

    return measure


def _brief(error: BaseException) -> str:
    """An error of Ray in one line: its cause, if a task raised it."""
    found = getattr(error, "cause", None) or error
    return f"{type(found).__name__}: {' '.join(str(found).split())[:300]}"
