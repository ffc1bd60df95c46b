"""The cost of one revision, from its fetch plan, the probes and the recorders: bytes, requests, memory, operations.

>>> costs = estimate(opened, setup)  # doctest: +SKIP
>>> costs.nbytes, costs.flops  # doctest: +SKIP
(2969833472, 10600000000000)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from olmo_dynamics.checkpoints.http.ranges import request_bytes
from olmo_dynamics.checkpoints.tensors import HEADER_GUESS
from olmo_dynamics.collection.backward import gradient_bytes
from olmo_dynamics.collection.fetch_plan import Bounds, FetchPlan
from olmo_dynamics.collection.memory_budget import most_held
from olmo_dynamics.collection.prefetch import OPEN_AHEAD, OpenRevision
from olmo_dynamics.collection.setup import CollectionSetup
from olmo_dynamics.collection.setup.pass_memory import pass_bytes
from olmo_dynamics.model import Compute, ModelConfig, Stage
from olmo_dynamics.model.stream import EMBEDDING
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities.declaration import Reads
from olmo_dynamics.recorders.kernels.jit import is_compiled

_LOADED_BYTES = 100_000_000  # compiled kernels, and memory that libraries and allocators keep
_COMPILING_BYTES = 200_000_000  # kernels that are compiled at first use
_STORED = {
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}  # the dtypes that a pass reads as they are
_GRADIENT_PASSES = 4.0  # forward, and again before the way back, which costs two


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The cost of one revision, or of several.

    Attributes:
        nbytes: bytes to read: the weights, the optimiser's state if a group reads it, and what was read to open it.
        requests: range requests for them.
        surveyed_bytes: bytes of weights, and of an optimiser's state, of which statistics are taken.
        flops: multiplications and additions of the passes through the model in matrix products.
        peak_bytes: the most memory of the process at once, parts of mapped files in use included.
        beside: time of recorders beside the statistics, by group, as weight bytes whose statistics take as long.
    """

    nbytes: int
    requests: int
    surveyed_bytes: int
    flops: float
    peak_bytes: int
    beside: Mapping[str, float] = field(default_factory=dict)


def together(costs: Sequence[CostEstimate]) -> CostEstimate:
    """The costs of several revisions, one after another."""
    return CostEstimate(
        nbytes=sum(each.nbytes for each in costs),
        requests=sum(each.requests for each in costs),
        surveyed_bytes=sum(each.surveyed_bytes for each in costs),
        flops=sum(each.flops for each in costs),
        peak_bytes=max((each.peak_bytes for each in costs), default=0),
        beside=_sums([each.beside for each in costs]),
    )


def estimate(
    opened: OpenRevision,
    setup: CollectionSetup,
    bounds: Bounds,
    *,
    mapped: bool,
    threads: int = 1,
    resident: int = 0,
    revisions: int = 1,
) -> CostEstimate:
    """The costs of a revision.

    Args:
        opened: the revision, of which no weight was read yet.
        setup: the collection's setup.
        bounds: how much may be fetched ahead.
        mapped: True where its files lie on this machine, and are neither asked for nor copied.
        threads: those that compute, each with a part of the probe.
        resident: the memory that the process has without the revision.
        revisions: those measured one after another, of which the next ones are fetched meanwhile.
    """
    fetch_plan = opened.fetch_plan
    surveyed = set(setup.measured(opened.groups))
    first = [step for step in fetch_plan.steps if not step.again]
    measured = [info for step in first for info in step.infos if info.name in surveyed or step.states]
    front = 0 if mapped or opened.checkpoint.stored_as else HEADER_GUESS  # it was read with the header
    left = [[_behind(info, front) for info in load.infos] for load in fetch_plan.loads]
    return CostEstimate(
        nbytes=opened.moved + sum(stop - start for spans in left for _, start, stop in spans),
        requests=0 if mapped else opened.requests + sum(map(count_requests, left)),
        surveyed_bytes=sum(info.nbytes for info in measured),
        flops=_flops(fetch_plan, opened, setup),
        peak_bytes=resident
        + _LOADED_BYTES
        + (0 if is_compiled() else _COMPILING_BYTES)
        + max(_pass_bytes(opened, setup, threads), _gradient_bytes(opened, setup))
        + setup.kept_bytes(opened.groups)
        + (_in_use(fetch_plan) if mapped else _weight_bytes(fetch_plan, bounds, revisions)),
        beside=_beside(opened, setup),
    )


