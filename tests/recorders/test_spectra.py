"""Singular values against NumPy in float64: in full to rounding, by steps within the bounds that are stored."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.progress import Progress
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.kernels.spectrum import fit_tail
from olmo_dynamics.recorders.sketches import SketchRecorder
from olmo_dynamics.recorders.spectra import RANKS, SpectraRecorder, VectorCache
from tests.recorders.material import by_name, encode, shown_tensor, started
from tests.recorders.test_sketches import by_definition
from tests.runs import FAMILIES, write_family_run

FULL = ("effective_rank", "effective_rank_of_squares", "participation_ratio", "tail_exponent", "tail_count")
SIDE = 520  # both sides above 512


def measured(values, dtype="F64", recorder=None):
    """What is recorded of a matrix, and the matrix as it is stored."""
    raw, info, stored = encode(values, dtype)
    recorder = started(recorder or SpectraRecorder())
    recorder.observe(shown_tensor(raw, info))
    return by_name(recorder.finish()), stored


def drawn(rows, columns, seed=0, largest=(3.0, 2.0, 1.5)):
    """A Gaussian matrix of norm about 2 with a few larger singular values."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((side, len(largest))))[0] for side in (rows, columns))
    return rng.standard_normal((rows, columns)) / math.sqrt(max(rows, columns)) + left * largest @ right.T * 2


def tail_by_definition(eigenvalues):
    """The power law with the least distance, from the definition, by plain loops."""
    ordered, best = sorted(eigenvalues), (math.inf, math.nan, 0)
    for place, lowest in enumerate(ordered[:-1]):
        tail = ordered[place:]
        alpha = 1 + len(tail) / sum(math.log(each / lowest) for each in tail)
        distance = max(abs(i / len(tail) - 1 + (x / lowest) ** (1 - alpha)) for i, x in enumerate(tail))
        best = min(best, (distance, alpha, len(tail)))
    return best


def reference(matrix):
    """Every quantity of a matrix, by NumPy."""
    s = np.linalg.svd(matrix, compute_uv=False)
    p, q = s[s > 0] / s.sum(), s[s > 0] ** 2 / (s**2).sum()
    distance, exponent, count = tail_by_definition(s[s > s[0] * 1e-10] ** 2)
    values = np.full(RANKS, np.nan)
    values[: min(RANKS, len(s))] = s[:RANKS]
    return {
        "spectral_norm": s[0],
        "stable_rank": (s**2).sum() / s[0] ** 2,
        "effective_rank": math.exp(-(p * np.log(p)).sum()),
        "effective_rank_of_squares": math.exp(-(q * np.log(q)).sum()),
        "participation_ratio": (s**2).sum() ** 2 / (s**4).sum(),
        "tail_exponent": exponent,
        "tail_count": count,
        "tail_distance": distance,
        "singular_value": values,
    }


def check_proven(found, matrix, *, bound=1e-3):
    """The norm is a lower bound, some singular value lies within its bound, and the largest is below its limit."""
    s = np.linalg.svd(matrix, compute_uv=False)
    norm, within = found["spectral_norm"], found["spectral_norm_bound"]
    assert norm <= s[0]
    assert within <= bound * norm
    assert np.abs(s - norm).min() <= within
    assert s[0] <= found["spectral_norm_limit"]
    assert norm >= s[0] * (1 - 1e-5)
    assert found["stable_rank"] == pytest.approx((s**2).sum() / s[0] ** 2, rel=2e-5)
    for value, error in zip(found["singular_value"], found["singular_value_bound"], strict=True):
        assert math.isnan(value) or np.abs(s - value).min() <= error <= 0.01 * value


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("shape", [(40, 60), (600, 12), (1, 30)])
def test_a_small_matrix_is_decomposed_in_full(dtype, shape):
    found, stored = measured(np.random.default_rng(1).standard_normal(shape), dtype)
    if 1 in shape:  # one eigenvalue has no tail
        assert found["full_status"] == Status.DEGENERATE
        assert found["spectral_norm"] == pytest.approx(np.linalg.norm(stored), rel=1e-12)
        return
    for name, value in reference(stored).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, err_msg=name)
    assert found["full_status"] == found["status"] == Status.MEASURED
    check_proven(found, stored, bound=1e-10)


