"""The numbers behind a finding, against step, for a small picture beside its sentence.

>>> series_behind(store, findings(store)[0]).columns  # doctest: +SKIP
['step', 'value']
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.logs.training_logs import TrainingLogs
from olmo_dynamics.frames.recorded import RecordedStore
from olmo_dynamics.frames.rules.searched_curves import searched_curves
from olmo_dynamics.frames.rules.store_finding import StoreFinding
from olmo_dynamics.frames.rules.watched import LineRows, lines_of, series_of_quantity
from olmo_dynamics.names import Site

_FEATURE = re.compile(r"feature (\d+)")
_SCHEMA = {"step": pl.Int64, "value": pl.Float64}


def series_behind(
    store: RecordedStore, found: StoreFinding, curves: pl.DataFrame | TrainingLogs | None = None
) -> pl.DataFrame:
    """The finite numbers of a finding's quantity at its place along its line: `step` and `value`, by step.

    Where a finding is about several cells, the value is their median; of an outlier feature it is its largest RMS over blocks.
    The table is empty for a finding about bytes, or about what is not a number per revision.
    """
    group, _, name = found.quantity.partition("/")
    if group == "training":
        return _kept(*_logged(store, found, curves))
    if found.kind == "bytes" or group not in store.groups or name not in store.group(group):
        return pl.DataFrame(schema=_SCHEMA)
    grid = Grid(store)
    line = next((each for each in lines_of(grid) if each.line == found.line), None)
    if line is None:
        return pl.DataFrame(schema=_SCHEMA)
    feature = _FEATURE.match(found.where)
    if feature and name == "feature_rms":
        return _kept(line.steps, _feature(grid, line, int(feature[1])))
    for series in series_of_quantity(grid, store.quantity(group, name), [line]):
        cells = [place for place, cell in enumerate(series.cells) if cell == found.where]
        values = series.values[:, cells[0]] if cells else np.median(series.values, axis=1)
        return _kept(series.line.steps, values)
    return pl.DataFrame(schema=_SCHEMA)


def _kept(steps: np.ndarray, values: np.ndarray) -> pl.DataFrame:
    frame = pl.DataFrame({"step": np.asarray(steps, np.int64), "value": np.asarray(values, np.float64)}, schema=_SCHEMA)
    return frame.filter(pl.col("value").is_finite()).sort("step")


def _logged(
    store: RecordedStore, found: StoreFinding, curves: pl.DataFrame | TrainingLogs | None
) -> tuple[np.ndarray, np.ndarray]:
    """A column of the training curve that was searched: that of the logs, or of the run's folder."""
    name, searched = found.quantity.partition("/")[2], dict(searched_curves(store, curves))
    rows = searched.get(found.line, pl.DataFrame(schema={"step": pl.Int64}))
    if name not in rows.columns:
        return np.empty(0), np.empty(0)
    held = rows.drop_nulls(["step", name])
    return held["step"].to_numpy(), held[name].cast(pl.Float64).to_numpy()


def _feature(grid: Grid, line: LineRows, feature: int) -> np.ndarray:
    """The largest RMS of a feature over the blocks, at each revision of a line."""
    sizes = grid.array("activations", "feature_rms", at={"site": Site.RESIDUAL_OUT.value})
    largest: np.ndarray = np.nanmax(sizes[line.rows][:, 1:, feature].astype(np.float64), axis=1, initial=-np.inf)
    return largest
