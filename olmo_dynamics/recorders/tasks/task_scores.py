"""Tasks by log-likelihood: which answer the model finds likeliest, in a pass over the answers beside the main one.

    >>> recorder = TaskRecorder(TaskSource(read_tasks(["arithmetic", "questions.jsonl"])))  # doctest: +SKIP
    >>> recorder.start(context).labels()  # doctest: +SKIP
    {'task': ('arithmetic', 'questions')}

The log-likelihood of an answer is the sum of those of its tokens, each after everything before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float64

from olmo_dynamics.names import Site
from olmo_dynamics.probes.tasks import SHIPPED, TaskRequests
from olmo_dynamics.probes.tasks.task_requests import NO_TARGET
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.context import ProbeTokens
from olmo_dynamics.recorders.inside.chosen_losses import ChosenLosses
from olmo_dynamics.recorders.tasks.answer_scores import METRICS, mean_and_error, of_items
from olmo_dynamics.recorders.tasks.task_source import TaskSource

LACKS_TASKS = f"needs tasks: give --tasks FILE.jsonl, or one of {', '.join(SHIPPED)}"


class TaskRecorder(Recorder):
    """The scores of the group `evaluation`, on the answers of tasks as a probe of its own."""

    group = GROUPS["evaluation"]
    sites = frozenset({Site.LOGITS})
    needs_whole_pass = True
    needs_tokenizer = True
    by_default = False

    def __init__(self, source: TaskSource | None = None) -> None:
        self._source = source
        self._losses: ChosenLosses | None = None

    @property
    def lacks(self) -> str:
        """Tasks, if it was given none."""
        return "" if self._source else LACKS_TASKS

    @property
    def reads_probe(self) -> bool:
        """False: it reads its own."""
        return False

    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the tasks."""
        return {"task": self._requests.domains}

    def attributes(self) -> Mapping[str, str | int | float]:
        """The hash of the requests, their number and length, and how many were cut on the left."""
        requests = self._requests
        answers, positions = requests.token_ids.shape
        return {"requests_sha256": requests.sha256, "answers": answers, "positions": positions, "cut": requests.cut}

    def probe(self) -> ProbeTokens:
        """The windows of all answers."""
        return self._requests

    def kept_bytes(self) -> int:
        """Ten numbers per token, of the whole and of each part."""
        return 2 * 80 * self._requests.token_ids.size

    def begin(self) -> None:
        """Choose the tokens of the answers."""
        if isinstance(self.context.probe, TaskRequests):
            targets = self._requests.targets
            self._losses = ChosenLosses(self._requests, targets != NO_TARGET, targets)

    def observe(self, seen: Observation) -> None:
        """Add the logits of some windows, for some columns of the vocabulary."""
        assert self._losses is not None
        self._losses.add(seen)

    def merge(self, other: TaskRecorder) -> None:
        """Add the windows that `other` saw."""
        if self._losses is not None and other._losses is not None:
            self._losses.merge(other._losses)

    def finish(self) -> Iterator[Record]:
        """The scores of each task."""
        found = self.log_likelihoods()
        if found is None:
            return
        requests = self._requests
        scores = of_items(requests, found)
        choices = np.bincount(requests.item)
        for number, task in enumerate(requests.domains):
            mine = requests.task_of_item == number
            for name in METRICS:
                mean, error = mean_and_error(scores[name][mine])
                yield self.record(name, mean, task=task)
                yield self.record(f"{name}_se", error, task=task)
            yield self.record("items", np.int64(mine.sum()), task=task)
            yield self.record("chance", (1 / choices[mine]).mean(), task=task)
            finite = np.isfinite(scores["accuracy"][mine]).all()
            yield self.record("status", np.uint8(Status.MEASURED if finite else Status.NONFINITE), task=task)

    def log_likelihoods(self) -> Float64[np.ndarray, " answers"] | None:
        """The log-likelihood of each answer in nats, in the order of the requests; None before any logits were seen."""
        if self._losses is None or not self._losses.seen:
            return None
        losses = self._losses.of_predictions()
        scored = self._requests.targets != NO_TARGET
        total: np.ndarray = -np.where(scored, losses, 0.0).sum(axis=1)
        return total

    @property
    def _requests(self) -> TaskRequests:
        assert self._source is not None
        return self._source.of(self.context)
