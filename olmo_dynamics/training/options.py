"""What a fork may do otherwise than its parent, each by a name that Python, the command line and a TOML file share.

>>> Options(lr=1e-4, schedule="wsd", decay_share=0.2).given()
{'lr': 0.0001, 'schedule': 'wsd', 'decay_share': 0.2}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from olmo_dynamics.errors import OptionError
from olmo_dynamics.training.orders import FIRST_EPOCH
from olmo_dynamics.training.schedule import SHAPES

SCHEDULES = ("parent", "constant", "linear", "cosine", "wsd")
MOMENTS = ("parent", "zero", "warm")
BATCH_LR = ("keep", "sqrt")
DECAY_SHARE = 0.1
"""The part of the run in which WSD's rate comes down where nothing is said, as in OLMo-core."""

_ALLOWED = {
    "order": ("parent", *FIRST_EPOCH),
    "moments": MOMENTS,
    "schedule": SCHEDULES,
    "decay_shape": SHAPES,
    "batch_lr": BATCH_LR,
}
_AT_LEAST_0 = ("lr", "peak_lr", "warmup", "seed", "weight_decay", "z_loss")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a fork does otherwise than its parent; None goes on as the parent did.

    `lr` is the rate at the fork and `peak_lr` the one that a warm-up of `warmup` steps climbs to; a warm-up with one of them
    alone climbs from 0. `schedule`: "parent" (its curve, scaled so that it passes `lr` at the fork, or peaks at `peak_lr`),
    "constant", "linear" (to 0 at the end), "cosine" (to a tenth at the end), or "wsd": stable, then down to 0 over the last
    `decay_steps`, or the last `decay_share` of all. `parent_loss` is what the parent logged for its next step.
    """

    order: str = "parent"
    moments: str | None = None
    lr: float | None = None
    peak_lr: float | None = None
    schedule: str | None = None
    warmup: int | None = None
    decay_steps: int | None = None
    decay_share: float | None = None
    decay_shape: str | None = None  # "linear", or "sqrt": 1 - √(share of the decay that is done)
    batch: tuple[int, int] | None = None  # sequences, tokens of each
    batch_warmup: tuple[tuple[int, int], ...] = ()  # (steps after the fork, sequences from then on)
    batch_lr: str = "keep"  # "sqrt": the rate grows with the root of the batch
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    decay: tuple[str, ...] = ()  # globs of all parameters that decay
    no_decay: tuple[str, ...] = ()  # globs of all that do not
    clip: float | None = None
    z_loss: float | None = None
    seed: int | None = None
    freeze: tuple[str, ...] = ()
    scale: tuple[str, ...] = ()  # "GLOB=0.5", or rows: "GLOB[3]=0.5"
    zero: tuple[str, ...] = ()  # "GLOB", or rows: "GLOB[3,4]"
    zero_feature: tuple[int, ...] = ()
    edit: Callable[[str, Tensor], Tensor] | None = None
    mask_documents: bool | None = None
    mask_repeated_ngrams: bool | None = None
    data_dtype: str | None = None
    eval: tuple[str, ...] = ()
    eval_every: int = 100
    dtype: str | None = None
    micro_batch: int | None = None
    activation_checkpointing: bool | None = None
    compile: bool | None = None
    balance_loss: float | None = None
    router_z_loss: float | None = None
    skip_spikes: bool | None = None
    save: tuple[int, ...] | None = None  # steps after the fork
    keep: int | None = None  # so many of the latest checkpoints
    workers: int | None = None
    tokenizer: str | None = None
    parent_loss: float | None = None
    accept_loss_jump: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise OptionError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
        for name in _AT_LEAST_0:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise OptionError(f"{name} must be at least 0; got {value}")
        if self.eval_every < 1:
            raise OptionError(f"eval_every must be at least 1 step; got {self.eval_every}")
        self._check_decay()
        self._check_growth()

    def given(self) -> dict[str, Any]:
        """Those that differ from their defaults."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default
        }

    def _check_decay(self) -> None:
        said = [name for name in ("decay_steps", "decay_share", "decay_shape") if getattr(self, name) is not None]
        if said and self.schedule != "wsd":
            raise OptionError(
                f"{said[0]} belongs to schedule wsd; got schedule {self.schedule}: choose wsd or leave it out"
            )
        if self.decay_steps is not None and self.decay_share is not None:
            raise OptionError("wsd's decay is decay_steps or decay_share; got both: leave one out")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise OptionError(f"decay_steps must be at least 1; got {self.decay_steps}")
        if self.decay_share is not None and not 0 < self.decay_share <= 1:
            raise OptionError(f"decay_share must be above 0 and at most 1; got {self.decay_share}")
        if self.decay and self.no_decay:
            raise OptionError(
                "decay names all parameters with weight decay, no_decay all without; got both: leave one out"
            )
        if (self.decay or self.no_decay) and self.weight_decay == 0:
            raise OptionError(
                "decay and no_decay choose whom weight decay touches; got a weight_decay of 0: leave one out"
            )

    def _check_growth(self) -> None:
        steps = [step for step, _ in self.batch_warmup]
        sizes = [size for _, size in self.batch_warmup]
        if steps != sorted({*steps}) or sizes != sorted({*sizes}) or any(step < 1 for step in steps):
            raise OptionError(
                "batch_warmup wants steps after the fork and sequences that both rise, such as 500:32,1000:64; got "
                + ",".join(f"{step}:{size}" for step, size in self.batch_warmup)
            )
