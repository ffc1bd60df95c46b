import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from olmo_dynamics.recorders.kernels import magnitude_histogram
from olmo_dynamics.recorders.kernels.magnitude_histogram import Magnitudes

FLOATS = arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.floats(width=32, allow_nan=False)
)


@pytest.fixture(scope="module", autouse=True, params=[0, magnitude_histogram._FEW], ids=["table", "list"])
def _few(request):
    """Every test runs with a table of counts, and with a list of bins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(magnitude_histogram, "_FEW", request.param)
        yield


def magnitudes_of(*blocks):
    magnitudes = Magnitudes()
    for block in blocks:
        magnitudes.add(block.view(np.uint32), np.arange(len(block)))
    return magnitudes


def as_bfloat16(values):
    return torch.from_numpy(np.asarray(values, np.float32)).bfloat16().float().numpy()


def test_nothing_has_no_median():
    assert math.isnan(Magnitudes().median())


@settings(max_examples=100, deadline=None)
@given(FLOATS.filter(lambda x: np.isfinite(x).all()))
def test_median_is_within_half_a_bin(x):
    exact = np.median(np.abs(x).astype(np.float64))
    assert magnitudes_of(x).median() == pytest.approx(exact, rel=2**-15, abs=2**-140)


@settings(max_examples=100, deadline=None)
@given(FLOATS.filter(lambda x: np.isfinite(x).all()))
def test_median_of_bfloat16_is_exact(x):
    x = as_bfloat16(np.clip(x, -1e38, 1e38))
    exact = np.median(np.abs(x).astype(np.float64))
    assert magnitudes_of(x).median() == exact


@settings(max_examples=60, deadline=None)
@given(FLOATS, FLOATS, FLOATS)
def test_merging_is_exact_in_any_order(a, b, c):
    whole = magnitudes_of(a, b, c)
    left, right = magnitudes_of(a), magnitudes_of(c)
    left.merge(magnitudes_of(b))
    left.merge(magnitudes_of(c))
    right.merge(magnitudes_of(b))
    right.merge(magnitudes_of(a))
    assert whole.median() == left.median() == right.median()


def test_only_the_rows_asked_for_are_counted():
    magnitudes = Magnitudes()
    magnitudes.add(np.array([[1.0], [-5.0], [3.0]], np.float32).view(np.uint32), np.array([1, 2]))
    assert magnitudes.median() == 4


def test_zeros_and_infinity_keep_their_places():
    assert magnitudes_of(np.zeros((2, 3), np.float32)).median() == 0
    assert magnitudes_of(np.array([[0, 0, 0, np.inf]], np.float32)).median() == 0
    assert magnitudes_of(np.array([[0, np.inf, -np.inf]], np.float32)).median() == np.inf


def test_memory_follows_the_octaves_present(monkeypatch):
    monkeypatch.setattr(magnitude_histogram, "_FEW", 0)
    magnitudes = magnitudes_of(np.random.default_rng(0).uniform(1, 4, (10, 10)).astype(np.float32))
    assert len(magnitudes._counts) == 2


def test_a_list_and_a_table_of_bins_count_alike(monkeypatch):
    drawn = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    drawn[0, :7] = 0
    monkeypatch.setattr(magnitude_histogram, "_FEW", drawn.size)
    listed = magnitudes_of(drawn)
    monkeypatch.setattr(magnitude_histogram, "_FEW", 100)
    tabulated = magnitudes_of(drawn)
    mixed = magnitudes_of(drawn[:1], drawn[1:4])
    mixed.merge(magnitudes_of(drawn[4:5]))
    mixed.merge(magnitudes_of(drawn[5:]))
    assert not len(listed._counts) and len(tabulated._counts) and len(mixed._counts)
    assert listed.median() == tabulated.median() == mixed.median()
