"""Gradients in a store: those of transformers' autograd, whatever the way in which a collection comes by them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

import olmo_dynamics as od
import olmo_dynamics.collection.measure as measure_module
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect, plan
from olmo_dynamics.errors import OptionError, ProbeError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import Site
from olmo_dynamics.quantities.declaration import Reads, Record, Status
from olmo_dynamics.recorders import PlainProbe
from tests.collection.test_heads import copied
from tests.conftest import REVISIONS
from tests.hub import LocalHub
from tests.hub.generated import LayerStack
from tests.listening import Notes
from tests.runs import tiny_tokenizer, write_family_run, write_run

GROUPS = ("gradients", "gradient_stream", "gradient_rows")
BATCH = "10x24"
NAME = "step10"


class Reference:
    """Each window's gradient by transformers, in float32, and that of the stream; reduced in float64."""

    def __init__(self, folder: Path, store: RecordedStore) -> None:
        ids, mask = torch.tensor(store.probe()["token_id"]), store.probe()["mask"].astype(bool)
        self.counts = mask.sum(1) - 1
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager").eval()
        self.windows, self.states, self.gradients = [], [], []
        for row, length in zip(ids, mask.sum(1).tolist(), strict=True):
            states = self._backward(model, row[None, :length])
            self.windows.append({name: each.grad.double().numpy() for name, each in model.named_parameters()})
            self.states.append([each[0].detach().double().numpy() for each in states])
            self.gradients.append([each.grad[0].double().numpy() for each in states])

    @staticmethod
    def _backward(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
        states: list[torch.Tensor] = []

        def keep(module: object, inputs: object, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)
            states[-1].retain_grad()

        model.zero_grad()
        modules = (model.model.embed_tokens, *model.model.layers)
        handles = [module.register_forward_hook(keep) for module in modules]
        F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]).backward()
        for handle in handles:
            handle.remove()
        return states

    def squares(self, name: str) -> np.ndarray:
        return np.array([(each[name] ** 2).sum() for each in self.windows])

    def probe(self, name: str) -> np.ndarray:
        return sum(n * each[name] for n, each in zip(self.counts, self.windows, strict=True)) / self.counts.sum()

    def tokens(self, kind: str, layer: int) -> np.ndarray:
        """The vectors of all tokens behind a layer; -1 is the embedding."""
        return np.concatenate([each[layer + 1] for each in getattr(self, kind)])


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32 weights", "bf16 weights"])
def measured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RecordedStore, Reference]:
    folder = tmp_path_factory.mktemp("gradients")
    run = write_run(folder / "run", (NAME,), dtype=request.param)
    # bfloat16 is the dtype of the forward pass alone
    record = [*GROUPS, "loss"]
    store = collect(run, out=folder / "s.zarr", record=record, batch=BATCH, dtype="bfloat16", progress=Notes())
    return store, Reference(run / NAME, store)


def row(store: RecordedStore, group: str) -> dict[str, np.ndarray]:
    return {name: values[0] for name, values in store.arrays(group).items()}


def test_norms_of_every_tensor(measured: tuple[RecordedStore, Reference]) -> None:
    store, theirs = measured
    found, names = row(store, "gradients"), store.layout.axes["tensor"].labels.tolist()
    assert set(names) == set(theirs.windows[0])
    norms = np.array([np.sqrt(theirs.squares(name)) for name in names])
    expected = {
        "l2_norm": norms.mean(1),
        "l2_norm_se": norms.std(1, ddof=1) / math.sqrt(norms.shape[1]),
        "probe_l2_norm": np.array([np.linalg.norm(theirs.probe(name)) for name in names]),
        "status": np.full(len(names), Status.MEASURED),
    }
    for quantity, values in expected.items():
        np.testing.assert_allclose(found[quantity], values, rtol=1e-5, err_msg=quantity)
    totals = np.sqrt((norms**2).sum(0))
    expected = {
        "total_l2_norm": totals.mean(),
        "total_l2_norm_se": totals.std(ddof=1) / math.sqrt(len(totals)),
        "total_probe_l2_norm": math.sqrt((expected["probe_l2_norm"] ** 2).sum()),
    }
    for quantity, value in expected.items():
        np.testing.assert_allclose(found[quantity], value, rtol=1e-5, err_msg=quantity)


