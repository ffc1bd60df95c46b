"""Routing over several layers and in token ids, against counts one token at a time."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.recorders import RoutingRecorder
from olmo_dynamics.recorders.experts.vocabulary import vocabulary_specialisation
from tests.recorders.material import Tokens, everything, shown, started

LAYERS, EXPERTS, PER_TOKEN, IDS, VOCABULARY = 3, 6, 2, 5, 8


class Drawn:
    """A probe with padding, the router logits of every layer and what they choose, and the model's logits."""

    def __init__(self, seed, *, sequences=4, positions=30):
        rng = np.random.default_rng(seed)
        mask = np.arange(positions) < rng.integers(1, positions + 1, sequences)[:, None]
        self.probe = Tokens(rng.integers(0, IDS, mask.shape), IDS, mask=mask)
        self.routers = torch.from_numpy(rng.normal(size=(LAYERS, *mask.shape, EXPERTS))).float()
        self.chosen = self.routers.topk(PER_TOKEN, dim=-1).indices
        self.logits = torch.from_numpy(rng.normal(size=(*mask.shape, VOCABULARY)).round(1)).float()  # some are equal

    def show(self, recorder, rows, *, layers=range(LAYERS), columns=VOCABULARY):
        mask, positions = self.probe.mask[rows], slice(0, self.probe.mask.shape[1])
        for layer in layers:
            recorder.observe(shown(Site.ROUTER_LOGITS, layer, self.routers[layer, rows], mask, rows, positions))
            recorder.observe(shown(Site.CHOSEN_EXPERTS, layer, self.chosen[layer, rows], mask, rows, positions))
        for start in range(0, VOCABULARY, columns):
            some = slice(start, min(start + columns, VOCABULARY))
            recorder.observe(shown(Site.LOGITS, NO_LAYER, self.logits[rows][..., some], mask, rows, positions, some))

    def measured(self):
        recorder = started(RoutingRecorder(), self.probe)
        self.show(recorder, slice(0, 4))
        return keyed(recorder)


def keyed(recorder):
    return {
        (r.quantity.name, *(f"{axis} {label}" for axis, label in r.at.items())): r.values for r in everything(recorder)
    }


def ids_of_tokens(drawn):
    """The ids of each kind, one for every real token, None where it has none."""
    mask, ids = drawn.probe.mask, drawn.probe.token_ids
    tokens = [(s, p) for s, p in np.ndindex(mask.shape) if mask[s, p]]
    predicted = drawn.logits[..., :IDS].numpy().argmax(-1)  # later columns are padding
    follows = {(s, p): ids[s, p + 1] for s, p in tokens if p + 1 < mask.shape[1] and mask[s, p + 1]}
    return tokens, {
        "input": [ids[t] for t in tokens],
        "predicted": [predicted[t] for t in tokens],
        "true": [follows.get(t) for t in tokens],
    }


@pytest.mark.parametrize("seed", range(3))
def test_vocabulary_specialisation_is_a_count_of_first_choices(seed):
    drawn = Drawn(seed)
    found = drawn.measured()
    tokens, of_kinds = ids_of_tokens(drawn)
    for kind, ids in of_kinds.items():
        often = {each for each, count in Counter(ids).items() if each is not None and count >= 10}
        assert found["vocabulary_id_count", f"vocabulary {kind}"] == len(often)
        for layer in range(LAYERS):
            first = [int(drawn.chosen[(layer, *t)][0]) for t in tokens]
            by_id = {each: Counter(e for x, e in zip(ids, first, strict=True) if x == each) for each in often}
            owners = {each: max(range(EXPERTS), key=lambda e, c=counts: (c[e], -e)) for each, counts in by_id.items()}
            shares = {each: counts[owners[each]] / sum(counts.values()) for each, counts in by_id.items()}
            at = f"layer {layer}", f"vocabulary {kind}"
            expected = np.mean(list(shares.values())) if shares else math.nan
            np.testing.assert_allclose(found["vocabulary_specialisation", *at], expected, rtol=1e-12)
            of_expert = [[shares[each] for each in often if owners[each] == e] for e in range(EXPERTS)]
            expected = [np.mean(own) if own else math.nan for own in of_expert]
            np.testing.assert_allclose(found["expert_vocabulary_specialisation", *at], expected, rtol=1e-12)
    expected = np.where(drawn.probe.mask, drawn.logits[..., :IDS].numpy().argmax(-1), -1)
    np.testing.assert_array_equal(found["predicted_token",], expected)


