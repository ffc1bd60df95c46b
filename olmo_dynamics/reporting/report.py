"""The page of a store: its sections, group by group, and the facts at its head.

>>> write_report(open_store("olmo2-1b.zarr"), "report.html")  # doctest: +SKIP
PosixPath('report.html')

Built-in groups have sections of their own here; any other group of the store is drawn from its declaration. Which plots, and
from which rows, is decided here; the look of each in `plots`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.errors import DiskFullError, OptionError, StoreError
from olmo_dynamics.frames import Forest, RecordedStore, forest, macro_average, pool_experts, thin
from olmo_dynamics.frames.lineage import read_line
from olmo_dynamics.names import Site
from olmo_dynamics.plots import Style, captions
from olmo_dynamics.plots.page import Section, page
from olmo_dynamics.quantities import find, find_training
from olmo_dynamics.reporting.declared import declared_sections
from olmo_dynamics.reporting.drawing import Drawn, draw

_STREAM = (Site.EMBEDDING.value, Site.RESIDUAL_OUT.value)
_FAN_ROLES = ("q_proj", "o_proj", "gate_proj", "down_proj")
_THRESHOLDS = (6.0, 3.0)  # multiples of a token's own RMS; the first that some feature reaches is drawn


def write_report(store: RecordedStore, out: str | Path, *, forks: Sequence[str | Path] = ()) -> Path:
    """Write the page of a store's plots, one self-contained HTML file, and return its path.

    `forks` are folders of forks of the run, drawn beside it.

    Raises:
        StoreError: the store holds no revision yet, or none with a step.
        OptionError: the file cannot be written there, or a folder is not a fork made by olmo_dynamics.
    """
    text = render_report(store, forks=forks)
    target = Path(out)
    if target.is_dir() or not target.parent.is_dir():
        raise OptionError(f"--out must be a file in a folder that exists (got {target})")
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            file.write(text)
        written = Path(file.name)
        written.chmod(0o644)  # a temporary file is private until it is finished
        written.replace(target)
    except OSError as error:
        raise DiskFullError(
            f"{target} cannot be written ({error.strerror}); make room or give another --out"
        ) from error
    return target


def render_report(store: RecordedStore, *, forks: Sequence[str | Path] = ()) -> str:
    """The page as HTML text.

    Raises:
        StoreError: the store holds no revision yet, or none with a step.
    """
    if not store.done:
        raise StoreError(f"{store.path} must hold at least one finished revision; run olmo-dyn collect first")
    drawn, left_out = _drawable(store)
    sections = list(_sections(Drawn(store, drawn)))
    if forks:
        sections += _branches(forest(store.attributes["source"], *forks, stores=[store.path]))
    return page(f"Training dynamics of {store.attributes['source']}", sections, facts=_facts(store, left_out))


def _drawable(store: RecordedStore) -> tuple[list[str], list[str]]:
    """The revisions that have a place on a step axis of their own, and the others with the reason."""
    revisions = store.table("revisions").filter(pl.col("revision").is_in(list(store.done)))
    stepped = revisions.filter(pl.col("step").is_not_null())
    first = stepped.unique(["stage", "ingredient", "step"], keep="first", maintain_order=True)
    if first.is_empty():
        names = ", ".join(revisions["revision"].head(3))
        raise StoreError(
            f"{store.path} must hold a revision with a step to draw against (got only {names}); collect some that have one"
        )
    drawn = first["revision"].to_list()
    reasons = dict.fromkeys(revisions.filter(pl.col("step").is_null())["revision"], "has no step")
    reasons |= {name: "has another's step" for name in stepped["revision"] if name not in drawn}
    return drawn, [f"{name} ({reason})" for name, reason in reasons.items()]


def _sections(store: Drawn) -> Iterator[Section]:
    drawers: dict[str, tuple[Callable[[Drawn], Iterator[Section]], ...]] = {
        "loss": (_loss,),
        "parameters": (_weights,),
        "embeddings": (_embeddings,),
        "activations": (_stream, _stream_outliers),
        "outliers": (_births,),
        "logits": (_logits,),
        "routing": (_routing, _experts),
        "tokens": (),  # a curve per token is not a picture
    }
    for group, drawn_by in drawers.items():
        if group in store.groups:
            for each in drawn_by:
                yield from each(store)
    for group in store.groups:
        if group not in drawers:
            yield from declared_sections(store, group)


def _loss(store: Drawn) -> Iterator[Section]:
    losses, tokens = store.table("loss"), store.probe_tokens
    with_average = pl.concat([losses, macro_average(losses)], how="diagonal_relaxed")
    for quantity, title in (("cross_entropy", "Loss by domain"), ("bits_per_byte", "Bits per byte by domain")):
        if losses[quantity].is_not_null().any() and losses[quantity].is_not_nan().any():
            yield Section(title, draw(plots.loss_by_domain, with_average, quantity, tokens=tokens), captions.LOSS)


def _weights(store: Drawn) -> Iterator[Section]:
    measured = store.table("parameters")
    parameters = pool_experts(measured)
    note = "" if len(parameters) == len(measured) else "the experts of a layer taken together"
    in_blocks = parameters.filter(pl.col("layer").is_not_null())
    if not in_blocks.is_empty():
        panel = draw(plots.norms_panel, in_blocks, "rms", note=note)
        yield Section("Weight norms, layer by layer", panel, captions.NORMS_PANEL.of(find("parameters/rms")))
    curves = draw(partial(plots.trajectory, color="layer"), parameters, "l2_norm", note=note)
    yield Section("Weight norms over training", curves, captions.WEIGHT_CURVES.of(find("parameters/l2_norm")))
    matrices = in_blocks.filter(~pl.col("role").str.contains("norm"), pl.col("norm_sparsity").is_finite())
    if not matrices.is_empty():
        sparse = draw(plots.layer_step_map, matrices, "norm_sparsity", note=note)
        yield Section("Weight outliers", sparse, captions.MAP.of(find("parameters/norm_sparsity")))
    yield from _fans(store)


def _fans(store: Drawn) -> Iterator[Section]:
    quantiles = store.table("parameters.element_quantile").filter(pl.col("expert").fill_null(0) == 0)
    roles = [role for role in _FAN_ROLES if role in set(quantiles["role"])]
    layers = quantiles["layer"].drop_nulls().unique().sort()
    if roles and len(layers):
        middle = int(layers[len(layers) // 2])
        chosen = quantiles.filter(pl.col("role").is_in(roles), pl.col("layer") == middle)
        note = f"layer {middle}" + ("" if chosen["expert"].is_null().all() else ", expert 0")
        fan = draw(plots.distribution_fan, chosen, note=note)
        yield Section("The distribution of weights", fan, captions.FAN)


def _embeddings(store: Drawn) -> Iterator[Section]:
    band = draw(plots.embedding_band, store.table("embeddings.row_l2_quantile"))
    yield Section("Embedding rows", band, captions.EMBEDDINGS)


def _stream(store: Drawn) -> Iterator[Section]:
    stream = store.table("activations").filter(pl.col("site").is_in(_STREAM))
    depth = draw(plots.depth_profile, stream, "rms", tokens=store.probe_tokens)
    yield Section("The residual stream by depth", depth, captions.DEPTH.of(find("activations/rms")))


def _stream_outliers(store: Drawn) -> Iterator[Section]:
    blocks = store.table("activations").filter(pl.col("site") == Site.RESIDUAL_OUT.value)
    titles = {
        "feature_kurtosis": "Outliers in the residual stream: kurtosis over features",
        "max_median_ratio": "Outliers in the residual stream: the largest feature of a token",
    }
    for quantity, title in titles.items():
        chart = draw(plots.norms_panel, blocks, quantity, tokens=store.probe_tokens)
        yield Section(title, chart, captions.ACTIVATION_OUTLIERS.of(find(f"activations/{quantity}")))


def _births(store: Drawn) -> Iterator[Section]:
    for threshold in _THRESHOLDS:
        born = store.births(threshold)
        if born.is_empty():
            continue
        style = Style(note=f"threshold {threshold:g} times the token's own RMS", probe_tokens=store.probe_tokens)
        # The chart limits itself to the features with most to show: thinning rows would miscount the places they reach.
        yield Section("Births of outlier features", plots.outlier_births(born, style=style), captions.BIRTHS)
        return


def _logits(store: Drawn) -> Iterator[Section]:
    chart = draw(plots.trajectory, store.table("logits"), "lse_mean", tokens=store.probe_tokens)
    yield Section("Logits of the head", chart, captions.LOGITS.of(find("logits/lse_mean")))


def _routing(store: Drawn) -> Iterator[Section]:
    layers, tokens = store.table("routing"), store.probe_tokens
    panel = draw(plots.norms_panel, layers, "load_imbalance", tokens=tokens)
    imbalance = captions.LOAD_IMBALANCE.of(find("routing/load_imbalance"))
    yield Section("Load over experts, layer by layer", panel, imbalance)
    curves = draw(partial(plots.trajectory, color="layer"), layers, "router_z", tokens=tokens)
    yield Section("Size of the router's logits", curves, captions.ROUTER_LOGITS.of(find("routing/router_z")))
    if layers["revision"].n_unique() > 1:
        settled = draw(plots.saturation, store.saturation(), tokens=tokens)
        yield Section("Router saturation", settled, captions.SATURATION)


def _experts(store: Drawn) -> Iterator[Section]:
    tokens = store.probe_tokens
    loads = _three_layers(store.table("routing.expert_load"))
    yield Section("Use of experts", draw(plots.expert_load, loads, tokens=tokens), captions.EXPERT_LOAD)
    shares = _three_layers(store.table("routing.domain_specialisation"))
    last = shares.filter(pl.col("revision") == shares["revision"][-1])
    bars = draw(plots.domain_specialisation, last, tokens=tokens, note=f"revision {last['revision'][0]}")
    yield Section("Specialisation of experts", bars, captions.SPECIALISATION)


def _three_layers(frame: pl.DataFrame) -> pl.DataFrame:
    """Only the first layer, the middle one and the last, for which a page has room."""
    layers = frame["layer"].unique().sort()
    return frame.filter(pl.col("layer").is_in([layers[0], layers[(len(layers) - 1) // 2], layers[-1]]))


def _branches(found: Forest) -> Iterator[Section]:
    """The metrics of each line of training, then the residual stream of those that were recorded."""
    metrics = found.metrics()
    for quantity in ("loss", "gradient_norm", "learning_rate"):
        fewer, note = thin(metrics, plots.MAX_ROWS, by=("run",))
        chart = plots.branches(fewer, quantity, style=Style(note=note))
        title = f"A run and its forks: {find_training(quantity).long_name}"
        yield Section(title, chart, captions.BRANCHES.of(find_training(quantity)))
    recorded = [run for run, store in found.open_stores().items() if "activations" in store.groups]
    if len(recorded) > 1:
        stream = found.table("activations").filter(pl.col("site") == Site.RESIDUAL_OUT.value)
        fewer, note = thin(stream, plots.MAX_ROWS, by=("run", "layer"))
        chart = plots.branches(fewer, "rms", style=Style(note=note))
        yield Section("A run and its forks: the residual stream", chart, captions.BRANCHES.of(find("activations/rms")))


def lineage(store: RecordedStore) -> dict[str, str]:
    """The origin of the run, in one line; empty for a run that `fork` or `train` did not write."""
    line = read_line(store.attributes["source"])
    return {"lineage": line.description} if line else {}


def _facts(store: RecordedStore, left_out: list[str]) -> dict[str, str]:
    probe = store.attributes.get("probe") or {}
    facts = {
        "source": str(store.attributes["source"]),
        **lineage(store),
        "revisions": f"{len(store.done)} measured" + (f", {len(store.missing)} missing" if store.missing else ""),
        "model type": str(store.attributes["model_type"]),
        "forward pass": str(store.attributes["compute_dtype"]),
    }
    if probe:
        facts["probe"] = f"{probe['tokens']:,} tokens in {len(probe['domains'])} domains, sha256 {probe['sha256'][:12]}"
    if left_out:
        facts["not drawn"] = ", ".join(left_out)
    return facts | {"olmo_dynamics": str(store.attributes["olmo_dynamics_version"])}
