"""The routing in the store of a transformers-written OLMoE run equals what transformers' own router logits say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy import special
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

from olmo_dynamics.collecting import collect
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore, pool_experts, saturation
from olmo_dynamics.progress import Progress
from olmo_dynamics.quantities import of_group
from olmo_dynamics.recorders import RoutingRecorder
from olmo_dynamics.recorders.lookup import built_in_groups
from olmo_dynamics.reporting import render_report
from tests.listening import Notes
from tests.runs import write_family_run

NAMES = ("step0-tokens0B", "step100-tokens1B", "step1000-tokens4B")
LAYERS, EXPERTS, PER_TOKEN = 3, 8, 2
ACROSS = {
    "pooled_balance_loss", "pooled_router_z", "vocabulary_specialisation", "expert_vocabulary_specialisation",
    "vocabulary_id_count", "predicted_token", "cross_layer_co_activation",
}  # fmt: skip
"""Quantities of several layers, or of token ids."""

OLDER = {quantity.name for quantity in of_group("routing")} - ACROSS - {"router_margin"}
"""The quantities of stores made before these were added."""


class Measured:
    def __init__(self, run: Path, store: RecordedStore) -> None:
        self.run, self.store = run, store
        probe = store.probe()
        self.token_ids, self.mask, self.domain = probe["token_id"], probe["mask"].astype(bool), probe["domain"]

    def row(self, name: str, revision: str, layer: int) -> np.ndarray:
        """One quantity of one revision and layer."""
        position = [each.name for each in self.store.revisions()].index(revision)
        return self.store.array("routing", name, at={"layer": layer})[position]

    @torch.no_grad()
    def of_transformers(self, revision: str) -> MoeCausalLMOutputWithPast:
        """The output of transformers' own model, router logits as one row for each token of the probe."""
        model = AutoModelForCausalLM.from_pretrained(self.run / revision, attn_implementation="eager").eval()
        return model(torch.from_numpy(self.token_ids), output_router_logits=True)

    def router_logits(self, revision: str) -> np.ndarray:
        """transformers' own, [layer, sequence, position, expert] in float64."""
        found = self.of_transformers(revision).router_logits
        return np.stack([layer.view(*self.mask.shape, EXPERTS).double().numpy() for layer in found])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("olmoe")
    run = write_family_run(folder / "run", NAMES, "olmoe")
    return Measured(run, collect(run, out=folder / "store.zarr", batch="10x40", progress=Progress()))


@pytest.mark.parametrize("revision", NAMES)
def test_routing_is_that_of_transformers(measured: Measured, revision: str) -> None:
    mask, domains = measured.mask, measured.store.axis("domain").labels.tolist()
    for layer, logits in enumerate(measured.router_logits(revision)):
        real = logits[mask]
        chosen = np.argsort(-logits, axis=-1, kind="stable")[..., :PER_TOKEN]
        sent = np.zeros((*mask.shape, EXPERTS), dtype=bool)  # whether a token goes to an expert
        np.put_along_axis(sent, chosen, True, axis=-1)
        counts, probabilities = sent[mask].sum(0), special.softmax(real, axis=-1).mean(0)
        load = counts / (PER_TOKEN * mask.sum())
        expected = {
            "chosen_experts": np.where(mask[..., None], chosen, -1),
            "expert_load": load,
            "mean_probability": probabilities,
            "load_imbalance": counts.max() / counts.mean(),
            "load_entropy": special.entr(load).sum() / np.log(EXPERTS),
            "dead_experts": (counts < 0.1 * counts.mean()).sum(),
            "balance_loss": EXPERTS / PER_TOKEN * (sent[mask].mean(0) * probabilities).sum(),
            "router_z": (special.logsumexp(real, axis=-1) ** 2).mean(),
            "router_margin": (np.sort(real)[:, -PER_TOKEN] - np.sort(real)[:, -PER_TOKEN - 1]).mean(),
            "domain_specialisation": [sent[mask & (measured.domain == d)[:, None]].mean(0) for d in range(len(domains))],
            "status": 1,
        }  # fmt: skip
        both = sent[mask].T.astype(int) @ sent[mask].astype(int)
        with np.errstate(invalid="ignore"):
            expected["co_activation"] = np.where(np.eye(EXPERTS), np.nan, both / counts[:, None])
        assert set(expected) == {quantity.name for quantity in of_group("routing")} - ACROSS
        for name, theirs in expected.items():
            ours = measured.row(name, revision, layer)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7, err_msg=f"{revision} {layer} {name}")


