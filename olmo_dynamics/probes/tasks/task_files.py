"""Files of tasks: one JSON object per line, a question with its choices or a pair of sentences.

    {"context": "Question: 7 + 5 =\\nAnswer:", "choices": ["12", "13"], "gold": 0}
    {"good": "The keys are here.", "bad": "The keys is here."}

A line is an item; the file's name without its ending is the task's. `gold` counts from 0. Of a pair, `good` is the right answer.
`delimiter`, a space unless given, stands between the context and each choice, as in lm-evaluation-harness. `context` may be left
out, and `id` is free. Nothing else may be in a line, so that a misspelled field is seen.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from olmo_dynamics.errors import ProbeError, did_you_mean
from olmo_dynamics.names import SHIPPED_TASKS as SHIPPED

SUFFIXES = (".jsonl", ".jsonl.gz")
_CHOICE = ("context", "choices", "gold", "delimiter", "id")
_PAIR = ("context", "good", "bad", "delimiter", "id")
_MOST_BYTES = 64 << 20  # of a file: its requests are held whole


@dataclass(frozen=True, slots=True)
class TaskItem:
    """One question: the text before the answers, the answers, the place of the right one, and the line of the file."""

    context: str
    choices: tuple[str, ...]
    gold: int
    delimiter: str = " "
    line: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """The items of one file; `origin` is its path, or the name of a task that ships with the package."""

    name: str
    items: tuple[TaskItem, ...]
    origin: str


def read_tasks(given: Sequence[str | Path]) -> tuple[Task, ...]:
    """Read tasks: files (`.jsonl`, `.jsonl.gz`), or names of those that ship with the package.

    Raises:
        ProbeError: a file cannot be read, a line is not an item, or two tasks have one name.
    """
    tasks: dict[str, Task] = {}
    for each in given:
        task = _shipped(str(each)) if str(each) in SHIPPED else _task(Path(each).expanduser())
        if task.name in tasks:
            raise ProbeError(
                f"tasks must differ in their names (got {tasks[task.name].origin} and {task.origin} for {task.name}); "
                "rename a file"
            )
        tasks[task.name] = task
    return tuple(tasks.values())


def _shipped(name: str) -> Task:
    raw = files(__package__).joinpath("shipped", f"{name}.jsonl").read_bytes()
    return Task(name, tuple(_items(raw, name)), name)


def _task(path: Path) -> Task:
    suffix = next((each for each in SUFFIXES if path.name.endswith(each) and path.name != each), None)
    if suffix is None or not path.is_file():
        must = f"tasks must be files of JSON lines (*.jsonl, *.jsonl.gz), or of {', '.join(SHIPPED)}"
        raise ProbeError(f"{must} (got {path}{'' if suffix is None else ', which does not exist'})")
    items = tuple(_items(_read(path, suffix), str(path)))
    if not items:
        raise ProbeError(f"{path} must hold at least one item (got no line with text)")
    return Task(path.name.removesuffix(suffix), items, str(path))


def _read(path: Path, suffix: str) -> bytes:
    try:
        with gzip.open(path) if suffix.endswith(".gz") else path.open("rb") as file:
            raw: bytes = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ProbeError(
            f"cannot read the tasks in {path}: {getattr(error, 'strerror', None) or error}; check the file"
        ) from error
    if len(raw) > _MOST_BYTES:
        raise ProbeError(f"{path} must hold at most {_MOST_BYTES >> 20} MiB of tasks; take a part of it")
    return raw


def _items(raw: bytes, origin: str) -> Iterator[TaskItem]:
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            try:
                yield _item(json.loads(line), number)
            except _LineError as error:
                raise ProbeError(f"{origin} line {number} {error}") from None
            except (ValueError, RecursionError) as error:
                reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                raise ProbeError(f"{origin} line {number} must be a JSON object in UTF-8 (got: {reason})") from None


class _LineError(Exception):
    """The reason why a line is not an item, as the rest of a sentence."""


def _item(fields: Any, line: int) -> TaskItem:
    if not isinstance(fields, dict):
        raise _LineError(f"must be a JSON object (got {_shown(fields)})")
    known = _PAIR if "good" in fields or "bad" in fields else _CHOICE
    unknown = next((name for name in fields if name not in known), None)
    if unknown is not None:
        raise _LineError(f"must have no field but {', '.join(known)} (got {unknown!r}){did_you_mean(unknown, known)}")
    context, delimiter = _text(fields, "context", ""), _text(fields, "delimiter", " ")
    if context and not context.strip():
        raise _LineError(f"must have a context with a letter, or none (got {context!r})")
    choices = (_text(fields, "good"), _text(fields, "bad")) if known is _PAIR else _choices(fields.get("choices"))
    gold = 0 if known is _PAIR else _gold(fields.get("gold"), len(choices))
    if "" in choices or len(set(choices)) < len(choices):
        raise _LineError(f"must have choices that differ, none of them empty (got {_shown(list(choices))})")
    return TaskItem(context, choices, gold, delimiter, line)


def _text(fields: dict[str, Any], name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str) or not _encodes(value):
        raise _LineError(f"must have text as {name} (got {_shown(value)})")
    return value


def _choices(given: Any) -> tuple[str, ...]:
    if (
        not isinstance(given, list)
        or len(given) < 2
        or not all(isinstance(each, str) and _encodes(each) for each in given)
    ):
        raise _LineError(f"must have a list of at least 2 texts as choices (got {_shown(given)})")
    return tuple(given)


def _gold(given: Any, count: int) -> int:
    if type(given) is not int or not 0 <= given < count:
        raise _LineError(
            f"must have a whole number from 0 to {count - 1} as gold, the place of the right choice (got {_shown(given)})"
        )
    return given


def _encodes(text: str) -> bool:
    """False for text with half of a surrogate pair."""
    return text.isascii() or all(not "\ud800" <= each <= "\udfff" for each in text)


def _shown(value: object) -> str:
    """A value as JSON, cut short; a missing one as such."""
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