def test_the_stream_and_its_growth(measured: tuple[RecordedStore, Reference]) -> None:
    store, theirs = measured
    expected = [np.linalg.norm(theirs.tokens("gradients", layer), axis=1).mean() for layer in (-1, 0, 1)]
    np.testing.assert_allclose(row(store, "gradient_stream")["l2_norm"], expected, rtol=1e-5)
    found = row(store, "gradients")
    for kind, word in (("states", "activation"), ("gradients", "gradient")):
        first, last = theirs.tokens(kind, 0), theirs.tokens(kind, 1)
        of_means = math.log(np.linalg.norm(last.mean(0)) / np.linalg.norm(first.mean(0))) / 2
        of_norms = math.log(np.linalg.norm(last, axis=1).mean() / np.linalg.norm(first, axis=1).mean()) / 2
        assert found[f"lambda_vecmean_{word}"] == pytest.approx(of_means, rel=1e-4)
        assert found[f"lambda_meannorm_{word}"] == pytest.approx(of_norms, rel=1e-4)


def test_the_noise_scale(measured: tuple[RecordedStore, Reference]) -> None:
    store, theirs = measured
    found, n = row(store, "gradients"), theirs.counts
    squares = sum(theirs.squares(name) for name in theirs.windows[0])
    probe = sum((theirs.probe(name) ** 2).sum() for name in theirs.windows[0])
    square = (n.sum() ** 2 * probe - (n**2 * squares).sum()) / (n.sum() ** 2 - (n**2).sum())
    trace = (squares.mean() - square) / (1 / n).mean()
    assert found["noise_square"] == pytest.approx(square, rel=1e-4)
    assert found["noise_trace"] == pytest.approx(trace, rel=1e-4)
    assert found["noise_scale"] == pytest.approx(trace / square, rel=1e-4)
    assert found["noise_scale_low"] < found["noise_scale"] < found["noise_scale_high"]
    assert found["noise_status"] == Status.MEASURED


def test_rows_of_embeddings(measured: tuple[RecordedStore, Reference]) -> None:
    store, theirs = measured
    names = store.layout.axes["embedding"].labels.tolist()
    expected = np.array([np.linalg.norm(theirs.probe(name), axis=1) for name in names])
    np.testing.assert_allclose(row(store, "gradient_rows")["row_l2"], expected, rtol=1e-4, atol=1e-8)
    seen = set(store.probe()["token_id"][store.probe()["mask"].astype(bool)].tolist())
    assert not expected[names.index("model.embed_tokens.weight")][sorted(set(range(320)) - seen)].any()


