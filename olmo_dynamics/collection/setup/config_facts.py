"""The contents of a revision's `config.json`, as far as they can be read and stored.

Measuring weights needs no config. So a missing or damaged one is no error here; the parser of `olmo_dynamics.model` refuses
it where a forward pass needs it.
"""

from __future__ import annotations

import math
from typing import Any

from olmo_dynamics.checkpoints import Checkpoint

MOST_LEVELS = 16
MOST_TEXT = 4096  # characters of one text
MOST_ENTRIES = 10_000  # of one list or object


def describe_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config in the store's attributes: plain JSON in Unicode, of bounded size."""
    found: dict[str, Any] = _plain(checkpoint.stated_config, MOST_LEVELS)
    if not isinstance(found.get("model_type", ""), str):
        found["model_type"] = "unknown"
    return found


def _plain(value: Any, levels: int) -> Any:
    """A value that any reader of JSON takes; a number that JSON lacks is text, and the rest of a huge value is dropped."""
    if isinstance(value, dict | list) and not levels:
        return "…"
    if isinstance(value, dict):
        some = list(value.items())[:MOST_ENTRIES]
        return {_plain(key, levels): _plain(each, levels - 1) for key, each in some}
    if isinstance(value, list):
        return [_plain(each, levels - 1) for each in value[:MOST_ENTRIES]]
    if isinstance(value, str):
        return value[:MOST_TEXT].encode("utf-8", "replace").decode("utf-8")
    unlike_json = isinstance(value, float) and not math.isfinite(value)
    too_large = isinstance(value, int) and not -(1 << 63) <= value < 1 << 64
    return str(value)[:MOST_TEXT] if unlike_json or too_large else value