@pytest.mark.parametrize("seed", range(3))
def test_co_activation_across_layers_counts_all_pairs_of_ranks(seed):
    drawn = Drawn(seed)
    found = drawn.measured()
    sets = [[set(each.tolist()) for each in layer[torch.from_numpy(drawn.probe.mask)]] for layer in drawn.chosen]
    pairs = {key for key in found if key[0] == "cross_layer_co_activation"}
    assert pairs == {
        ("cross_layer_co_activation", f"layer {a}", f"later_layer {b}")
        for a in range(LAYERS)
        for b in range(a + 1, LAYERS)
    }
    for _, layer, later in pairs:
        one, other = sets[int(layer[-1])], sets[int(later[-1])]
        shares = found["cross_layer_co_activation", layer, later]
        for i, j in np.ndindex(EXPERTS, EXPERTS):
            sent = sum(i in each for each in one)
            both = sum(i in a and j in b for a, b in zip(one, other, strict=True))
            np.testing.assert_allclose(shares[i, j], both / sent if sent else math.nan, rtol=1e-6)
        np.testing.assert_allclose(shares.sum(axis=1)[~np.isnan(shares[:, 0])], PER_TOKEN, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_pooled_losses_are_over_the_tokens_of_all_layers(seed):
    drawn = Drawn(seed)
    found = drawn.measured()
    wide = drawn.routers.double()[:, torch.from_numpy(drawn.probe.mask)]
    sent = torch.zeros_like(wide).scatter_(-1, wide.topk(PER_TOKEN, dim=-1).indices, 1.0)
    pooled = EXPERTS * (sent.mean((0, 1)) * wide.softmax(-1).mean((0, 1))).sum()
    assert found["pooled_balance_loss",] == pytest.approx(float(pooled), rel=1e-12)
    assert found["pooled_router_z",] == pytest.approx(float(wide.logsumexp(-1).square().mean()), rel=1e-12)


def test_balanced_layers_differ_by_the_factor_k():
    experts, per_token = 64, 8
    chosen = torch.arange(experts).view(1, 8, per_token)
    recorder = started(RoutingRecorder(), Tokens(np.zeros((1, 8), int), 1))
    for layer in (0, 1):
        recorder.observe(shown(Site.ROUTER_LOGITS, layer, torch.zeros(1, 8, experts)))
        recorder.observe(shown(Site.CHOSEN_EXPERTS, layer, chosen))
    found = keyed(recorder)
    assert found["balance_loss", "layer 0"] == pytest.approx(1, rel=1e-12)
    assert found["pooled_balance_loss",] == pytest.approx(per_token, rel=1e-12)
    assert found["pooled_router_z",] == pytest.approx(17.2963, abs=5e-5)
    assert found["router_margin", "layer 0"] == 0
    assert ("predicted_token",) not in found  # no logits were seen


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(4)), cut=st.integers(0, 4), columns=st.integers(1, 8))
def test_parts_and_slices_of_the_vocabulary_change_no_bit(seed, order, cut, columns):
    drawn = Drawn(seed)
    one, two = (started(RoutingRecorder(), drawn.probe) for _ in range(2))
    for place, row in enumerate(order):
        drawn.show(one if place < cut else two, slice(row, row + 1), columns=columns)
    one.merge(two)
    ours, whole = keyed(one), drawn.measured()
    assert ours.keys() == whole.keys()
    for key, values in whole.items():
        np.testing.assert_array_equal(ours[key], values, err_msg=str(key))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), minimum=st.integers(1, 12))
def test_specialisation_lies_between_even_and_whole_and_experts_are_only_names(seed, minimum):
    rng = np.random.default_rng(seed)
    ids, first = rng.integers(0, IDS, 60), rng.integers(0, EXPERTS, (LAYERS, 60))
    names = rng.permutation(EXPERTS)  # expert i is called names[i]
    found = vocabulary_specialisation(ids, first, EXPERTS, minimum=minimum)
    renamed = vocabulary_specialisation(ids, names[first], EXPERTS, minimum=minimum)
    assert ((found.of_layers >= 1 / EXPERTS) & (found.of_layers <= 1)).all() or found.ids == 0
    np.testing.assert_allclose(renamed.of_layers, found.of_layers, rtol=1e-12)
    constant = vocabulary_specialisation(ids, ids[None] % EXPERTS, EXPERTS, minimum=minimum)
    assert constant.ids == 0 or constant.of_layers[0] == 1


def test_ids_below_the_minimum_are_left_out():
    ids, first = np.repeat([4, 5], [10, 9]), np.array([[0] * 5 + [1] * 5 + [2] * 9])
    assert vocabulary_specialisation(ids, first, 3).of_layers == 0.5  # that of id 5 would be 1
    nothing = vocabulary_specialisation(ids, first, 3, minimum=11)
    assert np.isnan(nothing.of_layers).all() and np.isnan(nothing.of_experts).all() and nothing.ids == 0
