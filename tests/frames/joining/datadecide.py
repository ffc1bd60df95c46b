"""Stores shaped like DataDecide: a repo per recipe, and in each three seeds of six steps, with the names of the hub."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from olmo_dynamics import quantities
from olmo_dynamics.checkpoints.catalog.revision_names import named_revision
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import NO_EXPERT
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.store import Axis, Layout
from tests.store.synthetic import WHEN

RECIPES = ("c4", "dclm-baseline", "dolma1_7-no-code")
SEEDS = ("default", "small-aux-2", "small-aux-3")
STEPS = (0, 1250, 2500, 5000, 10000, 20000)
DOMAINS = ("prose", "code")
TOKENIZER = "ab" * 32


def tensors(layers: int) -> Axis:
    """An embedding, a query projection per layer, and a final norm."""
    blocks = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(layers)]
    names = ["model.embed_tokens.weight", *blocks, "model.norm.weight"]
    along = {
        "layer": np.array([-1, *range(layers), -1]),
        "expert": np.array([NO_EXPERT] * len(names)),
        "role": np.array(["embed_tokens", *["q_proj"] * layers, "norm"]),
    }
    return Axis("tensor", np.array(names), along)


def new_store(
    path: Path,
    source: str,
    *,
    layers: int = 2,
    model_type: str = "olmo",
    tokenizer: str = TOKENIZER,
    probe: str = "cd" * 32,
    domains: tuple[str, ...] = DOMAINS,
) -> RecordedStore:
    """A store of `parameters` (RMS alone) and `loss` (cross-entropy and bits per byte) with no revision in it."""
    groups = (
        quantities.GROUPS["parameters"].only({"rms", "status"}),
        quantities.GROUPS["loss"].only({"cross_entropy", "bits_per_byte", "status"}),
    )
    attributes = {
        "source": source,
        "model_type": model_type,
        "model_config": {"num_hidden_layers": layers},
        "compute_dtype": "float32",
        "probe": {
            "sha256": probe,
            "shape": [2, 8],
            "tokens": 16,
            "tokenizer_sha256": tokenizer,
            "domains": {name: {"sequences": 1} for name in domains},
        },
    }
    layout = Layout({"tensor": tensors(layers), "domain": Axis("domain", np.array(domains))}, groups)
    return RecordedStore.create(path, layout=layout, attributes=attributes, probe_arrays={})


def add(store: RecordedStore, name: str, seed: int) -> None:
    """Numbers of one revision, drawn by `seed` around a curve that falls with the step."""
    rng, revision = np.random.default_rng(seed), named_revision(name)
    progress = np.log1p(revision.step or 0) / 10
    records = []
    for group in store.groups:
        for quantity in store.quantities(group):
            shape = store.layout.shape(quantity)
            drawn = 4 - 2 * progress + 0.1 * rng.standard_normal(shape)
            values = np.ones(shape, dtype=np.uint8) if quantity.name == "status" else drawn
            [axis] = quantity.axes
            labels = store.axis(axis).labels.tolist()
            records += [Record(quantity, values[place], {axis: label}) for place, label in enumerate(labels)]
    store.append(revision, records, dtype="F32", weights_sha256=f"{seed:064d}", collected_at=WHEN)


def write_stores(folder: Path) -> list[Path]:
    """Three stores of 18 revisions."""
    paths = []
    for number, recipe in enumerate(RECIPES):
        paths.append(folder / f"{recipe}.zarr")
        store = new_store(paths[-1], f"allenai/DataDecide-{recipe}-300M")
        for place, (seed, step) in enumerate((seed, step) for seed in SEEDS for step in STEPS):
            add(store, f"step{step}-seed-{seed}", 100 * number + place)
        store.compact()
    return paths
