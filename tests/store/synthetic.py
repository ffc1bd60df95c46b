"""A small store of every group: two blocks of eight features, and numbers drawn by seed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics import quantities
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import NO_EXPERT, NO_LAYER, Revision, Site
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.store import Axis, Layout

GROUPS = tuple(quantities.GROUPS)
LAYERS, FEATURES, TOKENS, EXPERTS = 2, 8, 40, 6
WHEN = datetime(2025, 3, 1, 12, 30, tzinfo=UTC)
TENSORS = ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight")
REVISIONS = (
    Revision(
        "stage1-step0-tokens0B",
        stage=1,
        step=0,
        tokens=0,
        token_label="0B",
        commit="c0",
        position_step=0,
        position_tokens=0,
    ),
    Revision(
        "stage1-step10-tokens1B",
        stage=1,
        step=10,
        tokens=40,
        token_label="1B",
        commit="c1",
        position_step=10,
        position_tokens=40,
    ),
    Revision(
        "stage2-ingredient1-step5-tokens1B",
        stage=2,
        ingredient="1",
        step=5,
        tokens=20,
        token_label="1B",
        commit="c2",
        position_step=15,
        position_tokens=60,
    ),
    Revision("main", commit="c3"),
)
ATTRIBUTES: dict[str, Any] = {
    "source": "org/tiny",
    "model_type": "olmo2",
    "model_config": {"hidden_size": FEATURES, "num_hidden_layers": LAYERS, "rope_scaling": None},
    "compute_dtype": "float32",
    "probe": {
        "sha256": "ab" * 32,
        "shape": [3, 5],
        "tokens": 13,
        "domains": {"prose": {"sequences": 2}, "code": {"sequences": 1}},
    },
}
PROBE = {
    "token_id": np.arange(15).reshape(3, 5) + 20,
    "mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=bool),
    "domain": np.array([0, 0, 1]),
}


def axes() -> dict[str, Axis]:
    sites = np.array([site.value for site in (Site.EMBEDDING, Site.QUERY, Site.RESIDUAL_OUT)])
    tensors = {
        "layer": np.array([NO_LAYER, 0, 1]),
        "expert": np.array([NO_EXPERT] * 3),
        "role": np.array(["embed_tokens", "q_proj", "down_proj"]),
    }
    found = [
        Axis("tensor", np.array(TENSORS), tensors),
        Axis("feature", np.arange(FEATURES)),
        Axis("quantile", np.array(quantities.QUANTILES)),
        Axis("component", np.arange(64)),
        Axis("embedding", np.array(TENSORS[:1])),
        Axis("token", np.arange(TOKENS)),
        Axis("decile", np.arange(1, 11)),
        Axis("site", sites),
        Axis("layer", np.arange(NO_LAYER, LAYERS)),
        Axis("token_quantile", np.array(quantities.TOKEN_QUANTILES)),
        Axis("input", np.array(["attention_input", "mlp_input"])),
        Axis("threshold", np.array(quantities.THRESHOLDS)),
        Axis("rms_threshold", np.array(quantities.RMS_THRESHOLDS)),
        Axis("rank", np.arange(1, quantities.MASSIVE_RANKS + 1)),
        Axis("singular_rank", np.arange(1, 33)),
        Axis("top", np.arange(1, 4)),
        Axis("head", np.arange(2)),
        Axis("eigenvalue_rank", np.arange(1, 65)),
        Axis("gram_component", np.arange(64)),
        Axis("part", np.array(["attention", "mlp"])),
        Axis("domain", np.array(["prose", "code"])),
        Axis("sequence", np.arange(3), {"domain_of_sequence": np.array(["prose", "prose", "code"])}),
        Axis("position", np.arange(5)),
        Axis("expert", np.arange(EXPERTS)),
        Axis("partner", np.arange(EXPERTS)),
        Axis("choice", np.arange(1, 3)),
        Axis("order", np.arange(1, 3)),
        Axis("task", np.array(["arithmetic", "agreement"])),
        Axis("later_layer", np.arange(LAYERS)),
        Axis("matrix", np.array(["router", "gate_proj", "up_proj", "down_proj"])),
        Axis("vocabulary", np.array(["input", "predicted", "true"])),
    ]
    return {axis.name: axis for axis in found}


def layout(groups: tuple[str, ...] = GROUPS) -> Layout:
    return Layout(axes(), (quantities.GROUPS[name] for name in groups))


def values(seed: int, groups: tuple[str, ...] = GROUPS) -> dict[str, np.ndarray]:
    """A revision's numbers by key: every cell measured, but those of a layer that its site or input does not have."""
    shapes = layout(groups)
    rows = {}
    for group in groups:
        for quantity in quantities.of_group(group):
            rng = np.random.default_rng([seed, *quantity.key.encode()])
            shape = shapes.shape(quantity)
            if quantity.dtype.startswith("float"):
                row = rng.uniform(0, 1, shape).astype(quantity.dtype)
            else:
                row = rng.integers(0, 9, shape).astype(quantity.dtype)
            if quantity.name == "element_count":  # of every revision
                row = np.full(shape, 96)
            if quantity.name == "chosen_experts":
                row = row % EXPERTS
            if quantity.name == "status":
                row = np.full(shape, Status.MEASURED, dtype=np.uint8)
            _unmeasure(row, quantity.axes)
            rows[quantity.key] = row
    return rows


def _unmeasure(row: np.ndarray, names: tuple[str, ...]) -> None:
    """The embedding has no block, and the blocks' sites and inputs have no layer -1."""
    nothing = {"f": np.nan, "i": -1, "u": 0}[row.dtype.kind]
    if names[:2] == ("site", "layer"):
        row[0, 1:] = nothing
        row[1:, 0] = nothing
    elif "layer" in names:
        row[(slice(None),) * names.index("layer") + (0,)] = nothing


def records(seed: int, groups: tuple[str, ...] = GROUPS) -> Iterator[Record]:
    """The same numbers as recorders hand them over: by tensor, embedding or domain, others whole."""
    shapes = layout(groups)
    for key, row in values(seed, groups).items():
        quantity = quantities.find(key)
        first = quantity.axes[0] if quantity.axes else ""
        if first in ("tensor", "embedding", "domain"):
            labels = shapes.axes[first].labels.tolist()
            yield from (Record(quantity, row[place], {first: label}) for place, label in enumerate(labels))
        else:
            yield Record(quantity, row)


def new_store(path: Path, groups: tuple[str, ...] = GROUPS) -> RecordedStore:
    return RecordedStore.create(path, layout=layout(groups), attributes=ATTRIBUTES, probe_arrays=PROBE)


def add(store: RecordedStore, revision: Revision, seed: int) -> None:
    store.append(revision, records(seed, store.groups), dtype="BF16", weights_sha256=f"{seed:064d}", collected_at=WHEN)


def filled_store(path: Path, groups: tuple[str, ...] = GROUPS) -> RecordedStore:
    """All revisions, planned in an order of their own, and all but one collected."""
    store = new_store(path, groups)
    store.plan(REVISIONS[::-1])
    for seed, revision in enumerate(REVISIONS):
        if seed != 2:
            add(store, revision, seed)
    return store
