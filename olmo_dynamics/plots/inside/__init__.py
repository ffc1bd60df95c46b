"""Plots of the inside of a model through time: attention, writes, the lens, induction, losses of tokens, gradients.

>>> import olmo_dynamics as od
>>> od.plots.head_map(od.open_store("run.zarr").table("attention"), "sink_mass")  # doctest: +SKIP
"""

from olmo_dynamics.plots.inside.attention_curves import attention_logits, entropy_collapse, sink_birth
from olmo_dynamics.plots.inside.gradient_curves import gradient_norms, gradient_size, growth_exponents
from olmo_dynamics.plots.inside.head_maps import head_map
from olmo_dynamics.plots.inside.induction_curves import induction_bump
from olmo_dynamics.plots.inside.largest_activations import massive_activations, massive_places
from olmo_dynamics.plots.inside.lens_maps import lens_map
from olmo_dynamics.plots.inside.memory_curves import memorisation
from olmo_dynamics.plots.inside.ngram_crossover import ngram_crossover
from olmo_dynamics.plots.inside.noise_interval import gradient_noise
from olmo_dynamics.plots.inside.position_losses import loss_by_position
from olmo_dynamics.plots.inside.prediction_panel import prediction_panel
from olmo_dynamics.plots.inside.representation_map import representation_map
from olmo_dynamics.plots.inside.representation_ranks import representation_ranks
from olmo_dynamics.plots.inside.rows_by_use import embedding_rows
from olmo_dynamics.plots.inside.token_shares import token_trends
from olmo_dynamics.plots.inside.write_curves import logit_shares, write_ratios

__all__ = [
    "attention_logits",
    "embedding_rows",
    "entropy_collapse",
    "gradient_noise",
    "gradient_norms",
    "gradient_size",
    "growth_exponents",
    "head_map",
    "induction_bump",
    "lens_map",
    "logit_shares",
    "loss_by_position",
    "massive_activations",
    "massive_places",
    "memorisation",
    "ngram_crossover",
    "prediction_panel",
    "representation_map",
    "representation_ranks",
    "sink_birth",
    "token_trends",
    "write_ratios",
]
