"""The contract of a measurement: its declaration, the observations it is shown, and the records it gives.

A recorder declares a `Group`, which holds the quantities it gives, and the `sites` of the model that it reads, or that it reads
weights. It is shown one `Observation` after another, and gives `Record`s at the end of each layer, and of the whole pass:

    >>> from olmo_dynamics.names import Site
    >>> from olmo_dynamics.quantities.declaration import Group, Quantity
    >>> class PositiveShare(Recorder):
    ...     group = Group("positive", ("layer",), "Signs in the stream.", (Quantity("positive_share"),))
    ...     sites = frozenset({Site.RESIDUAL_OUT})
    ...     def __init__(self):
    ...         self.positive, self.elements = {}, {}
    ...     def observe(self, seen):
    ...         self.positive[seen.layer] = self.positive.get(seen.layer, 0) + int((seen.real > 0).sum())
    ...         self.elements[seen.layer] = self.elements.get(seen.layer, 0) + seen.real.numel()
    ...     def merge(self, other):
    ...         for layer, elements in other.elements.items():
    ...             self.positive[layer] = self.positive.get(layer, 0) + other.positive[layer]
    ...             self.elements[layer] = self.elements.get(layer, 0) + elements
    ...     def finish_layer(self, layer):
    ...         yield self.record("positive_share", self.positive.pop(layer) / self.elements.pop(layer), layer=layer)

`olmo_dynamics.collect(run, out="run.zarr", record=["loss", PositiveShare])` records it beside the built-in groups.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import NO_LAYER, Site, TensorInfo
from olmo_dynamics.quantities.declaration import Group, Reads, Record
from olmo_dynamics.recorders.context import Context, ProbeTokens
from olmo_dynamics.recorders.kernels.tensor_stats import TensorStats, tensor_stats
from olmo_dynamics.recorders.kernels.token_codes import TokenCodes, TokenRows, token_codes
from olmo_dynamics.recorders.kernels.tokens import TokenStats, stats_of_tokens

Value = TypeVar("Value")


class _shared(Generic[Value]):  # noqa: N801 - a decorator
    """A property that is computed once.

    `functools.cached_property` holds one lock for all objects before Python 3.12, so that threads would wait for one another.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, seen: Observation | None, kind: type) -> Value:
        if seen is None:
            return cast(Value, self)
        value = vars(seen)[self._compute.__name__] = self._compute(seen)
        return value


@dataclass(eq=False, kw_only=True)
class Observation:
    """Values at one place: a site of the forward or backward pass, or a named tensor.

    Read them, and copy what you keep: the memory is the model's.

    At a site: `values` [batch, positions, width] in the compute dtype (chosen experts: int64), or their gradient; `rows` and
    `positions` of the probe; `columns` of the width (logits come in slices of the vocabulary); and `mask`, False for padding.
    At `Site.QUERY_ROTATED`, `beside` holds the `key` after RoPE and the `value` [batch, positions, kv_heads * head_dim], and
    `first_visible` gives the keys that each query sees. At `Site.ATTENTION_OUTPUT` it holds the `heads` [batch, positions,
    heads * head_dim] and the matrix that they are multiplied by, `projection`; at `Site.FINAL_NORM` the `stream` before the
    norm, and the `norm`, which can be applied to other vectors; at `Site.LOGITS` the rows of the `head` for these columns.

    Of a tensor, which `tensor` describes: `values` are its weights in their stored dtype, its gradient, or the first moment
    that an optimiser keeps of it. The rest of the optimiser's state is in `beside`, by name: `exp_avg_sq` in the shape of the
    tensor, and as tensors of one number `step`, `lr`, `beta1`, `beta2`, `eps` and `weight_decay`, each if it is known.

    Gradients come window by window, and `rows` is the window: of its mean loss. That of a tensor comes once more behind the last
    window, of the whole probe's mean loss, and `rows` are all windows. Of the embedding and the head `columns` are the rows that
    `values` holds. At a site, `beside` holds the `activation` (not that of logits).

    `token_rows` are those of the mask, where they are known.
    """

    values: Shaped[Tensor, "*axes"]
    reads: Reads = Reads.ACTIVATIONS
    site: Site | None = None
    layer: int = NO_LAYER
    tensor: TensorInfo | None = None
    rows: slice = field(default_factory=lambda: slice(0, 0))
    positions: slice = field(default_factory=lambda: slice(0, 0))
    columns: slice = field(default_factory=lambda: slice(0, 0))
    mask: Bool[np.ndarray, "batch positions"] = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    window: int | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)
    ready_stats: Callable[[], TensorStats] | None = None
    token_rows: TokenRows | None = None

    @_shared
    def real(self) -> Shaped[Tensor, "tokens width"]:
        """The vectors of the real tokens."""
        flat = self.values.reshape(-1, self.values.shape[-1])
        return flat if self.mask.all() else flat[torch.tensor(self.mask.reshape(-1), device=flat.device)]

    @_shared
    def codes(self) -> TokenCodes:
        """The floats of activations as unsigned integers, and which rows are real tokens."""
        return token_codes(self.values, self.mask, self.positions.start, self.token_rows)

    @_shared
    def tokens(self) -> TokenStats:
        """Sums and order statistics of each token's vector; see `share_tokens`."""
        return stats_of_tokens(self.codes)

    def share_tokens(self, tokens: TokenStats) -> None:
        """Give the statistics of each token to the recorders that follow, so that they make no pass of their own."""
        vars(self)["tokens"] = tokens

    @_shared
    def stats(self) -> TensorStats:
        """Sums, counts and order statistics of a weight tensor: exact (16-bit floats) or in float64.

        They are those of `ready_stats` if threads have taken them already.
        """
        assert self.tensor is not None
        if self.ready_stats is not None:
            return self.ready_stats()
        return tensor_stats(self.values.contiguous().reshape(-1).view(torch.uint8).numpy(), self.tensor)

    @property
    def first_visible(self) -> Int64[np.ndarray, " positions"]:
        """The first position that each query sees; it sees all positions from there up to itself."""
        places = np.arange(self.positions.start, self.positions.stop)
        first: np.ndarray = np.maximum(0, places - (self.window or self.positions.stop) + 1)
        return first


