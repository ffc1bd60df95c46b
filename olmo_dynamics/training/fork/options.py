"""Fork options: how a fork departs from its parent, each declared once for Python, the command line and TOML files.

>>> ForkOptions(lr=1e-4, schedule="wsd", decay_share=0.2).given()
{'lr': 0.0001, 'schedule': 'wsd', 'decay_share': 0.2}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from olmo_dynamics.errors import OptionError, reject_unknown
from olmo_dynamics.training.data.order import FIRST_EPOCH
from olmo_dynamics.training.fork.option import (
    BATCH,
    FILE,
    GROWTH,
    PYTHON_ONLY,
    REPEATED,
    TWO_NUMBERS,
    WHOLE_NUMBERS,
    WORDS,
    Option,
    check_options,
    declared_options,
    option,
)
from olmo_dynamics.training.schedule import SHAPES

if TYPE_CHECKING:
    from torch import Tensor

SCHEDULES = ("parent", "constant", "linear", "cosine", "wsd")
MOMENTS = ("parent", "zero", "warm")
BATCH_LR = ("keep", "sqrt")
ORDERS = ("parent", *FIRST_EPOCH)
DECAY_SHARE = 0.1
"""The default share of the run in which WSD's rate decays, as in OLMo-core."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForkOptions:
    """Fork options: the departures of a fork from its parent; an option that is None continues as the parent did.

    `lr` is the rate at the fork and `peak_lr` the one that a warm-up of `warmup` steps climbs to; a warm-up with one of them
    alone climbs from 0. `schedule`: "parent" (its curve, scaled so that it passes `lr` at the fork, or peaks at `peak_lr`),
    "constant", "linear" (to 0 at the end), "cosine" (to a tenth at the end), or "wsd": stable, then down to 0 over the last
    `decay_steps`, or the last `decay_share` of all. `decay_shape` "sqrt" is 1 - √(share of the decay that is done).
    `batch_warmup` holds pairs (steps after the fork, sequences from then on). `edit` is called with each parameter's name
    and weights, and returns the new weights. `parent_loss` is the loss that the parent logged for its next step.
    """

    order: str = option(
        "Order of the data: parent, olmo, olmo-core, sequential or shuffled.", metavar="NAME", default="parent",
        choices=ORDERS, in_batches=True,
    )  # fmt: skip
    batch: tuple[int, int] | None = option(
        "B sequences of T tokens per step. Default: the parent's.", BATCH, "BxT", row="batch", in_batches=True
    )
    batch_warmup: tuple[tuple[int, int], ...] = option(
        "B sequences per step from STEP steps after the fork on.", GROWTH, "STEP:B,…", default=(), row="batch",
        in_batches=True,
    )  # fmt: skip
    mask_documents: bool | None = option(
        "Keep attention within documents.", bool, row="document masking", in_recipe=True, in_batches=True
    )
    mask_repeated_ngrams: bool | None = option(
        "Leave out the labels of sequences with 32 or more repeats of 1 to 13 tokens.", bool, row="repeated n-grams",
        in_batches=True,
    )  # fmt: skip
    seed: int | None = option(
        "Another seed: read the data from their beginning, in another order.", int, at_least=0, in_recipe=True,
        in_batches=True,
    )  # fmt: skip
    data_dtype: str | None = option(
        "Dtype of token files: uint16 or uint32. Default: the parent's, or by vocabulary.", metavar="DTYPE",
        in_batches=True,
    )  # fmt: skip
    tokenizer: str | None = option("A tokenizer.json, for a revision that has none.", FILE, "FILE", in_batches=True)
    moments: str | None = option(
        "AdamW's moments: parent, zero, or warm (zero, and the rate climbs from 0). Required for bare weights, which have "
        "none.", metavar="NAME", choices=MOMENTS,
    )  # fmt: skip
    lr: float | None = option(
        "The learning rate at the fork. Default: the parent's.", float, at_least=0, row="schedule"
    )
    peak_lr: float | None = option(
        "The rate at the end of the warm-up, or at the peak of the parent's curve.", float, at_least=0, row="schedule"
    )
    schedule: str | None = option(
        "parent, constant, linear (to 0 at the end), cosine (to a tenth) or wsd (stable, then down to 0).",
        metavar="NAME", choices=SCHEDULES, row="schedule",
    )  # fmt: skip
    warmup: int | None = option(
        "Steps in which the rate climbs after the fork, from 0 or from --lr to --peak-lr.", int, "STEPS", at_least=0,
        row="schedule",
    )  # fmt: skip
    decay_steps: int | None = option(
        "Steps in which wsd decays. Default: a tenth of the run.", int, "N", at_least=1, row="schedule"
    )
    decay_share: float | None = option("The same as a share of the run.", float, "F", row="schedule")
    decay_shape: str | None = option(
        "Curve of wsd's decay: linear, or sqrt (1 - the root of the share done). Default: linear.", metavar="NAME",
        choices=SHAPES, row="schedule",
    )  # fmt: skip
    batch_lr: str = option(
        "keep, or sqrt: scale the rate by the root of the batch.", metavar="NAME", default="keep", choices=BATCH_LR,
        row="schedule",
    )  # fmt: skip
    betas: tuple[float, float] | None = option("AdamW's betas.", TWO_NUMBERS, "B1,B2", row="betas, eps", in_recipe=True)
    eps: float | None = option("AdamW's epsilon.", float, row="betas, eps", in_recipe=True)
    weight_decay: float | None = option(
        "Weight decay of the parameters that the parent decays.", float, at_least=0, row="weight decay", in_recipe=True
    )
    decay: tuple[str, ...] = option(
        "All parameters with weight decay, comma-separated.", WORDS, "GLOBS", default=(), row="weight decay"
    )
    no_decay: tuple[str, ...] = option(
        "All parameters without weight decay, comma-separated.", WORDS, "GLOBS", default=(), row="weight decay"
    )
    clip: float | None = option("Largest norm of the gradient.", float, row="clip", in_recipe=True)
    z_loss: float | None = option("Weight of the z-loss.", float, at_least=0, row="z-loss", in_recipe=True)
    balance_loss: float | None = option(
        "Weight of the load-balancing loss of the experts.", float, row="router's losses", in_recipe=True
    )
    router_z_loss: float | None = option(
        "Weight of the z-loss of the router.", float, row="router's losses", in_recipe=True
    )
    skip_spikes: bool | None = option("Skip updates whose loss or gradient norm is an outlier.", bool, in_recipe=True)
    freeze: tuple[str, ...] = option(
        "Parameters not to train, comma-separated.", WORDS, "GLOBS", default=(), row="frozen"
    )
    scale: tuple[str, ...] = option(
        "Multiply weights at the fork, or rows of them.", REPEATED, "GLOB[ROW]=F", default=()
    )
    zero: tuple[str, ...] = option(
        "Set weights to zero at the fork, or rows of them.", REPEATED, "GLOB[ROW]", default=()
    )
    zero_feature: tuple[int, ...] = option(
        "Zero residual features in every weight that writes or reads them.", WHOLE_NUMBERS, "I,…", default=()
    )
    edit: Callable[[str, Tensor], Tensor] | None = field(default=None, metadata=PYTHON_ONLY)
    dtype: str | None = option(
        "Dtype of the computation, float32 or bfloat16; master weights are float32.", metavar="DTYPE",
        row="precision", in_recipe=True,
    )  # fmt: skip
    micro_batch: int | None = option("Sequences that a worker computes at once.", int, "B", in_recipe=True)
    activation_checkpointing: bool | None = option(
        "Recompute activations in the backward pass: less memory, more work.", bool, in_recipe=True
    )
    compile: bool | None = option(
        "Use torch.compile. Default: where it saves more than it costs.", bool, in_recipe=True
    )
    device: str | None = option(
        "cpu or cuda. Default: cpu; under torchrun one GPU per process if there are any.", metavar="D"
    )
    workers: int | None = option(
        "Threads that share a batch. Default: as many as the parent's, or 1.", int, in_recipe=True
    )
    eval: tuple[str, ...] = option(
        "Held-out tokens or text whose loss is measured during training.", REPEATED, "FILE", default=()
    )
    eval_every: int = option("Steps between two evaluations.", int, "N", default=100, at_least=1)
    save: tuple[int, ...] | None = option(
        "Steps after the fork to save at, comma-separated. Default: log-spaced.", WHOLE_NUMBERS, "STEPS"
    )
    parent_loss: float | None = option(
        "The loss that the parent logged for its next step, to compare the first loss with.", float
    )
    accept_loss_jump: bool = option("Continue even if the first loss is far off.", bool, default=False)
    keep: int | None = option("Keep only the first checkpoint and the latest N. Default: all.", int, "N", at_least=1)

    def __post_init__(self) -> None:
        check_options(self)
        self._check_decay()
        self._check_growth()

    @classmethod
    def of(cls, **given: Any) -> ForkOptions:
        """The options of these names.

        Raises:
            OptionError: a name is unknown, or a value is invalid.
        """
        reject_unknown(given, declared_options(cls))
        return cls(**given)

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default
        }

    def of_recipe(self) -> dict[str, Any]:
        """The given options that are fields of the recipe."""
        return {name: value for name, value in self.given().items() if FORK_OPTIONS[name].in_recipe}

    def replaced_rows(self) -> set[str]:
        """The rows of the fork's provenance that the given options replace."""
        return {FORK_OPTIONS[name].row for name in self.given()}

    def _check_decay(self) -> None:
        of_wsd = [name for name in ("decay_steps", "decay_share", "decay_shape") if getattr(self, name) is not None]
        if of_wsd and self.schedule != "wsd":
            raise OptionError(
                f"{of_wsd[0]} needs schedule wsd (got schedule {self.schedule}): choose wsd or leave {of_wsd[0]} out"
            )
        if self.decay_steps is not None and self.decay_share is not None:
            raise OptionError("decay_steps and decay_share cannot both be given: leave one out")
        if self.decay_share is not None and not 0 < self.decay_share <= 1:
            raise OptionError(f"decay_share must be above 0 and at most 1 (got {self.decay_share})")
        if self.decay and self.no_decay:
            raise OptionError(
                "decay (all parameters with weight decay) and no_decay (all without) cannot both be given: leave one out"
            )
        if (self.decay or self.no_decay) and self.weight_decay == 0:
            raise OptionError("decay and no_decay need a weight_decay above 0 (got 0): leave one out")

    def _check_growth(self) -> None:
        steps = [step for step, _ in self.batch_warmup]
        sizes = [size for _, size in self.batch_warmup]
        if steps != sorted({*steps}) or sizes != sorted({*sizes}) or any(step < 1 for step in steps):
            given = ",".join(f"{step}:{size}" for step, size in self.batch_warmup)
            raise OptionError(
                "batch_warmup must be steps after the fork and sequences that both rise, such as 500:32,1000:64 "
                f"(got {given})"
            )


FORK_OPTIONS: dict[str, Option] = declared_options(ForkOptions)
