"""Collecting over a hub: each needed byte once, none that is not, checked as they pass, and nothing on the disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from olmo_dynamics.checkpoints import open_source, parse_revision
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.checkpoints.tensors import HEADER_GUESS
from olmo_dynamics.collecting import collect, plan
from olmo_dynamics.collection import prefetch
from olmo_dynamics.collection.bandwidth import SAMPLE_BYTES
from olmo_dynamics.collection.fetch_plan import Bounds
from olmo_dynamics.collection.memory_budget import MemoryBudget
from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.options import split_options
from olmo_dynamics.errors import CheckpointError, OptionError, StoreMismatchError
from olmo_dynamics.frames import open_store
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.progress import Progress
from tests.collection import reference
from tests.conftest import REVISIONS
from tests.hub import Fault, LocalHub
from tests.hub.generated import LayerStack
from tests.runs import TINY, tiny_model, tiny_tokenizer

REPO = "allenai/tiny"
RECORD = ("parameters", "embeddings", "loss")


def times_sent(hub: LocalHub) -> np.ndarray:
    """How often each byte of storage was asked for, all objects one behind the other, those never asked for left out."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for each in hub.requests:
        if each.host == "cdn" and each.method == "GET" and each.range:
            assert each.range[1] is not None
            spans.setdefault(each.path, []).append((each.range[0], each.range[1]))
    found = []
    for asked in spans.values():
        times = np.zeros(max(stop for _, stop in asked), np.int64)
        for start, stop in asked:
            times[start:stop] += 1
        found.append(times[times > 0])
    return np.concatenate(found)


def tensors_of(revision: Path) -> dict[str, TensorInfo]:
    with open_source(revision.parent).open(parse_revision(revision.name)) as checkpoint:
        return checkpoint.tensors