def test_a_large_matrix_is_decomposed_in_full_where_it_is_asked_for():
    for matrix in (drawn(SIDE, SIDE + 40), drawn(SIDE + 40, SIDE)):
        found, stored = measured(matrix, recorder=SpectraRecorder("full"))
        for name, value in reference(stored).items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
        check_proven(found, stored, bound=1e-6)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("shape", [(SIDE + 121, SIDE), (SIDE, SIDE + 121)])
def test_the_norm_of_a_large_matrix_is_proven(dtype, shape):
    found, stored = measured(drawn(*shape), dtype)
    check_proven(found, stored)
    assert found["status"] == Status.MEASURED and found["full_status"] == Status.NOT_MEASURED
    assert not set(FULL) & set(found)
    assert np.isnan(found["singular_value"][1:]).all() and found["singular_value"][0] == found["spectral_norm"]


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param(np.outer(np.arange(1, SIDE + 1), np.ones(SIDE)), id="rank 1"),
        pytest.param(np.eye(SIDE), id="all equal"),
        pytest.param(drawn(SIDE, SIDE, largest=(3.0, 2.9999, 2.9998, 2.9997)), id="clustered"),
        pytest.param(np.random.default_rng(2).standard_normal((SIDE, SIDE)), id="no gap"),
        pytest.param(np.diag(np.linspace(1, 1e-200, SIDE) * 1e-160), id="tiny"),
        pytest.param(drawn(SIDE, SIDE) * 1e200, id="huge"),
    ],
)
def test_bounds_hold_on_hard_matrices(matrix):
    found, stored = measured(matrix)
    s = np.linalg.svd(stored, compute_uv=False)
    assert found["spectral_norm"] <= s[0] <= found["spectral_norm_limit"]
    assert np.abs(s - found["spectral_norm"]).min() <= found["spectral_norm_bound"] <= 1e-3 * s[0]
    assert found["stable_rank"] == pytest.approx(((s / s[0]) ** 2).sum(), rel=1e-5)


def test_the_32_largest_values_are_found_with_their_bounds():
    found, stored = measured(drawn(700, 600), "BF16", SpectraRecorder("top"))
    s = np.linalg.svd(stored, compute_uv=False)
    assert not np.isnan(found["singular_value"]).any()
    np.testing.assert_allclose(found["singular_value"], s[:RANKS], rtol=1e-3)
    check_proven(found, stored)


@pytest.mark.parametrize("extent", ["norm", "top"])
def test_a_start_near_the_answer_gives_the_same_within_the_bounds(extent):
    warm = SpectraRecorder(extent)
    before, after = drawn(SIDE, 600), drawn(SIDE, 600) + 0.002 * np.random.default_rng(5).standard_normal((SIDE, 600))
    measured(before, "BF16", warm)
    assert warm._cache.nbytes > 0
    found, stored = measured(after, "BF16", warm)
    cold, _ = measured(after, "BF16", SpectraRecorder(extent))
    check_proven(found, stored)
    allowed = found["singular_value_bound"] + cold["singular_value_bound"]
    assert (np.abs(found["singular_value"] - cold["singular_value"]) <= allowed)[~np.isnan(allowed)].all()


def test_a_misleading_start_does_no_harm():
    recorder = SpectraRecorder()
    info = encode(drawn(SIDE, SIDE), "F32")[1]
    wrong = np.zeros((SIDE, 2), np.float32)
    wrong[0, 0], wrong[1, 1] = 1, np.nan
    for start in (wrong, np.zeros((SIDE, 2), np.float32), np.ones((7, 2), np.float32)):
        recorder._cache.put(info, start)
        found, stored = measured(drawn(SIDE, SIDE), "F32", recorder)
        check_proven(found, stored)


