"""The fetch plan of one revision: which tensors are read, in which order, and at which step each is used.

Steps are the order of use: the stages of the forward pass, then whatever is measured without one. Loads are the order of
fetching. The two differ where a shard's hash is to be checked as its bytes pass: a hash needs the bytes in the order of the
file, in which `lm_head` comes first and layer 10 before layer 2. What is fetched before its turn is held, so a shard is
fetched in its own order only as long as what is held stays within bounds.

    >>> infos = [TensorInfo(name, "U8", (10,), "f", at, at + 10) for at, name in ((0, "lm_head"), (10, "embed"))]
    >>> way = plan_fetch([Step(None, (infos[1],)), Step(None, (infos[0],))], {"f": infos}, Bounds(ahead=64, early=10))
    >>> [(load.infos[0].name, load.early) for load in way.loads], way.checked
    ([('lm_head', True), ('embed', False)], ('f',))
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from olmo_dynamics.model import Stage
from olmo_dynamics.names import TensorInfo

STEP_BYTES = 128 << 20  # 128 MiB that are measured together: enough for several threads
LOAD_BYTES = 32 << 20  # 32 MiB: four requests of 8 MiB, one for each connection


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bytes that may be fetched and not yet used: in their turn, and before it."""

    ahead: int
    early: int

    @classmethod
    def of(cls, max_memory: int) -> Bounds:
        """Before their turn, bytes may take half as much again: the head and six layers of a 1B model in one file."""
        return cls(max_memory, max_memory * 3 // 2)

    @property
    def load(self) -> int:
        """Bytes fetched at once: few, since none of them can be used before all are there, and loads share the link."""
        return max(1, min(LOAD_BYTES, self.ahead // 4))

    @property
    def step(self) -> int:
        """Bytes of tensors that are used together without a forward pass."""
        return max(1, min(STEP_BYTES, self.ahead // 4))


@dataclass(frozen=True, slots=True)
class Step:
    """Tensors that are used together for the first time, and the stage of the forward pass they serve, if any.

    Of an optimiser's state, `states` names the tensors whose moments `infos` are.
    """

    stage: Stage | None
    infos: tuple[TensorInfo, ...]
    states: tuple[str, ...] = ()
    again: bool = False  # on the way back: its tensors were in use before

    @property
    def nbytes(self) -> int:
        """Bytes that first come into use here."""
        return sum(info.nbytes for info in self.infos)


@dataclass(frozen=True, slots=True)
class Load:
    """Tensors fetched at once; `early` where something that is fetched later is used before them."""

    infos: tuple[TensorInfo, ...]
    early: bool
    again: bool = False  # its bytes were read before

    @property
    def nbytes(self) -> int:
        """Bytes to fetch."""
        return sum(info.nbytes for info in self.infos)


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """One revision's steps and loads; `checked` are the shards whose bytes come in the order of the file."""

    steps: tuple[Step, ...]
    loads: tuple[Load, ...]
    checked: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Weight bytes to fetch."""
        return sum(load.nbytes for load in self.loads)

    @property
    def early_bytes(self) -> int:
        """The most that is held before its turn."""
        first = [step for step in self.steps if not step.again]
        return _held(_by_turn(first), [info for load in self.loads if not load.again for info in load.infos])[0]


def plan_steps(
    tensors: Mapping[str, TensorInfo], stages: Sequence[Stage], measured: Collection[str], limit: int = STEP_BYTES
) -> list[Step]:
    """The stages with the tensors that each is the first to use, then what is measured beside them, in file order."""
    used: set[str] = set()
    steps = []
    for stage in stages:
        new = [name for name in stage.tensors if name not in used]
        used.update(new)
        steps.append(Step(stage, tuple(tensors[name] for name in new)))
    rest = [info for name, info in tensors.items() if name in measured and name not in used]
    return steps + [Step(None, group) for group in _in_groups(rest, limit)]


def plan_states(moments: Mapping[str, Sequence[TensorInfo]], limit: int = STEP_BYTES) -> list[Step]:
    """Steps for the moments of some tensors, given by tensor: those of one tensor together, neighbours up to `limit` bytes."""
    steps: list[Step] = []
    for tensor, infos in moments.items():
        last = steps[-1] if steps else None
        nbytes = sum(info.nbytes for info in infos)
        if last and infos and (last.nbytes + nbytes <= limit or _overlap(last.infos[-1], infos[0])):
            steps[-1] = Step(None, (*last.infos, *infos), (*last.states, tensor))
        elif infos:
            steps.append(Step(None, tuple(infos), (tensor,)))
    return steps


def plan_fetch(steps: Sequence[Step], shards: Mapping[str, Sequence[TensorInfo]], bounds: Bounds) -> FetchPlan:
    """The loads for some steps; `shards` holds all tensors of each file whose hash is known, in the order of the file.

    A shard is fetched in its own order if all of it is needed. Where more than `bounds.early` bytes would be held, the
    shard with most of them gives way, and stays unchecked.
    """
    turns = _by_turn(steps)
    ordered = {file: list(infos) for file, infos in shards.items() if all(info.name in turns for info in infos)}
    while True:
        order = _fetch_order(steps, ordered)
        most, by_file = _held(turns, order)
        if most <= bounds.early or not by_file:
            break
        del ordered[max(by_file, key=lambda file: by_file[file])]
    early = _early(turns, order)
    loads = [
        Load(group, group[0].name in early) for part in _alike(order, early) for group in _in_groups(part, bounds.load)
    ]
    return FetchPlan(tuple(steps), tuple(loads), tuple(ordered))


def read_again(
    plan: FetchPlan, stages: Sequence[Stage], tensors: Mapping[str, TensorInfo], held: Collection[str], bounds: Bounds
) -> FetchPlan:
    """A plan that goes on with some stages whose tensors, but for those `held`, are read for the second time."""
    steps = [
        Step(stage, tuple(tensors[name] for name in stage.tensors if name not in held), again=True) for stage in stages
    ]
    groups = _in_groups([info for step in steps for info in step.infos], bounds.load)
    loads = [Load(group, early=False, again=True) for group in groups]
    return replace(plan, steps=(*plan.steps, *steps), loads=(*plan.loads, *loads))


def _by_turn(steps: Sequence[Step]) -> dict[str, int]:
    return {info.name: turn for turn, step in enumerate(steps) for info in step.infos}


def _fetch_order(steps: Sequence[Step], ordered: Mapping[str, Sequence[TensorInfo]]) -> list[TensorInfo]:
    """The order of use, but that whatever lies before a tensor in an ordered file comes before it."""
    fetched: dict[str, TensorInfo] = {}
    waiting = {file: iter(infos) for file, infos in ordered.items()}
    for info in (info for step in steps for info in step.infos):
        while info.name not in fetched:
            following = next(waiting[info.file]) if info.file in waiting else info
            fetched[following.name] = following
    return list(fetched.values())


def _early(turns: Mapping[str, int], order: Sequence[TensorInfo]) -> set[str]:
    """The tensors fetched before one whose turn comes first."""
    early: set[str] = set()
    soonest = len(turns)
    for info in reversed(order):
        if turns[info.name] > soonest:
            early.add(info.name)
        soonest = min(soonest, turns[info.name])
    return early


def _held(turns: Mapping[str, int], order: Sequence[TensorInfo]) -> tuple[int, Counter[str]]:
    """The most bytes held early at any time, and how many of them each file holds then."""
    early = _early(turns, order)
    coming = Counter(turns[info.name] for info in order)
    held: dict[int, Counter[str]] = defaultdict(Counter)  # by turn, then by file
    turn, total, most, worst = 0, 0, 0, Counter[str]()
    for info in order:
        coming[turns[info.name]] -= 1
        if info.name in early:
            held[turns[info.name]][info.file] += info.nbytes
            total += info.nbytes
        if total > most:
            most, worst = total, sum(held.values(), Counter[str]())
        while turn <= max(coming) and not coming[turn]:
            total -= held.pop(turn, Counter[str]()).total()
            turn += 1
    return most, worst


def _alike(order: Sequence[TensorInfo], early: Collection[str]) -> Iterator[list[TensorInfo]]:
    """Runs of tensors that are all early, or all in their turn."""
    run: list[TensorInfo] = []
    for info in order:
        if run and (info.name in early) != (run[-1].name in early):
            yield run
            run = []
        run.append(info)
    if run:
        yield run


def _in_groups(infos: Iterable[TensorInfo], limit: int) -> Iterator[tuple[TensorInfo, ...]]:
    """Neighbours of up to `limit` bytes together, or one larger tensor alone; what shares bytes stays together."""
    group: list[TensorInfo] = []
    size = 0
    for info in infos:
        if group and size + info.nbytes > limit and not _overlap(group[-1], info):
            yield tuple(group)
            group, size = [], 0
        group.append(info)
        size += info.nbytes
    if group:
        yield tuple(group)


def _overlap(one: TensorInfo, other: TensorInfo) -> bool:
    """True if two tensors are assembled from the same stored pieces (such have a file of their own, see `View`)."""
    return one.file == other.file and other.start < one.stop and one.start < other.stop
