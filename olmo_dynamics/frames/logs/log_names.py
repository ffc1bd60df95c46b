"""Plain names and units for the metrics that trainers log under names of their own.

    >>> plain_names(["optim/LR (group 0)", "optim/LR (group 1)", "train/CE loss"])
    {'train/CE loss': 'loss', 'optim/LR (group 0)': 'learning_rate'}

Trainers log the mean cross-entropy under one name and whatever loss they minimise under another (a sum, a preference loss, a loss
with penalties); the unit of the latter is `as logged`.
"""

from __future__ import annotations

from collections.abc import Iterable

AS_LOGGED = "as logged"
"""The unit of a metric whose definition the trainer leaves to its user."""

_NAT, _GRADIENT = "nat/token", "nat/weight unit"

_PUBLISHED: dict[str, dict[str, str]] = {
    "loss": {
        "train/CrossEntropyLoss": _NAT,  # OLMo
        "train/CE loss": _NAT,  # OLMo-core
        "cross_entropy": _NAT,
        "train/loss": AS_LOGGED,  # transformers on Weights & Biases
        "loss": AS_LOGGED,
        "Loss": AS_LOGGED,  # Open Instruct
    },
    "perplexity": {"train/Perplexity": "1", "train/PPL": "1"},
    "z_loss": {"train/ZLoss": "nat²", "train/Z loss": "nat²", "z_loss": "nat²"},
    "gradient_norm": {
        "optim/total_grad_norm": _GRADIENT,
        "optim/total grad norm": _GRADIENT,
        "total_grad_norm": _GRADIENT,
        "train/grad_norm": AS_LOGGED,
        "grad_norm": AS_LOGGED,
    },
    "learning_rate": {
        "optim/learning_rate_group0": "1",
        "optim/LR (group 0)": "1",
        "optim/LR": "1",
        "train/learning_rate": "1",
        "learning_rate": "1",
        "lr": "1",
        "LR": "1",
    },
    "tokens_per_second_per_device": {
        "throughput/device/tokens_per_second": "token/s",
        "throughput/device/TPS": "token/s",
    },
    "tokens": {
        "throughput/total_tokens": "token",
        "throughput/total tokens": "token",
        "train/num_input_tokens_seen": "token",
        "num_input_tokens_seen": "token",
        "tokens": "token",
    },
    "epoch": {"train/epoch": "epoch", "epoch": "epoch"},
}


def plain_names(published: Iterable[str]) -> dict[str, str]:
    """The plain name of each metric of one file that has one; where several would share it, only that of the best known name."""
    given = set(published)
    best = {plain: next((name for name in names if name in given), None) for plain, names in _PUBLISHED.items()}
    return {name: plain for plain, name in best.items() if name is not None}


def unit_of(published: str) -> str:
    """The unit of a metric by its published name: `as logged` where no trainer's definition is known."""
    return next((names[published] for names in _PUBLISHED.values() if published in names), AS_LOGGED)
