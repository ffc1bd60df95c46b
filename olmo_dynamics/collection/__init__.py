"""The conductor: for each revision stream, record, write.

>>> from olmo_dynamics.collection import collect
>>> store = collect("cache/demo/run", out="cache/demo/store.zarr")  # doctest: +SKIP
"""

from olmo_dynamics.collection.choice import Choice, choose
from olmo_dynamics.collection.conductor import collect
from olmo_dynamics.collection.measurement import Measurement, Options
from olmo_dynamics.collection.planner import Plan, plan
from olmo_dynamics.collection.recording import record

__all__ = ["Choice", "Measurement", "Options", "Plan", "choose", "collect", "plan", "record"]
