import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import olmo_dynamics.recorders.kernels.tensor_stats as stats_module
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities import QUANTILES, of_group
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders import measure_tensor
from tests.recorders.material import DTYPES, Q_PROJ, by_name, encode

DTYPE_NAMES = tuple(DTYPES)
AXIS_RTOL = {"BF16": 1e-7, "F16": 1e-13, "F32": 1e-13, "F64": 1e-13}
NO_AXIS = "model.layers.0.self_attn.q_norm.weight"


def measure(values, dtype="F32", name=Q_PROJ):
    raw, info, _ = encode(values, dtype, name)
    return by_name(measure_tensor(raw, info))


def reference(x):
    """Every scalar by NumPy and SciPy in float64."""
    magnitude = np.abs(x)
    return {
        "l2_norm": np.linalg.norm(x.ravel()),
        "rms": np.sqrt(np.mean(x**2)),
        "mean": x.mean(),
        "std": x.std(),
        "min": x.min(),
        "max": x.max(),
        "abs_max": magnitude.max(),
        "abs_mean": magnitude.mean(),
        "abs_median": np.median(magnitude),
        "kurtosis": scipy.stats.kurtosis(x.ravel(), fisher=False),
        "norm_sparsity": np.sqrt(x.size) * np.linalg.norm(x.ravel()) / magnitude.sum(),
        "max_sparsity": (magnitude.max() - np.median(magnitude)) / np.median(magnitude),
        "tail_ratio": np.quantile(magnitude, 0.999) / np.quantile(magnitude, 0.5),
        "zero_count": np.count_nonzero(x == 0),
        "nan_count": 0,
        "inf_count": 0,
    }


def assert_agrees(found, x, rtol=1e-12):
    scale = np.abs(x).max()
    for name, value in reference(x).items():
        tolerance = 1e-12 * scale if name == "mean" else 0
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=tolerance, err_msg=name)
    for name in ("min", "max", "abs_max", "abs_median", "zero_count"):
        assert found[name] == reference(x)[name]
    np.testing.assert_array_equal(found["element_quantile"], np.quantile(x, QUANTILES))


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("shape", [(64, 48), (33, 65), (2, 5000), (3, 4, 5), (7,), (2,)])
def test_agrees_with_numpy_in_float64(dtype, shape):
    _, _, x = encode(np.random.default_rng(0).normal(0.01, 0.02, shape), dtype)
    assert_agrees(measure(x, dtype), x)


@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_large_mean_and_small_spread(dtype):
    _, _, x = encode(1 + 1e-4 * np.random.default_rng(0).standard_normal(5001), dtype)
    assert_agrees(measure(x, dtype), x, rtol=1e-10)
    _, _, x = encode(1e6 + np.random.default_rng(0).standard_normal((100, 101)), dtype)
    assert_agrees(measure(x, dtype), x, rtol=1e-10)  # rounding of NumPy's own mean


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_denormals(dtype):
    smallest = {"BF16": 2.0**-133, "F16": 2.0**-24, "F32": 2.0**-149, "F64": 2.0**-120}[dtype]
    x = smallest * np.array([[-3.0, 1.0, 0.0, 2.0], [5.0, -1.0, 7.0, 0.0]])
    assert_agrees(measure(x, dtype), x)


@pytest.mark.parametrize("size", [4095, 4096, 100_001])
def test_large_float32_order_statistics_are_exact(monkeypatch, size):
    monkeypatch.setattr(stats_module, "_SORTED_AT_MOST", 0)
    rng = np.random.default_rng(size)
    for values in (
        rng.standard_normal(size),
        rng.integers(-3, 4, size),
        np.abs(rng.standard_t(2, size)),
        -np.ones(size),
    ):
        _, _, x = encode(values, "F32")
        found = measure(x, "F32")
        np.testing.assert_array_equal(found["element_quantile"], np.quantile(x, QUANTILES))
        assert found["abs_median"] == np.median(np.abs(x))
        assert (found["min"], found["max"]) == (x.min(), x.max())
        if found["abs_median"] > 0:
            tail, middle = np.quantile(np.abs(x), [0.999, 0.5])
            assert found["tail_ratio"] == tail / middle