def without_tokenizer(cost: CostEstimate, opened: OpenRevision, setup: CollectionSetup) -> CostEstimate:
    """The costs of a revision after the first, whose tokenizer is known to be the first one's and is not read again."""
    if not setup.tokenizer_id or opened.requests == 0:
        return cost
    size = opened.checkpoint.files["tokenizer.json"]
    requests = -(-size // request_bytes(size))
    return replace(cost, nbytes=cost.nbytes - size, requests=cost.requests - requests)


def count_requests(spans: Collection[tuple[str, int, int]]) -> int:
    """Range requests for spans of files: neighbours are joined, what is large is shared by the connections.

    >>> count_requests([("a", 0, 5), ("a", 5, 9), ("a", 20, 30)])
    2
    """
    limit = request_bytes(sum(stop - start for _, start, stop in spans))
    runs: list[tuple[str, int, int]] = []
    for file, start, stop in sorted(spans):
        if runs and (file, start) == (runs[-1][0], runs[-1][2]):
            runs[-1] = (file, runs[-1][1], stop)
        elif start < stop:
            runs.append((file, start, stop))
    return sum(-(-(stop - start) // limit) for _, start, stop in runs)


def _beside(opened: OpenRevision, setup: CollectionSetup) -> dict[str, float]:
    """The bytes that each recorder of weights reads, times its cost; groups without a cost are left out."""
    chosen = [opened.checkpoint.tensors[info.name] for info in setup.tensors]
    found = {
        each.group.name: sum(info.nbytes * each.cost(info) for info in chosen if each.selects(info))
        for each in setup.recorders_of(opened.groups, Reads.WEIGHTS)
    }
    return {group: cost for group, cost in found.items() if cost}


def _sums(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    groups = dict.fromkeys(group for part in parts for group in part)
    return {group: sum(part.get(group, 0.0) for part in parts) for group in groups}


def _behind(info: TensorInfo, front: int) -> tuple[str, int, int]:
    """The span of a tensor without the part of it in the front of its file."""
    return info.file, min(max(info.start, front), info.stop), info.stop


def _flops(fetch_plan: FetchPlan, opened: OpenRevision, setup: CollectionSetup) -> float:
    """Those of a forward pass over every probe that one reads; of gradients, a pass forward and three back."""
    config = setup.config
    stages = [step.stage for step in fetch_plan.steps if step.stage is not None and not step.again]
    if config is None or not stages:
        return 0.0
    passes = [(shape, 1.0) for shape in setup.probe_shapes(opened.groups)]
    if setup.probe is not None and setup.recorders_of(opened.groups, Reads.GRADIENTS):
        passes.append((setup.probe.shape, _GRADIENT_PASSES))
    return sum(times * _pass_flops(config, stages, opened, shape) for shape, times in passes)


def _pass_flops(config: ModelConfig, stages: Sequence[Stage], opened: OpenRevision, shape: tuple[int, int]) -> float:
    """Two for each token and weight of a matrix, of experts those that a token sees; and those of attention."""
    tensors, (sequences, positions) = opened.checkpoint.tensors, shape
    used = 1.0 if config.experts is None else config.experts.per_token / config.experts.count
    names = [name for stage in stages if stage.name != EMBEDDING for name in stage.tensors]
    matrices = [tensors[name] for name in names if len(tensors[name].shape) == 2]
    weights = sum(info.size * (used if info.expert >= 0 else 1) for info in matrices)
    pairs = config.heads * config.head_dim * sum(stage.layer >= 0 for stage in stages)
    return 2.0 * sequences * positions * weights + 2 * sequences * positions**2 * pairs  # causal: half of all pairs


def _pass_bytes(opened: OpenRevision, setup: CollectionSetup, threads: int) -> int:
    """The forward passes beside their weights, and those weights of a stage that are converted to the compute dtype."""
    stages = [step for step in opened.fetch_plan.steps if step.stage]
    if setup.config is None or not stages:
        return 0
    dtype = setup.compute_dtype
    compute = Compute(device=setup.options.device, dtype=dtype, threads=threads)
    recorders = setup.started(opened.groups) if "activations" in opened.groups else ()
    sites = {site for each in recorders for site in each.sites_in(setup.context.sites)}
    stored = _STORED[dtype]
    converted = [sum(info.size for info in step.infos if info.dtype != stored) * dtype.itemsize for step in stages]
    return pass_bytes(setup.config, setup.probe_shapes(opened.groups), compute, sites) + max(converted)


def _gradient_bytes(opened: OpenRevision, setup: CollectionSetup) -> int:
    if setup.config is None or setup.probe is None or not setup.recorders_of(opened.groups, Reads.GRADIENTS):
        return 0
    return gradient_bytes(setup.config, setup.probe.shape)


def _in_use(fetch_plan: FetchPlan) -> int:
    return max((step.nbytes for step in fetch_plan.steps), default=0)


def _weight_bytes(fetch_plan: FetchPlan, bounds: Bounds, revisions: int) -> int:
    """The bytes in use, and those fetched ahead of use: in their turn and before it, of the revisions that are open."""
    ahead, together = most_held(bounds, fetch_plan.nbytes)
    held = min(together, ahead + 2 * fetch_plan.early_bytes)
    return min(_in_use(fetch_plan) + held, min(revisions, 1 + OPEN_AHEAD) * fetch_plan.nbytes)
