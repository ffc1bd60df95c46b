"""The contents of `training_state/state.json`: the counters, the recipe, the random state, the last loss, recent losses.

>>> from olmo_dynamics.training.recipe import Recipe
>>> saved = SavedState(7, 448, 7, Recipe(steps=10), torch.Generator(), 5.5, LossHistory())
>>> parse_training_state(format_training_state(saved), "step7-tokens448").tokens_seen
448
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from olmo_dynamics.checkpoints.tensors import parse_object
from olmo_dynamics.errors import CheckpointError, OptionError, TrainingError
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.spike_skipping import LossHistory

STATE_FILE = "training_state/state.json"
MOMENTS_FILE = "training_state/optimizer.safetensors"
STATE_VERSION = 2
"""1 had no hashes of the checkpoint's files; 2 has them."""

COUNTERS = ("step", "tokens_seen", "position")


@dataclass(frozen=True)
class SavedState:
    """The training state beside weights and moments."""

    step: int
    tokens_seen: int
    position: int
    recipe: Recipe
    generator: torch.Generator
    loss: float  # NaN before the first update
    history: LossHistory
    version: int = STATE_VERSION


def format_training_state(saved: SavedState) -> bytes:
    """The contents of `state.json`."""
    fields = {
        "state_version": STATE_VERSION,
        **{name: getattr(saved, name) for name in COUNTERS},
        "loss": None if math.isnan(saved.loss) else saved.loss,
        "recipe": saved.recipe.to_json(),
        "random_state": base64.b64encode(saved.generator.get_state().numpy().tobytes()).decode(),
        "history": asdict(saved.history),
    }
    return (json.dumps(fields, indent=2) + "\n").encode()


def parse_training_state(text: bytes, where: str) -> SavedState:
    """Parse the contents of `state.json`; `where` names it in errors.

    Raises:
        CheckpointError: the state is damaged.
        TrainingError: the state is of a later version.
    """
    saved = parse_object(text, where, CheckpointError)
    version = saved.get("state_version")
    if type(version) is int and version > STATE_VERSION:
        raise TrainingError(
            f"{where} must have a state_version of at most {STATE_VERSION} (got {version}): update olmo-dynamics"
        )
    try:
        return _parse(saved)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, OptionError) as problem:
        reason = " ".join(f"{problem} is missing".split() if isinstance(problem, KeyError) else str(problem).split())
        raise CheckpointError(
            f"{where} is damaged ({reason:.160}): choose another checkpoint, or copy this one again"
        ) from None


def _parse(saved: Mapping[str, Any]) -> SavedState:
    version = _whole(saved, "state_version")
    step, tokens_seen, position = (_whole(saved, name) for name in COUNTERS)
    generator = torch.Generator()
    generator.set_state(torch.frombuffer(bytearray(base64.b64decode(saved["random_state"])), dtype=torch.uint8))
    loss = math.nan if saved["loss"] is None else float(saved["loss"])
    history = LossHistory(**saved["history"])
    return SavedState(step, tokens_seen, position, Recipe.from_json(saved["recipe"]), generator, loss, history, version)


def _whole(saved: Mapping[str, Any], name: str) -> int:
    value = saved[name]
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{name} must be a whole number of at least 0")
    return value
