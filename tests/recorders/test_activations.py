import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import TOKEN_QUANTILES, of_group
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders import ActivationRecorder
from tests.recorders.material import by_name, everything, shown

SITE = Site.RESIDUAL_OUT


def ones(x):
    return np.ones(x.shape[:2], dtype=bool)


def record(x, mask=None, site=SITE, dtype=torch.float64):
    recorder = ActivationRecorder()
    recorder.observe(shown(site, 3, x, mask, dtype=dtype))
    return by_name(everything(recorder))


def reference(tokens):
    """Every quantity of [tokens, width] by NumPy and SciPy in float64."""
    magnitude, norms = np.abs(tokens), np.linalg.norm(tokens, axis=1)
    squares = np.mean(tokens**2, axis=0)
    return {
        "rms": np.sqrt(np.mean(tokens**2)),
        "l2_norm": norms.mean(),
        "l2_norm_quantile": np.quantile(norms, TOKEN_QUANTILES),
        "mean": tokens.mean(),
        "abs_max": magnitude.max(),
        "abs_mean": magnitude.mean(),
        "kurtosis": scipy.stats.kurtosis(tokens.ravel(), fisher=False),
        "norm_sparsity": np.sqrt(tokens.size) * np.linalg.norm(tokens) / magnitude.sum(),
        "token_norm_sparsity": np.mean(np.sqrt(tokens.shape[1]) * norms / magnitude.sum(axis=1)),
        "max_median_ratio": np.mean(magnitude.max(axis=1) / np.median(magnitude, axis=1)),
        "feature_kurtosis": np.mean(squares**2) / np.mean(squares) ** 2,
        "feature_rms": np.sqrt(squares),
        "feature_abs_max": magnitude.max(axis=0),
    }


def binned(tokens):
    """The statistics that come from the magnitude histogram, exact to half a bin."""
    magnitude = np.abs(tokens)
    median = np.median(magnitude)
    return {"abs_median": median, "max_sparsity": (magnitude.max() - median) / median}


def assert_agrees(found, tokens, suffix="", binned_rtol=2**-14):
    for name, value in reference(tokens).items():
        rtol = 1e-6 if name in ("feature_rms", "feature_abs_max") else 1e-11
        np.testing.assert_allclose(found[name + suffix], value, rtol=rtol, atol=1e-12, err_msg=name)
    for name, value in binned(tokens).items():
        np.testing.assert_allclose(found[name + suffix], value, rtol=binned_rtol, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 2, 31, 32, 2500])
def test_agrees_with_numpy_in_float64(dtype, width):
    x = torch.from_numpy(np.random.default_rng(width).normal(0.3, 2, (3, 5, width))).to(dtype)
    mask = ones(x)
    mask[1, 3:] = False
    found = record(x, mask, dtype=dtype)
    values = x.double().numpy()
    exact = 1e-12 if dtype == torch.bfloat16 else 2**-14
    assert_agrees(found, values[mask], binned_rtol=exact)
    mask[:, 0] = False
    assert_agrees(found, values[mask], "_without_first", binned_rtol=exact)
    assert found["status"] == Status.MEASURED


def test_large_mean_and_small_spread():
    x = 1000 + np.random.default_rng(0).standard_normal((2, 3, 400))
    assert record(x)["kurtosis"] == pytest.approx(scipy.stats.kurtosis(x.ravel(), fisher=False), rel=1e-9)


def test_known_values():
    x = np.array([-2.0, -1, 0, 1, 2])[None, None]
    found = record(x)
    assert found["max_sparsity"] == 1.0
    assert found["norm_sparsity"] == pytest.approx(1.178511, abs=1e-6)
    assert found["token_norm_sparsity"] == pytest.approx(1.178511, abs=1e-6)
    assert found["max_median_ratio"] == 2.0


def test_feature_kurtosis_of_a_gaussian():
    x = np.random.default_rng(0).standard_normal((1, 8192, 64))
    assert record(x, dtype=torch.float32)["feature_kurtosis"] == pytest.approx(1 + 2 / 8192, abs=1e-4)