def test_sorting_and_counting_halves_agree(monkeypatch):
    x = np.random.default_rng(3).standard_normal((100, 100))
    sorted_ = measure(x, "F32")
    monkeypatch.setattr(stats_module, "_SORTED_AT_MOST", 0)
    counted = measure(x, "F32")
    for name in sorted_:
        np.testing.assert_array_equal(sorted_[name], counted[name])


def test_known_values():
    found = measure([-2, -1, 0, 1, 2])
    assert found["max_sparsity"] == 1.0
    assert found["norm_sparsity"] == pytest.approx(1.178511, abs=1e-6)
    one_hot = np.zeros(4096)
    one_hot[17] = -3.0
    assert measure(one_hot)["norm_sparsity"] == pytest.approx(64)
    constant = measure(np.full(100, -0.5))
    assert (constant["l2_norm"], constant["rms"]) == (pytest.approx(5.0), 0.5)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_known_values_of_distributions(dtype):
    rng = np.random.default_rng(0)
    gaussian = measure(rng.normal(0, 0.02, (512, 1024)), dtype)
    n = 512 * 1024
    assert gaussian["rms"] == pytest.approx(0.02, abs=4 * 0.02 / np.sqrt(2 * n))
    assert gaussian["norm_sparsity"] == pytest.approx(np.sqrt(np.pi / 2), rel=3e-3)
    assert gaussian["kurtosis"] == pytest.approx(3, abs=0.03)
    uniform = measure(rng.uniform(-1, 1, (512, 1024)), dtype)
    assert uniform["norm_sparsity"] == pytest.approx(2 / np.sqrt(3), rel=2e-3)
    assert uniform["kurtosis"] == pytest.approx(1.8, abs=0.01)


def test_max_sparsity_of_a_gaussian_grows_with_its_size():
    rng = np.random.default_rng(0)
    draws = [measure(rng.standard_normal(4096))["max_sparsity"] for _ in range(20)]
    assert np.mean(draws) == pytest.approx(4.7, abs=0.3)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_constant_tensor_is_degenerate(dtype):
    found = measure(np.full((300, 7), 0.1), dtype)
    assert found["status"] == Status.DEGENERATE
    assert np.isnan(found["kurtosis"])
    assert found["std"] == 0
    assert found["norm_sparsity"] == pytest.approx(1)
    assert found["max_sparsity"] == 0


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_zero_tensor_is_degenerate(dtype):
    found = measure(np.zeros((4, 4)), dtype)
    assert found["status"] == Status.DEGENERATE
    assert found["zero_count"] == 16
    assert found["l2_norm"] == 0
    for name in ("kurtosis", "norm_sparsity", "max_sparsity", "tail_ratio"):
        assert np.isnan(found[name])


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_one_element(dtype):
    found = measure([-2.5], dtype)
    assert [float(found[name]) for name in ("l2_norm", "mean", "min", "max", "abs_median")] == [
        2.5,
        -2.5,
        -2.5,
        -2.5,
        2.5,
    ]
    np.testing.assert_array_equal(found["element_quantile"], -2.5)
    assert np.isnan(found["kurtosis"])


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_nan_is_seen_everywhere_but_in_counts(dtype):
    found = measure([1.0, np.nan, 0.0, np.inf, np.nan], dtype)
    assert [int(found[name]) for name in ("zero_count", "nan_count", "inf_count")] == [1, 2, 1]
    assert found["status"] == Status.NONFINITE
    counts = {"element_count", "zero_count", "nan_count", "inf_count", "status"}
    assert all(np.isnan(found[name]).all() for name in found if name not in counts)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("row", [[1.0, np.inf, 2.0, 0.5], [1.0, -np.inf, 2.0, 0.5], [np.inf, -np.inf, 1.0, 1.0]])
