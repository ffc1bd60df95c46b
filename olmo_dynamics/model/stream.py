"""A forward pass that holds one layer's weights at a time.

The probe's residual stream stays; the weights pass by. Each stage (embedding, every block, head) is given its tensors,
runs all sequences through them, shows the wanted sites to an observer, and lets the weights go.

    >>> import torch
    >>> from olmo_dynamics.names import Site
    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> config = parse_config({"model_type": "olmo2", "hidden_size": 64, "num_hidden_layers": 2,
    ...                        "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100})
    >>> model = build_model(config, device="cpu")
    >>> init_weights(model, seed=0)
    >>> streamed = StreamedPass(config, torch.tensor([[5, 17, 42]]), sites={Site.RESIDUAL_OUT})
    >>> for stage in stages(config):
    ...     weights = {name: model.state_dict()[name] for name in stage.tensors}
    ...     streamed.run(stage, weights, lambda seen: print(seen.site, seen.layer, tuple(seen.values.shape)))
    residual_out 0 (1, 3, 64)
    residual_out 1 (1, 3, 64)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model.build import build_model, expected_shapes
from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.sites import Tap, taps
from olmo_dynamics.names import NO_LAYER, Site

EMBEDDING, HEAD = "embedding", "head"
LOGITS_BYTES = 64 << 20  # 64 MiB of float32 logits exist at once
CPU_TOKENS = 512  # through a block at once: few enough for caches, many enough for matrix products
GPU_TOKENS = 16_384


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the model that runs alone, and the names of the tensors it needs."""

    name: str  # "embedding", "block 0", …, "head"
    layer: int
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Activations at one site, for some sequences and positions of the probe.

    `values` is in the compute dtype (logits: at least float32; chosen experts: int64) and is the model's own memory:
    read it, do not keep it.
    """

    site: Site
    layer: int
    values: Shaped[Tensor, "batch positions width"]
    rows: slice  # sequences of the probe
    positions: slice


Observer = Callable[[Observation], None]


def stages(config: ModelConfig, *, until: int | None = None) -> tuple[Stage, ...]:
    """The stages of a forward pass, in order; with `until`, only those before that layer, and no head."""
    names = list(expected_shapes(config))
    layers = range(config.layers if until is None else min(until, config.layers))
    found = [Stage(EMBEDDING, NO_LAYER, ("model.embed_tokens.weight",))]
    for layer in layers:
        found.append(Stage(f"block {layer}", layer, tuple(n for n in names if n.startswith(f"model.layers.{layer}."))))
    if until is None:
        norm = [name for name in names if name.startswith("model.norm.")]  # OLMo 1's has no weights
        head = "model.embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"
        found.append(Stage(HEAD, NO_LAYER, (*norm, head)))
    return tuple(found)


class StreamedPass:
    """A forward pass over a probe, run stage by stage with weights that the caller brings.

    Between stages it holds the residual stream of every probe sequence, `[sequences, positions, hidden]` in the compute
    dtype, and no weights. Sequences go through each stage `sequences_at_once` (as many as suit the device, if not given);
    but for rounding, nothing depends on it. Right-padded sequences need no mask: causal attention never looks ahead.
    """

    def __init__(
        self,
        config: ModelConfig,
        token_ids: Int[Tensor, "sequences positions"],
        *,
        sites: Collection[Site] = tuple(Site),
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        sequences_at_once: int | None = None,
        logits_bytes: int = LOGITS_BYTES,
    ) -> None:
        if sequences_at_once is not None and sequences_at_once < 1:
            raise OptionError(
                f"sequences_at_once must be at least 1; got {sequences_at_once}: give how many sequences to run together"
            )
        self.config = config
        self.sites = frozenset(sites)
        self.token_ids = token_ids.to(device)
        tokens = CPU_TOKENS if self.token_ids.device.type == "cpu" else GPU_TOKENS
        self.sequences_at_once = sequences_at_once or max(1, tokens // token_ids.shape[1])
        self.logits_bytes = logits_bytes
        self._model = build_model(config, dtype=dtype).requires_grad_(False)
        self._taps = [tap for tap in taps(self._model) if tap.site in self.sites]
        self._ropes = self._model.ropes(token_ids.shape[1], device=device, dtype=dtype)
        self.residual = torch.empty(*token_ids.shape, config.hidden_size, device=device, dtype=dtype)
        self._remaining = list(stages(config))

    def run(self, stage: Stage, weights: Mapping[str, Tensor], observe: Observer) -> None:
        """Carries every sequence through one stage; stages come in the order of `stages(config)`, each once.

        Raises OptionError for a stage out of order.
        """
        if not self._remaining or stage != self._remaining[0]:
            wanted = self._remaining[0].name if self._remaining else "no further stage"
            raise OptionError(f"stages must run in order, next is {wanted}; got {stage.name}: start a new StreamedPass")
        self._remaining.pop(
            0
        )  # before it runs: a stage that broke off has changed some sequences, and cannot run again
        step = {EMBEDDING: self._embed, HEAD: self._finish}.get(stage.name, self._block)
        with torch.inference_mode(), self._lent(stage, weights):
            for rows in slices(len(self.token_ids), self.sequences_at_once):
                step(stage, rows, observe)

    def _embed(self, stage: Stage, rows: slice, observe: Observer) -> None:
        with self._watched(stage, rows, observe):
            self.residual[rows] = self._model.embed(self.token_ids[rows])

    def _block(self, stage: Stage, rows: slice, observe: Observer) -> None:
        with self._watched(stage, rows, observe):
            block, rope = self._model.model.layers[stage.layer], self._ropes[stage.layer]
            self.residual[rows] = block(self.residual[rows], rope)

    def _finish(self, stage: Stage, rows: slice, observe: Observer) -> None:
        with self._watched(stage, rows, observe):
            hidden = self._model.finish(self.residual[rows])
        if Site.LOGITS not in self.sites:
            return
        for positions in slices(hidden.shape[1], self._positions_at_once(hidden.shape[0])):
            with self._watched(stage, rows, observe, positions):
                self._model.head(hidden[:, positions])

    def _positions_at_once(self, sequences: int) -> int:
        position_bytes = 4 * sequences * self.config.vocab_size
        return max(1, self.logits_bytes // position_bytes)

    @contextmanager
    def _lent(self, stage: Stage, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """The model holds the stage's weights, in the compute dtype, and is on the meta device again afterwards."""
        device, dtype = self.residual.device, self.residual.dtype
        lent = {name: weights[name].to(device, dtype) for name in stage.tensors}
        try:
            self._model.load_state_dict(lent, strict=False, assign=True)
            yield
        finally:
            self._model.to("meta")

    @contextmanager
    def _watched(self, stage: Stage, rows: slice, observe: Observer, positions: slice | None = None) -> Iterator[None]:
        """The wanted taps of a stage call `observe` while this lasts."""
        there = positions or slice(0, self.token_ids.shape[1])

        def show(tap: Tap, _: object, values: Tensor) -> None:
            if tap.site is Site.LOGITS:
                values = values.to(torch.promote_types(values.dtype, torch.float32))
            observe(Observation(tap.site, tap.layer, values, rows, there))

        handles = [tap.register_forward_hook(show) for tap in self._taps if tap.layer == stage.layer]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `range(length)`."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
