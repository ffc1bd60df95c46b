"""Anomalies of the published bytes, as a store holds them: equal hashes, tensors left out, and values that are not finite.

>>> [each.sentence for each in of_bytes(Grid(open_store("olmo2-1b.zarr")))]  # doctest: +SKIP
['stage1-step10-tokens1B and stage1-step20-tokens1B hold the same bytes, although their steps differ.']
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from olmo_dynamics.errors import counted
from olmo_dynamics.frames.grid import Grid, revisions_table
from olmo_dynamics.frames.rules.store_finding import StoreFinding

_SAME = "equal SHA-256 of the weights at different steps"
_EXCLUDED = "tensors left out, since an audit shows that their bytes are not this revision's"
_NOT_FINITE = "at least one NaN or infinite weight"
_COUNTS = ("nan_count", "inf_count")
_FEW = 3


def of_bytes(grid: Grid) -> Iterator[StoreFinding]:
    """Findings that compare bytes or count them, and so have no false alarms."""
    yield from _same(grid)
    steps = dict(grid.leading.select("revision", "step").iter_rows())
    for name, tensors in grid.store.excluded().items():
        count = counted(len(tensors), "tensor")
        sentence = f"The published bytes of {count} of {name} are not this revision's ({_some(tensors)})."
        yield StoreFinding("bytes", sentence, "parameters/rms", _some(tensors), revision=name, step=steps.get(name),
                           value=len(tensors), rule=_EXCLUDED)  # fmt: skip
    yield from _not_finite(grid)


def _same(grid: Grid) -> Iterator[StoreFinding]:
    by_hash: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    facts = revisions_table(grid.store)
    for name, line, step, sha256 in facts.select("revision", "line", "step", "weights_sha256").iter_rows():
        if sha256 and step is not None:
            by_hash[sha256].append((name, line, step))
    for members in by_hash.values():
        if len({(line, step) for _, line, step in members}) > 1:
            names = [name for name, _, _ in members]
            sentence = f"{_joined(names)} hold the same bytes, although their steps differ."
            yield StoreFinding("bytes", sentence, where=_some(names), line=members[0][1], revision=names[-1],
                               step=members[-1][2], value=len(names), rule=_SAME)  # fmt: skip


def _not_finite(grid: Grid) -> Iterator[StoreFinding]:
    if not grid.has("parameters", *_COUNTS):
        return
    bad = sum(np.maximum(grid.array("parameters", name), 0) for name in _COUNTS)
    tensors, steps = grid.store.axis("tensor").labels, grid.leading["step"].to_list()
    for row in np.flatnonzero(np.asarray(bad).any(axis=1)).tolist():
        name, named = grid.leading["revision"][row], tensors[np.asarray(bad)[row] > 0].tolist()
        total = int(np.asarray(bad)[row].sum())
        sentence = f"{name} has {counted(total, 'weight')} that are not finite, in {_some(named)}."
        yield StoreFinding("bytes", sentence.replace("1 weight that are", "1 weight that is"), "parameters/rms", _some(named),
                           revision=name, step=steps[row], value=total, rule=_NOT_FINITE)  # fmt: skip


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more


def _joined(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
