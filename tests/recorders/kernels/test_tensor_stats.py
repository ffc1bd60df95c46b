"""Statistics by blocks of rows: merged they are those of the whole, by any threads, and equal to NumPy in float64."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import olmo_dynamics.recorders.kernels.tensor_stats as stats_module
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities import QUANTILES
from olmo_dynamics.recorders import block_stats, complete, row_blocks, tensor_stats
from tests.recorders.material import DTYPES, Q_PROJ, encode

NORM_RTOL = {"BF16": 3e-7, "F16": 1e-13, "F32": 1e-13, "F64": 1e-13}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, and float32 order statistics by the second pass."""
    monkeypatch.setattr(stats_module, "_BLOCK_BYTES", 512)
    monkeypatch.setattr(stats_module, "_SORTED_AT_MOST", 0)


def assert_same(one, other):
    """The same to the last bit."""
    assert (one.count, one.zero_count, one.nan_count, one.inf_count) == (
        other.count, other.zero_count, other.nan_count, other.inf_count,
    )  # fmt: skip
    for name in ("moments", "abs_sum", "square_sum", "smallest", "largest", "quantiles", "magnitude_quantiles"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for mine, theirs in zip(one.axes, other.axes, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def assert_is(found, x, dtype):
    """Equal to the statistics that NumPy computes from all elements in float64."""
    mean = x.mean()
    np.testing.assert_allclose(found.moments[1], mean, rtol=1e-12, atol=1e-14 * np.abs(x).max())
    powers = [((x - mean) ** power).sum() for power in (2, 4)]
    np.testing.assert_allclose(found.moments[[2, 4]], powers, rtol=1e-10, atol=1e-20 * np.abs(x).max() ** 2)
    np.testing.assert_allclose(found.abs_sum, np.abs(x).sum(), rtol=1e-13)
    np.testing.assert_allclose(found.square_sum, (x**2).sum(), rtol=1e-13)
    assert (found.count, found.zero_count) == (x.size, np.count_nonzero(x == 0))
    assert (found.smallest, found.largest) == (x.min(), x.max())
    np.testing.assert_array_equal(found.quantiles, np.quantile(x, QUANTILES))
    np.testing.assert_array_equal(found.magnitude_quantiles, np.quantile(np.abs(x), (0.5, 0.999)))
    for axis, squares in ((1, found.axes.row_squares), (0, found.axes.column_squares)):
        np.testing.assert_allclose(np.sqrt(squares), np.sqrt((x**2).sum(axis)), rtol=NORM_RTOL[dtype])
    np.testing.assert_allclose(found.axes.column_sums, x.sum(0), rtol=1e-12, atol=1e-12 * np.abs(x).max())


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_any_split_is_the_whole(dtype, rows, columns, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    raw, info, x = encode(np.random.default_rng(seed).standard_t(3, (rows, columns)), dtype)
    cuts = sorted({0, rows, *data.draw(st.lists(st.integers(1, rows), max_size=4))})
    spans = [slice(*span) for span in pairwise(cuts)]
    parts = [block_stats(raw, info, span, column_sums=True) for span in spans]
    assert_is(complete(parts), x, dtype)
    assert_is(tensor_stats(raw, info, column_sums=True), x, dtype)
    pairs = [parts[0].merge(*parts[1:2]), *parts[2:]]
    assert_is(complete(pairs), x, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_passes_change_no_bit(dtype, small_blocks):
    raw, info, x = encode(np.random.default_rng(0).standard_normal((203, 37)), dtype)
    whole = tensor_stats(raw, info, column_sums=True)
    assert_is(whole, x, dtype)
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(lambda rows: block_stats(raw, info, rows, column_sums=True), row_blocks(info)))
            assert len(parts) > 20
            assert_same(complete(parts, pool.map), whole)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 7), (9, 1), (4, 300), (1000, 300), (3, 70, 41), (7, 100_000)])
def test_blocks_are_whole_rows_in_order(shape, small_blocks):
    size = int(np.prod(shape))
    blocks = row_blocks(TensorInfo("x", "BF16", shape, "f", 0, 2 * size))
    rows = size // (shape[-1] if shape else 1)
    assert [each for block in blocks for each in range(block.start, block.stop)] == list(range(rows))
    heights = [block.stop - block.start for block in blocks]
    assert all(height % 4 == 0 for height in heights[:-1])


def test_large_blocks_are_of_about_16_mib():
    embedding = TensorInfo("model.embed_tokens.weight", "BF16", (100_352, 2048), "f", 0, 100_352 * 4096)
    heights = [block.stop - block.start for block in row_blocks(embedding)]
    assert len(heights) == 25
    assert max(heights) * 4096 <= 17 << 20
    assert row_blocks(TensorInfo("x", "F32", (2048, 2048), "f", 0, 16 << 20)) == [slice(0, 2048)]


