"""The group `optimizer` equals what torch reads from the same files; a revision without state never ends the others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

import olmo_dynamics as od
from olmo_dynamics.checkpoints.formats.written_state import WRITTEN_FILE
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.checkpoints.web import WebSource
from olmo_dynamics.collection.setup.revision_state import GROUPS_FILE
from olmo_dynamics.errors import CheckpointError, OptionError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.progress import Progress
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.kernels.sketching import sketch
from olmo_dynamics.training.checkpoint import write_checkpoint
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState, new_state
from tests.checkpoints.formats.test_native_runs import cut, load_core, renamed
from tests.checkpoints.formats.test_one_model import TINY as FORMATS_TINY
from tests.checkpoints.formats.writing import (
    adam_state,
    alone,
    core_experiment,
    native_config,
    to_core,
    to_native,
    write_core,
    write_native,
)
from tests.checkpoints.http.test_web_directory import served
from tests.hub import LocalHub
from tests.listening import Notes
from tests.recorders.test_six_kinds import Moments
from tests.runs import tiny_model, write_revision

NUMBERS = ("exp_avg_rms", "exp_avg_sq_mean", "update_rms", "eps_dominance", "signal_to_noise", "optimizer_step")
EMBEDDING = "model.embed_tokens.weight"
State = Mapping[str, torch.Tensor]


def by_hand(m: torch.Tensor, v: torch.Tensor, step: float, betas: tuple[float, float], eps: float) -> list[float]:
    """The group's numbers of one tensor, in float64."""
    first, second = m.double().numpy(), v.double().numpy()
    m_hat, v_hat = first / (1 - betas[0] ** max(step, 1)), second / (1 - betas[1] ** max(step, 1))
    update = m_hat / (np.sqrt(v_hat) + eps)
    return [
        np.sqrt((first**2).mean()), second.mean(), np.sqrt((update**2).mean()), (np.sqrt(v_hat) < eps).mean(),
        np.sqrt((m_hat**2).mean()) / np.sqrt(v_hat.mean()), step,
    ]  # fmt: skip


def recorded(store: RecordedStore, revision: str) -> dict[str, list[float]]:
    """The group's numbers of one revision, by tensor."""
    rows = store.table("optimizer").filter(revision=revision).select("tensor", *NUMBERS).iter_rows()
    return {tensor: [np.nan if each is None else each for each in numbers] for tensor, *numbers in rows}


def assert_equal(found: Mapping[str, list[float]], expected: Mapping[str, list[float]]) -> None:
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        assert found[name] == pytest.approx(numbers, rel=1e-6, nan_ok=True), name


def collect(run: Any, out: Path, record: Any = ("optimizer",), **options: Any) -> RecordedStore:
    return od.collect(run, out=out, record=record, **{"progress": Progress(), **options})


# Native runs


def of_olmo(folder: Path) -> tuple[State, State, float, float]:
    """Both moments by canonical name, the step, and the rate, as torch reads them."""
    written = torch.load(folder / "optim.pt", weights_only=True)
    names = [name.removeprefix("module.") for group in written["param_groups"] for name in group["param_names"]]
    first, second = (
        cut({name: written["state"][number][kind] for number, name in enumerate(names)})
        for kind in ("exp_avg", "exp_avg_sq")
    )
    return first, second, float(written["state"][0]["step"]), written["param_groups"][0]["lr"]


def of_core(folder: Path) -> tuple[State, State, float, float]:
    written = load_core(folder / "model_and_optim")
    first, second = (
        renamed({
            name.removeprefix("optim.state.").removesuffix(f".{kind}"): value
            for name, value in written.items()
            if name.startswith("optim.state.") and name.endswith(f".{kind}")
        })
        for kind in ("exp_avg", "exp_avg_sq")
    )  # fmt: skip
    step = float(written["optim.state.embeddings.weight.step"])
    return first, second, step, written["optim.param_groups.embeddings.weight.lr"]


