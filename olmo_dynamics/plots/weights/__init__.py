"""Plots of weights through time: distances, paths, spectra, the optimiser's state.

>>> import olmo_dynamics as od
>>> od.plots.displacement(od.displacement(od.open_store("run.zarr"), by="layer"))  # doctest: +SKIP
"""

from olmo_dynamics.plots.weights.displacement_curves import displacement
from olmo_dynamics.plots.weights.optimizer_panel import optimizer_panel
from olmo_dynamics.plots.weights.path_plane import weight_path
from olmo_dynamics.plots.weights.predicted_curves import embedding_decay, rotation
from olmo_dynamics.plots.weights.similarity_map import weight_similarity
from olmo_dynamics.plots.weights.singular_fan import singular_values

__all__ = [
    "displacement",
    "embedding_decay",
    "optimizer_panel",
    "rotation",
    "singular_values",
    "weight_path",
    "weight_similarity",
]