def test_the_cache_stays_within_its_bytes():
    cache = VectorCache(max_bytes=100)
    infos = [TensorInfo(f"w{number}", "F32", (4, 4), "f", 0, 64) for number in range(3)]
    for info in infos:
        cache.put(info, np.ones((4, 3), np.float32))
    assert cache.nbytes == 96 and cache.get(infos[1]) is not None and cache.get(infos[2]) is None


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 30), st.integers(2, 30), st.floats(1e-3, 1e3))
def test_scaling_rotation_and_transposition(seed, rows, columns, scale):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, columns))
    rotation = np.linalg.qr(rng.standard_normal((rows, rows)))[0]
    plain, *others = (measured(each)[0] for each in (matrix, scale * matrix, rotation @ matrix, matrix.T))
    for factor, other in zip((scale, 1, 1), others, strict=True):
        assert other["spectral_norm"] == pytest.approx(factor * plain["spectral_norm"], rel=1e-9)
        np.testing.assert_allclose(other["singular_value"], factor * plain["singular_value"], rtol=1e-6, atol=1e-9)
        for name in ("stable_rank", *FULL):
            assert other[name] == pytest.approx(plain[name], rel=1e-6), name


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [20, SIDE])
def test_weights_that_are_not_finite_show(bad, side):
    values = np.ones((side, side))
    values[3, 5] = bad
    found, _ = measured(values, "BF16")
    in_full = Status.NONFINITE if side == 20 else Status.NOT_MEASURED
    assert {name: int(value) for name, value in found.items()} == {"status": Status.NONFINITE, "full_status": in_full}


@pytest.mark.parametrize("side", [20, SIDE])
def test_a_matrix_of_zeros_has_no_rank(side):
    found, _ = measured(np.zeros((side, side)))
    assert found["status"] == found["full_status"] == Status.DEGENERATE
    assert found["spectral_norm"] == found["spectral_norm_bound"] == found["spectral_norm_limit"] == 0
    assert np.isnan([found[name] for name in ("stable_rank", *FULL)]).all()


def test_the_tail_of_a_pareto_distribution_is_found():
    found = fit_tail(np.random.default_rng(0).pareto(2.0, 2000) + 1)  # density x^-3
    assert found.exponent == pytest.approx(3.0, abs=0.15) and found.distance < 0.03


def test_a_gaussian_matrix_has_a_tail_too():
    """Values known from 512 x 512: an exponent of about 6 from about 60 values, which is no power law."""
    s = np.linalg.svd(np.random.default_rng(0).standard_normal((512, 512)), compute_uv=False)
    found = fit_tail(s**2)
    assert 4 < found.exponent < 9 and 20 < found.count < 150


def test_an_unknown_extent_is_refused():
    message = "extent of spectra must be norm, top, full (got 'ful'); did you mean 'full'?"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        SpectraRecorder("ful")


# In a collection


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(each, marks=[pytest.mark.slow] if each in ("olmo", "olmo3", "olmo_ladder") else [])
        for each in FAMILIES
    ],
)
def test_a_collection_holds_every_spectrum_and_sketch(family, tmp_path):
    names = ("step0-tokens0", "step10-tokens1B")
    run = write_family_run(tmp_path / "run", names, family)
    record = ["parameters", SketchRecorder(128), "spectra"]
    store = od.collect(run, out=tmp_path / "s.zarr", record=record, progress=Progress())
    source = od.Run(run).source
    with source.open(source.find(names[1])) as checkpoint:
        weights = {
            name: torch.frombuffer(bytearray(checkpoint.read(info)), dtype=torch.float32).view(info.shape).double()
            for name, info in checkpoint.tensors.items()
        }
    row, sketches = store.row("spectra", names[1]), store.row("sketches", names[1])["sketch"]
    for place, name in enumerate(store.axis("tensor").labels):
        matrix = weights[str(name)].numpy()
        if matrix.size > 128:
            sketch = by_definition(matrix.ravel(), str(name), matrix.shape, 128)
            np.testing.assert_allclose(sketches[place], sketch, rtol=1e-5, atol=1e-5, err_msg=str(name))
        if matrix.ndim != 2:
            assert row["status"][place] == row["full_status"][place] == Status.NOT_MEASURED
            assert np.isnan(row["spectral_norm"][place])
            continue
        for quantity, value in reference(matrix).items():
            np.testing.assert_allclose(row[quantity][place], value, rtol=1e-9, err_msg=f"{quantity} of {name}")
    assert dict(store.group("spectra").attributes) == {"seed": 0, "extent": "norm"}


