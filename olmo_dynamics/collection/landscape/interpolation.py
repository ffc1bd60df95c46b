"""Losses along the line between the weights of two checkpoints, with one stage of each in memory at a time.

    >>> found = path_losses(first, second, path_shares(11), {"batch": "8x512"}, Progress())  # doctest: +SKIP
    >>> found.cross_entropy.shape  # [shares, domains]  # doctest: +SKIP
    (11, 6)

The weights at a share a are (1 - a) θ₁ + a θ₂, tensor by tensor, in float32 (in float64 where the weights or the pass are),
and cast to the compute dtype afterwards. Each share has a forward pass of its own. All of them go through a stage before the
weights of the next one are read, so every byte is read once; memory holds one stage of each checkpoint, the next one's bytes,
and the residual stream of every share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.feed import FeedOptions
from olmo_dynamics.collection.options import ProbeKeywords
from olmo_dynamics.collection.recorded_pass import RecordedPass
from olmo_dynamics.collection.setup.probe_windows import choose_probe
from olmo_dynamics.errors import CheckpointError, OptionError, reject_unknown
from olmo_dynamics.model import Compute, ModelConfig, Stage, check_shapes, resolve_config, to_tensor
from olmo_dynamics.progress import Progress
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.recorders import find_recorders

GROUP = "loss"
_NAMES = ("cross_entropy", "bits_per_byte", "scored_tokens")

Weights = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class PathLosses:
    """Losses of a probe at each share of the way from the first checkpoint to the second, by domain."""

    shares: tuple[float, ...]
    domains: tuple[str, ...]
    cross_entropy: Float[np.ndarray, "shares domains"]  # nats per token
    bits_per_byte: Float[np.ndarray, "shares domains"]
    scored_tokens: Int64[np.ndarray, " domains"]


def path_shares(points: int | Sequence[float]) -> tuple[float, ...]:
    """Shares of the way: so many evenly spaced ones, or those given, in order and with both ends.

    >>> path_shares(3), path_shares([0.25])
    ((0.0, 0.5, 1.0), (0.0, 0.25, 1.0))

    Raises:
        OptionError: there are fewer than 2, or a share lies outside 0 to 1.
    """
    if isinstance(points, int):
        if points < 2:
            raise OptionError(f"points must be at least 2, the two ends (got {points})")
        return tuple(place / (points - 1) for place in range(points))
    shares = sorted({0.0, 1.0, *map(float, points)})
    if not (shares[0] >= 0 and shares[-1] <= 1):
        outside = next(share for share in shares if not 0 <= share <= 1)
        raise OptionError(f"points must be shares of the way from 0 to 1 (got {outside:g})")
    return tuple(shares)


def path_losses(
    first: Checkpoint,
    second: Checkpoint,
    shares: Sequence[float],
    given: ProbeKeywords,
    progress: Progress,
) -> PathLosses:
    """The losses of the probe along the line from the first checkpoint to the second.

    Raises:
        CheckpointError: a checkpoint cannot be read, or the two are not of one model.
        OptionError: an option is unknown or cannot be used.
        ProbeError: the text cannot be read, or there is no tokenizer to read it with.
    """
    reject_unknown(given, ProbeKeywords.__annotations__)
    words: Any = {**given}
    options = FeedOptions.of(words)
    config = _shared_config(first, second)
    probe, notes = choose_probe(first, options.measure, config)
    for note in notes:
        progress.note(note)
    compute = Compute(device=options.measure.device, dtype=options.compute_dtype, threads=options.limits.threads)
    passes = [RecordedPass(config, probe, find_recorders([GROUP]), groups=(GROUP,), compute=compute) for _ in shares]
    records: list[list[Record]] = [[] for _ in shares]
    stages = passes[0].stages
    progress.expect(revisions=1, nbytes=len(stages) * len(shares))
    for stage, mine, theirs in _weights(first, second, stages):
        progress.begin(stage.name)
        for place, share in enumerate(shares):
            between = {name: mixed(mine[name], theirs[name], share, compute.dtype) for name in stage.tensors}
            records[place] += passes[place].run(stage, between)
            progress.advance(1)
    return _gathered(shares, probe.domains, records)


def mixed(first: Tensor, second: Tensor, share: float, compute: torch.dtype = torch.float32) -> Tensor:
    """(1 - share) θ₁ + share θ₂ in float32, or in float64 where one of the dtypes is; exact at both ends and between equals.

    >>> mixed(torch.tensor([1.0]), torch.tensor([2.0]), 0.25)
    tensor([1.2500])
    """
    wide = torch.float64 if torch.float64 in (first.dtype, second.dtype, compute) else torch.float32
    return torch.lerp(first.to(wide), second.to(wide), share)


def _shared_config(first: Checkpoint, second: Checkpoint) -> ModelConfig:
    """The model that both checkpoints are of."""
    mine, theirs = _config(first), _config(second)
    for field in fields(mine):
        here, there = getattr(mine, field.name), getattr(theirs, field.name)
        if here != there:
            raise CheckpointError(
                f"{first.label} and {second.label} must be of one model to be interpolated; their {field.name} are "
                f"{here} and {there}"
            )
    if not mine.has_head:
        raise CheckpointError(f"{first.label} must have a language-model head to have a loss")
    return mine


def _config(checkpoint: Checkpoint) -> ModelConfig:
    config = resolve_config(checkpoint.config, checkpoint.tensors, checkpoint.read_many)
    check_shapes(config, checkpoint.tensors)
    return config


def _weights(
    first: Checkpoint, second: Checkpoint, stages: Sequence[Stage]
) -> Iterator[tuple[Stage, Weights, Weights]]:
    """Each stage with the weights of both checkpoints, as they were stored; the next one's are read meanwhile."""
    later = {name for stage in stages[1:] for name in stage.tensors}
    again = {name for name in stages[0].tensors if name in later}  # a tied embedding is the head too
    kept: tuple[Weights, Weights] = ({}, {})

    def read(stage: Stage) -> list[Weights]:
        return [_read(each, stage, held, again) for each, held in zip((first, second), kept, strict=True)]

    with ThreadPoolExecutor(1, thread_name_prefix="olmo-dynamics-read") as reading:
        ahead = reading.submit(read, stages[0])
        for stage, following in zip_longest(stages, stages[1:]):
            mine, theirs = ahead.result()
            if following is not None:
                ahead = reading.submit(read, following)
            yield stage, mine, theirs


def _read(checkpoint: Checkpoint, stage: Stage, kept: Weights, again: set[str]) -> Weights:
    infos = [checkpoint.tensors[name] for name in stage.tensors if name not in kept]
    found = {name: to_tensor(raw, checkpoint.tensors[name]) for name, raw in checkpoint.read_many(infos).items()}
    kept.update((name, tensor) for name, tensor in found.items() if name in again)
    return kept | found


def _gathered(shares: Sequence[float], domains: tuple[str, ...], records: Sequence[Sequence[Record]]) -> PathLosses:
    tables: dict[str, Any] = {name: np.full((len(shares), len(domains)), math.nan) for name in _NAMES}
    for place, found in enumerate(records):
        for record in found:
            if record.quantity.name in tables:
                domain = domains.index(str(record.at["domain"]))
                tables[record.quantity.name][place, domain] = float(record.values)
    return PathLosses(
        tuple(shares),
        domains,
        tables["cross_entropy"],
        tables["bits_per_byte"],
        tables["scored_tokens"][0].astype(np.int64),
    )
