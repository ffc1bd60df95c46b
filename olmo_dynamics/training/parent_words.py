"""A trainer's config and state read so that what is missing is either assumed, and said to be, or named in one line.

>>> words = Words("run@step40", {"optimizer": {"learning_rate": 3e-4}}, {})
>>> words.need("optimizer.learning_rate"), words.get("optimizer.eps", 1e-5, field="betas, eps"), words.assumed
(0.0003, 1e-05, {'betas, eps'})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.orders import Order
from olmo_dynamics.training.recipe import Recipe

_DTYPES = {"fp32": "float32", "float32": "float32", "amp_bf16": "bfloat16", "bfloat16": "bfloat16"}
"""By what the trainers call the precision of a forward and backward pass; masters are float32 in any case."""


@dataclass(frozen=True)
class Words:
    """`config` as it was published and `trainer`, the trainer's counters; paths join keys by dots."""

    label: str
    config: Mapping[str, Any]
    trainer: Mapping[str, Any]
    assumed: set[str] = field(default_factory=set)

    def find(self, *paths: str) -> Any:
        """The value of the first path that has one, or None."""
        for path in paths:
            value: Any = self.config
            for key in path.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                return value
        return None

    def need(self, *paths: str) -> Any:
        """The value of the first path that has one.

        Raises: TrainingError if none has.
        """
        value = self.find(*paths)
        if value is None:
            raise TrainingError(
                f"{self.label}: going on wants {' or '.join(paths)} in its config; it is missing: fork its weights from the "
                "hub, where the whole recipe is yours"
            )
        return value

    def get(self, *paths_and_default: Any, field: str) -> Any:
        """The value of a path, or the default, the last argument, which marks `field` as assumed."""
        *paths, default = paths_and_default
        value = self.find(*paths)
        if value is None:
            self.assume(field)
            return default
        return value

    def dtype(self, *paths: str, silent: str | None = None) -> str:
        """What the run computed in; float32, and "precision" assumed, for one that we cannot do, or where nothing is said.

        `silent` is what the trainer takes silence for.
        """
        said = self.find(*paths) or silent
        dtype = _DTYPES.get(str(said).rpartition(".")[2])
        if dtype is None:
            self.assume("precision")
        return dtype or "float32"

    def assume(self, field: str) -> None:
        """Note that a field of the record is not from the parent's files."""
        self.assumed.add(field)

    def of_trainer(self, *paths: str) -> Any:
        """The first of the trainer's counters that there is, or None."""
        return Words(self.label, self.trainer, {}).find(*paths)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What either trainer's files come to."""

    recipe: Recipe
    tokens_seen: int
    order: Order | None
    optimizer: Mapping[str, Any]  # of the config, for where the optimiser's own groups are not published
    no_schedule: str = ""
    token_dtype: str | None = None
    unit: int | None = None
    data: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