@pytest.mark.parametrize(
    ("run", "read", "optimizer"),
    [("olmo/tiny-olmo2", of_olmo, "AdamW"), ("olmo_core/tiny-olmo3", of_core, "SkipStepAdamW")],
)
def test_of_a_native_run_it_equals_what_torch_reads(
    run: str, read: Any, optimizer: str, shared: Path, tmp_path: Path
) -> None:
    folder = shared / "data/native" / run
    store = collect(folder, tmp_path / "s.zarr", sketch_size=128)
    assert store.group("optimizer").attributes["optimizer"] == optimizer
    rates = store.table("optimizer.learning_rate")
    for revision in store.table("revisions")["revision"]:
        first, second, step, rate = read(folder / revision)
        expected = {name: by_hand(m, second[name], step, (0.9, 0.95), 1e-8) for name, m in first.items()}
        assert_equal(recorded(store, revision), expected)
        assert rates.filter(revision=revision)["value"].to_list() == [rate]
        row = store.row("optimizer", revision)
        for place, name in enumerate(store.axis("tensor").labels):
            m = first[str(name)].contiguous()
            info = TensorInfo(str(name), "F32", tuple(m.shape), "", 0, m.nbytes)
            of_moment = sketch(m.reshape(-1).view(torch.uint8).numpy(), info, size=128)
            np.testing.assert_array_equal(row["exp_avg_sketch"][place], of_moment.astype(np.float32))


LAST = "step80-unsharded"


@pytest.fixture(scope="module")
def whole(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RecordedStore]:
    """A native run, and the store of its last revision."""
    run = shared / "data/native/olmo/tiny-olmo2"
    if not run.is_dir():
        pytest.skip("the native runs are not among the real inputs")
    return run, collect(run, tmp_path_factory.mktemp("whole") / "s.zarr", ["parameters", "optimizer"], revisions=LAST)


def test_a_hub_gives_the_same_by_ranges(whole: tuple[Path, RecordedStore], tmp_path: Path) -> None:
    run, store = whole
    with LocalHub() as hub:
        hub.add_repo("allenai/tiny", {LAST: run / LAST, "main": run / LAST})
        source = HubSource("allenai/tiny", endpoint=hub.endpoint)
        far = collect(source, tmp_path / "hub.zarr", revisions=LAST)
        planned = od.plan(source, revisions=LAST, record="optimizer")
    assert recorded(far, LAST) == recorded(store, LAST)
    size = (run / LAST / "optim.pt").stat().st_size
    assert 0.8 * size < planned.nbytes < 1.5 * size  # and no weights


@pytest.mark.parametrize("optimizer", [True, False])
def test_a_web_server_gives_the_same(optimizer: bool, whole: tuple[Path, RecordedStore], tmp_path: Path) -> None:
    run, store = whole
    shutil.copytree(run / LAST, tmp_path / LAST)
    if not optimizer:
        (tmp_path / LAST / "optim.pt").unlink()
    with served(tmp_path) as (_, handler):
        source = WebSource(f"{handler.address}/{LAST}")
        if optimizer:
            assert recorded(collect(source, tmp_path / "web.zarr"), LAST) == recorded(store, LAST)
            return
        with pytest.raises(
            OptionError, match=f"^nothing to record: optimizer is not recorded: {LAST} has no optimiser's"
        ):
            collect(source, tmp_path / "web.zarr")


def test_a_choice_of_tensors_shards_and_a_store_of_weights_give_the_same(
    whole: tuple[Path, RecordedStore], tmp_path: Path
) -> None:
    run, store = whole
    for shard in ("1/2", "2/2"):
        parts = collect(run, tmp_path / "parts.zarr", tensors="q_proj,norm", shard=shard)
    found = recorded(parts, LAST)
    assert len(found) == 5
    assert found.items() <= recorded(store, LAST).items()
    # a store of weights is continued by the group
    later = collect(run, tmp_path / "later.zarr", "parameters", revisions=LAST)
    assert "optimizer" not in later.groups
    assert recorded(collect(run, tmp_path / "later.zarr", revisions=LAST), LAST) == recorded(store, LAST)


def test_a_damaged_state_is_left_out_in_one_line(shared: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(shared / "data/native/olmo/tiny-olmo2", tmp_path / "run"))
    file = run / "step40-unsharded" / "optim.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    heard = Notes()
    with pytest.raises(CheckpointError, match=r"^1 of 2 revisions cannot be measured \(step40-unsharded\)"):
        collect(run, tmp_path / "s.zarr", progress=heard)
    assert [note.partition(":")[0] for note in heard.notes] == ["step40-unsharded is left out"]
    assert set(od.open_store(tmp_path / "s.zarr").table("optimizer")["revision"]) == {"step80-unsharded"}