@pytest.mark.parametrize("revision", NAMES[1:2])
def test_numbers_over_all_layers_are_those_of_transformers(measured: Measured, revision: str) -> None:
    found, mask = measured.of_transformers(revision), measured.mask
    ours = {name: values[NAMES.index(revision)] for name, values in measured.store.arrays("routing").items()}
    theirs = load_balancing_loss_func(found.router_logits, EXPERTS, PER_TOKEN, torch.from_numpy(mask).long())
    assert ours["pooled_balance_loss"] == pytest.approx(float(theirs), rel=1e-5)
    of_layers = [special.logsumexp(each.double().numpy(), axis=-1)[mask.ravel()] for each in found.router_logits]
    assert ours["pooled_router_z"] == pytest.approx(np.square(of_layers).mean(), rel=1e-5)
    known = measured.store.attributes["probe"]["tokenizer_size"]
    predicted = found.logits[..., :known].argmax(-1).numpy()
    np.testing.assert_array_equal(ours["predicted_token"], np.where(mask, predicted, -1))
    chosen = [each.topk(PER_TOKEN).indices.numpy()[mask.ravel()] for each in found.router_logits]
    sent = [np.eye(EXPERTS)[each].sum(1) for each in chosen]
    with np.errstate(invalid="ignore"):
        share = sent[0].T @ sent[2] / sent[0].sum(0)[:, None]
    np.testing.assert_allclose(ours["cross_layer_co_activation"][1, 2], share, rtol=1e-6)  # layers begin with -1
    assert np.isnan(ours["cross_layer_co_activation"][3]).all()  # no layer follows the last
    ids = predicted[mask]
    often = [each for each, count in zip(*np.unique(ids, return_counts=True), strict=True) if count >= 10]
    shares = [np.bincount(chosen[1][ids == each, 0]).max() / (ids == each).sum() for each in often]
    assert ours["vocabulary_id_count"][1] == len(often) > 0
    assert ours["vocabulary_specialisation"][2, 1] == pytest.approx(np.mean(shares))


def test_tables(measured: Measured) -> None:
    store = measured.store
    assert set(store.groups) == set(built_in_groups(by_default=True))
    routing = store.table("routing")
    assert routing.select("revision", "layer").rows() == [(name, layer) for name in NAMES for layer in range(LAYERS)]
    loads = store.table("routing.expert_load").group_by("revision", "layer").agg(pl.col("value").sum())
    assert loads["value"].to_list() == pytest.approx([1.0] * 3 * LAYERS)
    shares = (
        store.table("routing.domain_specialisation").group_by("revision", "layer", "domain").agg(pl.col("value").sum())
    )
    assert shares["value"].to_list() == pytest.approx([PER_TOKEN] * len(shares))
    chosen = store.table("routing.chosen_experts")
    assert len(chosen) == len(NAMES) * LAYERS * measured.mask.sum() * PER_TOKEN
    assert set(chosen["choice"]) == {1, 2} and chosen["value"].is_between(0, EXPERTS - 1).all()
    company = store.table("routing.co_activation")
    assert company.filter(pl.col("expert") == pl.col("partner")).is_empty()
    settled = saturation(store)
    assert settled.filter(revision=NAMES[-1])["saturation"].to_list() == [1.0] * LAYERS
    assert settled["saturation"].min() > settled["baseline"][0]


def test_experts_in_tables_and_taken_together(measured: Measured) -> None:
    parameters = measured.store.table("parameters")
    experts = parameters.filter(pl.col("expert").is_not_null())
    assert len(experts) == len(NAMES) * LAYERS * EXPERTS * 3
    assert set(experts["role"]) == {"gate_proj", "up_proj", "down_proj"}
    pooled = pool_experts(parameters)
    assert not pooled.select("revision", "layer", "role", "tensor").is_duplicated().any()
    model = AutoModelForCausalLM.from_pretrained(measured.run / NAMES[1])
    for layer, block in enumerate(model.model.layers):
        held = block.mlp.experts.down_proj.detach().double()  # transformers holds a layer's experts as one tensor
        found = pooled.filter(revision=NAMES[1], layer=layer, role="down_proj").row(0, named=True)
        assert found["tensor"] == f"model.layers.{layer}.mlp.experts.*.down_proj.weight"
        assert found["element_count"] == held.numel()
        assert found["l2_norm"] == pytest.approx(float(held.norm()), rel=1e-9)
        assert found["std"] == pytest.approx(float(held.std(correction=0)), rel=1e-9)


