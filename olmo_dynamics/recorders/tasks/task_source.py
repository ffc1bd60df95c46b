"""The requests of some tasks, made once for all passes through models with one tokenizer.

>>> source = TaskSource(read_tasks(["arithmetic"]))  # doctest: +SKIP
>>> source.of(context).token_ids.shape  # doctest: +SKIP
(96, 31)
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

from olmo_dynamics.probes.tasks import Task, TaskRequests
from olmo_dynamics.recorders.context import Context


class TaskSource:
    """Tasks and their requests; copies of a recorder share it."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        self._made: dict[tuple[str, int, int], TaskRequests] = {}
        self._lock = Lock()

    def __deepcopy__(self, _: object) -> TaskSource:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    def of(self, context: Context) -> TaskRequests:
        """The requests in the tokens of a pass.

        Raises:
            ProbeError: a choice has no tokens of its own, or tokens that the model does not know.
        """
        config, tokenizer = context.config, context.tokenizer
        assert config is not None
        assert tokenizer is not None
        key = tokenizer.sha256, config.vocab_size, config.max_positions
        with self._lock:
            if key not in self._made:
                self._made[key] = TaskRequests.of(
                    self.tasks, tokenizer, vocab_size=config.vocab_size, longest=config.max_positions
                )
            return self._made[key]
