"""A group that the package does not know, as a user would declare it, and its records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import Group, Quantity, Record
from olmo_dynamics.store import Axis, Layout
from tests.store.synthetic import ATTRIBUTES, PROBE, WHEN, axes

SHARE = Quantity(
    "silent_share",
    long_name="share of silent features",
    unit="1",
    formula="mean over features of [max over tokens |x| < 0.01]",
    source="a notebook",
    symbol="S",
    valid=(0.0, 1.0),
    note="Silent on the probe, which is small.",
)
BY_BIN = Quantity(
    "silent_by_bin", long_name="silent features by bin", axes=("layer", "bin"), formula="count", unit="features"
)
SILENT = Group(
    "silent", ("layer",), "Features that stay near zero.", (SHARE, BY_BIN), {"bound": 0.01, "recorder": "a:B"}
)
LATER = Quantity("silent_mean", long_name="mean of silent features", dtype="float32", axes=("layer", "quantile"))
"""A quantity that a later version of the recorder measures too."""

WIDER = replace(SILENT, quantities=(SHARE, LATER, BY_BIN))
MORE = replace(WIDER, quantities=(*WIDER.quantities, Quantity("silent_most", axes=(), dtype="int64")))
"""A still later version, whose last quantity has no records here."""

BINS = 3


def silent_layout(group: Group = SILENT) -> Layout:
    return Layout({**axes(), "bin": Axis("bin", np.arange(BINS))}, (group,))


def silent_values(seed: int) -> dict[str, np.ndarray]:
    """A revision's numbers by name; layer -1 has none."""
    rng = np.random.default_rng(seed)
    found = {
        "silent_share": rng.uniform(0, 1, 3),
        "silent_by_bin": rng.uniform(0, 9, (3, BINS)),
        "silent_mean": rng.uniform(0, 1, (3, 9)).astype(np.float32),
    }
    for row in found.values():
        row[0] = np.nan
    return found


def silent_records(seed: int, group: Group = SILENT) -> Iterator[Record]:
    for quantity in group.quantities:
        if quantity.name not in silent_values(seed):
            continue
        row = silent_values(seed)[quantity.name]
        yield from (Record(quantity, row[place], {"layer": layer}) for place, layer in ((1, 0), (2, 1)))


def new_silent_store(path: Path, group: Group = SILENT) -> RecordedStore:
    return RecordedStore.create(path, layout=silent_layout(group), attributes=ATTRIBUTES, probe_arrays=PROBE)


def add_silent(store: RecordedStore, revision: Revision, seed: int, group: Group = SILENT) -> None:
    records = silent_records(seed, group)
    store.append(revision, records, dtype="BF16", weights_sha256=f"{seed:064d}", collected_at=WHEN)