def same_numbers(one: RecordedStore, other: RecordedStore) -> None:
    for group in GROUPS:
        for name, values in one.arrays(group).items():
            np.testing.assert_allclose(values, other.arrays(group)[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_hub_and_folder_give_the_same_numbers_and_blocks_are_read_twice(tiny_run: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"record": [*GROUPS, "parameters"], "batch": "8x16", "revisions": "main"}
    here = collect(tiny_run, out=tmp_path / "here.zarr", threads=1, progress=Notes(), **options)
    with LocalHub() as hub:
        hub.add_repo("org/tiny", {"main": tiny_run / "main"})
        source = HubSource("org/tiny", endpoint=hub.endpoint)
        there = collect(source, out=tmp_path / "there.zarr", threads=2, max_memory="20kB", progress=Notes(), **options)
        found, without = (plan(source, **options | {"record": record}) for record in (options["record"], "parameters"))
    same_numbers(here, there)
    blocks = sum(each.nbytes for each in collected_tensors(tiny_run) if each.layer >= 0)
    assert found.nbytes - without.nbytes > blocks * 0.9
    [note] = found.notes
    assert (
        note == "gradients are computed in float32, whatever --dtype; the weights of the blocks are read twice for them"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stages_made_ready_ahead_give_the_same_numbers(
    dtype: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"record": [*GROUPS, "parameters", "loss"], "batch": "8x8", "revisions": "main"}
    here = collect(tiny_run, out=tmp_path / "here.zarr", progress=Notes(), **options)
    monkeypatch.setattr(measure_module, "has_own_memory", lambda device: True)  # as with a GPU
    there = collect(tiny_run, out=tmp_path / "there.zarr", dtype=dtype, progress=Notes(), **options)
    same_numbers(here, there)
    norms = [store.arrays("parameters")["l2_norm"] for store in (here, there)]
    np.testing.assert_allclose(*norms, rtol=1e-6)


def collected_tensors(run: Path) -> list[Any]:
    with od.Run(run).source.open(
        next(each for each in od.Run(run).source.revisions() if each.name == "main")
    ) as opened:
        return list(opened.tensors.values())


class Shown(od.Recorder):
    """The sum of every gradient of a tensor over windows, and the windows that were shown."""

    group = od.Group("shown", ("tensor",), "Shown.", (od.Quantity("square"), od.Quantity("windows", dtype="int64")))
    reads = Reads.GRADIENTS

    def __init__(self) -> None:
        self.squares: dict[str, float] = {}
        self.windows: dict[str, int] = {}

    def selects(self, info: Any) -> bool:
        return info.role == "q_proj"

    def observe(self, seen: od.Observation) -> None:
        assert seen.tensor is not None
        name = seen.tensor.name
        if seen.rows == slice(0, 4):
            self.squares[name] = float(seen.values.double().square().sum())
            assert seen.stats.finite
        else:
            self.windows[name] = self.windows.get(name, 0) + 1

    def finish(self) -> Iterator[Record]:
        for name, square in self.squares.items():
            yield self.record("square", square, tensor=name)
            yield self.record("windows", self.windows[name], tensor=name)


class AtQueries(od.Recorder):
    """Mean products of activations and their gradients at a site inside the blocks."""

    group = od.Group("at_queries", ("layer",), "At queries.", (od.Quantity("product"),))
    reads = Reads.GRADIENTS
    sites = frozenset({Site.QUERY, Site.FINAL_NORM, Site.LOGITS})

    def __init__(self) -> None:
        self.sums: dict[int, float] = {}

    def observe(self, seen: od.Observation) -> None:
        if seen.site is Site.QUERY:
            product = float((seen.values * seen.beside["activation"]).sum())
            self.sums[seen.layer] = self.sums.get(seen.layer, 0.0) + product

    def finish_layer(self, layer: int) -> Iterator[Record]:
        if layer in self.sums:
            yield self.record("product", self.sums[layer], layer=layer)


def test_recorders_of_ones_own_see_gradients_of_tensors_and_at_sites(tiny_run: Path, tmp_path: Path) -> None:
    record = ["gradients", Shown, AtQueries]
    store = collect(tiny_run, revisions="main", out=tmp_path / "s.zarr", record=record, batch="4x16", progress=Notes())
    shown = store.table("shown").filter(store.table("shown")["role"] == "q_proj")
    ours = store.table("gradients").filter(store.table("gradients")["role"] == "q_proj")
    np.testing.assert_allclose(shown["square"], ours["probe_l2_norm"] ** 2, rtol=1e-6)
    assert shown["windows"].to_list() == [4, 4]
    assert np.isfinite(row(store, "at_queries")["product"][1:]).all()


def test_an_expert_that_nobody_visits_has_no_gradient(tmp_path: Path) -> None:
    run = write_family_run(tmp_path / "run", (NAME,), "olmoe")
    store = collect(run, out=tmp_path / "s.zarr", record=("gradients", "routing"), batch="2x8", progress=Notes())
    table = store.table("gradients").filter(store.table("gradients")["role"] == "up_proj")
    load = store.arrays("routing")["expert_load"][0]
    visited = [load[layer + 1, expert] > 0 for layer, expert in zip(table["layer"], table["expert"], strict=True)]
    norms = [norm for norm, seen in zip(table["probe_l2_norm"], visited, strict=True) if not seen]
    assert norms == [0.0] * (len(visited) - sum(visited)) != []
    assert table["status"].unique().to_list() == ["measured"]
    theirs = Reference(run / NAME, store)
    total = math.sqrt(sum((theirs.probe(name) ** 2).sum() for name in theirs.windows[0]))
    assert row(store, "gradients")["total_probe_l2_norm"] == pytest.approx(total, rel=1e-5)
    assert row(store, "gradients")["noise_status"] == Status.NOT_MEASURED  # of two windows


def test_infinite_weights_give_gradients_that_are_marked(tiny_run: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "whole", ("step100",))
    run = copied(run, tmp_path, **{"model.layers.1.mlp.up_proj": np.full((48, 32), np.inf, np.float32)})
    store = collect(run, out=tmp_path / "s.zarr", record=GROUPS, batch="8x8", progress=Notes())
    assert (store.arrays("gradients")["status"] == Status.NONFINITE).all()
    assert store.arrays("gradients")["noise_status"].tolist() == [Status.NONFINITE]
    assert np.isnan(store.arrays("gradients")["noise_scale"]).all()


def test_groups_are_back_filled_by_shards(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    options: dict[str, Any] = {"out": out, "batch": "4x16", "progress": Notes()}
    collect(tiny_run, record=("loss",), **options)
    for shard in ("1/2", "2/2"):
        collect(tiny_run, record=("loss", *GROUPS), shard=shard, **options)
    filled = od.open_store(out)
    at_once = collect(tiny_run, record=GROUPS, out=tmp_path / "once.zarr", batch="4x16", progress=Notes())
    assert filled.arrays("gradients")["status"].shape[0] == len(REVISIONS)
    same_numbers(filled, at_once)


class OfItsOwn(Shown):
    def probe(self) -> PlainProbe:
        return PlainProbe(np.zeros((2, 4), np.int64), tokenizer_size=320)


class OfChoices(AtQueries):
    sites = frozenset({Site.CHOSEN_EXPERTS})


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"record": "gradients", "until_layer": 0}, OptionError,
         "gradients needs the whole forward pass, which is to end after layer 0; leave one out"),
        ({"record": [OfItsOwn]}, ProbeError,
         "OfItsOwn must read the collection's probe, since it reads gradients (got a probe of its own); leave out "
         "probe(self)"),
        ({"record": [OfChoices]}, OptionError,
         "OfChoices must read gradients at other sites than chosen_experts, which are whole numbers"),
    ],
)  # fmt: skip
def test_refusals(options: dict[str, Any], kind: type[Exception], message: str, tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(kind) as error:
        collect(tiny_run, out=tmp_path / "s.zarr", batch="4x16", progress=Notes(), **options)
    assert str(error.value) == message


def test_a_checkpoint_without_a_head_has_no_loss_to_go_back_from(tiny_run: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "whole", ("step100",))
    run = copied(run, tmp_path, lm_head=None, score=np.full((1, 32), 2, np.float32))
    with pytest.raises(OptionError) as error:
        collect(run, out=tmp_path / "s.zarr", record="gradients", batch="4x16", progress=Notes())
    lacking = "gradients is not recorded: the checkpoint has no language-model head"
    assert str(error.value) == f"nothing to record: {lacking}; name other groups with record"


def test_a_32b_model_takes_less_than_10_gb(tmp_path: Path) -> None:
    with LocalHub() as hub:
        hub.add_repo("org/large", {"step0": LayerStack().files() | {"tokenizer.json": tiny_tokenizer().encode()}})
        found = plan(HubSource("org/large", endpoint=hub.endpoint), record=GROUPS, batch="8x128", max_memory="256MiB")
    assert 120e9 < found.nbytes < 132e9  # the blocks of 64 GB twice
    assert 6e9 < found.peak_bytes < 10e9