def test_feature_kurtosis_of_one_large_feature():
    d, a = 512, 100
    x = np.sign(np.random.default_rng(0).standard_normal((1, 16, d)))
    x[..., 7] *= a
    assert record(x)["feature_kurtosis"] == pytest.approx(d * (d - 1 + a**4) / (d - 1 + a**2) ** 2)
    assert record(x)["feature_kurtosis"] == pytest.approx(463.43, abs=0.01)


def test_feature_kurtosis_of_one_active_feature():
    x = np.zeros((1, 4, 32))
    x[..., 5] = 3
    found = record(x)
    assert found["feature_kurtosis"] == 32
    assert found["norm_sparsity"] == pytest.approx(np.sqrt(4 * 32) * 6 / 12)


def test_public_codes_kurtosis_is_a_function_of_ours():
    x = np.random.default_rng(0).standard_t(3, (1, 50, 24))
    squares = np.mean(x[0] ** 2, axis=0) / np.mean(x**2)
    ours = float(record(x)["feature_kurtosis"])
    assert np.var(squares, ddof=1) == pytest.approx((ours - 1) * 24 / 23)


def test_rms_is_at_least_the_mean_norm_over_root_width():
    x = np.random.default_rng(0).standard_normal((2, 9, 16)) * np.arange(1, 10)[:, None]
    found = record(x)
    assert found["rms"] > found["l2_norm"] / 4
    equal = np.ones((1, 3, 16))
    assert record(equal)["rms"] == record(equal)["l2_norm"] / 4 == 1


@pytest.mark.parametrize("site", list(Site))
def test_features_are_kept_only_of_the_residual_stream(site):
    found = record(np.ones((1, 2, 4)), site=site)
    assert ("feature_rms" in found) == ("feature_abs_max_without_first" in found) == site.hidden_wide


def test_every_declared_quantity_is_recorded_with_its_dtype():
    recorder = ActivationRecorder()
    recorder.observe(shown(SITE, 3, torch.randn(2, 3, 4)))
    records = everything(recorder)
    assert {each.quantity for each in records} == set(of_group("activations"))
    for each in records:
        assert each.at == {"site": "residual_out", "layer": 3}
        assert each.values.dtype == each.quantity.dtype, each.quantity.name
        assert each.values.ndim == len(each.quantity.axes) - 2


def test_only_first_positions_leave_the_rest_unmeasured():
    found = record(np.ones((4, 1, 8)) * [1, 2, 3, 4, 5, 6, 7, 8])
    assert found["status"] == Status.MEASURED
    assert np.isnan(found["rms_without_first"])
    assert found["feature_rms_without_first"].shape == (8,)
    assert found["l2_norm_quantile_without_first"].shape == (3,)


def test_everything_masked_is_not_measured():
    x = np.ones((2, 3, 4))
    found = record(x, np.zeros((2, 3), dtype=bool))
    assert found["status"] == Status.NOT_MEASURED
    assert np.isnan(found["l2_norm"])


def test_first_position_is_counted_from_the_slice():
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    whole, sliced = ActivationRecorder(), ActivationRecorder()
    whole.observe(shown(SITE, 0, x))
    for start, stop in ((0, 2), (2, 5), (5, 6)):
        sliced.observe(shown(SITE, 0, x[:, start:stop], positions=slice(start, stop)))
    assert_same(by_name(everything(whole)), by_name(everything(sliced)))


