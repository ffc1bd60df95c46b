"""Engines: where revisions are measured. Whatever the engine, one process writes the store.

>>> with open_engine(source, CollectOptions(engine="ray"), Limits()) as engine:  # doctest: +SKIP
...     for outcome in engine.outcomes(opener, revisions, listener):
...         print(outcome.name)

`local` measures in this process; `ray` sends each revision to a worker of a Ray cluster, and is imported when it is asked for.
"""

from olmo_dynamics.collection.engines.engine_choice import Engine, connection, open_engine
from olmo_dynamics.collection.engines.local_engine import LocalEngine
from olmo_dynamics.collection.engines.outcome import MeasuredRevision, Outcome

__all__ = ["Engine", "LocalEngine", "MeasuredRevision", "Outcome", "connection", "open_engine"]
