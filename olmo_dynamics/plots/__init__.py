"""Plots: polars frames in, altair charts out.

Every function takes a table and returns a chart that carries its own theme. A `Style` sets the title, the notes and the
size. `olmo_dynamics.plots.page` makes the report page, which holds many charts.

    >>> import olmo_dynamics as od
    >>> parameters = od.open_store("run.zarr").table("parameters")  # doctest: +SKIP
    >>> od.plots.trajectory(parameters, y="rms", color="layer")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

import olmo_dynamics.plots.address_grammar  # noqa: F401  before altair
from olmo_dynamics.errors import unknown_name
from olmo_dynamics.plots.bands import distribution_fan, embedding_band
from olmo_dynamics.plots.births import outlier_births
from olmo_dynamics.plots.branches import branches
from olmo_dynamics.plots.depth import depth_profile
from olmo_dynamics.plots.display import enable
from olmo_dynamics.plots.domain_losses import loss_by_domain
from olmo_dynamics.plots.experts import (
    co_activation,
    domain_specialisation,
    expert_load,
    expert_similarity,
    saturation,
    vocabulary_specialisation,
)
from olmo_dynamics.plots.explorer.overview import overview
from olmo_dynamics.plots.figures import caption_text
from olmo_dynamics.plots.inside import (
    attention_logits,
    embedding_rows,
    entropy_collapse,
    gradient_noise,
    gradient_norms,
    gradient_size,
    growth_exponents,
    head_map,
    induction_bump,
    lens_map,
    logit_shares,
    loss_by_position,
    massive_activations,
    massive_places,
    memorisation,
    ngram_crossover,
    prediction_panel,
    representation_map,
    representation_ranks,
    sink_birth,
    token_trends,
    write_ratios,
)
from olmo_dynamics.plots.logs import training_logs
from olmo_dynamics.plots.maps import layer_step_map, norms_panel
from olmo_dynamics.plots.panels import linked
from olmo_dynamics.plots.published import critical_batch, interpolation, published_figure, routing_panels
from olmo_dynamics.plots.scores import score_relation, task_scores
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
    "attention_logits",
    "branches",
    "caption_text",
    "co_activation",
    "critical_batch",
    "depth_profile",
    "displacement",
    "distribution_fan",
    "domain_specialisation",
    "embedding_band",
    "embedding_decay",
    "embedding_rows",
    "entropy_collapse",
    "expert_load",
    "expert_similarity",
    "gradient_noise",
    "gradient_norms",
    "gradient_size",
    "growth_exponents",
    "head_map",
    "induction_bump",
    "interpolation",
    "layer_step_map",
    "lens_map",
    "linked",
    "logit_shares",
    "loss_by_domain",
    "loss_by_position",
    "massive_activations",
    "massive_places",
    "memorisation",
    "ngram_crossover",
    "norms_panel",
    "optimizer_panel",
    "outlier_births",
    "overview",
    "prediction_panel",
    "published_figure",
    "representation_map",
    "representation_ranks",
    "rotation",
    "routing_panels",
    "saturation",
    "score_relation",
    "singular_values",
    "sink_birth",
    "task_scores",
    "token_trends",
    "training_logs",
    "trajectory",
    "vocabulary_specialisation",
    "weight_path",
    "weight_similarity",
    "write_ratios",
]


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # a type checker would take any name for known

    def __getattr__(name):
        raise unknown_name(__name__, name, __all__)