def assert_same(a, b, rtol=1e-10):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nonfinite_values(value, dtype):
    x = np.random.default_rng(0).standard_normal((2, 3, 5))
    x[1, 2, 4] = value
    found = record(x, dtype=dtype)
    assert found["status"] == Status.NONFINITE
    np.testing.assert_array_equal(found["abs_max"], abs(value))
    np.testing.assert_array_equal(found["rms"], abs(value))
    np.testing.assert_array_equal(found["l2_norm"], abs(value))
    np.testing.assert_array_equal(found["mean"], value)
    assert np.isnan(found["kurtosis"])
    assert np.isnan(found["abs_median"]) == np.isnan(value)
    np.testing.assert_array_equal(np.isfinite(found["feature_rms"]), [True] * 4 + [False])
    np.testing.assert_array_equal(np.isfinite(found["feature_abs_max"]), [True] * 4 + [False])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_signalling_nan_is_a_nan(dtype):
    codes = torch.tensor([[[0x7F81, 0x3F80, 0]]], dtype=torch.int32)
    x = codes.to(torch.int16).view(dtype) if dtype == torch.bfloat16 else (codes << 16).view(dtype)
    found = record(x, dtype=dtype)
    assert found["status"] == Status.NONFINITE
    assert all(np.isnan(found[name]) for name in ("rms", "abs_max", "abs_median", "max_median_ratio"))
    np.testing.assert_array_equal(found["feature_abs_max"], np.array([np.nan, 1, 0]))


def test_constant_and_zero_activations_are_degenerate():
    constant = record(np.full((2, 3, 7), 0.1), dtype=torch.float32)
    assert constant["status"] == Status.DEGENERATE
    assert np.isnan(constant["kurtosis"])
    assert constant["norm_sparsity"] == pytest.approx(1)
    zero = record(np.zeros((2, 3, 7)))
    assert zero["status"] == Status.DEGENERATE
    for name in (
        "kurtosis",
        "norm_sparsity",
        "max_sparsity",
        "token_norm_sparsity",
        "max_median_ratio",
        "feature_kurtosis",
    ):
        assert np.isnan(zero[name]), name


def test_clipped_values_have_no_median_above_the_largest():
    x = torch.tensor([[[0.5, -0.5, 0.5, 0.123456789]]])
    found = record(x, dtype=torch.float32)
    assert (found["abs_median"], found["abs_max"], found["max_sparsity"]) == (0.5, 0.5, 0)


def test_one_silent_token_is_degenerate_not_infinite():
    x = np.random.default_rng(0).standard_normal((1, 4, 6))
    x[0, 2] = 0
    found = record(x)
    assert found["status"] == Status.DEGENERATE
    assert np.isnan(found["max_median_ratio"])
    assert np.isfinite(found["kurtosis"])


def test_finishing_a_layer_gives_its_records_and_drops_it():
    recorder = ActivationRecorder()
    for layer in (0, 1):
        recorder.observe(shown(SITE, layer, torch.randn(1, 2, 4)))
    assert {each.at["layer"] for each in recorder.finish_layer(0)} == {0}
    assert list(recorder.finish_layer(0)) == []
    assert {each.at["layer"] for each in everything(recorder)} == {1}
    assert everything(recorder) == []


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 2**32 - 1), st.data())
def test_halves_merge_to_the_whole(shape, seed, data):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal(shape)).float()
    mask = rng.random(shape[:2]) < 0.8
    cut = data.draw(st.integers(0, shape[0]))
    whole, one, two, other = (ActivationRecorder() for _ in range(4))
    whole.observe(shown(SITE, 0, x, mask))
    one.observe(shown(SITE, 0, x[:cut], mask[:cut]))
    two.observe(shown(SITE, 0, x[cut:], mask[cut:]))
    other.merge(two)
    other.merge(one)
    one.merge(two)
    expected = by_name(everything(whole))
    assert_same(expected, by_name(everything(one)))
    assert_same(expected, by_name(everything(other)))


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 2**32 - 1))
def test_order_of_sequences_does_not_matter(shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    assert_same(record(x), record(x[rng.permutation(shape[0])]))


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 2**32 - 1), st.integers(-10, 10))
def test_scaling(shape, seed, power):
    x = np.random.default_rng(seed).standard_normal(shape)
    factor = -(2.0**power)
    before, after = record(x), record(factor * x)
    for name in ("rms", "l2_norm", "abs_max", "abs_mean", "abs_median", "l2_norm_quantile", "feature_rms"):
        np.testing.assert_allclose(after[name], abs(factor) * before[name], rtol=1e-9, atol=1e-12)
    for name in (
        "kurtosis",
        "norm_sparsity",
        "max_sparsity",
        "token_norm_sparsity",
        "max_median_ratio",
        "feature_kurtosis",
    ):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-9)
