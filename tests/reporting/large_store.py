"""A store of many revisions and layers with the groups of a default collection, its numbers smooth in time with some noise.

python -m tests.reporting.large_store large.zarr 500 32
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from olmo_dynamics import quantities
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import NO_EXPERT, NO_LAYER, Revision, Site
from olmo_dynamics.quantities.declaration import Quantity, Record, Status
from olmo_dynamics.store import Axis, Layout

GROUPS = ("parameters", "embeddings", "activations", "outliers", "logits", "loss", "tokens")
DOMAINS = ("encyclopedia", "narrative", "dialogue", "code", "mathematics", "tables")
ROLES = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"), "mlp": ("gate_proj", "up_proj", "down_proj"),
         "": ("post_attention_layernorm", "post_feedforward_layernorm")}  # fmt: skip
OUTSIDE = {"model.embed_tokens.weight": "embed_tokens", "model.norm.weight": "norm", "lm_head.weight": "lm_head"}
SITES = tuple(site.value for site in Site if site.is_measured and site not in (Site.RESIDUAL_IN, Site.ROUTER_LOGITS))
FEATURES, TOKENS, SEQUENCES, POSITIONS = 64, 200, 6, 64
OUTLIERS = 6  # features that become outliers
STEP, TOKENS_PER_STEP = 1000, 4_194_304
PROBE = {
    "token_id": np.arange(SEQUENCES * POSITIONS).reshape(SEQUENCES, POSITIONS) % TOKENS,
    "mask": np.ones((SEQUENCES, POSITIONS), dtype=bool),
    "domain": np.arange(SEQUENCES),
}


def large_store(path: Path, revisions: int, layers: int) -> RecordedStore:
    """A store of so many revisions and layers, every number written through `append`."""
    attributes = {
        "source": "org/large", "model_type": "olmo2", "compute_dtype": "float32",
        "model_config": {"hidden_size": FEATURES, "num_hidden_layers": layers, "rope_scaling": None},
        "probe": {"sha256": "ab" * 32, "shape": [SEQUENCES, POSITIONS], "tokens": SEQUENCES * POSITIONS,
                  "domains": {domain: {"sequences": 1} for domain in DOMAINS}},
    }  # fmt: skip
    layout = Layout(_axes(layers), (quantities.GROUPS[name] for name in GROUPS))
    store = RecordedStore.create(path, layout=layout, attributes=attributes, probe_arrays=PROBE)
    found = [_revision(place) for place in range(revisions)]
    store.plan(found)
    numbers = [_Numbers(quantity, layout) for name in GROUPS for quantity in quantities.of_group(name)]
    for place, revision in enumerate(found):
        records = (Record(each.quantity, each.row(place / max(1, revisions - 1))) for each in numbers)
        store.append(revision, records, dtype="BF16", weights_sha256=f"{place:064d}")
    return store


def _revision(place: int) -> Revision:
    step = place * STEP
    tokens = step * TOKENS_PER_STEP
    label = f"{tokens // 10**9}B"
    return Revision(
        f"stage1-step{step}-tokens{label}",
        stage=1,
        step=step,
        tokens=tokens,
        token_label=label,
        position_step=step,
        position_tokens=tokens,
    )


def _axes(layers: int) -> dict[str, Axis]:
    tensors = [(name, NO_LAYER, role) for name, role in OUTSIDE.items()]
    for layer in range(layers):
        for part, roles in ROLES.items():
            place = f"model.layers.{layer}." + (f"{part}." if part else "")
            tensors += [(f"{place}{role}.weight", layer, role) for role in roles]
    names, depths, roles = (np.array(column) for column in zip(*tensors, strict=True))
    found = [
        Axis("tensor", names, {"layer": depths, "expert": np.full(len(tensors), NO_EXPERT), "role": roles}),
        Axis("feature", np.arange(FEATURES)),
        Axis("quantile", np.array(quantities.QUANTILES)),
        Axis("embedding", np.array(["model.embed_tokens.weight", "lm_head.weight"])),
        Axis("token", np.arange(TOKENS)),
        Axis("decile", np.arange(1, 11)),
        Axis("site", np.array(SITES)),
        Axis("layer", np.arange(NO_LAYER, layers)),
        Axis("token_quantile", np.array(quantities.TOKEN_QUANTILES)),
        Axis("input", np.array(["attention_input", "mlp_input"])),
        Axis("threshold", np.array(quantities.THRESHOLDS)),
        Axis("rms_threshold", np.array(quantities.RMS_THRESHOLDS)),
        Axis("rank", np.arange(1, quantities.MASSIVE_RANKS + 1)),
        Axis("top", np.arange(1, 4)),
        Axis("domain", np.array(DOMAINS)),
        Axis("sequence", np.arange(SEQUENCES), {"domain_of_sequence": np.array(DOMAINS)}),
        Axis("position", np.arange(POSITIONS)),
    ]
    return {axis.name: axis for axis in found}


class _Numbers:
    """The numbers of one quantity: where each cell begins and ends, with noise from revision to revision."""

    def __init__(self, quantity: Quantity, layout: Layout) -> None:
        self.quantity = quantity
        rng = np.random.default_rng([7, *quantity.key.encode()])
        shape = layout.shape(quantity)
        self.first = rng.uniform(0.5, 1.0, shape)
        self.last = self.first * rng.uniform(0.5, 4.0, shape)
        self.late = rng.uniform(0.3, 3.0, shape)
        self.rng = rng

    def row(self, progress: float) -> np.ndarray:
        """The numbers of a revision that lies so far in the training."""
        quantity, shape = self.quantity, self.first.shape
        noise = self.rng.normal(1, 0.01, shape)
        row = (self.first + (self.last - self.first) * progress**self.late) * noise
        if quantity.name == "status":
            return np.full(shape, Status.MEASURED, dtype=np.uint8)
        if quantity.name in ("nan_count", "inf_count"):
            return np.zeros(shape, dtype=quantity.dtype)
        if quantity.name.startswith("feature_fraction_above"):
            born = np.linspace(0.1, 0.9, OUTLIERS)
            row = np.zeros(shape)
            row[..., :OUTLIERS] = np.where(progress >= born, 0.3, 0.0)
        if not quantity.dtype.startswith("float"):
            row = np.floor(row * 16)
        row = row.astype(quantity.dtype)
        _unmeasure(row, quantity.axes)
        return row


def _unmeasure(row: np.ndarray, names: tuple[str, ...]) -> None:
    """Sites outside the blocks have no layer, and blocks no layer -1."""
    nothing = {"f": np.nan, "i": -1, "u": 0}[row.dtype.kind]
    if names[:2] == ("site", "layer"):
        for place, site in enumerate(SITES):
            row[place, slice(0, 1) if Site(site).in_block else slice(1, None)] = nothing
    elif "layer" in names:
        row[(slice(None),) * names.index("layer") + (0,)] = nothing


if __name__ == "__main__":
    large_store(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
