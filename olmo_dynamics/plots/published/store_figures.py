"""Published figures that are drawn from a store: each with the tables and the selection that the paper's figure shows.

>>> rms_by_layer(od.open_store("run.zarr"), "tokens", Style.paper("single"))  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from olmo_dynamics import frames
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import Site
from olmo_dynamics.plots.bands import embedding_band
from olmo_dynamics.plots.depth import depth_profile as profile_by_depth
from olmo_dynamics.plots.domain_losses import loss_by_domain
from olmo_dynamics.plots.inside import attention_logits
from olmo_dynamics.plots.inside import induction_bump as bump
from olmo_dynamics.plots.inside import ngram_crossover as crossover
from olmo_dynamics.plots.maps import layer_step_map as map_of_layers
from olmo_dynamics.plots.published.routing_panels import routing_panels
from olmo_dynamics.plots.theme import AnyChart, Style
from olmo_dynamics.plots.trajectories import trajectory
from olmo_dynamics.plots.weights import rotation as rotation_curves

_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_EXPERTS = 16  # that a map of co-activation shows, as the paper's


def rms_by_layer(store: RecordedStore, x: str, style: Style) -> AnyChart:
    """The RMS of each block's matrices, one panel per role and a line per layer, dark for shallow ones."""
    return trajectory(_matrices(store), "rms", x=x, color="layer", style=style)


def embedding_rows(store: RecordedStore, x: str, style: Style) -> AnyChart:
    """Bands of row norms, with the dashed line of decay where the schedule is known and padding rows were measured."""
    quantiles = store.table("embeddings.row_l2_quantile")
    try:
        decay = frames.embedding_decay(store)
    except OptionError as error:
        return embedding_band(quantiles, x=x, style=_with_note(style, f"No line of decay: {error}."))
    return embedding_band(quantiles, decay, x=x, style=style)


def layer_step_map(store: RecordedStore, x: str, style: Style) -> AnyChart:
    """Maps of norm sparsity over layers and time, one panel per role."""
    return map_of_layers(_matrices(store), "norm_sparsity", x=x, style=style)


def depth_profile(store: RecordedStore, x: str, style: Style) -> AnyChart:
    """The RMS of the residual stream by depth, from the embedding on."""
    sites = (Site.EMBEDDING.value, Site.RESIDUAL_OUT.value)
    return profile_by_depth(store.table("activations").filter(pl.col("site").is_in(sites)), "rms", x=x, style=style)


def max_logit(store: RecordedStore, x: str, style: Style) -> AnyChart:
    """The largest attention logits by layer; logarithmic where they are positive, as a trained model's are."""
    heads = store.table("attention")
    lowest = heads.group_by("revision", "layer").agg(pl.col("max_logit", "row_max_mean").max()).select(
        pl.min_horizontal(pl.col("max_logit", "row_max_mean").fill_nan(None).min())
    )  # fmt: skip
    positive = (lowest.item() or 0.0) > 0
    log = replace(style, scale="log") if positive and style.scale == "auto" else style
    return attention_logits(heads, x=x, style=log)


def ngram_crossover(store: RecordedStore, x: str, style: Style) -> AnyChart:
    """KL(n-gram ‖ model) for unigrams and bigrams."""
    return crossover(store.table("ngram"), "kl", x=x, style=style)


def induction_bump(store: RecordedStore, x: str, style: Style) -> AnyChart:
    """Prefix matching and the loss of repeated tokens on two axes."""
    return bump(store.table("induction"), frames.per_revision(store, "induction"), x=x, style=style)


def routing(store: RecordedStore, x: str, style: Style) -> AnyChart:
    """OLMoE's four panels: the last three of the last revision, the second and third of the middle layer."""
    choices = frames.Choices.of(store)
    layer, last = choices.layers[(len(choices.layers) - 1) // 2], store.table("routing")["revision"][-1]
    domains, vocabulary = (
        store.table(f"routing.{name}").filter(pl.col("revision") == last)
        for name in ("domain_specialisation", "vocabulary_specialisation")
    )
    return routing_panels(
        frames.saturation(choices, top=choices.per_token),
        frames.most_together(frames.co_activation(choices, layer, revision=last), _EXPERTS),
        domains.filter(pl.col("layer") == layer),
        vocabulary,
        x=x,
        style=_with_note(style, f"b and c: layer {layer}. b to d: revision {last}."),
    )


def rotation(store: RecordedStore, x: str, style: Style) -> AnyChart:
    """The angle between neighbouring revisions, and the predicted one dashed."""
    return rotation_curves(frames.rotation(store), x=x, style=style)


def bits_per_byte(store: RecordedStore, x: str, style: Style) -> AnyChart:
    """Bits per byte of each domain, and their mean as a thick line.

    Raises:
        OptionError: the bytes of the tokens are not known.
    """
    losses = store.table("loss")
    if not losses["bits_per_byte"].is_finite().any():
        raise OptionError(
            "bits per byte need the bytes of each token, which no tokenizer gave when the store was made; collect the loss again "
            "with --tokenizer FILE"
        )
    means = frames.macro_average(losses)
    both = pl.concat(
        [losses.select(name for name in means.columns if name in losses.columns), means], how="diagonal_relaxed"
    )
    return loss_by_domain(both, "bits_per_byte", x=x, style=style)


def _matrices(store: RecordedStore) -> pl.DataFrame:
    return store.table("parameters").filter(pl.col("layer").is_not_null(), pl.col("role").is_in(_MATRICES))


def _with_note(style: Style, note: str) -> Style:
    return replace(style, note=f"{style.note} {note}".strip())


FIGURES = {
    each.__name__: each
    for each in (rms_by_layer, embedding_rows, layer_step_map, depth_profile, max_logit, ngram_crossover, induction_bump,
                 routing, rotation, bits_per_byte)
}  # fmt: skip
"""The functions by the name of their figure."""
