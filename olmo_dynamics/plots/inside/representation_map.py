"""A map of unbiased CKA: of every revision against every other, of every layer, or of the layers of two models.

>>> import olmo_dynamics as od
>>> od.plots.representation_map(od.similarity(od.open_store("run.zarr"), layer=5))  # doctest: +SKIP
"""

from __future__ import annotations

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.table import require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style
from olmo_dynamics.plots.weights.similarity_map import place_name, square_map
from olmo_dynamics.quantities.declaration import Quantity

CKA = Quantity(
    "cka",
    "",
    "unbiased linear CKA",
    (),
    "⟨U, V⟩ / (‖U‖ ‖V‖) of U-centred Gram matrices of tokens",
    "",
    symbol="CKA",
    unit="",
)
"""Of the table of `od.similarity`."""


def representation_map(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """A square map of `cka` between revisions, in training order, or between layers, the first at the top left.

    Takes a table of `od.similarity` of one site: of revisions at one layer, of the layers of one revision, or of every place
    with every other. Labels are steps (or tokens) or layers (L0, L1, … beside steps), with whatever else tells the places
    apart. Colours span 0 to 1, so that two maps can be compared.

    Raises:
        OptionError: a column is missing, the table holds several layers or revisions that are not compared with each other,
            or there is nothing, or too much, to draw.
    """
    require(frame, "site", "layer", "other_layer", "revision", "other_revision", x, f"other_{x}", "cka", "cka_se")
    if frame["site"].n_unique() > 1:
        raise OptionError(f"representation_map() needs one site (got {frame['site'].n_unique()}); filter the table")
    _require_compared(frame, "layer")
    _require_compared(frame, "revision")
    several = {name: name in frame.columns and frame[name].n_unique() > 1 for name in ("run", "revision", "layer")}
    named = frame.with_columns(
        _name(frame, "", x, several).alias("one"),
        _name(frame, "other_", x, several).alias("other"),
        pl.col("cka_se").round_sig_figs(3).alias("se"),
    )
    if named.select("one", "other").is_duplicated().any():
        raise OptionError("representation_map() needs one value per pair of places (got several); filter the table")
    things = " and ".join(f"{name}s" for name in ("revision", "layer") if several[name]) or "models"
    lowest = min(0.0, float(frame["cka"].fill_nan(None).fill_null(0.0).to_numpy().min(initial=0.0)))
    where = frame["site"][0] if several["layer"] else f"{frame['site'][0]}, {_told(frame['layer'][0])}"
    title = f"Similarity of representations between {things} ({where})"
    axis = "layer (0 is shallowest)" if several["layer"] else x
    return square_map(named, CKA, title=title, axis=axis, style=style, things=things, domain=(lowest, 1.0))


def _require_compared(frame: pl.DataFrame, name: str) -> None:
    """Check that several layers or revisions are compared with each other, and not each with itself alone."""
    count = frame[name].n_unique()
    if count > 1 and (frame[name].eq_missing(frame[f"other_{name}"])).all():
        raise OptionError(f"representation_map() needs one {name} (got {count}); filter the table")


def _name(frame: pl.DataFrame, prefix: str, x: str, several: dict[str, bool]) -> pl.Expr:
    """The label of a place: its revision and its layer, as far as there are several."""
    layer = pl.col(f"{prefix}layer").cast(pl.String).fill_null("-1")
    if not several["layer"]:
        return place_name(frame, prefix, x)
    if several["revision"] or several["run"]:
        return pl.concat_str(place_name(frame, prefix, x), "L" + layer, separator=" · ")
    return layer


def _told(layer: int | None) -> str:
    return "outside the blocks" if layer is None else f"layer {layer}"
