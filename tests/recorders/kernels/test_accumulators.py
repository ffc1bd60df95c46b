import numpy as np
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.recorders.kernels.accumulators import CodeCounts
from olmo_dynamics.recorders.kernels.moments import kurtosis


def counted(values):
    elements = CodeCounts()
    codes = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.add.at(elements.counts, codes, 1)
    return elements, torch.from_numpy(values).bfloat16().double().numpy()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.floats(-30, 30))
def test_counts_say_what_the_numbers_say(seed, size, mean):
    elements, values = counted(np.random.default_rng(seed).standard_t(2, size) + mean)
    assert elements.median() == np.median(np.abs(values))
    moments = elements.central_moments()
    np.testing.assert_allclose(moments[:2], [size, values.mean()], rtol=1e-12)
    np.testing.assert_allclose(moments[2:] / size, scipy.stats.moment(values, [2, 3, 4]), rtol=1e-9, atol=1e-12)
    if values.std():
        np.testing.assert_allclose(kurtosis(moments), scipy.stats.kurtosis(values, fisher=False), rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_counts_merge_exactly(seed):
    rng = np.random.default_rng(seed)
    one, two = rng.standard_normal(40) * 1e30, rng.standard_normal(30)
    whole, _ = counted(np.concatenate([one, two]))
    merged, _ = counted(one)
    merged.merge(counted(two)[0])
    np.testing.assert_array_equal(merged.counts, whole.counts)


def test_nothing_has_no_median_and_no_numbers():
    assert np.isnan(CodeCounts().median())
    np.testing.assert_array_equal(CodeCounts().central_moments(), np.zeros(5))
