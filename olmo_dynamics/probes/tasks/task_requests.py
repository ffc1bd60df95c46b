"""Answers as tokens: one window per choice, of the context and the choice, and the tokens of the choice to be predicted.

    >>> requests = TaskRequests.of(read_tasks(["arithmetic"]), tokenizer, vocab_size=320, longest=256)  # doctest: +SKIP
    >>> requests.token_ids.shape  # doctest: +SKIP
    (96, 31)

The boundary between context and answer is that of lm-evaluation-harness 0.4.13: trailing spaces of the context go to the answer;
the answer's tokens are those of the whole text without as many as the context has alone, each with the tokens that the tokenizer
adds of its own. Without a context the tokenizer's token for the beginning of a text stands before the answer. What is longer than
the model reads is cut on the left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Int64

from olmo_dynamics.errors import ProbeError
from olmo_dynamics.probes.probe import UNKNOWN_BYTES
from olmo_dynamics.probes.tasks.task_files import Task, TaskItem
from olmo_dynamics.probes.tokenizer import ProbeTokenizer

NO_TARGET = -1
"""The target of a position that predicts no token of an answer."""


class AnswerTokens(NamedTuple):
    """One choice of an item as the model reads it."""

    context: tuple[int, ...]
    answer: tuple[int, ...]
    text: str  # of the answer, as it is scored


@dataclass(frozen=True, eq=False)
class TaskRequests:
    """The choices of all items of all tasks, in order, as windows of token ids with padding on the right.

    A window holds the tokens that the model reads: all but the answer's last one. `targets` are the tokens of the answer at the
    positions that predict them. `item` and `choice` tell which choice of which item a window is; `characters` counts those of
    the choice, `text_bytes` the UTF-8 bytes of the text that is scored. Windows have a task as their domain.
    """

    domains: tuple[str, ...]
    tokenizer_size: int
    token_ids: Int64[np.ndarray, "answers positions"]
    mask: Bool[np.ndarray, "answers positions"]
    targets: Int64[np.ndarray, "answers positions"]
    item: Int64[np.ndarray, " answers"]
    characters: Int64[np.ndarray, " answers"]
    text_bytes: Int64[np.ndarray, " answers"]
    task_of_item: Int64[np.ndarray, " items"]
    gold: Int64[np.ndarray, " items"]
    cut: int  # windows whose beginning was left out

    @classmethod
    def of(cls, tasks: Sequence[Task], tokenizer: ProbeTokenizer, *, vocab_size: int, longest: int) -> Self:
        """The requests of a model with so many ids and positions.

        Raises:
            ProbeError: a choice has no tokens of its own, or tokens that the model does not know.
        """
        rows = [(number, task, item) for number, task in enumerate(tasks) for item in task.items]
        requests: list[AnswerTokens] = []
        for _, task, item in rows:
            requests += _requests(task, item, tokenizer, vocab_size)
        item_of = [place for place, (_, _, item) in enumerate(rows) for _ in item.choices]
        whole = [(*each.context, *each.answer)[-(longest + 1) :] for each in requests]
        width = max(map(len, whole)) - 1
        token_ids, targets = (np.full((len(whole), width), fill, dtype=np.int64) for fill in (0, NO_TARGET))
        for row, ids in enumerate(whole):
            token_ids[row, : len(ids) - 1] = ids[:-1]
            scored = min(len(requests[row].answer), len(ids) - 1)
            targets[row, len(ids) - 1 - scored : len(ids) - 1] = ids[-scored:]
        return cls(
            domains=tuple(task.name for task in tasks),
            tokenizer_size=tokenizer.size,
            token_ids=token_ids,
            mask=np.arange(width) < np.array([len(ids) - 1 for ids in whole])[:, None],
            targets=targets,
            item=np.array(item_of, dtype=np.int64),
            characters=np.array([len(choice) for *_, item in rows for choice in item.choices], dtype=np.int64),
            text_bytes=np.array([len(each.text.encode()) for each in requests], dtype=np.int64),
            task_of_item=np.array([number for number, *_ in rows], dtype=np.int64),
            gold=np.array([item.gold for *_, item in rows], dtype=np.int64),
            cut=sum(len(each.context) + len(each.answer) > longest + 1 for each in requests),
        )

    @property
    def domain(self) -> Int64[np.ndarray, " answers"]:
        """The task of each window."""
        tasks: np.ndarray = self.task_of_item[self.item]
        return tasks

    @property
    def token_bytes(self) -> Int64[np.ndarray, "answers positions"]:
        """Unknown: bytes are counted by answer."""
        return np.full(self.token_ids.shape, UNKNOWN_BYTES)

    @cached_property
    def sha256(self) -> str:
        """The hash of everything that decides a score, in hexadecimal."""
        digest = hashlib.sha256(json.dumps([self.domains, self.token_ids.shape]).encode())
        for array in (self.token_ids, self.mask, self.targets, self.item, self.characters, self.text_bytes,
                      self.task_of_item, self.gold):  # fmt: skip
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()


def split_at_boundary(context: str, delimiter: str, choice: str) -> tuple[str, str]:
    """The context without its trailing spaces, and the text that is scored, with these before it.

    >>> split_at_boundary("Answer: ", "", "12")
    ('Answer:', ' 12')
    """
    kept = context.rstrip()
    return kept, context[len(kept) :] + delimiter + choice


def _requests(task: Task, item: TaskItem, tokenizer: ProbeTokenizer, vocab_size: int) -> Iterator[AnswerTokens]:
    for choice in item.choices:
        context, text = split_at_boundary(item.context, item.delimiter, choice)
        if context:
            before = tokenizer.encode(context, with_special_tokens=True)
            answer = tokenizer.encode(context + text, with_special_tokens=True)[len(before) :]
        else:
            before, answer = _beginning(task, item, tokenizer), tokenizer.encode(text)
        if not answer or not before:
            raise ProbeError(
                f"{task.origin} line {item.line} must have choices with tokens of their own (got {choice!r}, which the "
                "tokenizer joins to the context); begin it with a space, or end the context at a word"
            )
        largest = max(*before, *answer)
        if largest >= vocab_size:
            raise ProbeError(
                f"{task.origin} line {item.line}: token id {largest} is outside the model's vocabulary of {vocab_size} ids; use "
                "the tokenizer that belongs to the model"
            )
        yield AnswerTokens(tuple(before), tuple(answer), text)


def _beginning(task: Task, item: TaskItem, tokenizer: ProbeTokenizer) -> list[int]:
    """The token before an answer without a context."""
    first = tokenizer.beginning_of_text
    if first is None:
        raise ProbeError(
            f"{task.origin} line {item.line} must have a context, since the tokenizer has no token that begins a text"
        )
    return [first]
