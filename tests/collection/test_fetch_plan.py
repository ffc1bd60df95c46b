"""The order of use, the order of fetching, and what is held between the two."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.collection.fetch_plan import Bounds, FetchPlan, Step, plan_fetch, plan_steps
from olmo_dynamics.model import Stage
from olmo_dynamics.names import TensorInfo

WIDE = Bounds(ahead=1 << 40, early=1 << 40)


def shard(file: str, sizes: dict[str, int]) -> list[TensorInfo]:
    """Tensors of some sizes, one behind the other."""
    infos, at = [], 100
    for name, size in sizes.items():
        infos.append(TensorInfo(name, "U8", (size,), file, at, at + size))
        at += size
    return infos


def names(way: FetchPlan) -> list[str]:
    return [info.name for load in way.loads for info in load.infos]


# As safetensors sorts a model's tensors: by name.
MODEL = shard("model", {"head": 40, "embedding": 40, "0.a": 10, "0.b": 10, "1.a": 20, "10.a": 20, "2.a": 20, "norm": 1})
TENSORS = {info.name: info for info in MODEL}
STAGES = [
    Stage(name, layer, tensors)
    for name, layer, tensors in (
        ("embedding", -1, ("embedding",)),
        ("block 0", 0, ("0.a", "0.b")),
        ("block 1", 1, ("1.a",)),
        ("block 2", 2, ("2.a",)),
        ("block 10", 10, ("10.a",)),
        ("head", -1, ("norm", "head")),
    )
]


def test_without_a_hash_the_order_of_fetching_is_that_of_use() -> None:
    way = plan_fetch(plan_steps(TENSORS, STAGES, ()), {}, WIDE)
    assert names(way) == ["embedding", "0.a", "0.b", "1.a", "2.a", "10.a", "norm", "head"]
    assert way.checked == () and way.early_bytes == 0 and not any(load.early for load in way.loads)


def test_with_a_hash_the_order_is_the_file_s_and_what_is_not_yet_used_is_held() -> None:
    way = plan_fetch(plan_steps(TENSORS, STAGES, ()), {"model": MODEL}, WIDE)
    assert names(way) == [info.name for info in MODEL] and way.checked == ("model",)
    assert {info.name for load in way.loads if load.early for info in load.infos} == {"head", "10.a"}
    assert way.early_bytes == 60


def test_a_shard_for_which_too_much_would_be_held_stays_unchecked() -> None:
    second = shard("second", {"11.a": 5, "12.a": 5})
    tensors = TENSORS | {info.name: info for info in second}
    stages = [*STAGES[:-1], Stage("block 11", 11, ("11.a",)), Stage("block 12", 12, ("12.a",)), STAGES[-1]]
    shards = {"model": MODEL, "second": second}
    way = plan_fetch(plan_steps(tensors, stages, ()), shards, Bounds(1 << 40, 59))
    assert way.checked == ("second",) and way.early_bytes == 0 and names(way)[-1] == "head"
    assert plan_fetch(plan_steps(tensors, stages, ()), shards, Bounds(1 << 40, 60)).checked == ("model", "second")


def test_a_shard_of_which_not_all_is_needed_is_not_checked() -> None:
    stops = plan_steps(TENSORS, (), {"norm", "1.a"})
    way = plan_fetch(stops, {"model": MODEL}, WIDE)
    assert names(way) == ["1.a", "norm"] and way.checked == ()


def test_a_layer_in_two_shards_is_fetched_from_both() -> None:
    first, second = shard("1", {"a": 4, "b.x": 4}), shard("2", {"b.y": 4, "c": 4})
    tensors = {info.name: info for info in first + second}
    stages = [Stage("a", 0, ("a",)), Stage("b", 1, ("b.y", "b.x")), Stage("c", 2, ("c",))]
    way = plan_fetch(plan_steps(tensors, stages, ()), {"1": first, "2": second}, WIDE)
    assert names(way) == ["a", "b.y", "b.x", "c"] and way.checked == ("1", "2") and way.early_bytes == 0


def test_a_tied_embedding_is_fetched_once() -> None:
    stages = [*STAGES[:-1], Stage("head", -1, ("norm", "embedding"))]
    stops = plan_steps(TENSORS, stages, TENSORS)
    assert [info.name for info in stops[5].infos] == ["norm"]
    assert [info.name for stop in stops for info in stop.infos].count("embedding") == 1
    assert stops[-1].stage is None and [info.name for info in stops[-1].infos] == ["head"]


def test_loads_are_neighbours_of_limited_size_and_never_split_what_shares_bytes() -> None:
    infos = shard("f", {str(number): 10 for number in range(7)})
    pieces = [TensorInfo(name, "U8", (10,), "(fused)", 0, 10) for name in ("q", "k", "v")]
    way = plan_fetch([Step(None, (*infos, *pieces))], {}, Bounds(ahead=80, early=0))
    assert [len(load.infos) for load in way.loads] == [2, 2, 2, 1 + 3]


@dataclass
class Walker:
    """Fetches and uses as a pipeline does, and counts what is held early."""

    way: FetchPlan
    held: int = 0
    most: int = 0
    arrived: dict[str, bool] = field(default_factory=dict)

    def walk(self) -> None:
        turn = 0
        for load in self.way.loads:
            self.arrived |= {info.name: load.early for info in load.infos}
            self.held += load.nbytes if load.early else 0
            self.most = max(self.most, self.held)
            while turn < len(self.way.steps) and all(info.name in self.arrived for info in self.way.steps[turn].infos):
                self.held -= sum(info.nbytes for info in self.way.steps[turn].infos if self.arrived[info.name])
                turn += 1
        assert turn == len(self.way.steps) and self.held == 0


@given(st.data())
def test_whatever_the_files_each_byte_comes_once_and_the_bound_holds(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    homes = data.draw(st.lists(st.sampled_from("xyz"), min_size=count, max_size=count))
    sizes = data.draw(st.lists(st.integers(0, 50), min_size=count, max_size=count))
    files = {f: shard(f, {str(n): sizes[n] for n in range(count) if homes[n] == f}) for f in sorted(set(homes))}
    infos = [info for each in files.values() for info in each]
    order = data.draw(st.permutations(infos))
    cuts = sorted(data.draw(st.sets(st.integers(1, count), max_size=4)) | {0, count})
    stops = [Step(None, tuple(order[one:two])) for one, two in pairwise(cuts)]
    hashed = {file: files[file] for file in data.draw(st.sets(st.sampled_from(sorted(files))))}
    bounds = Bounds(ahead=data.draw(st.integers(1, 200)), early=data.draw(st.integers(0, 200)))
    way = plan_fetch(stops, hashed, bounds)
    assert sorted(names(way)) == sorted(info.name for info in infos)
    for file in way.checked:
        fetched = [info.name for load in way.loads for info in load.infos if info.file == file]
        assert fetched == [info.name for info in files[file]]
    walker = Walker(way)
    walker.walk()
    assert walker.most == way.early_bytes
    assert way.early_bytes <= bounds.early or not way.checked
