"""The recipe of a run, decided before its first step: batch, schedule, optimiser, seed, and the steps to save at.

A recipe is frozen and refuses invalid values, so the training loop needs no checks.

    >>> recipe = Recipe(steps=100, warmup_steps=10, peak_lr=1e-3, save_at=log_spaced(100, 6))
    >>> recipe.save_at, recipe.tokens_per_step
    ((0, 1, 3, 10, 32, 100), 2048)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from olmo_dynamics.errors import OptionError
from olmo_dynamics.training.data.batch_size import BatchSizes
from olmo_dynamics.training.data.masks import Repeats
from olmo_dynamics.training.data.order import DataOrder
from olmo_dynamics.training.schedule import Schedule, cosine_with_warmup

EMBEDDING = "model.embed_tokens.weight"
MEANS = ("labels", "positions")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that decides a run beside its model and its data; defaults that do not depend on size are OLMo 2's.

    The learning rate climbs from 0 to `peak_lr` over `warmup_steps`, then follows half a cosine down to
    `final_fraction * peak_lr` at `steps`. `save_at` lists steps; 0 is the model before any update.
    """

    steps: int
    sequences_per_step: int = 16
    sequence_length: int = 128
    peak_lr: float = 1e-3
    warmup_steps: int = 0
    final_fraction: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1  # decoupled
    no_decay: tuple[str, ...] = (EMBEDDING,)  # globs of parameters without it
    frozen: tuple[str, ...] = ()  # globs of parameters that are not trained
    clip: float = 1.0  # largest global L2 norm of the gradient
    z_loss: float = 1e-5  # weight of mean(logsumexp(logits)²)
    mean_over: str = "labels"  # the loss's denominator; OLMo's is "positions", one more per sequence
    seed: int = 0
    save_at: tuple[int, ...] = ()
    schedule: Schedule | None = None  # in place of the warm-up and cosine above
    order: DataOrder | None = None  # in place of OLMo-core's order from the data's beginning
    step_stays_zero: bool = False  # SkipStepAdamW before its fix: AdamW's own step is 1 in every update
    batch_growth: tuple[tuple[int, int], ...] = ()  # (batches since this run began, sequences from then on)
    mixture: tuple[float, ...] = ()  # each data file's weight, if they are mixed
    mask_documents: bool = False  # attention within documents
    repeats: Repeats | None = None  # sequences whose labels do not count
    workers: int = 1  # threads that share a batch; part of the recipe because sums depend on it
    dtype: str = "float32"  # of the forward and backward pass; masters, sums and moments are float32 in any case
    micro_batch: int | None = None  # sequences that a worker computes at once; None: its whole share
    activation_checkpointing: bool = False  # keep only the input of a block, and run it again in the backward pass
    compile: bool | None = None  # blocks by torch.compile; None: if it saves more than it costs
    balance_loss: float = 0.01  # weight of the experts' balance; OLMoE's. Unused without experts
    router_z_loss: float = 0.001  # weight of mean(logsumexp(router logits)²); OLMoE's
    skip_spikes: bool = False  # OLMo-core's SkipStepAdamW: skip updates whose loss or gradient norm is an outlier

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1),
            ("sequences_per_step", 1),
            ("sequence_length", 2),
            ("seed", 0),
            ("workers", 1),
        ):
            _need(getattr(self, name) >= least, name, f"at least {least}", getattr(self, name))
        for name in ("peak_lr", "eps", "clip"):
            value = getattr(self, name)
            _need(math.isfinite(value) and value > 0, name, "a finite number above 0", value)
        for name in ("weight_decay", "z_loss", "balance_loss", "router_z_loss"):
            value = getattr(self, name)
            _need(math.isfinite(value) and value >= 0, name, "a finite number of at least 0", value)
        _need(0 <= self.warmup_steps < self.steps, "warmup_steps", f"within 0..{self.steps - 1}", self.warmup_steps)
        _need(0 <= self.final_fraction <= 1, "final_fraction", "within 0..1", self.final_fraction)
        _need([0 <= beta < 1 for beta in self.betas] == [True, True], "betas", "two numbers within [0, 1)", self.betas)
        _need(self.mean_over in MEANS, "mean_over", " or ".join(MEANS), self.mean_over)
        _need(self.dtype in DTYPES, "dtype", " or ".join(DTYPES), self.dtype)
        _need(self.micro_batch is None or self.micro_batch >= 1, "micro_batch", "at least 1", self.micro_batch)
        saved = all(0 <= step <= self.steps for step in self.save_at)
        _need(saved, "save_at", f"steps within 0..{self.steps}", self.save_at)

    @property
    def sizes(self) -> BatchSizes:
        """The number of sequences of each batch."""
        return BatchSizes(self.sequences_per_step, self.batch_growth)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one update, before batches grow."""
        return self.sequences_per_step * self.sequence_length

    @property
    def tokens_in_run(self) -> int:
        """Tokens from the first saved step to the last: the same for a run and for its resumption."""
        return (self.steps - min(self.save_at, default=0)) * self.tokens_per_step

    def learning_rate(self, step: int, tokens_seen: int | None = None) -> float:
        """The learning rate of update number `step`, counted from 1: the checkpoint of step N has applied that of N."""
        if self.schedule:
            return self.schedule.learning_rate(
                step, step * self.tokens_per_step if tokens_seen is None else tokens_seen
            )
        return cosine_with_warmup(
            step, peak=self.peak_lr, warmup=self.warmup_steps, end=self.steps, final_fraction=self.final_fraction
        )

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Recipe:
        """Read the recipe that `to_json` wrote."""
        values = _tuples(fields)
        for name, kind in (("schedule", Schedule), ("order", DataOrder), ("repeats", Repeats)):
            if values.get(name) is not None:
                values[name] = kind(**values[name])
        return cls(**values)


def log_spaced(steps: int, count: int) -> tuple[int, ...]:
    """`count` different steps from 0 to `steps`, both kept, the others evenly spaced in log step.

    If there are too few steps, it is all of them. A model changes fastest at the start, so equal ratios of steps show
    equal amounts of change.

    Raises:
        OptionError: there are fewer than two revisions, or no step.
    """
    if steps < 1 or count < 2:
        raise OptionError(f"log spacing needs at least 1 step and 2 revisions (got steps {steps} and count {count})")
    chosen = [0]
    for remaining in range(min(count - 1, steps), 0, -1):
        previous = chosen[-1]
        ideal = previous * (steps / previous) ** (1 / remaining) if previous else 1
        chosen.append(steps if remaining == 1 else max(previous + 1, round(ideal)))
    return tuple(chosen)


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at every depth."""
    if isinstance(value, Mapping):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _need(holds: bool, name: str, must_be: str, given: object) -> None:
    if not holds:
        raise OptionError(f"recipe: {name} must be {must_be} (got {given!r})")
