"""Loggers of metrics: TensorBoard and Weights & Biases, each through its own library.

Both are extras, imported only on request.

    >>> Metrics([TensorBoard("runs/a")])  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from olmo_dynamics.errors import OptionError
from olmo_dynamics.training.metrics import Row


class TensorBoard:
    """A sink of `Metrics` that writes every number of a row as a scalar at its step.

    Raises:
        OptionError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self._writer = self.library().SummaryWriter(str(folder))

    @staticmethod
    def library() -> Any:
        """The library that writes event files.

        Raises:
            OptionError: TensorBoard is not installed.
        """
        return _load("torch.utils.tensorboard", "tensorboard", "TensorBoard")

    def __call__(self, row: Row) -> None:
        """Write one row."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Write the remaining rows."""
        self._writer.close()


class WandB:
    """A sink of `Metrics` that logs every row to a new run of a Weights & Biases project.

    Raises:
        OptionError: wandb is not installed.
    """

    def __init__(self, project: str, config: Mapping[str, Any]) -> None:
        self._run = self.library().init(project=project, config=dict(config))

    @staticmethod
    def library() -> Any:
        """The library that logs to Weights & Biases.

        Raises:
            OptionError: wandb is not installed.
        """
        return _load("wandb", "wandb", "Weights & Biases")

    def __call__(self, row: Row) -> None:
        """Log one row."""
        self._run.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _load(module: str, extra: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise OptionError(f"{name} is not installed: pip install 'olmo-dynamics[{extra}]'") from None