def test_a_tensor_without_any_state_is_not_measured_and_the_others_are(shared: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(shared / "data/native/olmo/tiny-olmo2", tmp_path / "run"))
    whole = recorded(collect(run, tmp_path / "whole.zarr", revisions=LAST), LAST)
    state = torch.load(run / LAST / "optim.pt", weights_only=True)
    group = state["param_groups"][-1]  # of the embedding alone
    [frozen] = group["params"]
    assert group["param_names"] == ["module.transformer.wte.weight"]
    del state["state"][frozen]
    torch.save(state, run / LAST / "optim.pt")
    store = collect(run, tmp_path / "s.zarr", ["parameters", "optimizer"], revisions=LAST)
    assert store.group("optimizer").attributes["optimizer"] == "AdamW"
    assert recorded(store, LAST) == {name: each for name, each in whole.items() if name != EMBEDDING}
    statuses = dict(zip(store.axis("tensor").labels.tolist(), store.row("optimizer", LAST)["status"], strict=True))
    assert {name for name, status in statuses.items() if status != Status.MEASURED} == {EMBEDDING}
    assert statuses[EMBEDDING] == Status.NOT_MEASURED
    with od.Run(run).source.open(od.Run(run).source.find(LAST)) as checkpoint:
        assert checkpoint.stored_as is not None
        with pytest.raises(CheckpointError, match="has no state; fetch the file again"):
            checkpoint.stored_as.optimizer.require_adamw()


def test_a_step_beyond_every_float_is_one_line(shared: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(shared / "data/native/olmo/tiny-olmo2", tmp_path / "run"))
    file = run / "step40-unsharded" / "optim.pt"
    state = torch.load(file, weights_only=True)
    state["state"][0]["step"] = 10**400
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=r"must be a number of at most 308 digits; fetch the file again$"):
        collect(run, tmp_path / "s.zarr", revisions="step40-unsharded")


# What this library writes, and what is live

CONFIG = ModelConfig(
    hidden_size=16, layers=1, heads=2, kv_heads=2, head_dim=8, intermediate_size=24, vocab_size=64, max_positions=16,
    norm_eps=1e-6, rope_theta=5e5,
)  # fmt: skip
RECIPE = Recipe(steps=10, peak_lr=1e-2, warmup_steps=3)


def trained() -> TrainState:
    state = new_state(CONFIG, RECIPE)
    generator = torch.Generator().manual_seed(5)
    for step in (1, 2):
        for group in state.optimizer.param_groups:
            group["lr"] = RECIPE.learning_rate(step)
        for parameter in state.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-8
        state.optimizer.step()
        state.step, state.tokens_seen = step, step * RECIPE.tokens_per_step
    return state


def expected_of(state: TrainState) -> dict[str, list[float]]:
    return {
        name: by_hand(*(state.optimizer.state[each][kind] for kind in ("exp_avg", "exp_avg_sq")), 2.0, RECIPE.betas, 1e-8)
        for name, each in state.model.named_parameters()
    }  # fmt: skip


def test_of_our_checkpoints_it_equals_the_state_in_memory(tmp_path: Path) -> None:
    run, state = tmp_path / "run", trained()
    later = replace(
        new_state(CONFIG, RECIPE), step=3, tokens_seen=3 * RECIPE.tokens_per_step
    )  # as if its state were lost
    for each in (new_state(CONFIG, RECIPE), state, later):
        write_checkpoint(run, each, recipe=RECIPE, tokenizer_json=None, lineage={"parent": None})
    heard = Notes()
    both = collect(run, tmp_path / "both.zarr", ["parameters", "optimizer", Moments], progress=heard)
    name = f"step2-tokens{state.tokens_seen}"
    expected = expected_of(state)
    assert_equal(recorded(both, name), expected)
    assert any(0 < numbers[3] < 1 for numbers in expected.values())  # gradients of the size of eps
    assert both.table("optimizer.learning_rate")["value"].to_list() == [RECIPE.learning_rate(2)]
    assert set(both.table("moments")["optimizer_step"]) == {2}
    # the first and the last checkpoint have no state: their weights are measured, and it says so
    line = (
        "optimizer, moments is not recorded: step0-tokens0 has no optimiser's state (training_state/, optim.pt, "
        "model_and_optim/ with moments, or optimizer.pt)"
    )
    assert line in heard.notes
    assert both.table("parameters")["step"].unique().to_list() == [0, 2, 3]
    assert both.table("optimizer")["step"].unique().to_list() == [2]
    assert collect(run, tmp_path / "both.zarr", ["parameters", "optimizer"]).table("optimizer").height
    with pytest.raises(
        CheckpointError, match=r"^2 of 3 revisions cannot be measured \(step0-tokens0, step3-tokens6144\), "
    ):
        collect(run, tmp_path / "alone.zarr")
    live = od.record(
        state.model, tmp_path / "live.zarr", step=2, tokens=state.tokens_seen, record="optimizer", optimizer=state.optimizer
    )  # fmt: skip
    assert recorded(live, name) == recorded(both, name)
    assert live.table("optimizer.learning_rate")["value"].to_list() == [RECIPE.learning_rate(2)]
    with pytest.raises(OptionError) as caught:
        od.record(state.model, tmp_path / "none.zarr", step=2, record="optimizer")
    assert str(caught.value) == "record must be given the optimiser whose state it is to measure; add optimizer=..."


