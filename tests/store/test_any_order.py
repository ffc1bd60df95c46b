"""Quantities added, revisions filled in and compacted in any order, killed or not: equal to a dict of arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.quantities.declaration import STATUS, Group
from tests.store.silent import MORE, SILENT, WIDER, add_silent, new_silent_store, silent_layout, silent_values
from tests.store.synthetic import REVISIONS
from tests.store.test_atomicity import Killed, killed_after

GROUPS = (SILENT, WIDER, MORE)
operations = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 3), st.sampled_from(GROUPS)),
    st.tuples(st.just("widen"), st.sampled_from(GROUPS)),
    st.tuples(st.just("compact")),
)


class Model:
    """The numbers that a store must hold, by revision and quantity; None where a row was filled in without a record."""

    def __init__(self) -> None:
        self.waves = [{each.name for each in SILENT.with_status().quantities}]
        self.set: dict[int, set[int]] = {}
        self.numbers: dict[tuple[int, str], np.ndarray | None] = {}

    def perform(self, operation: tuple[Any, ...]) -> None:
        if operation[0] == "widen":
            new = {each.name for each in operation[1].quantities}.difference(*self.waves)
            self.waves += [new] if new else []
        elif operation[0] == "append":
            self._append(operation[1], operation[2])

    def _append(self, seed: int, group: Group) -> None:
        marks = self.set.setdefault(seed, set())
        for number, wave in enumerate(self.waves):
            if number not in marks:
                known = silent_values(seed)
                self.numbers |= {(seed, name): known.get(name) if name in group else None for name in wave - {STATUS}}
        marks.update(range(len(self.waves)))

    def check(self, path: Path) -> None:
        store, arrays = open_store(path), xarray.open_zarr(path, group="silent").load()
        assert {each.name for each in store.quantities("silent")} == set().union(*self.waves)
        names = arrays.revision.values.tolist()
        for seed, marks in self.set.items():
            revision = REVISIONS[seed].name
            assert store.recorded(revision) == ({"silent"} if len(marks) == len(self.waves) else frozenset())
            row = store.row("silent", revision)
            for number, wave in enumerate(self.waves):
                mark = arrays.recorded if not number else arrays[f"recorded_{number + 1}"]
                assert mark.values[names.index(revision)] == (number in marks)
                for name in wave - {STATUS}:
                    expected = self.numbers.get((seed, name))
                    filled = np.full_like(row[name], -1 if row[name].dtype.kind == "i" else np.nan)
                    np.testing.assert_array_equal(row[name], filled if expected is None else expected)
                    np.testing.assert_array_equal(arrays[name].values[names.index(revision)], row[name])


def perform(store: RecordedStore, operation: tuple[Any, ...]) -> None:
    if operation[0] == "append":
        add_silent(store, REVISIONS[operation[1]], operation[1], operation[2])
    elif operation[0] == "widen":
        store.add_quantities(silent_layout(operation[1]))
    else:
        store.compact()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(operations, st.none() | st.integers(0, 40)), min_size=3, max_size=9))
def test_any_order_leaves_the_numbers_of_the_model(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[tuple[Any, ...], int | None]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("olmo_dynamics.store.zarr_format.CHUNK_BYTES", 50)
        new_silent_store(path)
        model = Model()
        for operation, killed in steps:
            try:
                if killed is not None:
                    with killed_after(killed):
                        perform(open_store(path, mode="a"), operation)
            except Killed:
                open_store(path)
            perform(open_store(path, mode="a"), operation)
            model.perform(operation)
        model.check(path)
