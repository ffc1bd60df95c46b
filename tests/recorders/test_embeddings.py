import numpy as np
import pytest

from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities import QUANTILES, of_group
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders import measure_embedding, tensor_stats
from olmo_dynamics.recorders.embeddings import embedding_records
from olmo_dynamics.recorders.parameters import parameter_records
from tests.recorders.material import DTYPES, by_name, encode

EMBEDDING = "model.embed_tokens.weight"


def measure(values, dtype="F32", *, counts=None, tokenizer_size=None):
    raw, info, x = encode(values, dtype, EMBEDDING)
    size = len(values) if tokenizer_size is None else tokenizer_size
    return by_name(measure_embedding(raw, info, token_counts=counts, tokenizer_size=size)), x


def rms(rows):
    return np.sqrt(np.mean(rows**2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_numpy(dtype):
    counts = np.concatenate([np.arange(25) % 7, np.zeros(5, np.int64)])
    found, x = measure(np.random.default_rng(0).normal(0, 0.02, (30, 17)), dtype, counts=counts, tokenizer_size=26)
    row_l2 = np.linalg.norm(x, axis=1)
    rtol = 1e-7 if dtype == "BF16" else 1e-13
    np.testing.assert_array_max_ulp(found["row_l2"], row_l2.astype(np.float32), 1)
    np.testing.assert_allclose(found["row_l2_quantile"], np.quantile(row_l2, QUANTILES), rtol=rtol)
    np.testing.assert_allclose(found["row_rms"], rms(x), rtol=rtol)
    np.testing.assert_allclose(found["mean_row_l2"], np.linalg.norm(x.mean(axis=0)), rtol=1e-13)
    np.testing.assert_allclose(found["unseen_rms"], rms(x[:26][counts[:26] == 0]), rtol=rtol)
    np.testing.assert_allclose(found["padding_rms"], rms(x[26:]), rtol=rtol)
    assert found["status"] == Status.MEASURED


def test_deciles_go_from_rare_to_frequent():
    counts = np.array([0, 5, 1, 1, 9, 2, 3, 4, 6, 7, 8, 10, 11])
    found, x = measure(np.arange(13.0)[:, None] + [0, 0.5], counts=counts)
    order = sorted((count, v) for v, count in enumerate(counts) if count)
    groups = [[v for _, v in order[:2]], [v for _, v in order[2:4]], *([v] for _, v in order[4:])]
    np.testing.assert_allclose(found["decile_rms"], [rms(x[group]) for group in groups], rtol=1e-13)


def test_fewer_ids_than_deciles_leaves_some_empty():
    found, _ = measure(np.ones((4, 2)), counts=np.array([1, 2, 0, 0]))
    np.testing.assert_array_equal(found["decile_rms"], [1, 1] + [np.nan] * 8)


def test_without_a_probe_only_what_needs_none_is_known():
    found, _ = measure(np.ones((4, 2)), tokenizer_size=3)
    assert np.isnan(found["decile_rms"]).all()
    assert np.isnan(found["unseen_rms"])
    assert (found["row_rms"], found["padding_rms"]) == (1, 1)


def test_no_padding_rows():
    found, _ = measure(np.ones((4, 2)), counts=np.ones(4, np.int64), tokenizer_size=9)
    assert np.isnan(found["padding_rms"])
    assert np.isnan(found["unseen_rms"])


def test_padding_rows_show_weight_decay():
    rng = np.random.default_rng(0)
    start = rng.normal(0, 0.02, (8, 16))
    decay = np.prod(1 - 3e-4 * 0.1 * np.ones(1000))
    before, _ = measure(start, "F64", tokenizer_size=5)
    after, _ = measure(start * decay, "F64", tokenizer_size=5)
    assert after["padding_rms"] / before["padding_rms"] == pytest.approx(decay, rel=1e-13)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_row(value):
    x = np.ones((4, 3))
    x[2, 1] = value
    found, _ = measure(x)
    assert found["status"] == Status.NONFINITE
    np.testing.assert_array_equal(found["row_l2"], np.sqrt(np.array([3, 3, value**2, 3])).astype(np.float32))
    assert not np.isfinite(found["mean_row_l2"])


def test_one_pass_over_the_bytes_serves_both_groups():
    raw, info, _ = encode(np.random.default_rng(0).standard_normal((6, 4)), "BF16", EMBEDDING)
    found = tensor_stats(raw, info, column_sums=True)
    alone = by_name(measure_embedding(raw, info, token_counts=None, tokenizer_size=6))
    shared = by_name(embedding_records(found, info, token_counts=None, tokenizer_size=6))
    for name, value in alone.items():
        np.testing.assert_array_equal(shared[name], value)
    assert by_name(parameter_records(found, info))["rms"] == pytest.approx(float(shared["row_rms"]))


def test_every_declared_quantity_is_recorded_with_its_dtype():
    raw, info, _ = encode(np.ones((4, 3)), "F32", "lm_head.weight")
    records = measure_embedding(raw, info, token_counts=None, tokenizer_size=4)
    assert {record.quantity for record in records} == set(of_group("embeddings"))
    for record in records:
        assert record.at == {"embedding": "lm_head.weight"}
        assert record.values.dtype == record.quantity.dtype, record.quantity.name
        assert record.values.ndim == len(record.quantity.axes) - 1


@pytest.mark.parametrize("info", [
    TensorInfo(EMBEDDING, "F32", (4,), "f", 0, 16),
    TensorInfo(EMBEDDING, "I32", (2, 2), "f", 0, 16),
    TensorInfo(EMBEDDING, "F32", (0, 4), "f", 0, 0),
])  # fmt: skip
def test_what_is_no_embedding_is_not_measured(info):
    assert measure_embedding(np.zeros(info.nbytes, np.uint8), info, token_counts=None, tokenizer_size=4) == []
