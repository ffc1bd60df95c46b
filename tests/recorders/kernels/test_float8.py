"""Float8 weights: their statistics are NumPy's of the decoded values in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import olmo_dynamics.recorders.kernels.tensor_stats as stats_module
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.recorders import block_stats, complete, row_blocks, tensor_stats, tensor_stats_on_device
from tests.recorders.kernels.test_tensor_stats import assert_is
from tests.recorders.material import Q_PROJ

KINDS = {
    "F8_E4M3": (torch.float8_e4m3fn, {0x7F, 0xFF}),
    "F8_E5M2": (torch.float8_e5m2, {*range(0x7C, 128), *range(0xFC, 256)}),
}
"""Torch's name of each kind, and its codes that are not finite."""


def stored(kind, codes):
    """Bytes with their description, and what torch decodes them to, in float64."""
    raw = np.ascontiguousarray(codes, np.uint8).reshape(-1)
    info = TensorInfo(Q_PROJ, kind, codes.shape, "f", 0, raw.size)
    return raw, info, torch.from_numpy(raw.copy()).view(KINDS[kind][0]).double().numpy().reshape(codes.shape)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_numbers_are_those_of_the_decoded_values(kind, rows, columns, seed):
    finite = np.array([code for code in range(256) if code not in KINDS[kind][1]], np.uint8)
    raw, info, values = stored(kind, np.random.default_rng(seed).choice(finite, (rows, columns)))
    tensor = torch.from_numpy(raw.copy()).view(KINDS[kind][0]).view(info.shape)
    for found in (
        tensor_stats(raw, info, column_sums=True),
        tensor_stats_on_device(tensor, info, column_sums=True),
    ):
        if values.any():
            assert_is(found, values, "F16")


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_is_counted(kind):
    raw, info, values = stored(kind, np.arange(256, dtype=np.uint8).reshape(16, 16))
    found = tensor_stats(raw, info)
    assert (found.nan_count, found.inf_count) == (np.isnan(values).sum(), np.isinf(values).sum())
    assert found.zero_count == 2
    assert np.isnan(found.largest)


def test_blocks_merge_to_the_whole(monkeypatch):
    monkeypatch.setattr(stats_module, "_BLOCK_BYTES", 512)
    raw, info, values = stored("F8_E5M2", np.random.default_rng(0).integers(0, 0x7C, (150, 33)))
    assert len(row_blocks(info)) > 3
    parts = [block_stats(raw, info, rows, column_sums=True) for rows in row_blocks(info)]
    assert_is(complete(parts), values, "F16")