@pytest.fixture(scope="module")
def sharded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two revisions of twelve layers in four shards, whose order in the files is not that of use."""
    run = tmp_path_factory.mktemp("sharded") / "run"
    for seed in range(2):
        torch.manual_seed(seed)
        config = tiny_model(seed).config
        config.num_hidden_layers = 12
        config.layer_types = None
        model = type(tiny_model(seed))(type(config)(**TINY | {"num_hidden_layers": 12}))
        model.save_pretrained(run / f"step{seed}", max_shard_size="200KB")
        (run / f"step{seed}" / "tokenizer.json").write_text(tiny_tokenizer(), encoding="utf-8")
    return run


@pytest.fixture
def hub(sharded_run: Path) -> LocalHub:
    with LocalHub() as hub:
        hub.add_repo(REPO, {each.name: each for each in sorted(sharded_run.iterdir())})
        yield hub


def from_hub(hub: LocalHub, out: Path, **options: object) -> Progress:
    listener = Progress()
    given = {"batch": "4x16", "progress": listener, "record": RECORD, **options}
    collect(HubSource(REPO, endpoint=hub.endpoint), out=out, **given)
    return listener


def test_each_byte_is_asked_for_once_and_checked(hub: LocalHub, sharded_run: Path, tmp_path: Path) -> None:
    heard = from_hub(hub, tmp_path / "s.zarr").outcome
    sent = times_sent(hub)
    assert set(sent) == {1}
    sizes = sum(each.stat().st_size for each in sharded_run.rglob("*.safetensors"))
    assert len(sent) == sizes
    assert heard["shards"] == heard["shards_checked"] > 3
    assert heard["requests"] == sum(each.range is not None and each.status < 300 for each in hub.requests)
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.parametrize("max_memory", ["20kB", "1GiB"])
def test_the_store_does_not_depend_on_the_order_of_fetching(
    max_memory: str, hub: LocalHub, sharded_run: Path, tmp_path: Path
) -> None:
    heard = from_hub(hub, tmp_path / "hub.zarr", max_memory=max_memory).outcome
    assert (heard["shards_checked"] == heard["shards"]) is (max_memory == "1GiB")
    assert set(times_sent(hub)) == {1}
    from_folder = collect(
        sharded_run, out=tmp_path / "folder.zarr", batch="4x16", record=RECORD, threads=1, progress=Progress()
    )
    for group in from_folder.groups:
        for name, values in from_folder.arrays(group).items():
            assert values.tobytes() == open_store(tmp_path / "hub.zarr").arrays(group)[name].tobytes(), (
                f"{group}/{name}"
            )


def test_less_memory_than_a_tensor_takes_holds_one_at_a_time(
    hub: LocalHub, sharded_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[MemoryBudget] = []

    def kept(bounds: Bounds) -> MemoryBudget:
        budgets.append(MemoryBudget(bounds))
        return budgets[-1]

    monkeypatch.setattr(prefetch, "MemoryBudget", kept)
    from_hub(hub, tmp_path / "little.zarr", max_memory=1)
    from_hub(hub, tmp_path / "much.zarr")
    little, much = (open_store(tmp_path / f"{name}.zarr") for name in ("little", "much"))
    assert all(little.table(group).equals(much.table(group)) for group in much.groups)
    largest = max(info.nbytes for info in tensors_of(sharded_run / "step0").values())
    assert budgets[0].most == largest < budgets[1].most


class Timed(Progress):
    """When bytes last came into use."""

    ended = 0.0

    def advance(self, nbytes: int) -> None:
        self.ended = time.monotonic()


def test_no_more_a_second_is_received_than_may_be(hub: LocalHub, sharded_run: Path, tmp_path: Path) -> None:
    rate = sum(each.stat().st_size for each in sharded_run.rglob("*.safetensors")) / 2.5
    began: list[float] = []
    hub.add_fault(Fault("hook", host="cdn", call=lambda: began.append(time.monotonic())))
    listener = Timed()
    from_hub(hub, tmp_path / "s.zarr", max_rate=rate, progress=listener)
    received = sum(each.bytes_sent for each in hub.requests if each.host == "cdn")
    assert received / (listener.ended - began[0]) < 1.2 * rate


def test_a_shard_that_is_not_what_was_published_is_refused(hub: LocalHub, tmp_path: Path) -> None:
    hub.add_fault(Fault("wrong_payload", "model-00002", host="cdn", after=2, times=1))  # after both headers
    with pytest.raises(
        CheckpointError, match=r"1 of 2 revisions cannot be measured .*model-00002.* should have sha256"
    ):
        from_hub(hub, tmp_path / "s.zarr")
    done = open_store(tmp_path / "s.zarr").done
    assert len(done) == 1
    from_hub(hub, tmp_path / "s.zarr")
    assert open_store(tmp_path / "s.zarr").done == {"step0", "step1"}


def test_closing_ends_an_opening_that_waits_for_a_silent_host(hub: LocalHub) -> None:
    source = HubSource(REPO, endpoint=hub.endpoint)
    measurement, limits = split_options({"record": ("parameters",)})
    opener = Opener(source, measurement, Bounds.of(limits.memory_bytes))
    first, second = source.revisions()
    opener.set_up([first])
    fault = hub.add_fault(Fault("stall", host="cdn", seconds=20.0, keep=100, times=None))
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(opener.open, second)
        while not fault.struck:
            time.sleep(0.01)
        opener.close()
        assert opening.exception(timeout=10) is not None


def test_until_a_layer_nothing_behind_it_moves(hub: LocalHub, sharded_run: Path, tmp_path: Path) -> None:
    from_hub(hub, tmp_path / "s.zarr", revisions="step1", record=("activations",), until_layer=1)
    needed = [
        info
        for info in tensors_of(sharded_run / "step1").values()
        if info.layer in (0, 1) or info.name == "model.embed_tokens.weight"
    ]
    headers = {info.file: info.start for info in reversed(tensors_of(sharded_run / "step1").values())}
    store = open_store(tmp_path / "s.zarr")
    assert store.groups == ("activations",)
    assert store.table("activations")["layer"].drop_nulls().unique().sort().to_list() == [0, 1]
    beyond = times_sent(hub).sum() - sum(info.nbytes for info in needed)
    assert 0 < beyond <= len(headers) * (1 << 16)  # the first read of each shard, which holds its header


def test_until_a_layer_the_numbers_are_those_of_the_whole_pass(tiny_run: Path, tmp_path: Path) -> None:
    options = {"revisions": "main", "batch": "4x16", "progress": Progress(), "record": ("activations",)}
    whole = collect(tiny_run, out=tmp_path / "whole.zarr", **options).table("activations")
    part = collect(tiny_run, out=tmp_path / "part.zarr", until_layer=0, **options).table("activations")
    inside = whole.filter(pl.col("layer") == 0)
    assert part.filter(pl.col("layer") == 0).equals(inside) and inside.height > 5


def test_a_store_of_two_shards_of_the_work_is_that_of_one_run(tiny_run: Path, tmp_path: Path) -> None:
    options = {"batch": "4x16", "progress": Progress(), "record": ("parameters",)}
    for shard in ("2/2", "1/2"):
        collect(tiny_run, out=tmp_path / "parts.zarr", shard=shard, **options)
    assert open_store(tmp_path / "parts.zarr").done == set(REVISIONS)
    collect(tiny_run, out=tmp_path / "whole.zarr", **options)
    parts, whole = (open_store(tmp_path / f"{name}.zarr").table("parameters") for name in ("parts", "whole"))
    assert parts.equals(whole)


def test_a_store_learns_a_group_of_revisions_it_holds(hub: LocalHub, sharded_run: Path, tmp_path: Path) -> None:
    given = {"record": ("parameters",), "tensors": ("norm",)}
    from_hub(hub, tmp_path / "s.zarr", revisions="step0,step1", record=("parameters",))
    times = open_store(tmp_path / "s.zarr").table("revisions")["collected_at"].to_list()
    hub.requests.clear()
    from_hub(hub, tmp_path / "s.zarr", revisions="step0,step1", record=("parameters", "embeddings"))
    tensors = tensors_of(sharded_run / "step0")
    rows = [info.nbytes for info in tensors.values() if info.role in ("embed_tokens", "lm_head")]
    assert 2 * sum(rows) <= times_sent(hub).sum() <= 2 * (sum(rows) + 3 * (1 << 16))
    filled = open_store(tmp_path / "s.zarr")
    assert filled.groups == ("parameters", "embeddings")
    assert filled.recorded("step0") == {"parameters", "embeddings"}
    assert filled.table("revisions")["collected_at"].to_list() == times
    with pytest.raises(StoreMismatchError, match="tensor has"):
        from_hub(hub, tmp_path / "s.zarr", **given)


def test_a_store_filled_up_is_that_of_one_run(tiny_run: Path, tmp_path: Path) -> None:
    options = {"batch": "4x16", "progress": Progress()}
    whole = collect(tiny_run, out=tmp_path / "whole.zarr", **options)
    for record in (("parameters", "loss"), ("activations",), ()):
        parts = collect(tiny_run, out=tmp_path / "parts.zarr", record=record, **options)
    assert parts.groups == whole.groups
    for group in whole.groups:
        for name, values in whole.arrays(group).items():
            assert values.tobytes() == parts.arrays(group)[name].tobytes(), f"{group}/{name}"


PLANNED = {  # what is asked for, and whether it needs a tensor of a revision
    "tensors": ({"record": ("parameters",), "tensors": ("*.q_norm.weight", "*.down_proj.weight")},
                lambda _, info: info.role in ("q_norm", "down_proj")),
    "until_layer": ({"record": ("activations",), "until_layer": 1},
                    lambda _, info: info.layer in (0, 1) or info.role == "embed_tokens"),
    "back_fill": ({"record": ("parameters", "embeddings")},
                  lambda name, info: name == "step1" or info.role in ("embed_tokens", "lm_head")),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANNED)
def test_what_is_planned_is_what_the_hub_was_asked_for(
    what: str, hub: LocalHub, sharded_run: Path, tmp_path: Path
) -> None:
    options, needs = PLANNED[what]
    out = tmp_path / "s.zarr"
    if what == "back_fill":
        from_hub(hub, out, revisions="step0", record=("parameters",))
    found = plan(HubSource(REPO, endpoint=hub.endpoint), out=out, batch="4x16", **options)
    hub.requests.clear()
    heard = from_hub(hub, out, **options).outcome
    needed = [
        info for name in ("step0", "step1") for info in tensors_of(sharded_run / name).values() if needs(name, info)
    ]
    assert heard["planned_bytes"] == heard["bytes"] > sum(info.nbytes for info in needed)
    assert heard["planned_requests"] == heard["requests"]
    assert found.nbytes == pytest.approx(heard["bytes"], rel=0.01)  # the config of a later revision may not be needed
    assert heard["requests"] <= found.requests <= heard["requests"] + 1
    asked = [each.range for each in hub.requests if each.host == "cdn" and each.range]
    assert set(times_sent(hub)) == {1}
    assert behind_fronts(asked) == behind_fronts((info.start, info.stop) for info in needed) > 0
    assert sum(stop - start for start, stop in asked) <= heard["bytes"]


PROCESS = """
import sys, olmo_dynamics as od
from olmo_dynamics.collecting import collect, plan
from olmo_dynamics.progress import Progress
planned = plan(sys.argv[1], record=("parameters", "loss"), batch="4x16").peak_bytes
heard = Progress()
collect(sys.argv[1], out=sys.argv[2], record=("parameters", "loss"), batch="4x16", progress=heard)
print(planned, heard.outcome["planned_peak_bytes"], heard.outcome["peak_bytes"])
"""


@pytest.mark.parametrize("size", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_the_memory_planned_is_near_what_the_process_takes(size: str, tiny_run: Path, tmp_path: Path) -> None:
    run = tiny_run
    if size == "small":  # 135 MB of weights
        run = tmp_path / "run"
        LayerStack(layers=4, hidden=512, heads=8, kv_heads=4, intermediate=2048, vocab=50_304).write(run / "step0")
        shutil.copy(tiny_run / "main" / "tokenizer.json", run / "step0")
    command = [sys.executable, "-c", PROCESS, str(run), str(tmp_path / "s.zarr")]
    planned, expected, taken = map(float, subprocess.run(command, capture_output=True, check=True).stdout.split())
    assert taken / 2.2 < planned < 2.2 * taken  # a plan is an estimate: kernels may have to be compiled, or not
    assert taken / 2.2 < expected < 2.2 * taken


def test_a_plan_counts_the_tokenizer_once(hub: LocalHub, tmp_path: Path) -> None:
    options = {"record": ("loss",), "batch": "4x16"}
    found = plan(HubSource(REPO, endpoint=hub.endpoint), **options)
    heard = from_hub(hub, tmp_path / "s.zarr", **options).outcome
    assert heard["planned_bytes"] == heard["bytes"] == found.nbytes


def behind_fronts(spans: Iterable[tuple[int, int]]) -> int:
    """Bytes behind the first read of a file, which is for its header."""
    return sum(max(0, stop - max(start, HEADER_GUESS)) for start, stop in spans)


def test_a_rate_is_measured_by_a_read_of_8_mib_at_most() -> None:
    stack = LayerStack(layers=1, hidden=512, heads=4, kv_heads=2, intermediate=512, vocab=9000)
    options = {"record": ("parameters",), "rate": "measured"}
    with LocalHub() as hub:
        hub.add_repo(REPO, {"step0": stack.files()})
        source = HubSource(REPO, endpoint=hub.endpoint)
        plan(source, record=("parameters",))
        headers = sum(each.bytes_sent for each in hub.requests if each.host == "cdn")
        hub.requests.clear()
        hub.total_rate = 10e6
        found = plan(source, **options)
        assert sum(each.bytes_sent for each in hub.requests if each.host == "cdn") - headers == SAMPLE_BYTES
        assert found.rate_from == "measured" and found.rate == pytest.approx(10e6, rel=0.35)
        limited = plan(source, max_rate="4MB", **options)
    assert limited.rate == pytest.approx(4e6, rel=0.35)


def test_a_rate_is_stated_measured_or_assumed(tiny_run: Path) -> None:
    options = {"revisions": "main", "record": ("parameters",)}
    given = {None: (100e6, "assumed"), 5e6: (5e6, "stated")}
    for rate, expected in given.items():
        found = plan(tiny_run, rate=rate, **options)
        assert (found.rate, found.rate_from) == expected
    capped = plan(tiny_run, rate=5e6, max_rate="2MB", **options)
    assert (capped.rate, capped.rate_from) == (2e6, "stated")
    measured = plan(tiny_run, rate="measured", **options)
    assert measured.rate > 0 and measured.rate_from == "measured"
    with pytest.raises(OptionError, match="positive bytes per second, or 'measured'; got 'quick'"):
        plan(tiny_run, rate="quick", **options)


def test_a_layer_stack_that_exists_nowhere_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    stack = LayerStack(layers=2, hidden=256, heads=4, kv_heads=2, intermediate=512, vocab=512, shard_bytes=1_000_000)
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 512, (1, 64)))
    with LocalHub() as hub:
        hub.add_repo(REPO, {"step0": stack.files()})
        options = {"batch": "1x64", "tokens": tmp_path / "ids.npy", "record": ("activations", "loss")}
        from_hub(hub, tmp_path / "s.zarr", dtype="float32", **options)
        assert set(times_sent(hub)) == {1}
    stack.write(tmp_path / "cut")
    seen = reference.activations(tmp_path / "cut", np.load(tmp_path / "ids.npy"))
    table = open_store(tmp_path / "s.zarr").table("activations")
    for layer in range(2):
        [row] = table.filter(pl.col("site") == "residual_out", pl.col("layer") == layer).to_dicts()
        wanted = reference.activation_statistics(seen["residual_out", layer].reshape(64, -1))
        for name in ("rms", "l2_norm", "abs_max", "kurtosis"):
            assert row[name] == pytest.approx(wanted[name], rel=1e-4), name
