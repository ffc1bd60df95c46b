"""Sketches equal their definition in plain Python, and the vectors in the docs."""

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import olmo_dynamics as od
from olmo_dynamics.errors import CheckpointError, OptionError
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.progress import Progress
from olmo_dynamics.recorders import find_recorders
from olmo_dynamics.recorders.kernels import sketching
from olmo_dynamics.recorders.kernels.sketching import SketchPlan, sketch
from olmo_dynamics.recorders.sketches import SketchRecorder
from tests.runs import write_family_run

MASK = 2**64 - 1
KINDS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
NAME = "model.layers.0.mlp.up_proj.weight"


def draw(start, place):
    word = (start + (place + 1) * 0x9E3779B97F4A7C15) & MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def by_definition(values, name, shape, size, seed=0):
    text = f"olmo_dynamics sketch {seed}/{name}/{'x'.join(map(str, shape))}"
    start = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    found = [0.0] * size
    for place, value in enumerate(values.tolist()):
        block, inside = divmod(place, size)
        drawn = draw(start, block)
        sign = inside + (drawn >> 32) % 2**31 % (63 * size)
        negative = (drawn >> 63) ^ (draw((start + 1) & MASK, sign // 64) >> (sign % 64) & 1)
        found[(inside + drawn % 2**32 % size) % size] += -value if negative else value
    return np.array(found)


def stored(values, dtype):
    """The bytes of a tensor of one axis, and its elements as they are stored."""
    if dtype == "BF16":
        codes = (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        raw, kept = codes.view(np.uint8), (codes.astype(np.uint32) << 16).view(np.float32)
    else:
        kept = np.asarray(values, KINDS[dtype])
        raw = kept.view(np.uint8)
    return raw, kept.astype(np.float64), TensorInfo(NAME, dtype, (len(kept),), "f", 0, raw.nbytes)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize(("count", "size"), [(65, 64), (1000, 64), (1000, 128), (2049, 64), (1024, 512)])
def test_equals_the_definition(dtype, count, size):
    raw, kept, info = stored(np.random.default_rng(count).standard_normal(count), dtype)
    expected = by_definition(kept, NAME, (count,), size)
    assert sketch(raw, info, size=size) == pytest.approx(expected, rel=1e-6, abs=1e-5)  # float32 sums of 16 blocks


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
def test_a_small_tensor_is_its_own_sketch(dtype):
    raw, kept, info = stored(np.random.default_rng(3).standard_normal(64), dtype)
    np.testing.assert_array_equal(sketch(raw, info, size=64), kept)
    np.testing.assert_array_equal(sketch(raw, info, size=128), np.concatenate([kept, np.zeros(64)]))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(65, 3000), st.floats(-3, 3))
def test_is_linear(seed, count, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, count))
    sketches = [sketch(*stored(each, "F64")[::2], size=64) for each in (a, b, a - scale * b)]
    assert sketches[0] - scale * sketches[1] == pytest.approx(sketches[2], abs=1e-11)


def test_its_dot_products_are_unbiased_with_the_stated_variance():
    rng = np.random.default_rng(1)
    size, blocks = 64, 4
    x = rng.standard_normal((size * blocks,)) + 1  # a mean, which signs by block alone would not average out
    y = 0.5 * x + rng.standard_normal(x.shape)
    dots = []
    for number in range(2000):
        infos = [TensorInfo(f"w{number}", "F64", x.shape, "f", 0, x.nbytes)] * 2
        a, b = (sketch(each.view(np.uint8), info, size=size) for each, info in zip((x, y), infos, strict=True))
        dots.append(a @ b)
    variance = (1 - 1 / blocks) * (x @ x * (y @ y) + (x @ y) ** 2) / size
    assert abs(np.mean(dots) - x @ y) < 4 * np.sqrt(variance / len(dots))
    assert np.var(dots) / variance == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
def test_pieces_add_up_to_the_whole(dtype, monkeypatch):
    raw, _, info = stored(np.random.default_rng(5).standard_normal(10_000), dtype)
    whole = sketch(raw, info, size=64)
    monkeypatch.setattr(sketching, "_PIECE_BYTES", 1)
    pieces = SketchPlan.of(info, 64).pieces
    assert [piece.start for piece in pieces] == list(range(0, 10_000, 16 * 64))
    assert sketch(raw, info, size=64) == pytest.approx(whole, rel=1e-6, abs=1e-5)


def test_bytes_that_are_not_aligned_give_the_same():
    raw, _, info = stored(np.random.default_rng(6).standard_normal(500), "F32")
    shifted = np.concatenate([np.zeros(1, np.uint8), raw])[1:]
    np.testing.assert_array_equal(sketch(shifted, info, size=64), sketch(raw, info, size=64))


def test_name_shape_and_seed_choose_other_signs():
    raw, _, info = stored(np.random.default_rng(7).standard_normal(200), "F64")
    square = TensorInfo(NAME, "F64", (10, 20), "f", 0, raw.nbytes)
    other = TensorInfo("model.norm.weight", "F64", (200,), "f", 0, raw.nbytes)
    found = [sketch(raw, each, size=64) for each in (info, square, other)] + [sketch(raw, info, size=64, seed=1)]
    assert len({each.tobytes() for each in found}) == 4


def test_vectors_that_others_can_check():
    """Ramps 1 … n; the docs give these hashes of the sketch as little-endian float64."""
    hashes = {}
    for shape in ((100,), (16, 100), (3, 50, 70)):
        values = np.arange(1, np.prod(shape) + 1, dtype=np.float64)
        info = TensorInfo(NAME, "F64", shape, "f", 0, values.nbytes)
        found = sketch(values.view(np.uint8), info, size=128)
        np.testing.assert_array_equal(found, by_definition(values, NAME, shape, 128) if values.size > 128 else found)
        hashes["x".join(map(str, shape))] = hashlib.sha256(found.astype("<f8").tobytes()).hexdigest()
    assert hashes == {
        "100": "2d439808b51243c7c9409dc99bf737c235e3aadb3632cd05635f9cadadf5030c",
        "16x100": "4343f1f913e48659055e8c62ddf8865bda5cd42e78a15f66e6bedd90e8756cab",
        "3x50x70": "b5f12659f1eca862b114dc3fa82f8268931ffc1268c38909f7e0b5cc79057b7e",
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_show(bad):
    values = np.ones(300)
    values[7] = bad
    for dtype in ("BF16", "F16", "F32", "F64"):
        raw, _, info = stored(values, dtype)
        found = sketch(raw, info, size=64)
        assert (~np.isfinite(found)).sum() == 1


def test_too_few_bytes_are_refused():
    raw, _, info = stored(np.ones(300), "F32")
    message = f"{NAME} must have 1200 bytes for its shape (got 1196); fetch it again"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        sketch(raw[:-4], info)


@pytest.mark.parametrize("size", [0, -64, 63, 100, "1024", 64.0])
def test_a_size_that_is_no_multiple_of_64_is_refused(size):
    message = f"sketch size must be a multiple of 64, at least 64 (got {size!r})"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        SketchRecorder(size)


# In a collection


@pytest.mark.parametrize("family", ["olmo2", "olmoe"])
def test_a_collection_holds_every_tensors_sketch(family, tmp_path):
    run = write_family_run(tmp_path / "run", ("step0-tokens0", "step10-tokens1B"), family)
    store = od.collect(run, out=tmp_path / "s.zarr", record=["parameters", SketchRecorder(256)], progress=Progress())
    assert dict(store.group("sketches").attributes) == {"seed": 0, "size": 256, "scheme": "rotated blocks 1"}
    source = od.Run(run).source
    checkpoint = source.open(source.find("step10-tokens1B"))
    row = store.row("sketches", "step10-tokens1B")
    assert (row["status"] == 1).all()
    for place, name in enumerate(store.axis("tensor").labels):
        info = checkpoint.tensors[str(name)]
        expected = sketch(checkpoint.read(info), info, size=256).astype(np.float32)
        np.testing.assert_array_equal(row["sketch"][place], expected)


def test_sketches_are_recorded_where_they_are_asked_for(tmp_path):
    run = write_family_run(tmp_path / "run", ("step0-tokens0",), "olmo2")
    tokens = tmp_path / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(1, 300, (2, 16)))
    plain = od.collect(run, out=tmp_path / "plain.zarr", tokens=tokens, progress=Progress())
    every = od.collect(run, out=tmp_path / "all.zarr", record="all", tokens=tokens, progress=Progress())
    assert "sketches" not in plain.groups
    looking = {
        "attention",
        "writes",
        "lens",
        "induction",
        "representations",
        "gradients",
        "gradient_stream",
        "gradient_rows",
    }
    assert set(every.groups) - set(plain.groups) == {"sketches", "spectra", "head_spectra", *looking}
    assert every.group("sketches").attributes["size"] == 1024


def test_a_recorder_with_options_stands_for_its_group():
    found = find_recorders(["parameters", SketchRecorder(128), "sketches"])
    assert [type(each).__name__ for each in found] == ["ParameterRecorder", "SketchRecorder"]
    assert found[1].attributes()["size"] == 128
