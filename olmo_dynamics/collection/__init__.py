"""Collections: for each revision stream its weights, record, and write one row of a store.

>>> from olmo_dynamics.checkpoints import open_source
>>> store = append_revisions(open_source("cache/demo/run"), out="cache/demo/store.zarr")  # doctest: +SKIP
"""

from olmo_dynamics.collection.collector import append_revisions, compact
from olmo_dynamics.collection.live import LiveOptions, record
from olmo_dynamics.collection.options import CollectKeywords, CollectOptions
from olmo_dynamics.collection.planner import Plan, plan
from olmo_dynamics.collection.selection import Selection, select_revisions

__all__ = [
    "CollectKeywords",
    "CollectOptions",
    "LiveOptions",
    "Plan",
    "Selection",
    "append_revisions",
    "compact",
    "plan",
    "record",
    "select_revisions",
]


def __dir__() -> list[str]:
    return sorted(__all__)
