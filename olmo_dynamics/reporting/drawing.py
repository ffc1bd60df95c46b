"""The part of a store that a report draws, and charts of no more rows than a page can hold.

>>> store = Drawn(open_store("olmo2-1b.zarr"), ["step0", "step10"])  # doctest: +SKIP
>>> draw(plots.trajectory, store.table("parameters"), "rms")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.frames import RecordedStore, births, saturation, thin
from olmo_dynamics.plots import AnyChart, Style


class Drawn:
    """A store seen through the revisions that are drawn."""

    def __init__(self, store: RecordedStore, revisions: list[str]) -> None:
        self.store, self.attributes, self.groups = store, store.attributes, store.groups
        self._revisions = revisions

    def table(self, name: str) -> pl.DataFrame:
        """One table of the store."""
        return self._only(self.store.table(name))

    def births(self, threshold: float) -> pl.DataFrame:
        """The outlier features, with `threshold` in units of a token's own RMS."""
        return self._only(births(self.store, threshold=threshold, relative=True))

    def saturation(self) -> pl.DataFrame:
        """The router saturation of each layer."""
        return self._only(saturation(self.store))

    @property
    def probe_tokens(self) -> int | None:
        """The number of tokens of the probe; None without one."""
        probe = self.attributes.get("probe") or {}
        return probe.get("tokens")

    def _only(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.filter(pl.col("revision").is_in(self._revisions))


def draw(
    chart: Callable[..., AnyChart],
    frame: pl.DataFrame,
    *words: str,
    tokens: int | None = None,
    note: str = "",
    style: Style | None = None,
) -> AnyChart:
    """A chart of at most as many rows as a page can hold, with a note where there are more."""
    fewer, thinned = thin(frame, plots.MAX_ROWS)
    notes = "; ".join(part for part in (note, thinned) if part)
    return chart(fewer, *words, style=replace(style or Style(), note=notes, probe_tokens=tokens))
