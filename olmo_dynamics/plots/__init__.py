"""Plots: polars frames in, altair charts out.

Every function takes a table and returns a chart that carries its own theme. A `Style` sets the title, the notes and the
size. `olmo_dynamics.plots.page` makes the report page, which holds many charts.

    >>> import olmo_dynamics as od
    >>> parameters = od.open_store("run.zarr").table("parameters")  # doctest: +SKIP
    >>> od.plots.trajectory(parameters, y="rms", color="layer")  # doctest: +SKIP
"""

from olmo_dynamics.plots.bands import distribution_fan, embedding_band
from olmo_dynamics.plots.births import outlier_births
from olmo_dynamics.plots.branches import branches
from olmo_dynamics.plots.depth import depth_profile
from olmo_dynamics.plots.display import enable
from olmo_dynamics.plots.domain_losses import loss_by_domain
from olmo_dynamics.plots.expert_use import domain_specialisation, expert_load, saturation
from olmo_dynamics.plots.maps import layer_step_map, norms_panel
from olmo_dynamics.plots.panels import linked
from olmo_dynamics.plots.table import MAX_ROWS
from olmo_dynamics.plots.theme import AnyChart, Style
from olmo_dynamics.plots.trajectories import trajectory
from olmo_dynamics.plots.weights import (
    displacement,
    embedding_decay,
    optimizer_panel,
    rotation,
    singular_values,
    weight_path,
    weight_similarity,
)

enable()

__all__ = [
    "MAX_ROWS",
    "AnyChart",
    "Style",
    "branches",
    "depth_profile",
    "displacement",
    "distribution_fan",
    "domain_specialisation",
    "embedding_band",
    "embedding_decay",
    "expert_load",
    "layer_step_map",
    "linked",
    "loss_by_domain",
    "norms_panel",
    "optimizer_panel",
    "outlier_births",
    "rotation",
    "saturation",
    "singular_values",
    "trajectory",
    "weight_path",
    "weight_similarity",
]