def test_infinities_follow_numpy(dtype, row):
    x = np.array([row])
    found = measure(x, dtype)
    assert found["status"] == Status.NONFINITE
    assert found["l2_norm"] == np.inf
    with np.errstate(invalid="ignore"):
        expected = {"mean": x.mean(), "std": x.std(), "min": x.min(), "max": x.max(), "abs_mean": np.inf}
        quantile = np.quantile(x, QUANTILES)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    np.testing.assert_array_equal(found["element_quantile"], quantile)
    assert np.isnan(found["kurtosis"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_in_large_float32(monkeypatch, value):
    monkeypatch.setattr(stats_module, "_SORTED_AT_MOST", 0)
    x = np.random.default_rng(0).standard_normal(5000)
    x[123] = value
    found = measure(x)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(
            found["element_quantile"], np.quantile(x.astype(np.float32).astype(float), QUANTILES)
        )


@pytest.mark.parametrize(("dtype", "bits"), [
    ("BF16", np.uint16(0x7F81)), ("F16", np.uint16(0x7C01)), ("F32", np.uint32(0x7F800001)),
    ("F64", np.uint64(0x7FF0000000000001)),
])  # fmt: skip
def test_signalling_nan_is_a_nan(dtype, bits):
    raw = np.array([bits, 0, 0, 0], bits.dtype).view(np.uint8)
    found = by_name(measure_tensor(raw, TensorInfo(Q_PROJ, dtype, (2, 2), "f", 0, raw.nbytes)))
    assert [int(found[name]) for name in ("zero_count", "nan_count", "inf_count")] == [3, 1, 0]
    assert np.isnan(found["l2_norm"])


@pytest.mark.parametrize("dtype", ["I64", "I32", "U8", "BOOL"])
def test_other_dtypes_are_not_measured(dtype):
    assert measure_tensor(np.zeros(8, np.uint8), TensorInfo("x", dtype, (1,), "f", 0, 8)) == []


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_empty_tensors_are_not_measured(shape):
    assert measure_tensor(np.zeros(0, np.uint8), TensorInfo("x", "F32", shape, "f", 0, 0)) == []


def test_a_scalar_tensor_is_measured():
    raw, info, _ = encode(np.array(4.0))
    assert info.shape == ()
    assert by_name(measure_tensor(raw, info))["l2_norm"] == 4.0


def test_wrong_number_of_bytes():
    message = "x must be 8 bytes (got 4); fetch the checkpoint again"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        measure_tensor(np.zeros(4, np.uint8), TensorInfo("x", "F32", (2,), "f", 0, 8))


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_unaligned_and_read_only_bytes(dtype):
    raw, info, x = encode(np.random.default_rng(0).standard_normal((6, 10)), dtype)
    shifted = np.frombuffer(b"\0" + raw.tobytes(), np.uint8)[1:]
    assert not shifted.flags.writeable
    found = by_name(measure_tensor(shifted, info))
    assert_agrees(found, x)
    np.testing.assert_allclose(found["residual_feature_l2"], np.linalg.norm(x, axis=0), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_norms_along_the_residual_stream(dtype):
    values = np.random.default_rng(0).standard_normal((30, 5000))
    for name, feature_axis in ((Q_PROJ, 1), ("model.layers.0.mlp.down_proj.weight", 0)):
        raw, info, x = encode(values, dtype, name)
        found = by_name(measure_tensor(raw, info))
        by_feature, by_vector = np.linalg.norm(x, axis=1 - feature_axis), np.linalg.norm(x, axis=feature_axis)
        assert found["residual_feature_l2"].dtype == np.float32
        np.testing.assert_array_max_ulp(found["residual_feature_l2"], by_feature.astype(np.float32), 1)
        quantile = np.quantile(by_vector, QUANTILES)
        np.testing.assert_allclose(found["residual_vector_l2_quantile"], quantile, rtol=AXIS_RTOL[dtype])


def test_norm_gains_are_one_vector():
    found = measure([3.0, -4.0], name="model.norm.weight")
    np.testing.assert_array_equal(found["residual_feature_l2"], [3, 4])
    np.testing.assert_array_equal(found["residual_vector_l2_quantile"], 5)


def test_what_does_not_touch_the_stream_has_no_residual_norms():
    assert not {"residual_feature_l2", "residual_vector_l2_quantile"} & measure([1.0, 2.0], name=NO_AXIS).keys()


def test_every_declared_quantity_is_recorded_with_its_dtype():
    raw, info, _ = encode(np.random.default_rng(0).standard_normal((4, 6)))
    records = measure_tensor(raw, info)
    assert {record.quantity for record in records} == set(of_group("parameters"))
    for record in records:
        assert record.values.dtype == record.quantity.dtype, record.quantity.name
        assert record.values.ndim == len(record.quantity.axes) - 1
        assert record.at == {"tensor": Q_PROJ}


def test_threads_give_the_same_numbers():
    raw, info, _ = encode(np.random.default_rng(0).standard_normal((200, 300)), "BF16")
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: by_name(measure_tensor(raw, info)), range(4)))
    for found in results[1:]:
        for name, value in found.items():
            np.testing.assert_array_equal(value, results[0][name])


@pytest.mark.parametrize(("dtype", "limit"), [("BF16", 4 << 20), ("F32", 20 << 20)])
def test_a_large_tensor_is_not_copied(dtype, limit):
    raw = np.resize(np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32), 1 << 24).view(np.uint8)
    columns = 4096
    info = TensorInfo(
        Q_PROJ, dtype, (raw.nbytes // columns // (4 if dtype == "F32" else 2), columns), "f", 0, raw.nbytes
    )
    measure_tensor(raw, info)
    tracemalloc.start()
    measure_tensor(raw, info)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit < raw.nbytes


FINITE = arrays(
    np.float32, array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=40), elements=st.floats(-1e3, 1e3, width=32)
)