def test_experts_of_a_model_of_transformers_are_taken_apart(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.runs import FAMILIES, TINY

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("olmoe", **TINY | FAMILIES["olmoe"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.arange(16)[None], labels=torch.arange(16)[None]).loss.backward()
    optimizer.step()
    store = od.record(model, tmp_path / "s.zarr", step=1, record=["parameters", "optimizer"], optimizer=optimizer)
    found = store.table("optimizer")
    assert found["tensor"].to_list() == store.table("parameters")["tensor"].to_list()
    stacked = dict(model.named_parameters())["model.layers.1.mlp.experts.down_proj"]
    m = optimizer.state[stacked]["exp_avg"][3].double()
    [rms] = found.filter(tensor="model.layers.1.mlp.experts.3.down_proj.weight")["exp_avg_rms"]
    assert rms == pytest.approx(float(m.square().mean().sqrt()), rel=1e-6)


# Other optimisers


def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    from transformers import Olmo2Config, Olmo2ForCausalLM

    return dict(Olmo2ForCausalLM(Olmo2Config(**FORMATS_TINY)).state_dict())


def write_core_state(folder: Path, states: Mapping[str, Any], *, optim: str, fields: Mapping[str, Any]) -> Path:
    """A checkpoint of OLMo-core with any optimiser's state."""
    weights = to_core(small_state())
    experiment = core_experiment(FORMATS_TINY) | {
        "train_module": {"optim": {"_CLASS_": f"olmo_core.optim.{optim}Config"}}
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(experiment))
    (folder / "train").mkdir()
    torch.save({"global_step": 7}, folder / "train" / "rank0.pt")
    groups = {name: dict(fields) for name in weights}
    with alone():
        tree = {"model": weights, "optim": {"state": states, "param_groups": groups}}
        dcp.save(tree, checkpoint_id=folder / "model_and_optim", no_dist=True)
    return folder


def test_a_step_frozen_at_zero_counts_as_one(tmp_path: Path) -> None:
    states = adam_state(to_core(small_state()))
    for kinds in states.values():
        kinds["step"] = torch.tensor(0.0)
    fields = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8}
    write_core_state(tmp_path / "run" / "step7", states, optim="adamw.SkipStepAdamW", fields=fields)
    store = collect(tmp_path / "run", tmp_path / "s.zarr")
    named = renamed({name: kinds["exp_avg"] for name, kinds in states.items()})
    seconds = renamed({name: kinds["exp_avg_sq"] for name, kinds in states.items()})
    expected = {name: by_hand(m, seconds[name], 0.0, (0.9, 0.95), 1e-8) for name, m in named.items()}
    assert_equal(recorded(store, "step7"), expected)


def test_of_muon_and_dion_the_momentum_is_measured(tmp_path: Path) -> None:
    weights = to_core(small_state())
    states = {name: {"momentum": tensor * 0.5, "Q": torch.ones(3, 2)} for name, tensor in weights.items()}
    states["embeddings.weight"] = {
        "momentum": weights["embeddings.weight"],
        "variance": weights["embeddings.weight"].square(),
    }
    fields = {"lr": 1e-3, "mu": 0.95, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "step": 7}
    write_core_state(tmp_path / "run" / "step7", states, optim="muon.Muon", fields=fields)
    store = collect(tmp_path / "run", tmp_path / "s.zarr")
    assert store.group("optimizer").attributes["optimizer"] == "Muon"
    found = recorded(store, "step7")
    embedding, gate = "model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight"
    of_embedding = states["embeddings.weight"]
    hand = by_hand(of_embedding["momentum"], of_embedding["variance"], 7, (0.9, 0.95), 1e-8)
    assert found[embedding] == pytest.approx(hand, rel=1e-6)
    momentum = states["blocks.0.feed_forward.w1.weight"]["momentum"].double()
    alone_known = [float(momentum.square().mean().sqrt()), np.nan, np.nan, np.nan, np.nan, 7.0]
    assert found[gate] == pytest.approx(alone_known, rel=1e-6, nan_ok=True)
    status = dict(store.table("optimizer").select("tensor", "update_status").iter_rows())
    assert (status[embedding], status[gate]) == (1, 0)


def test_of_the_trainer_it_is_read_by_the_models_order(tmp_path: Path) -> None:
    model = tiny_model(0)
    norms = {name for name, _ in model.named_parameters() if "norm" in name}
    groups = [
        {"params": [each for name, each in model.named_parameters() if (name in norms) == bare]}
        for bare in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.8, 0.9), eps=1e-4)
    model(torch.arange(16)[None], labels=torch.arange(16)[None]).loss.backward()
    optimizer.step()
    revision = write_revision(tmp_path / "run" / "step1", 0)
    torch.save(optimizer.state_dict(), revision / "optimizer.pt")
    store = collect(tmp_path / "run", tmp_path / "s.zarr")
    states = {name: optimizer.state[each] for name, each in model.named_parameters()}
    expected = {
        name: by_hand(state["exp_avg"], state["exp_avg_sq"], 1.0, (0.8, 0.9), 1e-4) for name, state in states.items()
    }
    assert_equal(recorded(store, "step1"), expected)
    # with `all` a state that cannot be read costs the group alone
    torch.save({"state": {}, "param_groups": []}, revision / "optimizer.pt")
    np.save(tmp_path / "ids.npy", np.arange(32).reshape(2, 16))
    every = collect(tmp_path / "run", tmp_path / "all.zarr", "all", tokens=tmp_path / "ids.npy")
    assert "optimizer" not in every.groups and "parameters" in every.groups


