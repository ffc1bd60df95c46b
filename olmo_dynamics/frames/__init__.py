"""Results as tables: polars frames made of a store, and a run's revisions.

>>> from olmo_dynamics.frames import open_store
>>> open_store("olmo2-1b.zarr").table("parameters")  # doctest: +SKIP
"""

from olmo_dynamics.frames.averages import macro_average
from olmo_dynamics.frames.curves import metrics
from olmo_dynamics.frames.experts import pool_experts
from olmo_dynamics.frames.lineage import Forest, forest
from olmo_dynamics.frames.outlier_births import births
from olmo_dynamics.frames.recorded import RecordedStore, export, open_store
from olmo_dynamics.frames.router_saturation import saturation
from olmo_dynamics.frames.tables import table, table_names
from olmo_dynamics.frames.thinning import thin
from olmo_dynamics.frames.weights.distances import between, displacement
from olmo_dynamics.frames.weights.first_moment import moment_cosine
from olmo_dynamics.frames.weights.predictions import embedding_decay, rotation
from olmo_dynamics.frames.weights.weight_pairs import pairwise
from olmo_dynamics.frames.weights.weight_path import trajectory

__all__ = [
    "Forest",
    "RecordedStore",
    "between",
    "births",
    "displacement",
    "embedding_decay",
    "export",
    "forest",
    "macro_average",
    "metrics",
    "moment_cosine",
    "open_store",
    "pairwise",
    "pool_experts",
    "rotation",
    "saturation",
    "table",
    "table_names",
    "thin",
    "trajectory",
]
