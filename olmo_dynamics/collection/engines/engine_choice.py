"""The engine that the options ask for.

>>> with open_engine(source, CollectOptions(), Limits(threads=2)) as engine:  # doctest: +SKIP
...     engine.notes
()
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.collection.engines.local_engine import LocalEngine
from olmo_dynamics.collection.engines.outcome import Outcome
from olmo_dynamics.collection.limits import Limits
from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.options import CollectOptions
from olmo_dynamics.collection.setup import CollectionSetup
from olmo_dynamics.collection.throughput import Throughput
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress


class Engine(Protocol):
    """Measures revisions somewhere; `notes` are lines for the user on where."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user, before anything is measured."""

    def outcomes(self, opener: Opener, revisions: Sequence[Revision], listener: Progress) -> Generator[Outcome]:
        """One outcome for each revision, in any order; closing the generator gives the others up."""

    def throughput(self, setup: CollectionSetup) -> Throughput | None:
        """The speed of computing, None where it cannot be told."""


def open_engine(source: Source, options: CollectOptions, limits: Limits) -> AbstractContextManager[Engine]:
    """The engine, ready to measure revisions of a source while the context lasts.

    Raises:
        OptionError: it is not installed.
        EngineError: there is no cluster, or its workers cannot measure this source.
    """
    if options.engine == "local":
        return nullcontext(LocalEngine(limits.thread_count))
    from olmo_dynamics.collection.engines.ray_engine import open_ray

    return open_ray(source, options, limits)


def connection(engine: str, address: str | None) -> AbstractContextManager[object]:
    """A connection that the collections of several runs share while the context lasts; the local engine needs none.

    Raises:
        OptionError: the engine is not installed.
        EngineError: there is no cluster.
    """
    if engine != "ray":
        return nullcontext()
    from olmo_dynamics.collection.engines.ray_engine import connected

    return connected(address)
