"""Unbiased CKA from stores: that of transformers' hidden states, between revisions, layers, widths and families."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.progress import Progress
from olmo_dynamics.quantities.declaration import Status
from tests.recorders.representations.by_formula import cka
from tests.runs import FAMILIES, TINY, tiny_tokenizer, write_family_run

NAMES = ("step0-tokens0", "step10-tokens1B", "step20-tokens2B")


def token_ids(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 300, (6, 32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """An OLMo 2 of width 32, and a wider OLMoE with one layer more."""
    folder = tmp_path_factory.mktemp("similarity")
    write_family_run(folder / "olmo2", NAMES, "olmo2")
    torch.manual_seed(3)
    config = AutoConfig.for_model("olmoe", **TINY | FAMILIES["olmoe"] | {"hidden_size": 48})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "wide" / "main")
    (folder / "wide" / "main" / "tokenizer.json").write_text(tiny_tokenizer(), encoding="utf-8")
    for seed in (0, 1):
        np.save(folder / f"tokens{seed}.npy", token_ids(seed))
    return folder


def collected(folder, run, name, *, seed=0, record="representations", **options):
    tokens = folder / f"tokens{seed}.npy"
    return od.collect(folder / run, out=folder / name, tokens=tokens, record=record, progress=Progress(), **options)


@pytest.fixture(scope="module")
def stores(folder):
    return {run: collected(folder, run, f"{run}.zarr", gram_tokens=90) for run in ("olmo2", "wide")}


@torch.no_grad()
def streams(folder, run, name):
    """The sample's stream leaving each block, of transformers, [layers, tokens, width]."""
    model, kept = AutoModelForCausalLM.from_pretrained(folder / run / name).eval(), []
    for block in model.model.layers:
        block.register_forward_hook(lambda block, _, out: kept.append(out[0] if isinstance(out, tuple) else out))
    model(torch.tensor(token_ids()))
    places = np.linspace(0, 6 * 32 - 1, 90).round().astype(int)
    return [each.double().flatten(0, 1).numpy()[places] for each in kept]


def test_revisions_at_one_layer_and_at_every_layer(folder, stores):
    found = od.similarity(stores["olmo2"], layer=1)
    assert found.select("revision", "other_revision").rows() == [(one, other) for one in NAMES for other in NAMES]
    of_layer = {name: streams(folder, "olmo2", name)[1] for name in NAMES}
    expected = [cka(of_layer[one], of_layer[other]) for one in NAMES for other in NAMES]
    np.testing.assert_allclose(found["cka"], expected, atol=1e-5)
    assert found.filter(pl.col("step") == pl.col("other_step"))["cka"].to_list() == [1, 1, 1]
    assert found["cka_se"].to_list() == [0] * 9  # at most 4,096 pairs of tokens
    assert found.columns[-4:] == ["other_layer", "cka", "cka_se", "concentrated"]
    every = od.similarity(stores["olmo2"])
    assert every.height == 18 and (every["layer"] == every["other_layer"]).all()
    assert every.filter(layer=1).drop("layer").equals(found.drop("layer"))


def test_layers_of_a_revision_and_of_two_models_of_other_widths(folder, stores):
    layers = od.similarity(stores["olmo2"], across="layers", revisions=NAMES[1])
    one, wide = streams(folder, "olmo2", NAMES[1]), streams(folder, "wide", "main")
    assert layers.select("layer", "other_layer").rows() == [(0, 0), (0, 1), (1, 0), (1, 1)]
    np.testing.assert_allclose(layers["cka"], [cka(a, b) for a in one for b in one], atol=1e-5)
    both = od.similarity({"a": stores["olmo2"], "b": stores["wide"]}, across="both")
    across = both.filter(revision=NAMES[1], other_run="b").sort("layer", "other_layer")
    assert across["other_layer"].to_list() == [0, 1, 2] * 2
    np.testing.assert_allclose(across["cka"], [cka(a, b) for a in one for b in wide], atol=1e-5)


