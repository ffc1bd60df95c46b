"""The cost of one revision, from its fetch plan, the probes and the recorders: bytes, requests, memory, operations.

>>> costs = estimate(opened, setup)  # doctest: +SKIP
>>> costs.nbytes, costs.flops  # doctest: +SKIP
(2969833472, 10600000000000)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from olmo_dynamics.checkpoints.http.ranges import request_bytes
from olmo_dynamics.collection.fetch_plan import Bounds, FetchPlan, Load
from olmo_dynamics.collection.prefetch import OpenRevision
from olmo_dynamics.collection.setup import CollectionSetup
from olmo_dynamics.model.stream import EMBEDDING

_PROGRAM_BYTES = 400_000_000  # Python, torch and compiled kernels
_SLICE_BYTES = 64_000_000  # logits of a part of the vocabulary, and what is gathered of them
_COPIES = 6  # activations beside the residual stream: of one layer, a part of the sequences at a time


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The cost of one revision, or of several.

    Attributes:
        nbytes: weight bytes to read.
        requests: range requests for weights.
        surveyed_bytes: weight bytes of which statistics are taken.
        flops: multiplications and additions of the forward pass in matrix products.
        peak_bytes: the most memory held at once, mapped files not counted.
    """

    nbytes: int
    requests: int
    surveyed_bytes: int
    flops: float
    peak_bytes: int


def together(costs: Sequence[CostEstimate]) -> CostEstimate:
    """The costs of several revisions, one after another."""
    return CostEstimate(
        nbytes=sum(each.nbytes for each in costs),
        requests=sum(each.requests for each in costs),
        surveyed_bytes=sum(each.surveyed_bytes for each in costs),
        flops=sum(each.flops for each in costs),
        peak_bytes=max((each.peak_bytes for each in costs), default=0),
    )


def estimate(opened: OpenRevision, setup: CollectionSetup, bounds: Bounds, *, mapped: bool) -> CostEstimate:
    """The costs of a revision; `mapped` where its files lie on this machine, and are neither asked for nor copied."""
    fetch_plan = opened.fetch_plan
    surveyed = set(setup.measured(opened.groups))
    return CostEstimate(
        nbytes=fetch_plan.nbytes,
        requests=0 if mapped else count_requests(fetch_plan.loads),
        surveyed_bytes=sum(info.nbytes for step in fetch_plan.steps for info in step.infos if info.name in surveyed),
        flops=_flops(fetch_plan, opened, setup),
        peak_bytes=_PROGRAM_BYTES
        + _activation_bytes(opened, setup)
        + setup.kept_bytes(opened.groups)
        + (0 if mapped else _weight_bytes(fetch_plan, bounds)),
    )


def count_requests(loads: Iterable[Load]) -> int:
    """Range requests for loads: neighbours are joined, what is large is shared by the connections."""
    count = 0
    for load in loads:
        limit = request_bytes(load.nbytes)
        runs: list[list[int]] = []
        for info in sorted(load.infos, key=lambda info: (info.file, info.start)):
            if runs and info.start == runs[-1][1]:
                runs[-1][1] = info.stop
            else:
                runs.append([info.start, info.stop])
        count += sum(-(-(step - start) // limit) for start, step in runs)
    return count


def _flops(fetch_plan: FetchPlan, opened: OpenRevision, setup: CollectionSetup) -> float:
    """Two for each token and weight of a matrix, of experts those that a token sees; and those of attention."""
    config = setup.config
    stages = [step.stage for step in fetch_plan.steps if step.stage is not None and step.stage.name != EMBEDDING]
    if config is None or not stages:
        return 0.0
    tensors = opened.checkpoint.tensors
    used = 1.0 if config.experts is None else config.experts.per_token / config.experts.count
    matrices = [tensors[name] for stage in stages for name in stage.tensors if len(tensors[name].shape) == 2]
    weights = sum(info.size * (used if info.expert >= 0 else 1) for info in matrices)
    blocks = sum(stage.layer >= 0 for stage in stages)
    pairs = config.heads * config.head_dim * blocks
    return sum(
        2.0 * sequences * positions * weights + 2 * sequences * positions**2 * pairs  # causal: half of all pairs
        for sequences, positions in setup.probe_shapes(opened.groups)
    )


def _activation_bytes(opened: OpenRevision, setup: CollectionSetup) -> int:
    """The stream of every probe, and the activations of one layer beside it."""
    if setup.config is None or not any(step.stage for step in opened.fetch_plan.steps):
        return 0
    shapes = setup.probe_shapes(opened.groups)
    tokens = sum(sequences * positions for sequences, positions in shapes)
    most = max((sequences * positions for sequences, positions in shapes), default=0)
    return (tokens + _COPIES * most) * setup.config.hidden_size * setup.compute_dtype.itemsize + _SLICE_BYTES


def _weight_bytes(fetch_plan: FetchPlan, bounds: Bounds) -> int:
    """The bytes in use, those fetched ahead of use, and those held before their turn."""
    in_use = max((step.nbytes for step in fetch_plan.steps), default=0)
    return in_use + min(bounds.ahead, fetch_plan.nbytes) + fetch_plan.early_bytes