def write_large_run(folder, names):
    """Revisions of one matrix with both sides above 512 and a vector, of a model of an unknown type."""
    for number, name in enumerate(names):
        moved = drawn(SIDE, 600) + 0.002 * number * np.random.default_rng(3).standard_normal((SIDE, 600))
        (folder / name).mkdir(parents=True)
        tensors = {"a.weight": torch.from_numpy(moved).bfloat16(), "b.weight": torch.ones(600, dtype=torch.bfloat16)}
        save_file(tensors, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text('{"model_type": "another"}')
    return folder


def test_shards_and_back_fill_agree_within_the_bounds(tmp_path):
    names = tuple(f"step{number}" for number in range(1, 5))
    run = write_large_run(tmp_path / "run", names)
    whole = od.collect(run, out=tmp_path / "whole.zarr", record="spectra", progress=Progress())
    for shard in ("2/2", "1/2"):
        od.collect(run, out=tmp_path / "parts.zarr", record="spectra", shard=shard, progress=Progress())
    od.collect(run, out=tmp_path / "later.zarr", record="parameters", progress=Progress())
    od.collect(run, out=tmp_path / "later.zarr", record="parameters,spectra", progress=Progress())
    for other in ("parts", "later"):
        store = od.open_store(tmp_path / f"{other}.zarr")
        for name in names:
            found, expected = store.row("spectra", name), whole.row("spectra", name)
            allowed = found["spectral_norm_bound"] + expected["spectral_norm_bound"]
            assert abs(found["spectral_norm"] - expected["spectral_norm"])[0] <= allowed[0] <= 2e-3
            assert list(found["status"]) == [Status.MEASURED, Status.NOT_MEASURED]


def test_the_extent_is_an_option_of_a_collection(tmp_path):
    run = write_large_run(tmp_path / "run", ("step1",))
    store = od.collect(run, out=tmp_path / "s.zarr", record="spectra", spectra="full", progress=Progress())
    assert store.group("spectra").attributes["extent"] == "full"
    assert list(store.row("spectra", "step1")["full_status"]) == [Status.MEASURED, Status.NOT_MEASURED]
    message = "spectra needs the group spectra; record it too, or leave spectra out"
    with pytest.raises(OptionError, match=f"^{message}$"):
        od.collect(run, out=tmp_path / "other.zarr", record="parameters", spectra="full", progress=Progress())


def test_a_plan_states_the_time_of_sketches_and_spectra(tmp_path):
    run = write_large_run(tmp_path / "run", ("step1",))
    seconds = {
        extent: od.plan(run, record="parameters,sketches,spectra", spectra=extent).beside_seconds
        for extent in ("norm", "top", "full")
    }
    assert all(list(each) == ["sketches", "spectra"] for each in seconds.values())
    assert 0 < seconds["norm"]["sketches"] < seconds["norm"]["spectra"] < seconds["full"]["spectra"]
    assert od.plan(run, record="parameters").beside_seconds == {}


def test_each_heads_slice_is_measured(tmp_path):
    run = write_family_run(tmp_path / "run", ("step1",), "olmo2")
    store = od.collect(run, out=tmp_path / "s.zarr", record="head_spectra", progress=Progress())
    row = store.row("head_spectra", "step1")
    weights = load_file(run / "step1" / "model.safetensors")
    for place, name in enumerate(store.axis("tensor").labels):
        role = str(name).split(".")[-2]
        heads = {"q_proj": 4, "o_proj": 4, "k_proj": 2, "v_proj": 2}.get(role, 0)
        assert list(row["status"][place]) == [Status.MEASURED] * heads + [Status.NOT_MEASURED] * (4 - heads)
        for head in range(heads):
            matrix = weights[str(name)].double().numpy()
            part = matrix[:, 8 * head : 8 * head + 8] if role == "o_proj" else matrix[8 * head : 8 * head + 8]
            expected = reference(part)
            for quantity in ("spectral_norm", "stable_rank", "effective_rank"):
                assert row[f"head_{quantity}"][place, head] == pytest.approx(expected[quantity], rel=1e-9), (name, head)


def test_heads_of_an_unknown_model_are_not_measured(tmp_path):
    run = write_large_run(tmp_path / "run", ("step1",))
    message = (
        "nothing to record: head_spectra is not recorded: the model type is unknown; name other groups with record"
    )
    with pytest.raises(OptionError, match=f"^{message}$"):
        od.collect(run, out=tmp_path / "s.zarr", record="head_spectra", progress=Progress())