def test_the_report_shows_routing_and_experts_together(measured: Measured) -> None:
    page = render_report(measured.store)
    for title in ("Load over experts, layer by layer", "Size of the router&#x27;s logits", "Router saturation",
                  "Use of experts", "Specialisation of experts", "Weight norms, layer by layer", "Margin of the router",
                  "Churn of routing", "Experts chosen together", "Experts chosen by two layers",
                  "Specialisation in token ids", "Specialisation in token ids, expert by expert",
                  "Specialisation in token ids over training"):  # fmt: skip
        assert f">{title}</h3>" in page, title
    assert "This chart could not be drawn" not in page
    assert "the experts of a layer taken together" in page
    assert "layer 1, expert 0" in page


def test_likeness_of_experts_is_that_of_their_weights(measured: Measured, tmp_path: Path) -> None:
    options = {"revisions": f"{NAMES[0]},{NAMES[1]}", "record": ("experts",), "progress": Progress()}
    store = collect(measured.run, out=tmp_path / "s.zarr", **options)
    model = AutoModelForCausalLM.from_pretrained(measured.run / NAMES[1])
    for layer, block in enumerate(model.model.layers):
        for matrix, held in (("router", block.mlp.gate.weight), ("down_proj", block.mlp.experts.down_proj)):
            flat = held.detach().double().flatten(1).numpy()
            cosines = flat @ flat.T / np.outer(*[np.linalg.norm(flat, axis=1)] * 2)
            np.fill_diagonal(cosines, np.nan)
            ours = store.array("experts", "cosine", at={"layer": layer, "matrix": matrix})[1]
            np.testing.assert_allclose(ours, cosines, rtol=1e-5, atol=1e-6)
    assert store.table("experts").select("matrix", "status").unique().height == 4
    page = render_report(store)
    assert ">Likeness of experts</h3>" in page and ">Likeness of experts over training</h3>" in page
    assert "This chart could not be drawn" not in page


def test_an_older_store_of_routing_continues_reports_and_is_back_filled(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "s.zarr", {"record": ("routing",), "batch": "10x40"}
    whole = RoutingRecorder.group
    with monkeypatch.context() as patched:
        patched.setattr(
            RoutingRecorder, "group", whole.only([each.name for each in whole.quantities if each.name in OLDER])
        )
        collect(measured.run, out=out, revisions=",".join(NAMES[:2]), progress=Progress(), **options)
    older = collect(measured.run, out=out, progress=(listener := Notes()), **options)
    assert set(older.arrays("routing")) == OLDER and older.done == set(NAMES)
    assert len(listener.notes) == 1 and listener.notes[0].endswith(": --back-fill does it")
    assert "This chart could not be drawn" not in render_report(older)
    filled = collect(measured.run, out=out, back_fill=True, progress=Progress(), **options)
    for name, values in filled.arrays("routing").items():
        assert values.tobytes() == measured.store.arrays("routing")[name].tobytes(), name


def test_a_model_without_experts_has_no_routing(tiny_run: Path, tmp_path: Path) -> None:
    lacking = "routing is not recorded: olmo2 has no chosen_experts, router_logits"
    expected = f"nothing to record: {lacking}; name other groups with record"
    with pytest.raises(OptionError, match=f"^{re.escape(expected)}$"):
        collect(tiny_run, out=tmp_path / "s.zarr", record=("routing",), progress=Progress())
    assert not (tmp_path / "s.zarr").exists()
    listener = Notes()
    part = {"revisions": "main", "batch": "2x16"}
    store = collect(tiny_run, out=tmp_path / "part.zarr", record=("loss", "routing"), progress=listener, **part)
    assert store.groups == ("loss",)
    assert listener.notes == [lacking]
    store = collect(tiny_run, out=tmp_path / "s.zarr", progress=(unasked := Notes()), **part)
    assert unasked.notes == []
    every = collect(
        tiny_run, out=tmp_path / "e.zarr", record=("loss", "experts"), progress=(listener := Notes()), **part
    )
    assert every.groups == ("loss",)
    assert listener.notes == ["experts is not recorded: no chosen tensor is of its kind"]
    assert "routing" not in store.groups and "expert" not in store.layout.axes


def test_routing_alone_reads_the_router_alone(measured: Measured, tmp_path: Path) -> None:
    store = collect(
        measured.run,
        out=tmp_path / "s.zarr",
        revisions=NAMES[0],
        record=("routing",),
        batch="10x40",
        progress=Progress(),
    )
    assert store.groups == ("routing",)
    for name, values in store.arrays("routing").items():
        assert values.tobytes() == measured.store.arrays("routing")[name][:1].tobytes(), name
    assert "two revisions" in render_report(store)  # which saturation compares
