"""A forward pass that holds one layer's weights at a time.

The probe's residual stream stays; the weights pass by. Each stage (embedding, every block, head) is given its tensors,
runs all sequences through them, shows the chosen sites to an observer, and lets the weights go.

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
    ...     ready = streamed.prepare(stage, weights)
    ...     streamed.run(ready, lambda seen: print(seen.site, seen.layer, tuple(seen.values.shape)))
    residual_out 0 (1, 3, 64)
    residual_out 1 (1, 3, 64)

The sequences are cut into up to eight parts, and threads take part after part: each runs a whole stage by itself, so they
meet once a stage and never inside it. The parts depend on the probe alone, not on the threads. A GPU computes one part while
threads record the others, since statistics of activations are taken on the CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model.build import build_model, expected_shapes
from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.parts import cut, in_threads, slices
from olmo_dynamics.model.sites import Tap, taps
from olmo_dynamics.names import NO_LAYER, Site

EMBEDDING, HEAD = "embedding", "head"
PARTS = 8
CPU_TOKENS = 512  # through a block at once: few enough for caches, many enough for matrix products
NARROW = 512  # features: a narrower stream fits the caches with more tokens, and each call costs time
MOST_NARROW = 8  # times as many tokens
GPU_TOKENS = 4_096  # of one part
COLUMNS = 2048  # of the vocabulary, at once: logits that stay in the cache


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the model that runs alone, and the names of the tensors it needs."""

    name: str  # "embedding", "block 0", …, "head"
    layer: int
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """The device and dtype of a pass, and how much of it is computed at once; but for rounding, no result depends on the latter.

    Raises:
        OptionError: a number is below 1.
    """

    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    threads: int | None = None  # None: as many as torch has
    sequences_at_once: int | None = None  # None: as many as suit the device
    columns_at_once: int = COLUMNS

    def __post_init__(self) -> None:
        for name in ("threads", "sequences_at_once", "columns_at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1 (got {value}); give a larger number, or leave it out")


@dataclass(frozen=True, slots=True, eq=False)
class SiteValues:
    """Activations at one site, for some sequences and positions of the probe; of logits, for some of the vocabulary.

    `values` is in the compute dtype (chosen experts: int64) and is the model's own memory: read it, do not keep it. `beside`
    is whatever else the model gives there: keys, values and window beside the queries, for example.
    """

    site: Site
    layer: int
    values: Shaped[Tensor, "batch positions width"]
    rows: slice  # sequences of the probe
    positions: slice
    columns: slice
    part: int = 0
    beside: Mapping[str, Any] = field(default_factory=dict)


Observer = Callable[[SiteValues], None]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A stage and its weights, on the device (or on their way there), in the compute dtype and as they were stored."""

    stage: Stage
    weights: Mapping[str, Tensor]
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    arrived: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Makes this thread's stream wait for the copies, whose memory is then kept until that stream is done with it.

        Without `record_stream` the allocator would give it to the next stage's copies, which the stream does not wait for.
        """
        if self.arrived is None:
            return
        for tensor in (*self.weights.values(), *self.stored.values()):
            stream = torch.cuda.current_stream(tensor.device)
            self.arrived.wait(stream)
            tensor.record_stream(stream)


def stages(config: ModelConfig, *, until: int | None = None) -> tuple[Stage, ...]:
    """The stages of a forward pass, in order; with `until`, only those before that layer, and no head."""
    names = list(expected_shapes(config))
    layers = range(config.layers if until is None else min(until, config.layers))
    found = [Stage(EMBEDDING, NO_LAYER, ("model.embed_tokens.weight",))]
    for layer in layers:
        found.append(Stage(f"block {layer}", layer, tuple(n for n in names if n.startswith(f"model.layers.{layer}."))))
    if until is None:
        norm = [name for name in names if name.startswith("model.norm.")]  # OLMo 1's has no weights
        head = ["model.embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"] if config.has_head else []
        found.append(Stage(HEAD, NO_LAYER, (*norm, *head)))
    return tuple(found)


