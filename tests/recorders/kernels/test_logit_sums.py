import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.recorders.kernels.logit_sums import fill_exponentials


def exponentials(values, shift):
    found = np.empty(len(values), np.float32)
    fill_exponentials(np.asarray(values, np.float32), np.float32(shift), found)
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-86, 0, width=32), min_size=1, max_size=40), st.floats(-50, 50, width=32))
def test_they_are_those_of_float64(below, shift):
    values = np.asarray(below, np.float32) + np.float32(shift)
    differences = (values - np.float32(shift)).astype(np.float64)
    np.testing.assert_allclose(exponentials(values, shift), np.exp(differences), rtol=2e-7, atol=2e-38)


def test_ends():
    found = exponentials([0.0, -87.2, -88.0, -np.inf, np.nan], 0.0)
    np.testing.assert_array_equal(found[[0, 2, 3, 4]], np.array([1, 0, 0, np.nan], np.float32))
    np.testing.assert_allclose(found[1], np.exp(float(np.float32(-87.2))), rtol=2e-7)
