"""The interface of checkpoint formats: a config, tensors under canonical names, and the trainer's state.

A format needs only the sizes of files by name and a callable that reads spans of them, so it works with a folder, memory, a
hub and a plain web server. It requests files by name and never lists them.

    >>> found = find_format(checkpoint.read_spans, checkpoint.files)                            # doctest: +SKIP
    >>> found.name, found.config["model_type"], list(found.weights.infos)[0]                    # doctest: +SKIP
    ('olmo', 'olmo2', 'model.embed_tokens.weight')
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from olmo_dynamics.checkpoints.formats.optimizer import OptimizerState
from olmo_dynamics.checkpoints.formats.pickle_allowlist import TRAINER
from olmo_dynamics.checkpoints.formats.tensor_views import TensorSet
from olmo_dynamics.checkpoints.formats.torch_files import open_torch_file
from olmo_dynamics.checkpoints.tensors import Span, SpanReader, refuse_pointer
from olmo_dynamics.errors import CheckpointError

MAX_CONFIG_BYTES = 16 << 20  # 16 MiB; real ones take a few kB


class Format(ABC):
    """One checkpoint in one format; `files` maps names to sizes in bytes, and may find a size out when it is needed."""

    name: str

    def __init__(self, read: SpanReader, files: Mapping[str, int]) -> None:
        self._read, self._files = read, files

    @property
    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """The trainer's own config, as it was written: model, data, optimiser, schedule."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The model's config under Hugging Face's names."""

    @property
    @abstractmethod
    def weights(self) -> TensorSet:
        """The weights under canonical names."""

    @property
    @abstractmethod
    def weight_files(self) -> list[str]:
        """The files that hold the weights, sorted by name."""

    @property
    def optimizer(self) -> OptimizerState | None:
        """AdamW's state, None if the format has none.

        Raises:
            CheckpointError: it is another optimiser's.
        """
        state = self.optimizer_state
        return None if state is None else state.require_adamw()

    @property
    def optimizer_state(self) -> OptimizerState | None:
        """The state of any optimiser, as far as it is stored; None if the format has none."""
        return None

    @property
    def trainer(self) -> dict[str, Any]:
        """The trainer's counters and random states, as plain values; empty if the format has none."""
        return {}

    def read_small(self, name: str, limit: int = MAX_CONFIG_BYTES) -> bytes:
        """Read a small file's bytes.

        Raises:
            CheckpointError: it is missing, or larger than `limit` bytes.
        """
        if name not in self._files:
            raise CheckpointError(f"a checkpoint in {self.name} format must have {name}, which is missing; fetch it")
        size = self._files[name]
        if size > limit:
            raise CheckpointError(f"{name} must have at most {limit} bytes (got {size})")
        [raw] = self._read([Span(name, 0, size)])
        text = raw.tobytes()
        refuse_pointer(name, text)
        return text

    def read_trainer(self, name: str) -> dict[str, Any]:
        """Read a trainer's state from a `torch.save` file.

        Raises:
            CheckpointError: it is missing, hostile or damaged.
        """
        if name not in self._files:
            raise CheckpointError(f"the trainer's state must be in {name}, which is missing; fetch it")
        state = open_torch_file(self._read, name, self._files[name], TRAINER).plain()
        if not isinstance(state, dict):
            raise CheckpointError(f"{name} must hold the fields of a trainer's state (got a {type(state).__name__})")
        return state