@pytest.mark.parametrize("scale", [2.0**-130, 1e-30, 2.0**-57, 1.0, 2.0**55, 2.0**57, 1e30])
def test_norms_of_any_magnitude(scale):
    x = np.random.default_rng(0).standard_normal((17, 300)) * scale
    x[:, 5] *= 1e-8  # a column far smaller than the rest
    raw, info, x = encode(x, "BF16")
    found = tensor_stats(raw, info)
    np.testing.assert_allclose(np.sqrt(found.axes.row_squares), np.linalg.norm(x, axis=1), rtol=3e-7)
    np.testing.assert_allclose(np.sqrt(found.axes.column_squares), np.linalg.norm(x, axis=0), rtol=3e-7)


@pytest.mark.parametrize("column_sums", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nonfinite_rows_and_columns(dtype, value, column_sums, small_blocks):
    x = np.ones((64, 40))
    x[30, 7] = value
    raw, info, x = encode(x, dtype)
    found = tensor_stats(raw, info, column_sums=column_sums)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found.axes.row_squares, (x**2).sum(1))
        np.testing.assert_array_equal(found.axes.column_squares, (x**2).sum(0))
        if column_sums:
            np.testing.assert_array_equal(found.axes.column_sums, x.sum(0))
    assert (found.nan_count, found.inf_count) == (int(np.isnan(value)), int(np.isinf(value)))


def test_worst_error_of_norms_in_bfloat16():
    """Long rows, heavy tails: many small squares beside a large one, where float32 rounds most."""
    raw, info, x = encode(np.random.default_rng(0).standard_t(1.5, (512, 2048)), "BF16")
    found = tensor_stats(raw, info)
    for axis, squares in ((1, found.axes.row_squares), (0, found.axes.column_squares)):
        np.testing.assert_allclose(np.sqrt(squares), np.linalg.norm(x, axis=axis), rtol=3e-7)
    np.testing.assert_allclose(found.square_sum, (x**2).sum(), rtol=1e-14)  # from the codes, not from the axes


def test_equal_elements_are_summed_exactly():
    raw, info, _ = encode(np.full((128, 512), -0.3), "BF16")
    found = tensor_stats(raw, info)
    stored = float(found.smallest)
    np.testing.assert_array_equal(found.axes.row_squares, 512 * stored**2)
    np.testing.assert_array_equal(found.axes.column_squares, 128 * stored**2)


def test_some_bytes_are_missing():
    info = TensorInfo(Q_PROJ, "F32", (2, 2), "f", 0, 16)
    with pytest.raises(
        CheckpointError,
        match=r"^model\.layers\.0\.self_attn\.q_proj\.weight must be 16 bytes \(got 12\); fetch the checkpoint again$",
    ):
        block_stats(np.zeros(12, np.uint8), info, slice(0, 2))


LIKE = {
    "all equal": lambda rng, n: np.full(n, -0.37),
    "two values": lambda rng, n: rng.choice([0.5, -2.0], n),
    "one upper half": lambda rng, n: 1 + rng.integers(0, 1 << 16, n) * 2.0**-23,
    "mostly zeros of both signs": lambda rng, n: np.where(
        rng.random(n) < 0.9, rng.choice([0.0, -0.0], n), rng.normal(size=n)
    ),
    "subnormal": lambda rng, n: rng.integers(-9, 10, n) * 2.0**-149,
    "blocks of different scales": lambda rng, n: rng.normal(size=n) * 10.0 ** np.sort(rng.integers(-9, 9, n)),
    "far from zero": lambda rng, n: 1e4 + rng.normal(size=n),
    "Gaussian": lambda rng, n: rng.normal(0, 0.02, n),
}


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(LIKE)),
    st.integers(1, 40),
    st.integers(1, 70),
    st.sampled_from([0, 3, 1 << 19]),
    st.integers(0, 99),
)
def test_float32_is_numpys_whatever_the_distribution(kind, rows, columns, listed, seed):
    values = LIKE[kind](np.random.default_rng(seed), rows * columns)
    raw, info, x = encode(values.reshape(rows, columns), "F32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats_module, "_BLOCK_BYTES", 512)
        patch.setattr(stats_module, "_SORTED_AT_MOST", 0)
        patch.setattr(stats_module, "_LISTED_AT_MOST", listed)
        found = tensor_stats(raw, info)
    np.testing.assert_array_equal(found.quantiles, np.quantile(x, QUANTILES))
    np.testing.assert_array_equal(found.magnitude_quantiles, np.quantile(np.abs(x), stats_module.MAGNITUDE_LEVELS))
    assert (found.smallest, found.largest, found.zero_count) == (x.min(), x.max(), np.count_nonzero(x == 0))
    deviations = x - x.mean()
    sums = [x.size, x.mean(), *(np.sum(deviations**power) for power in (2, 3, 4))]
    scale = np.abs(x).max()
    for power, (mine, theirs) in enumerate(zip(found.moments, sums, strict=True)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-13 * x.size * scale ** max(power, 1))
    np.testing.assert_allclose([found.abs_sum, found.square_sum], [np.abs(x).sum(), np.sum(x**2)], rtol=1e-12)
    np.testing.assert_allclose(found.axes.row_squares, np.sum(x**2, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.axes.column_squares, np.sum(x**2, axis=0), rtol=1e-12)
