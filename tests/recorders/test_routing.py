"""Routing: known answers, an independent count, and the published analysis' own counts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.quantities import of_group
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders import RoutingRecorder, domain_specialisation
from tests.recorders.material import Tokens, everything, shown, started


def drawn(seed, *, sequences=4, positions=6, experts=5, per_token=2, domains=2):
    """A probe with padding, router logits, and the experts that they choose."""
    rng = np.random.default_rng(seed)
    mask = np.arange(positions) < rng.integers(1, positions + 1, sequences)[:, None]
    probe = Tokens(rng.integers(0, 9, mask.shape), 9, mask=mask, domain=np.arange(sequences) % domains,
                   domains=tuple("abcdef"[:domains]))  # fmt: skip
    logits = torch.from_numpy(rng.normal(size=(sequences, positions, experts))).float()
    return probe, logits, logits.topk(per_token, dim=-1).indices


def recorder_of(probe):
    return started(RoutingRecorder(), probe)


def show(recorder, logits, chosen, rows, positions=None, layer=0):
    there = rows, positions or slice(0, logits.shape[1])
    mask = recorder.context.probe.mask[there]
    recorder.observe(shown(Site.ROUTER_LOGITS, layer, logits[there], mask, *there))
    recorder.observe(shown(Site.CHOSEN_EXPERTS, layer, chosen[there], mask, *there))


def measured(probe, logits, chosen):
    return keyed(everything(_recorded(probe, logits, chosen)))


def keyed(records):
    """Values by name, layer, and the label of another axis, if there is one."""
    return {(r.quantity.name, r.at.get("layer"), other_label(r.at)): r.values for r in records}


def other_label(at):
    return next((at[axis] for axis in ("domain", "vocabulary", "later_layer") if axis in at), None)


def scalars(probe, logits, chosen):
    found = measured(probe, logits, chosen)
    return {name: values for (name, layer, other), values in found.items() if layer is not None and other is None}


def assert_identical(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=str(key))


def test_every_quantity_is_measured():
    probe, logits, chosen = drawn(0)
    recorder = recorder_of(probe)
    for layer in (0, 1):
        show(recorder, logits, chosen, slice(0, 4), layer=layer)
    recorder.observe(shown(Site.LOGITS, NO_LAYER, torch.zeros(4, 6, 9), probe.mask))
    found = {record.quantity.name for record in everything(recorder)}
    assert found == {quantity.name for quantity in of_group("routing")}


def _recorded(probe, logits, chosen):
    recorder = recorder_of(probe)
    show(recorder, logits, chosen, slice(0, len(logits)))
    return recorder


def test_zero_logits_and_an_even_choice_are_balanced():
    experts, per_token = 64, 8
    chosen = torch.arange(experts).view(1, 8, per_token).repeat(2, 1, 1)
    found = scalars(Tokens(np.zeros((2, 8), int), 1), torch.zeros(2, 8, experts), chosen)
    assert found["balance_loss"] == pytest.approx(1, rel=1e-12)
    assert found["router_z"] == pytest.approx(17.2963, abs=5e-5)
    assert found["load_imbalance"] == 1
    assert found["load_entropy"] == pytest.approx(1, rel=1e-12)
    assert found["dead_experts"] == 0
    np.testing.assert_array_equal(found["expert_load"], np.full(experts, 1 / experts))
    np.testing.assert_allclose(found["mean_probability"], 1 / experts, rtol=1e-12)
    assert found["status"] == Status.MEASURED


def test_all_tokens_to_the_same_experts():
    logits = torch.tensor([100.0, 99.0, *[0.0] * 6]).expand(1, 10, 8).contiguous()
    found = scalars(Tokens(np.zeros((1, 10), int), 1), logits, logits.topk(2).indices)
    assert found["load_imbalance"] == 4  # E / k
    assert found["load_entropy"] == pytest.approx(math.log(2) / math.log(8))
    assert found["dead_experts"] == 6
    assert found["balance_loss"] == pytest.approx(4, rel=1e-9)  # E / k: all the probability is where all tokens go
    assert found["co_activation"][0, 1] == found["co_activation"][1, 0] == 1
    assert np.isnan(found["co_activation"][2:]).all()


def test_random_routing_meets_the_baselines():
    experts, per_token, tokens = 16, 4, 4000
    rng = np.random.default_rng(0)
    chosen = torch.from_numpy(np.argsort(rng.random((1, tokens, experts)), axis=-1)[..., :per_token].copy())
    found = measured(Tokens(np.zeros((1, tokens), int), 1), torch.zeros(1, tokens, experts), chosen)
    company = found["co_activation", 0, None]
    assert np.nanmean(company) == pytest.approx((per_token - 1) / (experts - 1), rel=1e-2)
    np.testing.assert_allclose(
        company[~np.eye(experts, dtype=bool)], 0.2, atol=0.06
    )  # of adjacent ranks only: half of it
    np.testing.assert_allclose(found["domain_specialisation", 0, "text"], per_token / experts, atol=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_an_independent_count(seed):
    probe, logits, chosen = drawn(seed, sequences=6, positions=9, experts=7, per_token=3, domains=3)
    found = measured(probe, logits, chosen)
    tokens = [(s, p) for s, p in np.ndindex(probe.mask.shape) if probe.mask[s, p]]
    sets = [set(chosen[s, p].tolist()) for s, p in tokens]
    sent = np.array([sum(i in each for each in sets) for i in range(7)])
    wide = logits.double().numpy()
    exp = np.exp(wide)
    p_mean = np.mean([exp[t] / exp[t].sum() for t in tokens], axis=0)
    names = ("expert_load", "mean_probability", "load_imbalance", "load_entropy", "dead_experts", "balance_loss", "router_z",
             "router_margin", "status")  # fmt: skip
    scalar = {name: found[name, 0, None] for name in names}
    load = sent / (3 * len(tokens))
    some = load[load > 0]
    expected = {
        "expert_load": load, "mean_probability": p_mean, "load_imbalance": sent.max() / sent.mean(),
        "load_entropy": -(some * np.log(some)).sum() / np.log(7), "dead_experts": (sent < 0.1 * sent.mean()).sum(),
        "balance_loss": 7 / 3 * sum(sent[i] / len(tokens) * p_mean[i] for i in range(7)),
        "router_z": np.mean([np.log(exp[t].sum()) ** 2 for t in tokens]), "status": Status.MEASURED,
        "router_margin": np.mean([sorted(wide[t])[-3] - sorted(wide[t])[-4] for t in tokens]),
    }  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_allclose(scalar[name], value, rtol=1e-12, err_msg=name)
    company = found["co_activation", 0, None]
    for i, j in np.ndindex(7, 7):
        both = sum(i in each and j in each for each in sets)
        np.testing.assert_allclose(company[i, j], both / sent[i] if i != j and sent[i] else np.nan, rtol=1e-6)
    for number, domain in enumerate(probe.domains):
        of_domain = [each for each, (s, _) in zip(sets, tokens, strict=True) if probe.domain[s] == number]
        shares = found["domain_specialisation", 0, domain]
        np.testing.assert_allclose(shares, [np.mean([i in each for each in of_domain]) for i in range(7)], rtol=1e-12)
        assert shares.sum() == pytest.approx(3)
    everywhere = np.where(probe.mask[..., None], chosen.numpy(), -1)
    np.testing.assert_array_equal(found["chosen_experts", 0, None], everywhere)
    assert found["chosen_experts", 0, None].dtype == np.int16


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(4)), cut=st.integers(0, 4))
def test_halves_merge_and_the_order_of_sequences_changes_no_bit(seed, order, cut):
    probe, logits, chosen = drawn(seed)
    one, two = recorder_of(probe), recorder_of(probe)
    for place, row in enumerate(order):
        show(one if place < cut else two, logits, chosen, slice(row, row + 1))
    one.merge(two)
    assert_identical(keyed(everything(one)), measured(probe, logits, chosen))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_experts_are_only_names(seed):
    probe, logits, chosen = drawn(seed)
    names = torch.from_numpy(np.random.default_rng(seed).permutation(5))  # expert i is called names[i]
    renamed = torch.empty_like(logits)
    renamed[..., names] = logits
    ours, theirs = measured(probe, logits, chosen), measured(probe, renamed, names[chosen])
    for name in ("load_imbalance", "load_entropy", "dead_experts", "balance_loss", "router_z", "router_margin"):
        np.testing.assert_allclose(ours[name, 0, None], theirs[name, 0, None], rtol=1e-12)
    np.testing.assert_array_equal(ours["expert_load", 0, None], theirs["expert_load", 0, None][names])
    np.testing.assert_array_equal(
        ours["co_activation", 0, None], theirs["co_activation", 0, None][np.ix_(names, names)]
    )


def test_slices_of_positions_give_what_the_whole_gives():
    probe, logits, chosen = drawn(3)
    sliced = recorder_of(probe)
    for start in (0, 4):
        show(sliced, logits, chosen, slice(0, 4), slice(start, min(start + 4, 6)))
    ours, whole = keyed(everything(sliced)), measured(probe, logits, chosen)
    for key, values in whole.items():
        np.testing.assert_allclose(ours[key], values, rtol=1e-12)


def test_padding_counts_for_nothing():
    probe, logits, chosen = drawn(1)
    padding = ~torch.from_numpy(probe.mask)
    other = logits.clone()
    other[padding] = float("nan")
    assert_identical(measured(probe, other, chosen.masked_fill(padding[..., None], 4)), measured(probe, logits, chosen))


def test_bfloat16_logits_are_read_as_they_are():
    probe, logits, chosen = drawn(2)
    rounded = logits.bfloat16()
    assert_identical(measured(probe, rounded, chosen), measured(probe, rounded.float(), chosen))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_said_to_be_so(bad):
    probe, logits, chosen = drawn(0)
    logits[0, 0, 1] = bad
    found = scalars(probe, logits, chosen)
    assert found["status"] == Status.NONFINITE
    assert np.isnan(found["balance_loss"]) and not np.isfinite(found["router_z"])
    assert found["expert_load"].sum() == pytest.approx(1)


def test_a_single_expert_has_no_entropy():
    probe, logits, chosen = drawn(0, experts=1, per_token=1)
    found = scalars(probe, logits, chosen)
    assert np.isnan(found["load_entropy"]) and found["status"] == Status.DEGENERATE
    assert np.isnan(found["router_margin"])
    assert found["balance_loss"] == 1


def test_a_layer_of_which_half_was_seen_is_not_measured():
    probe, logits, _ = drawn(0)
    recorder = recorder_of(probe)
    recorder.observe(shown(Site.ROUTER_LOGITS, 0, logits, probe.mask))
    assert everything(recorder) == []


def test_a_probe_of_padding_is_not_measured():
    probe, logits, chosen = drawn(0)
    probe.mask = np.zeros_like(probe.mask)
    found = scalars(probe, logits, chosen)
    assert found["status"] == Status.NOT_MEASURED
    assert set(found) == {"chosen_experts", "status"} and (found["chosen_experts"] == -1).all()


def test_finishing_a_layer_drops_it():
    probe, logits, chosen = drawn(0)
    recorder = recorder_of(probe)
    for layer in (0, 1):
        show(recorder, logits, chosen, slice(0, 4), layer=layer)
    assert {record.at["layer"] for record in recorder.finish_layer(1)} == {1}
    assert {record.at["layer"] for record in recorder.finish_layer(0)} == {0}
    assert list(recorder.finish_layer(1)) == []


GOLDEN = {  # percent: the highest share of a domain at layers 0, 7 and 15, and the expert that has it where it is published
    "arxiv": {0: (0, 97.7), 7: (17, 78.5), 15: (17, 93.7)},
    "github": {0: (21, 62.6), 7: (17, 77.0), 15: (30, 56.4)},
    "wikipedia": {0: (11, 77.2), 7: (27, 84.8), 15: (36, 58.1)},
    "book": {0: (None, 45.4), 7: (None, 50.7), 15: (None, 36.6)},
    "c4": {0: (None, 37.7), 7: (None, 33.2), 15: (None, 31.2)},
}


def test_the_published_counts_of_olmoe_give_the_published_shares(shared):
    file = shared / "data" / "olmoe_routing" / "expert_counts.json"
    if not file.exists():
        pytest.skip("the published expert counts of OLMoE are not there")
    published = json.loads(file.read_text())
    assert set(published) == set(GOLDEN)
    for domain, layers in published.items():
        for layer, by_expert in zip((0, 7, 15), layers, strict=True):
            counts = np.array([by_expert.get(str(expert), 0) for expert in range(64)])
            assert counts.sum() == 8 * 208_896
            shares = domain_specialisation(counts, 8)
            assert shares.sum() == pytest.approx(8)
            expert, percent = GOLDEN[domain][layer]
            assert 100 * shares.max() == pytest.approx(percent, abs=0.05)
            assert expert in (None, shares.argmax())


def test_a_domain_without_tokens_has_no_shares():
    shares = domain_specialisation(np.array([[2, 2, 0], [0, 0, 0]]), 2)
    np.testing.assert_array_equal(shares, [[1, 1, 0], [np.nan] * 3])
