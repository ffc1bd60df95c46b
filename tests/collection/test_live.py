"""Recording a live model: the very numbers that its checkpoint gives, in a loop that notices nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError, ProbeError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.progress import Progress
from tests.runs import FAMILIES, TINY, tiny_tokenizer, write_family_run

NAME = "step10-tokens640"
RECORD = ("parameters", "embeddings", "activations", "outliers", "loss")


def same_tables(one: RecordedStore, other: RecordedStore) -> None:
    assert one.tables == other.tables
    for name in one.tables:
        when = ["collected_at"] if name == "revisions" else []
        assert_frame_equal(one.table(name).drop(when), other.table(name).drop(when), check_exact=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_transformers_gives_what_its_checkpoint_gives(family: str, tmp_path: Path) -> None:
    run = write_family_run(tmp_path / "run", (NAME,), family)
    options = {"record": (*RECORD, "routing") if family == "olmoe" else RECORD, "batch": "2x16"}
    collected = od.collect(run, out=tmp_path / "collected.zarr", progress=Progress(), **options)
    model = AutoModelForCausalLM.from_pretrained(run / NAME)
    recorded = od.record(
        model,
        tmp_path / "recorded.zarr",
        step=10,
        tokens=640,
        source=str(run),
        tokenizer=run / NAME / "tokenizer.json",
        **options,
    )
    same_tables(collected, recorded)


class Compiled(nn.Module):
    """What `torch.compile` makes of a module, without its compiler."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


def test_tied_wrapped_and_bfloat16(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("olmo2", **TINY | {"tie_word_embeddings": True}))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "run" / NAME)
    (tmp_path / "run" / NAME / "tokenizer.json").write_text(tiny_tokenizer())
    options = {"record": ("parameters", "loss"), "batch": "2x16"}
    collected = od.collect(tmp_path / "run", out=tmp_path / "collected.zarr", progress=Progress(), **options)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "run" / NAME / "tokenizer.json"))
    wrapped = nn.DataParallel(Compiled(model))
    recorded = od.record(
        wrapped, tmp_path / "r.zarr", step=10, tokens=640, source=str(tmp_path / "run"), tokenizer=tokenizer, **options
    )
    assert recorded.table("revisions")["dtype"].to_list() == ["BF16"]
    same_tables(collected, recorded)


def test_a_loop_of_ones_own_is_recorded_and_not_disturbed(tmp_path: Path) -> None:
    run = write_family_run(tmp_path / "run", (NAME,), "olmo2")
    options = {"record": ("parameters", "loss"), "tokenizer": tiny_tokenizer().encode(), "batch": "2x16"}

    def losses(store: Path | None) -> list[float]:
        torch.manual_seed(0)
        model = od.load_model(od.Run(run), NAME)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        told = []
        for step in range(1, 7):
            batch = torch.randint(300, (4, 16))
            loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            told.append(float(loss.detach()))
            if store and step % 2 == 0:
                od.record(model, store, step=step, **options)
        return told

    assert losses(tmp_path / "s.zarr") == losses(None)
    store = od.open_store(tmp_path / "s.zarr")
    table = store.table("revisions")
    assert table["revision"].to_list() == ["step2", "step4", "step6"] and table["tokens"].null_count() == 3
    assert store.attributes["source"] == "Olmo2"
    norms = store.table("parameters").filter(tensor="lm_head.weight")["l2_norm"]
    assert norms.n_unique() == 3


def test_a_step_that_is_there_is_left(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_family_run(tmp_path / "run", (NAME,), "olmo2") / NAME)
    first = od.record(model, tmp_path / "s.zarr", step=1, record=("parameters",))
    before = first.table("parameters")["l2_norm"]
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    again = od.record(model, first, step=1, record=("parameters",))
    assert again.table("parameters")["l2_norm"].equals(before)
    other = od.record(model, first, step=2, record=("parameters",))
    assert other.table("parameters").filter(pl.col("step") == 2)["l2_norm"].sum() > before.sum()


def test_a_recording_is_appended_and_never_rewrites_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_family_run(tmp_path / "run", (NAME,), "olmo2") / NAME)
    with monkeypatch.context() as patched:
        patched.setattr("olmo_dynamics.store.Store.compact", lambda store: pytest.fail("compacted"))
        for step in (1, 2, 3):
            od.record(model, tmp_path / "s.zarr", step=step, record=("parameters",))
    store = od.open_store(tmp_path / "s.zarr", mode="a")
    before = store.table("parameters")
    assert not store.is_compact and len(store.done) == 3
    store.compact()
    assert od.open_store(tmp_path / "s.zarr").table("parameters").equals(before)


def test_what_cannot_be_recorded_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        od.record(nn.Linear(2, 2), tmp_path / "s.zarr", step=1)
    assert (
        str(caught.value)
        == "record must be given a model of this package, or an OLMo model of transformers (got Linear)"
    )
    model = AutoModelForCausalLM.from_pretrained(write_family_run(tmp_path / "run", (NAME,), "olmo2") / NAME)
    with pytest.raises(
        ProbeError, match=r"^step1 has no tokenizer.json to read the probe text with; give one with --tokenizer "
    ):
        od.record(model, tmp_path / "s.zarr", step=1)
    with pytest.raises(OptionError) as caught:
        od.record(model, tmp_path / "s.zarr", step=1, tokenizer=tmp_path / "none")
    assert str(caught.value) == f"tokenizer must be a tokenizer.json file (got {tmp_path / 'none'}); check the path"
    assert not (tmp_path / "s.zarr").exists()


def test_token_ids_can_be_the_probe(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_family_run(tmp_path / "run", (NAME,), "olmo2") / NAME)
    np.save(tmp_path / "probe.npy", np.arange(64, dtype=np.uint16))
    store = od.record(model, tmp_path / "s.zarr", step=1, record=("loss",), probe=tmp_path / "probe.npy", batch="2x16")
    assert store.attributes["probe"]["shape"] == [2, 16]


def test_each_group_can_have_an_interval_of_its_own(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_family_run(tmp_path / "run", (NAME,), "olmo2") / NAME)
    every = {"parameters": 2, "loss": 4}
    options = {"every": every, "tokenizer": tiny_tokenizer().encode(), "batch": "2x16"}
    for step in (1, 2, 4):
        found = od.record(model, tmp_path / "s.zarr", step=step, **options)
        assert (found is None) == (step == 1)
    store = od.open_store(tmp_path / "s.zarr")
    assert [store.recorded(f"step{step}") for step in (2, 4)] == [{"parameters"}, {"parameters", "loss"}]
    for given, line in (
        ({"every": {"lose": 2}}, "every must name groups (got 'lose'); did you mean 'loss' or 'logits'?"),
        ({"every": {"loss": 0}}, "every must hold intervals of at least 1 step (got 0 for loss)"),
        ({"every": every, "record": "loss"}, "give every or record, since every names the groups"),
    ):
        with pytest.raises(OptionError) as caught:
            od.record(model, store, step=8, **given)
        assert str(caught.value) == line
