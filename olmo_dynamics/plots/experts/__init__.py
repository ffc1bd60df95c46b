"""Plots of experts: OLMoE's four figures, loads over time, and the likeness of experts' weights.

>>> import olmo_dynamics as od
>>> from olmo_dynamics import frames
>>> store = od.open_store("olmoe.zarr")  # doctest: +SKIP
>>> od.plots.co_activation(frames.most_together(frames.co_activation(store, 7, revision="main")))  # doctest: +SKIP
"""

from olmo_dynamics.plots.experts.co_activation_map import co_activation
from olmo_dynamics.plots.experts.expert_use import domain_specialisation, expert_load, saturation
from olmo_dynamics.plots.experts.likeness_map import expert_similarity
from olmo_dynamics.plots.experts.vocabulary_lines import vocabulary_specialisation

__all__ = [
    "co_activation",
    "domain_specialisation",
    "expert_load",
    "expert_similarity",
    "saturation",
    "vocabulary_specialisation",
]