def experts_of_a_layer() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A router and three experts of one layer under canonical names, and stacked by the trainers' words for gate, up, down."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"gate": (10, 16), "up": (10, 16), "down": (16, 10)}
    experts = [{role: torch.randn(shape, generator=generator) for role, shape in shapes.items()} for _ in range(3)]
    named = {
        f"model.layers.0.mlp.experts.{place}.{role}_proj.weight": tensor
        for place, expert in enumerate(experts)
        for role, tensor in expert.items()
    }
    named["model.layers.0.mlp.gate.weight"] = torch.randn(3, 16, generator=generator)
    stacked = {
        role: torch.stack([expert[role].T if role == "down" else expert[role] for expert in experts]).contiguous()
        for role in shapes
    }
    return named, stacked


def write_experts(folder: Path, writer: str, router: torch.Tensor, stacked: State) -> None:
    if writer == "native":
        block = "transformer.blocks.0.ffn"
        words = {"gate": "w1", "up": "v1", "down": "w2"}
        state = {f"{block}.experts.mlp.{words[role]}": tensor.flatten(0, 1) for role, tensor in stacked.items()}
        sizes = {**FORMATS_TINY, "num_key_value_heads": 4, "intermediate_size": 10, "num_hidden_layers": 1}
        moe = {"block_type": "moe", "norm_after": False, "moe_num_experts": 3, "moe_top_k": 2, "moe_dropless": True}
        config = native_config(sizes, **moe, moe_zloss_weight=0.001)
        write_native(folder, config, {**state, f"{block}.router.layer.weight": router})
        return
    block = "blocks.0.feed_forward_moe"
    words = {"gate": "w1", "up": "w3", "down": "w2"}
    state = {f"{block}.experts.mlp.{words[role]}": tensor for role, tensor in stacked.items()}
    experiment = core_experiment({**FORMATS_TINY, "num_hidden_layers": 1})
    experiment["model"]["block"] |= {
        "name": "moe_reordered_norm",
        "feed_forward_moe": {"name": "dropless", "num_experts": 3, "hidden_size": 10, "router": {"top_k": 2}},
    }
    experiment["model"]["name"] = "moe"
    write_core(folder, experiment, {**state, f"{block}.router.weight": router.flatten()})


