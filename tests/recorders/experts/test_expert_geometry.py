"""Likeness of experts' weights, against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.model import parse_config
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.experts.expert_geometry import ExpertGeometryRecorder, dot_products, likeness
from tests.recorders.material import encode, everything, shown_tensor, started

EXPERTS = 4
CONFIG = parse_config({"model_type": "olmoe", "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "intermediate_size": 64, "vocab_size": 50, "num_experts": EXPERTS, "num_experts_per_tok": 2})  # fmt: skip
DOWN = "model.layers.1.mlp.experts.{}.down_proj.weight"
ROUTER = "model.layers.1.mlp.gate.weight"


def recorded(weights, dtype="F32", order=range(EXPERTS)):
    """The records of experts shown in some order, by name, and the elements as they are stored."""
    recorder = started(ExpertGeometryRecorder(), config=CONFIG)
    stored = {}
    for expert in order:
        raw, info, stored[expert] = encode(weights[expert], dtype, DOWN.format(expert))
        assert recorder.selects(info)
        recorder.observe(shown_tensor(raw, info))
    return {r.quantity.name: r.values for r in everything(recorder)}, [stored[e] for e in sorted(stored)]


def expected(matrices):
    """Cosines, their mean and largest off the diagonal, and the effective number, pair by pair in float64."""
    flat = [np.asarray(each, np.float64).ravel() for each in matrices]
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in flat] for a in flat])
    pairs = [cosines[i, j] for i in range(len(flat)) for j in range(i)]
    shares = np.linalg.eigvalsh(cosines) / len(flat)
    return cosines, np.mean(pairs), max(pairs), math.exp(-sum(p * math.log(p) for p in shares if p > 0))


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
def test_it_is_that_of_numpy(dtype):
    rng = np.random.default_rng(0)
    found, stored = recorded(rng.normal(size=(EXPERTS, 96, 64)) + 0.5, dtype, order=(2, 0, 3, 1))
    cosines, mean, largest, effective = expected(stored)
    np.fill_diagonal(cosines, np.nan)
    np.testing.assert_allclose(found["cosine"], cosines, rtol=2e-6)
    assert found["mean_cosine"] == pytest.approx(mean, rel=2e-6)
    assert found["largest_cosine"] == pytest.approx(largest, rel=2e-6)
    assert found["effective_experts"] == pytest.approx(effective, rel=2e-6)
    assert found["status"] == Status.MEASURED


def test_rows_of_the_router_are_compared_like_experts():
    raw, info, rows = encode(np.random.default_rng(1).normal(size=(EXPERTS, 96)), "F32", ROUTER)
    recorder = started(ExpertGeometryRecorder(), config=CONFIG)
    assert recorder.selects(info)
    recorder.observe(shown_tensor(raw, info))
    records = everything(recorder)
    assert {(r.at["layer"], r.at["matrix"]) for r in records} == {(1, "router")}
    found = {r.quantity.name: r.values for r in records}
    assert found["mean_cosine"] == pytest.approx(expected(rows)[1], rel=2e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([-3.0, 0.25, 8.0]))
def test_names_and_sizes_of_experts_do_not_matter(seed, factor):
    rng = np.random.default_rng(seed)
    vectors, order = rng.normal(size=(EXPERTS, 30)), rng.permutation(EXPERTS)
    sizes = np.where(np.arange(EXPERTS) == 1, factor, 1.0)[:, None]
    one = likeness(vectors @ vectors.T)
    two = likeness((sizes * vectors)[order] @ (sizes * vectors)[order].T)
    assert one.effective_experts == pytest.approx(two.effective_experts)
    assert 1 - 1e-9 <= one.effective_experts <= EXPERTS + 1e-9
    np.testing.assert_allclose(np.abs(two.cosines), np.abs(one.cosines[np.ix_(order, order)]), atol=1e-12)


def test_copies_are_one_expert_and_orthogonal_ones_as_many_as_there_are():
    copies = likeness(np.ones((5, 5)))
    assert (copies.mean_cosine, copies.largest_cosine) == (1, 1)
    assert copies.effective_experts == pytest.approx(1)
    assert likeness(np.diag([1.0, 4.0, 9.0])).effective_experts == pytest.approx(3)


def test_dot_products_over_many_elements_are_exact_enough():
    vectors = torch.from_numpy(np.random.default_rng(2).normal(size=(3, 200_000)).astype(np.float32))
    wide = vectors.double().numpy()
    np.testing.assert_allclose(dot_products(list(vectors)), wide @ wide.T, rtol=1e-6, atol=1e-7 * 200_000)


def test_what_has_no_direction_or_is_not_finite_is_said_to_be_so():
    weights = np.random.default_rng(3).normal(size=(EXPERTS, 4, 4))
    weights[2] = 0
    found, _ = recorded(weights)
    assert found["status"] == Status.DEGENERATE
    assert np.isnan(found["cosine"][2]).all() and np.isfinite(found["cosine"][0, 1]) and np.isnan(found["mean_cosine"])
    weights[2, 0, 0] = np.inf
    found, _ = recorded(weights)
    assert found == {"status": Status.NONFINITE}


def test_a_matrix_of_which_an_expert_is_missing_is_not_measured():
    found, _ = recorded(np.ones((EXPERTS, 4, 4)), order=(0, 1, 3))
    assert found == {}


def test_the_plan_counts_a_layer_of_experts():
    recorder = started(ExpertGeometryRecorder(), config=CONFIG)
    assert recorder.kept_bytes() == 4 * EXPERTS * 3 * 96 * 64
    assert started(ExpertGeometryRecorder()).kept_bytes() == 0
