"""Sketches of Gram matrices: exact where they can be, unbiased and with the stated error where they cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.recorders.kernels import gram_sketch as module
from olmo_dynamics.recorders.kernels.gram_sketch import GRAM_SIZE, _add_pairs, gram_sketch, sketch_start
from tests.recorders.representations.by_formula import biased_cka, cka, sketched, u_centred


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def sketch_of(vectors, **options):
    return gram_sketch(torch.as_tensor(vectors), **options)[0]


@settings(max_examples=15)
@given(st.integers(4, 40), st.integers(1, 50), st.sampled_from([16, 4096]), st.integers(0, 99))
def test_a_sketch_is_that_of_its_definition(tokens, width, size, seed):
    vectors = np.random.default_rng(seed).normal(size=(tokens, width)) + 3
    found, norm = gram_sketch(torch.tensor(vectors), size=size, seed=seed)
    centred = u_centred(vectors)
    np.testing.assert_allclose(found, sketched(centred, size, seed), atol=1e-9 * np.linalg.norm(centred))
    assert norm == pytest.approx(np.linalg.norm(centred))


@settings(max_examples=15)
@given(st.integers(4, 91), st.integers(1, 30), st.integers(1, 60), st.integers(0, 99))
def test_the_cosine_of_few_tokens_is_unbiased_cka(tokens, width, other_width, seed):
    rng = np.random.default_rng(seed)
    one, noise = rng.normal(size=(tokens, width)) + 5, rng.normal(size=(tokens, other_width))
    other = one @ rng.normal(size=(width, other_width)) + noise
    assert cosine(sketch_of(one), sketch_of(other)) == pytest.approx(cka(one, other), abs=1e-8)


@settings(max_examples=10)
@given(st.integers(92, 130), st.integers(1, 40), st.integers(0, 99), st.floats(0.01, 100))
def test_rotation_scale_and_shift_leave_a_sketch_as_it_is(tokens, width, seed, scale):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(tokens, width))
    moved = scale * vectors @ np.linalg.qr(rng.normal(size=(width, width)))[0] + rng.normal(size=width)
    one = sketch_of(vectors)
    np.testing.assert_allclose(sketch_of(moved), scale**2 * one, atol=1e-8 * scale**2 * np.linalg.norm(one))


def test_tiles_change_nothing_but_rounding(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(130, 20))
    whole, norm = gram_sketch(torch.tensor(vectors))
    for tile in (1, 7, 129):
        monkeypatch.setattr(module, "TILE", tile)
        found, same = gram_sketch(torch.tensor(vectors))
        np.testing.assert_allclose(found, whole, atol=1e-12 * norm)
        assert same == pytest.approx(norm, rel=1e-13)


@pytest.mark.parametrize("shared", [0.0, 1.0, 10.0])
def test_estimates_are_unbiased_and_their_errors_are_those_stated(shared):
    """Over 400 seeds: a mean within 4 standard errors, a spread within 4 of its own (3.5 %), and 95 % intervals that hold."""
    rng = np.random.default_rng(3)
    one = rng.normal(size=(100, 20))
    other = shared * one @ rng.normal(size=(20, 60)) / 4 + rng.normal(size=(100, 60))
    exact, size, seeds = cka(one, other), 1024, range(400)
    u, v = u_centred(one), u_centred(other)
    pairs = [(sketch_of(one, size=size, seed=seed), sketch_of(other, size=size, seed=seed)) for seed in seeds]
    dots = np.array([a @ b for a, b in pairs])
    # exactly the variance of a count sketch, whose pairs meet all others but themselves
    half = 4 * (np.triu(u) ** 2 * np.triu(v) ** 2).sum()
    variance = (np.sum(u**2) * np.sum(v**2) + np.sum(u * v) ** 2 - 2 * half) / size
    assert abs(dots.mean() - np.sum(u * v)) < 4 * math.sqrt(variance / len(seeds))
    assert dots.std() == pytest.approx(math.sqrt(variance), rel=0.15)
    cosines = np.array([cosine(a, b) for a, b in pairs])
    scores = (cosines - exact) / ((1 - cosines**2) / math.sqrt(size))
    assert abs(scores.mean()) < 4 / math.sqrt(len(seeds))
    assert scores.std() == pytest.approx(1, rel=0.15)
    assert (abs(scores) < 1.96).mean() == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / len(seeds)))


def test_the_error_vanishes_at_one():
    rng = np.random.default_rng(4)
    one = rng.normal(size=(100, 20))
    near = one + 1e-3 * rng.normal(size=one.shape)
    assert cosine(sketch_of(one), sketch_of(one)) == pytest.approx(1, abs=1e-15)
    assert abs(cosine(sketch_of(one), sketch_of(near)) - cka(one, near)) < 1e-6
    (a, norm), (b, other) = (gram_sketch(torch.tensor(each)) for each in (one, near))
    assert abs(a @ b / norm / other - cka(one, near)) > 1e-4  # over exact norms it does not


def test_independent_vectors_are_not_similar_where_biased_cka_says_that_they_are():
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(2, 256, 512))
    assert biased_cka(one, other) == pytest.approx(0.668, abs=0.01)
    assert cka(one, other) == pytest.approx(0, abs=0.02)
    assert cosine(sketch_of(one), sketch_of(other)) == pytest.approx(cka(one, other), abs=4 / math.sqrt(4096))


def test_float32_vectors_far_from_zero_are_centred_before_they_are_multiplied():
    vectors = np.random.default_rng(6).normal(size=(60, 30)).astype(np.float32)
    vectors[:, 3] += 2000  # a massive feature, whose square is 4e6 of every product
    found, norm = gram_sketch(torch.tensor(vectors))
    expected = u_centred(vectors.astype(np.float64))
    assert norm == pytest.approx(np.linalg.norm(expected), rel=1e-6)
    np.testing.assert_allclose(found, sketched(expected), atol=1e-6 * norm)


@given(st.permutations([0, 1, 2]), st.lists(st.integers(0, 3), min_size=3, max_size=3))
@settings(max_examples=60)
def test_the_numbers_do_not_depend_on_where_arrays_lie_in_memory(order: list[int], gaps: list[int]) -> None:
    tokens = 60
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal((tokens, tokens)).astype(np.float32),
        rng.standard_normal(tokens),
        np.zeros(GRAM_SIZE),
    ]
    memory, start, placed = np.zeros(8192), 0, dict[int, np.ndarray]()
    for which, gap in zip(order, gaps, strict=True):
        values = arrays[which]
        words = memory[start : start + values.nbytes // 8].view(values.dtype)
        placed[which] = words.reshape(values.shape)
        placed[which][:] = values
        start += values.nbytes // 8 + gap
    tile, shifts, sums = (placed[which] for which in range(3))
    squares = _add_pairs(tile, 0, shifts, sketch_start(tokens, 0), True, sums)
    apart = np.zeros(GRAM_SIZE)
    assert squares == _add_pairs(arrays[0], 0, arrays[1], sketch_start(tokens, 0), True, apart)
    assert sums.tobytes() == apart.tobytes()