@settings(max_examples=60, deadline=None)
@given(FINITE, st.sampled_from(DTYPE_NAMES))
def test_quantiles_are_numpys(values, dtype):
    _, _, x = encode(values, dtype)
    np.testing.assert_array_equal(measure(x, dtype)["element_quantile"], np.quantile(x, QUANTILES))


@settings(max_examples=60, deadline=None)
@given(FINITE, st.sampled_from(DTYPE_NAMES), st.integers(-4, 4).map(lambda power: -(2.0**power)))
def test_scaling(values, dtype, factor):
    _, _, x = encode(np.where(np.abs(values) < 1e-2, 0, values), dtype)
    before, after = measure(x, dtype), measure(x * factor, dtype)
    for name in ("l2_norm", "rms", "std", "abs_max", "abs_mean", "abs_median"):
        np.testing.assert_allclose(after[name], abs(factor) * before[name], rtol=1e-9, atol=1e-12)
    for name in ("norm_sparsity", "max_sparsity", "tail_ratio", "kurtosis", "zero_count", "status"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(FINITE, st.sampled_from(DTYPE_NAMES), st.randoms(use_true_random=False))
def test_permutation_changes_nothing(values, dtype, random):
    _, _, x = encode(values, dtype)
    order = list(range(x.size))
    random.shuffle(order)
    before, after = measure(x.ravel(), dtype, NO_AXIS), measure(x.ravel()[order], dtype, NO_AXIS)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-7, atol=1e-9, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(FINITE, st.sampled_from(DTYPE_NAMES), st.data())
def test_squares_add_when_a_tensor_is_split(values, dtype, data):
    _, _, x = encode(values.ravel(), dtype)
    cut = data.draw(st.integers(0, x.size))
    parts = [measure(part, dtype)["l2_norm"] for part in (x[:cut], x[cut:]) if part.size]
    np.testing.assert_allclose(np.sqrt(np.sum(np.square(parts))), measure(x, dtype)["l2_norm"], rtol=1e-12)