class Recorder:
    """One measurement: subclass it, or use a built-in one.

    The object that a user gives is a prototype, and each part of a pass gets a copy of it: set options and empty sums in
    `__init__`, and whatever depends on the `context` in `begin`. Copies that saw different sequences are merged in the order of
    the sequences, so results do not depend on the number of threads. A recorder of activations must define `merge`.

    Attributes:
        group: the numbers that it gives.
        reads: the kind of values it is shown.
        sites: the sites it reads; empty for a recorder of tensors. The group is not recorded of a model that lacks one.
        column_sums: True if `Observation.stats` of the weights must hold sums by column.
        needs_probe: True if it reads weights and needs `context.probe` as well.
        needs_tokenizer: True if it needs `context.tokenizer`.
        needs_whole_pass: True if it gives nothing where the pass stops before the head.
        by_default: False if a collection records the group only where it is asked for.
        context: facts about the pass; set before `begin`.
    """

    group: ClassVar[Group]
    reads: ClassVar[Reads] = Reads.ACTIVATIONS
    sites: ClassVar[frozenset[Site] | set[Site]] = frozenset()
    column_sums: ClassVar[bool] = False
    needs_probe: ClassVar[bool] = False
    needs_tokenizer: ClassVar[bool] = False
    needs_whole_pass: ClassVar[bool] = False
    by_default: ClassVar[bool] = True
    context: Context = Context()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that it fills: its own `group`, unless several follow from the same sums."""
        return (self.group,)

    @property
    def lacks(self) -> str:
        """The option that it cannot do without and was not given, as "needs …"; `all` leaves it out then. Empty if it has all."""
        return ""

    @property
    def reads_probe(self) -> bool:
        """True if it needs the tokens of a probe."""
        return self.needs_probe or self.reads in (Reads.ACTIVATIONS, Reads.GRADIENTS)

    def sites_in(self, available: Sequence[Site]) -> frozenset[Site]:
        """The sites it reads in a model that has the `available` ones; empty if the model lacks one that it needs."""
        return frozenset(self.sites) if set(self.sites) <= set(available) else frozenset()

    def selects(self, info: TensorInfo) -> bool:
        """True if it reads this tensor: every one, unless it names sites instead."""
        return not self.sites

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The labels along axes of its own, by axis."""
        return {}

    def attributes(self) -> Mapping[str, str | int | float]:
        """Facts that the store keeps with the group, such as a seed; stores of other facts are refused."""
        return {}

    def probe(self) -> ProbeTokens | None:
        """A probe of its own, for a forward pass beside the main one; None to read the main one."""
        return None

    def kept_bytes(self) -> int:
        """The most memory that it holds at a time, for the plan; small sums need not be counted."""
        return 0

    def cost(self, info: TensorInfo) -> float:
        """Its time for a tensor over that of the shared statistics, for the plan; 0 if it needs little more than these."""
        return 0.0

    def begin(self) -> None:
        """Prepare for a pass; `context` is known."""

    def follow(self, earlier: Self) -> None:
        """See, before a stage, the recorder that has everything of the stages before; read it, and change nothing."""

    def observe(self, seen: Observation) -> None:
        """Add an observation.

        Raises:
            NotImplementedError: the recorder does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define observe")

    def merge(self, other: Self) -> None:
        """Add everything that `other` saw, of other sequences of the same stage, and has not given.

        Raises:
            NotImplementedError: the recorder does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define merge")

    def finish_layer(self, layer: int) -> Iterable[Record]:
        """The records of a layer that has been seen whole, whose state can be dropped; -1 stands for all outside the blocks."""
        return ()

    def finish(self) -> Iterable[Record]:
        """The records that need the whole pass."""
        return ()

    def record(self, name: str, values: object, **at: str | int | float) -> Record:
        """A record of one of the group's quantities at these labels.

        Raises:
            OptionError: the group declares no such quantity.
        """
        return Record(self.group[name], _as_numpy(values), at)

    def start(self, context: Context) -> Self:
        """A copy of this prototype, ready for a pass.

        Raises:
            OptionError: it holds something that cannot be copied, such as a lock or an open file.
        """
        try:
            started = copy.deepcopy(self)
        except Exception as error:
            raise OptionError(
                f"{type(self).__name__} must be copyable, since each part of a pass gets a copy of it ({error}); "
                "make what cannot be copied in begin(self)"
            ) from error
        started.context = context
        started.begin()
        return started


def _as_numpy(values: object) -> np.ndarray:
    """Numbers as an array; those of a tensor from wherever it lies, bfloat16 as float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    held = values.detach().cpu()
    return np.asarray(held.float() if held.dtype is torch.bfloat16 else held)
