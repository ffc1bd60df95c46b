"""An index of revisions by step, in any order; a step that several of them have is refused rather than guessed.

>>> index = StepIndex(np.array([0, 10, 0, 20]), "revision")
>>> index.sel({"step": slice(5, None)}).dim_indexers
{'revision': array([1, 3])}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from xarray.core.indexing import IndexSelResult
from xarray.indexes import PandasIndex

from olmo_dynamics.errors import OptionError


class StepIndex(PandasIndex):
    """Steps along revisions, NaN for a revision without one."""

    __slots__ = ()

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """The place of a step, or the places of several, as a list or as a slice with both ends included.

        Raises:
            OptionError: no revision has that step, several have it, or it is not a number.
        """
        [label] = labels.values()
        if isinstance(label, slice):
            return IndexSelResult({self.dim: self._between(label)})
        if isinstance(label, xr.Variable | xr.DataArray) or np.asarray(label).dtype.kind == "b":
            return super().sel(labels, method, tolerance)
        places = np.array([self._place(step, method, tolerance) for step in np.ravel(label).tolist()], dtype=np.int64)
        return IndexSelResult({self.dim: places if np.ndim(label) else int(places[0])})

    @property
    def _steps(self) -> np.ndarray:
        return np.asarray(self.index)

    def _place(self, step: Any, method: str | None, tolerance: Any) -> int:
        _check_number(step)
        if method is not None:
            known = np.unique(self._steps[np.isfinite(self._steps)])
            [near] = type(self.index)(known).get_indexer([step], method, tolerance=tolerance)
            step = known[near] if near >= 0 else step
        found = np.flatnonzero(self._steps == step)
        if not len(found):
            raise OptionError(f"step must be that of a revision (got {step}); {self._near(step)}")
        self._refuse_repeated(found)
        return int(found[0])

    def _between(self, label: slice) -> np.ndarray:
        for bound in (label.start, label.stop):
            if bound is not None:
                _check_number(bound)
        low = -np.inf if label.start is None else label.start
        high = np.inf if label.stop is None else label.stop
        found = np.flatnonzero((self._steps >= low) & (self._steps <= high))
        self._refuse_repeated(found)
        return found[:: label.step]

    def _refuse_repeated(self, places: np.ndarray) -> None:
        steps, times = np.unique(self._steps[places], return_counts=True)
        if (times > 1).any():
            [step, *_], [count, *_] = steps[times > 1], times[times > 1]
            raise OptionError(
                f"step {step:.0f} is that of {count} revisions; choose one line of training, as in "
                "od.weights(run, revisions='stage1') (the coordinate `line` lists them), or a revision with .sel(revision=NAME)"
            )

    def _near(self, step: Any) -> str:
        known = np.unique(self._steps[np.isfinite(self._steps)])
        if not len(known):
            return "no revision has a step: choose with .sel(revision=NAME)"
        nearest = known[np.argsort(abs(known - step), kind="stable")[:2]]
        steps = " and ".join(f"{each:.0f}" for each in sorted(nearest))
        return f"the nearest are {steps}, and method='nearest' takes one of them"


def _check_number(step: Any) -> None:
    if not isinstance(step, int | float | np.integer | np.floating):
        raise OptionError(f"step must be a number, as in .sel(step=1000) (got {step!r})")
