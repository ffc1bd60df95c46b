"""A reader of a trainer's config and state: a missing value is assumed, and noted as such, or reported in one line.

>>> reader = ConfigReader("run@step40", {"optimizer": {"learning_rate": 3e-4}}, {})
>>> reader.need("optimizer.learning_rate"), reader.get("optimizer.eps", 1e-5, field="betas, eps"), reader.assumed
(0.0003, 1e-05, {'betas, eps'})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.data.order import DataOrder
from olmo_dynamics.training.recipe import Recipe

_DTYPES = {"fp32": "float32", "float32": "float32", "amp_bf16": "bfloat16", "bfloat16": "bfloat16"}
"""The trainers' names of the precision of a forward and backward pass; masters are always float32."""


@dataclass(frozen=True)
class ConfigReader:
    """`config` as it was published, and `trainer`, the trainer's counters; paths join keys by dots."""

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

        Raises:
            TrainingError: no path has one.
        """
        value = self.find(*paths)
        if value is None:
            raise TrainingError(
                f"{self.label}: continuing needs {' or '.join(paths)} in its config, which is missing: fork its weights from the "
                "hub, with a recipe of your own"
            )
        return value

    def get(self, *paths_and_default: Any, field: str) -> Any:
        """The value of the first path that has one, or the default, the last argument; then `field` is assumed."""
        *paths, default = paths_and_default
        value = self.find(*paths)
        if value is None:
            self.assume(field)
            return default
        return value

    def dtype(self, *paths: str, default: str | None = None) -> str:
        """The dtype of the run's computation; float32, with "precision" assumed, if it is unknown or not supported.

        `default` is the trainer's own, for a config without any.
        """
        given = self.find(*paths) or default
        dtype = _DTYPES.get(str(given).rpartition(".")[2])
        if dtype is None:
            self.assume("precision")
        return dtype or "float32"

    def assume(self, field: str) -> None:
        """Note that a field of the provenance is not from the parent's files."""
        self.assumed.add(field)

    def of_trainer(self, *paths: str) -> Any:
        """The first of the trainer's counters that exists, or None."""
        return ConfigReader(self.label, self.trainer, {}).find(*paths)


@dataclass(frozen=True, kw_only=True)
class ParentConfig:
    """A parent's config, read from the files of either trainer."""

    recipe: Recipe
    tokens_seen: int
    order: DataOrder | None
    optimizer: Mapping[str, Any]  # of the config, used if the optimiser's own groups are not published
    no_schedule: str = ""
    token_dtype: str | None = None
    unit: int | None = None
    data: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
