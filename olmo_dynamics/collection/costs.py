"""What one revision costs, from its itinerary and the probe: bytes, requests, memory, operations.

>>> costs = costs_of(opened, study)  # doctest: +SKIP
>>> costs.nbytes, costs.flops  # doctest: +SKIP
(2969833472, 10600000000000)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from olmo_dynamics.collection.fetching import Opened
from olmo_dynamics.collection.itinerary import Bounds, Itinerary, Load
from olmo_dynamics.collection.study import Study
from olmo_dynamics.model.stream import EMBEDDING

_PROGRAM_BYTES = 400_000_000  # Python, torch and compiled kernels
_SLICE_BYTES = 64_000_000  # logits of a part of the vocabulary, and what is gathered of them
_COPIES = 6  # activations beside the residual stream: of one layer, a part of the sequences at a time


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one revision, or of several.

    `requests` are range requests for weights, `flops` multiplications and additions of the forward pass in matrix products,
    `peak_bytes` what is held in memory at once, mapped files not counted.
    """

    nbytes: int
    requests: int
    surveyed_bytes: int
    flops: float
    peak_bytes: int


def together(costs: Sequence[Costs]) -> Costs:
    """The costs of several revisions, one after another."""
    return Costs(
        nbytes=sum(each.nbytes for each in costs),
        requests=sum(each.requests for each in costs),
        surveyed_bytes=sum(each.surveyed_bytes for each in costs),
        flops=sum(each.flops for each in costs),
        peak_bytes=max((each.peak_bytes for each in costs), default=0),
    )


def costs_of(opened: Opened, study: Study, bounds: Bounds, *, mapped: bool) -> Costs:
    """The costs of a revision; `mapped` where its files lie on this machine, and are neither asked for nor copied."""
    way = opened.itinerary
    surveyed = set(study.measured(opened.groups))
    return Costs(
        nbytes=way.nbytes,
        requests=0 if mapped else count_requests(way.loads),
        surveyed_bytes=sum(info.nbytes for stop in way.stops for info in stop.infos if info.name in surveyed),
        flops=_flops(way, opened, study),
        peak_bytes=_PROGRAM_BYTES + _activation_bytes(way, study) + (0 if mapped else _weight_bytes(way, bounds)),
    )


def count_requests(loads: Iterable[Load]) -> int:
    """Range requests for loads: neighbours are joined, what is large is shared by the connections."""
    from olmo_dynamics.checkpoints.wire import request_bytes  # huggingface_hub takes a third of a second to import

    count = 0
    for load in loads:
        limit = request_bytes(load.nbytes)
        runs: list[list[int]] = []
        for info in sorted(load.infos, key=lambda info: (info.file, info.start)):
            if runs and info.start == runs[-1][1]:
                runs[-1][1] = info.stop
            else:
                runs.append([info.start, info.stop])
        count += sum(-(-(stop - start) // limit) for start, stop in runs)
    return count


def _flops(way: Itinerary, opened: Opened, study: Study) -> float:
    """Two for each token and weight of a matrix, of experts those that a token sees; and those of attention."""
    config, probe = study.config, study.probe
    stages = [stop.stage for stop in way.stops if stop.stage is not None and stop.stage.name != EMBEDDING]
    if config is None or probe is None or not stages:
        return 0.0
    tensors = opened.checkpoint.tensors
    used = 1.0 if config.experts is None else config.experts.per_token / config.experts.count
    matrices = [tensors[name] for stage in stages for name in stage.tensors if len(tensors[name].shape) == 2]
    weights = sum(info.size * (used if info.expert >= 0 else 1) for info in matrices)
    sequences, positions = probe.shape
    blocks = sum(stage.layer >= 0 for stage in stages)
    attention = 2 * sequences * positions**2 * config.heads * config.head_dim * blocks  # causal: half of all pairs
    return 2.0 * sequences * positions * weights + attention


def _activation_bytes(way: Itinerary, study: Study) -> int:
    if study.config is None or study.probe is None or not any(stop.stage for stop in way.stops):
        return 0
    sequences, positions = study.probe.shape
    item = study.compute_dtype.itemsize
    return (1 + _COPIES) * sequences * positions * study.config.hidden_size * item + _SLICE_BYTES


def _weight_bytes(way: Itinerary, bounds: Bounds) -> int:
    """What is in use, what is fetched ahead of it, and what is held before its turn."""
    return max((stop.nbytes for stop in way.stops), default=0) + min(bounds.ahead, way.nbytes) + way.early_bytes
