"""Statistics by torch's operations, of tensors on the CPU: counted ones equal to the last bit, sums those of float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import olmo_dynamics.recorders.kernels.tensor_stats as stats_module
import olmo_dynamics.recorders.kernels.tensor_stats_gpu as device_module
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.model import to_tensor
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.recorders import tensor_stats, tensor_stats_on_device
from tests.recorders.material import DTYPES, encode

COUNTED = ("BF16", "F16")
EXACT = ("count", "zero_count", "nan_count", "inf_count", "smallest", "largest", "quantiles", "magnitude_quantiles")
SUMS = ("moments", "abs_sum", "square_sum")


def assert_alike(found, expected, x, dtype):
    for name in EXACT + (SUMS if dtype in COUNTED else ()):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    scale = np.abs(x[np.isfinite(x)]).max(initial=0)
    for power, (mine, theirs) in enumerate(zip(found.moments, expected.moments, strict=True)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12 * x.size * scale ** max(power, 1))
    for name in SUMS[1:]:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, err_msg=name)
    assert [len(each) for each in found.axes] == [len(each) for each in expected.axes]
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.axes.row_squares, (x**2).sum(1), rtol=1e-12)
        np.testing.assert_allclose(found.axes.column_squares, (x**2).sum(0), rtol=1e-12)
        if len(found.axes.column_sums):
            np.testing.assert_allclose(found.axes.column_sums, x.sum(0), rtol=1e-12, atol=1e-12 * x.shape[0] * scale)


@pytest.mark.parametrize("sorted_at_most", [0, 1 << 18])
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), rows=st.integers(1, 40), columns=st.integers(1, 40), at_once=st.sampled_from([1, 100, 1 << 24]))
def test_statistics_of_any_tensor_are_those_of_the_cpu(dtype, sorted_at_most, data, rows, columns, at_once):
    drawn = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).standard_t(3, (rows, columns)).clip(-100, 100)
    odd = data.draw(st.lists(st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan]), max_size=2))
    drawn.reshape(-1)[: len(odd)] = odd[: drawn.size]
    raw, info, x = encode(drawn, dtype)
    column_sums = data.draw(st.booleans())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module, "_ELEMENTS", at_once)
        patch.setattr(stats_module, "_SORTED_AT_MOST", sorted_at_most)
        found = tensor_stats_on_device(to_tensor(raw, info), info, column_sums=column_sums)
        expected = tensor_stats(raw, info, column_sums=column_sums)
    assert_alike(found, expected, x, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5)])
def test_any_number_of_axes(dtype, shape):
    raw, info, _ = encode(np.random.default_rng(0).standard_normal(shape), dtype, name="model.other.weight")
    found, expected = tensor_stats_on_device(to_tensor(raw, info), info), tensor_stats(raw, info)
    for name in EXACT:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert [len(each) for each in found.axes] == [len(each) for each in expected.axes]


def test_every_code_of_16_bits_is_counted():
    codes = np.arange((1 << 16) - 1, dtype=np.uint16).repeat(2).reshape(3, -1)  # all but the last NaN, twice
    info = TensorInfo("w", "BF16", codes.shape, "f", 0, codes.nbytes)
    raw = codes.reshape(-1).view(np.uint8)
    found, expected = tensor_stats_on_device(to_tensor(raw, info), info), tensor_stats(raw, info)
    assert found.nan_count == expected.nan_count == 2 * (2 * 127 - 1)
    assert (found.zero_count, found.inf_count, found.count) == (4, 4, codes.size)


def test_another_shape_than_was_announced():
    info = TensorInfo("w", "F32", (2, 2), "f", 0, 16)
    message = r"^w must be F32 \[2, 2\] \(got torch\.float32 \[3, 2\]\); fetch the checkpoint again$"
    with pytest.raises(CheckpointError, match=message):
        tensor_stats_on_device(torch.zeros(3, 2), info)