def test_estimates_of_more_tokens_lie_within_their_errors(folder):
    store = collected(folder, "olmo2", "all.zarr", gram_sites="residual_out,mlp_output")
    found = od.similarity(store, "residual_out", 0).filter(revision=NAMES[0], other_revision=NAMES[2])
    model_streams = []
    for name in (NAMES[0], NAMES[2]):
        model, kept = AutoModelForCausalLM.from_pretrained(folder / "olmo2" / name).eval(), []
        model.model.layers[0].register_forward_hook(lambda block, _, out, kept=kept: kept.append(out))
        with torch.no_grad():
            model(torch.tensor(token_ids()))
        model_streams.append(kept[0].double().flatten(0, 1).numpy())
    error = found["cka_se"][0]
    assert 0 < error == pytest.approx((1 - found["cka"][0] ** 2) / 64, rel=1e-6)
    assert abs(found["cka"][0] - cka(*model_streams)) < 4 * error
    assert od.similarity(store, "mlp_output", 0).height == 9


def test_a_group_that_joins_a_store_later_has_the_same_numbers(folder, stores):
    first = collected(folder, "olmo2", "later.zarr", record="loss,activations", revisions=NAMES[0])
    assert first.done == {NAMES[0]}
    later = collected(folder, "olmo2", "later.zarr", record="representations", gram_tokens=90, revisions=NAMES[1])
    later = collected(folder, "olmo2", "later.zarr", record="representations", gram_tokens=90)
    for name in NAMES:
        for key, values in later.row("representations", name).items():
            np.testing.assert_array_equal(values, stores["olmo2"].row("representations", name)[key], err_msg=key)
    status = later.row("representations", NAMES[0])["status"]
    at = later.axis("site").position("residual_out")
    assert (status[at, 1:] == Status.MEASURED).all() and status.sum() == 2 * Status.MEASURED


def refused(message, call):
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        call()


def test_what_cannot_be_compared_is_refused_in_one_line(folder, stores):
    run, wide = stores["olmo2"], stores["wide"]
    other = collected(folder, "olmo2", "other.zarr", seed=1, gram_tokens=90, revisions=NAMES[0])
    hashes = [each.attributes["probe"]["sha256"] for each in (run, other)]
    refused(
        f"stores must have read the same probe to be compared ({run.path}: sha256 {hashes[0]}, {other.path}: sha256 "
        f"{hashes[1]}); collect one of them again, with the other's tokens",
        lambda: od.similarity([run, other]),
    )
    fewer = collected(folder, "olmo2", "fewer.zarr", gram_tokens=60, revisions=NAMES[0])
    refused(
        f"sketches must have one number of tokens to be compared ({run.path}: 90, {fewer.path}: 60); collect one of the "
        "stores again",
        lambda: od.similarity([run, fewer]),
    )
    refused(
        f"site must be one that {run.path} holds, residual_out (got 'mlp_output')",
        lambda: od.similarity(run, "mlp_output"),
    )
    refused(f"layer must be one that {run.path} holds, -1 to 1 (got 7)", lambda: od.similarity(run, layer=7))
    refused(
        f"{wide.path} must hold finite representations of two revisions at residual_out of layer 1; collect more, or "
        "choose others",
        lambda: od.similarity(wide, layer=1),
    )
    refused(
        "across must be revisions, layers or both (got 'layer'); did you mean 'layers'?",
        lambda: od.similarity(run, across="layer"),
    )
    loss = collected(folder, "olmo2", "loss.zarr", record="loss", revisions=NAMES[0])
    refused(
        f"{loss.path} must have the group representations; collect it with --record representations, beside others",
        lambda: od.similarity(loss),
    )
    refused(
        "gram_tokens needs the group representations; record it too, or leave gram_tokens out",
        lambda: collected(folder, "olmo2", "none.zarr", record="loss", gram_tokens=60),
    )