def sequences_at_once(compute: Compute, width: int, positions: int) -> tuple[int, int]:
    """The sequences that go through a block together, and through the head, unless the number is given."""
    if compute.sequences_at_once is not None:
        return compute.sequences_at_once, compute.sequences_at_once
    if torch.device(compute.device).type != "cpu":
        return (max(1, GPU_TOKENS // positions),) * 2
    narrow = min(MOST_NARROW, max(1, NARROW // width))
    return max(1, narrow * CPU_TOKENS // positions), max(1, CPU_TOKENS // positions)


class StreamedPass:
    """A forward pass over a probe, run stage by stage with weights that the caller brings.

    Between stages it holds the residual stream of every probe sequence, `[sequences, positions, hidden]` in the compute
    dtype, and no weights. Right-padded sequences need no mask: causal attention never looks ahead. Observations of one
    part of the sequences come in order; those of two parts may come at the same time, from two threads.
    """

    def __init__(
        self,
        config: ModelConfig,
        token_ids: Int[Tensor, "sequences positions"],
        *,
        sites: Collection[Site] = tuple(Site),
        compute: Compute | None = None,
    ) -> None:
        self.config, self.compute = config, compute or Compute()
        self.sites = frozenset(sites)
        device, dtype = torch.device(self.compute.device), self.compute.dtype
        on_cpu = device.type == "cpu"
        self.token_ids = token_ids.to(device)
        sequences, positions = token_ids.shape
        self.parts = cut(sequences, PARTS)
        self.threads = self.compute.threads or torch.get_num_threads()
        self._at_once, self._at_once_in_head = sequences_at_once(self.compute, config.hidden_size, positions)
        self._model = build_model(config, dtype=dtype).requires_grad_(False)
        self._watching = _Watching()
        for tap in taps(self._model):
            if tap.site in self.sites:
                tap.watch = self._watching.show
        self._ropes = self._model.ropes(positions, device=device, dtype=dtype)
        self._copies = None if on_cpu else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.residual = torch.empty(*token_ids.shape, config.hidden_size, device=device, dtype=dtype)
        self._remaining = list(stages(config))

    def prepare(self, stage: Stage, weights: Mapping[str, Tensor]) -> Prepared:
        """The stage's weights made ready; may be called ahead, from another thread.

        On the CPU weights that are stored in the compute dtype stay where they are. For a GPU their copy is started, from
        pinned memory and on a stream of its own, while an earlier stage computes.
        """
        dtype = self.residual.dtype
        if self._copies is None:
            stored = {name: weights[name] for name in stage.tensors}
            return Prepared(stage, {name: each.to(dtype) for name, each in stored.items()}, stored)
        with torch.cuda.stream(self._copies):
            pinned = {name: weights[name].pin_memory() for name in stage.tensors}
            stored = {name: each.to(self.residual.device, non_blocking=True) for name, each in pinned.items()}
            ready = {name: each.to(dtype) for name, each in stored.items()}
            return Prepared(stage, ready, stored, self._copies.record_event())

    def run(self, prepared: Prepared, observe: Observer) -> None:
        """Carry every sequence through one stage; stages come in the order of `stages(config)`, each once.

        Raises:
            OptionError: the stage is out of order.
        """
        stage = prepared.stage
        if not self._remaining or stage != self._remaining[0]:
            following = self._remaining[0].name if self._remaining else "no further stage"
            raise OptionError(
                f"stages must run in order, next is {following} (got {stage.name}); start a new StreamedPass"
            )
        # Before it runs: a stage that broke off has changed some sequences, and cannot run again.
        self._remaining.pop(0)
        step = {EMBEDDING: self._embed, HEAD: self._finish}.get(stage.name, self._block)
        at_once = self._at_once_in_head if stage.name == HEAD else self._at_once

        @torch.inference_mode()
        def run_part(part: int) -> None:
            first, end = self.parts[part].start, self.parts[part].stop
            for rows in slices(end - first, at_once):
                there = slice(first + rows.start, first + rows.stop)
                with self._watching.during(observe, there, slice(0, self.token_ids.shape[1]), part):
                    step(stage, there)

        with self._lent(prepared):
            in_threads(run_part, len(self.parts), threads=self.threads)

    def _embed(self, stage: Stage, rows: slice) -> None:
        self.residual[rows] = self._model.embed(self.token_ids[rows])

    def _block(self, stage: Stage, rows: slice) -> None:
        block = self._model.model.layers[stage.layer]
        self.residual[rows] = block(self.residual[rows], self._ropes[stage.layer])

    def _finish(self, stage: Stage, rows: slice) -> None:
        hidden = self._model.finish(self.residual[rows])
        if Site.LOGITS not in self.sites or not self.config.has_head:
            return
        weight = self._model.head_weight
        for columns in slices(len(weight), self.compute.columns_at_once):
            head = weight[columns]
            self._watching.see(Site.LOGITS, NO_LAYER, F.linear(hidden, head), columns, {"head": head})

    @contextmanager
    def _lent(self, prepared: Prepared) -> Iterator[None]:
        """The model holds the stage's weights, and its own empty ones again afterwards."""
        prepared.wait()
        empty = {name: self._model.get_parameter(name) for name in prepared.stage.tensors}
        try:
            for name, tensor in prepared.weights.items():
                self._place(name, nn.Parameter(tensor, requires_grad=False))
            yield
        finally:
            for name, parameter in empty.items():
                self._place(name, parameter)

    def _place(self, name: str, parameter: nn.Parameter) -> None:
        module, _, attribute = name.rpartition(".")
        setattr(self._model.get_submodule(module), attribute, parameter)


class _Watching(threading.local):
    """The observer that a thread shows its activations to, and the part of the probe that they belong to."""

    @contextmanager
    def during(self, observe: Observer, rows: slice, positions: slice, part: int) -> Iterator[None]:
        """Everything seen while this lasts goes to `observe`."""
        self._observe, self._rows, self._positions, self._part = observe, rows, positions, part
        try:
            yield
        finally:
            del self._observe

    @property
    def rows(self) -> slice:
        """The sequences under way."""
        return self._rows

    def show(self, tap: Tap, beside: Mapping[str, Any], values: Tensor) -> None:
        """Show what a tap is given."""
        self.see(tap.site, tap.layer, values, slice(0, values.shape[-1]), beside)

    def see(
        self, site: Site, layer: int, values: Tensor, columns: slice, beside: Mapping[str, Any] | None = None
    ) -> None:
        """Show the observer the values at a place in the model."""
        self._observe(SiteValues(site, layer, values, self._rows, self._positions, columns, self._part, beside or {}))