@pytest.mark.parametrize("writer", ["native", "core"])
def test_states_of_fused_experts_come_apart(writer: str, tmp_path: Path) -> None:
    named, stacked = experts_of_a_layer()
    write_experts(tmp_path / "run" / "step7", writer, named["model.layers.0.mlp.gate.weight"], stacked)
    table = collect(tmp_path / "run", tmp_path / "s.zarr").table("optimizer")
    assert set(table["tensor"]) == set(named)
    for name, rms, mean in table.select("tensor", "exp_avg_rms", "exp_avg_sq_mean").iter_rows():
        m, v = named[name].double() * 0.5 + 1, named[name].double().square()
        assert (rms, mean) == pytest.approx((float(m.square().mean().sqrt()), float(v.mean())), rel=1e-6), name


def test_states_that_cannot_be_measured_are_one_line(tmp_path: Path) -> None:
    weights = to_core(small_state())
    states = {name: {"sum": tensor.square()} for name, tensor in weights.items()}
    write_core_state(tmp_path / "run" / "step7", states, optim="x.Adagrad", fields={"lr": 1.0})
    with pytest.raises(CheckpointError) as caught:
        collect(tmp_path / "run", tmp_path / "s.zarr")
    assert str(caught.value) == (
        f"{tmp_path / 'run'}@step7: model_and_optim must hold exp_avg or momentum or momentum_buffer of its parameters (got "
        "sum); this optimiser's state cannot be read"
    )
    write_revision(tmp_path / "plain" / "step1", 0)
    with pytest.raises(OptionError) as refused:
        collect(tmp_path / "plain", tmp_path / "s.zarr")
    assert str(refused.value) == (
        "nothing to record: optimizer is not recorded: step1 has no optimiser's state (training_state/, optim.pt, "
        "model_and_optim/ with moments, or optimizer.pt); name other groups with record"
    )
    assert not (tmp_path / "s.zarr").exists()


def test_an_encoded_state_whose_epsilon_is_unknown_gives_its_moments(tmp_path: Path) -> None:
    state = small_state()
    write_native(tmp_path / "run" / "step7", native_config(FORMATS_TINY), to_native(state), encoded=True)
    table = collect(tmp_path / "run", tmp_path / "s.zarr").table("optimizer")
    assert set(table["tensor"]) == set(state)
    for name, rms, mean in table.select("tensor", "exp_avg_rms", "exp_avg_sq_mean").iter_rows():
        m, v = state[name].double() * 0.5 + 1, state[name].double().square()
        assert (rms, mean) == pytest.approx((float(m.square().mean().sqrt()), float(v.mean())), rel=1e-6)
    assert set(table["update_status"]) == {0}
    assert table["update_rms"].is_nan().all()


IN_ONE_PROCESS = """
import re, sys
from pathlib import Path
from olmo_dynamics.collecting import collect
from olmo_dynamics.progress import Progress
collect(sys.argv[1], out=sys.argv[2], record="optimizer", max_memory="32MB", threads=1, progress=Progress())
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def write_large(revision: Path, tensors: int, side: int) -> int:
    """A checkpoint as this library writes it, of some square matrices; returns the bytes of its moments."""
    weights = {f"model.layers.{number}.mlp.up_proj.weight": torch.zeros(side, side) for number in range(tensors)}
    (revision / "training_state").mkdir(parents=True)
    save_file({name: each.bfloat16() for name, each in weights.items()}, revision / "model.safetensors")
    moments = {f"{name}.{kind}": each + 1 for name, each in weights.items() for kind in ("exp_avg", "exp_avg_sq")}
    save_file(moments | {f"{name}.step": torch.tensor(3.0) for name in weights}, revision / WRITTEN_FILE)
    groups = [{"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "params": list(weights)}]
    (revision / GROUPS_FILE).write_text(json.dumps({"optimizer": "AdamW", "groups": groups}))
    return sum(each.nbytes for each in moments.values())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's peak is read from Linux's /proc")
def test_no_state_is_whole_in_memory(tmp_path: Path) -> None:
    peaks = []
    for name, tensors, side in (("small", 1, 64), ("large", 12, 2048)):
        size = write_large(tmp_path / name / "step3", tensors, side)
        command = [sys.executable, "-c", IN_ONE_PROCESS, str(tmp_path / name), str(tmp_path / f"{name}.zarr")]
        peaks.append(1024 * int(subprocess.run(command, capture_output=True, check=True).stdout))
    assert size > 400e6 and peaks[1] - peaks[0] < 130e6  # two moments of a tensor take 34 MB
    [row] = od.open_store(tmp_path / "large.zarr").table("optimizer").filter(layer=7).to_dicts()
    assert row["exp_avg_rms"] == 1.0 and row["optimizer_step"] == 3
