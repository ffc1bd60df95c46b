"""Distances from sketches: exact where a sketch is the tensor, and within their error elsewhere."""

import re

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.weights.distances import between, displacement
from olmo_dynamics.frames.weights.estimates import concentrated, cosines, estimates, spread
from olmo_dynamics.frames.weights.weight_path import trajectory
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.progress import Progress
from olmo_dynamics.recorders.kernels.sketching import sketch
from olmo_dynamics.recorders.sketches import SketchRecorder
from tests.runs import write_family_run

PAIRS, SIZE = 1000, 1024
NAMES = ("step0-tokens0", "step10-tokens1B", "step20-tokens2B", "step30-tokens3B")


def gaussian(rng, count):
    return rng.standard_normal(count)


def student(rng, count):
    return rng.standard_t(4, count)


def low_rank(rng, count):
    return (rng.standard_normal((count // 64, 2)) @ rng.standard_normal((2, 64))).reshape(-1)


def sketches(vectors):
    infos = [TensorInfo(f"w{number}", "F64", each.shape, "f", 0, each.nbytes) for number, each in enumerate(vectors)]
    return np.stack([sketch(each.view(np.uint8), info) for each, info in zip(vectors, infos, strict=True)])


def exact(a, b):
    """Distance, relative distance, cosine and angle of rows, in float64."""
    distance = np.linalg.norm(b - a, axis=1)
    u, v = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    angle = 2 * np.arctan2(np.linalg.norm(u - v, axis=1), np.linalg.norm(u + v, axis=1))
    relative = distance / np.linalg.norm(a, axis=1)
    return {"distance": distance, "relative": relative, "cosine": (u * v).sum(axis=1), "angle": angle}


def coverage(found, truth, name):
    return float(np.mean(np.abs(found[name] - truth[name]) <= 1.96 * found[f"{name}_se"]))


@pytest.mark.parametrize("draw", [gaussian, student, low_rank])
@pytest.mark.parametrize("blocks", [8, pytest.param(24, marks=pytest.mark.slow)])
def test_an_interval_of_95_percent_holds_as_often_as_it_says(draw, blocks):
    """Over 1,000 pairs, each under signs of its own; the weights move by a tenth, as between checkpoints."""
    rng = np.random.default_rng(blocks)
    count = blocks * SIZE
    a = np.stack([draw(rng, count) for _ in range(PAIRS)])
    b = a + 0.1 * np.stack([draw(rng, count) for _ in range(PAIRS)])
    factor = spread(np.full(PAIRS, count), SIZE)
    found, truth = estimates(sketches(a), sketches(b), factor), exact(a, b)
    for name in ("distance", "relative", "cosine", "angle"):
        assert 0.93 <= coverage(found, truth, name) <= 0.97, name
    assert concentrated(sketches(b - a), factor).mean() < 0.02


def test_intervals_hold_from_the_participation_ratio_on_that_is_not_flagged():
    rng = np.random.default_rng(0)
    count = 24 * SIZE
    factor = spread(np.full(PAIRS, count), SIZE)
    zeros = np.zeros((PAIRS, SIZE))
    flagged, held = {}, {}
    for few in (16, 24, 96, 256):
        moved = np.zeros((PAIRS, count))
        for row in moved:
            row[rng.choice(count, few, replace=False)] = 1.0
        held[few] = coverage(
            estimates(zeros, sketches(moved), factor), {"distance": np.linalg.norm(moved, axis=1)}, "distance"
        )
        flagged[few] = concentrated(sketches(moved), factor).mean()
    assert (flagged[16], flagged[24]) == (1.0, 1.0)
    assert flagged[256] == 0.0
    assert held[96] >= 0.93
    assert held[256] >= 0.93


def test_tensors_that_fit_are_exact():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 5, SIZE))
    factor = spread(np.full(5, SIZE), SIZE)
    found, truth = estimates(a, b, factor), exact(a, b)
    for name, values in truth.items():
        assert found[name] == pytest.approx(values, rel=1e-12)
        assert (found[f"{name}_se"] == 0).all()


def test_small_angles_keep_their_digits():
    rng = np.random.default_rng(3)
    a = rng.standard_normal((1, SIZE))
    across = rng.standard_normal((1, SIZE))
    across -= a * (a @ across.T) / (a @ a.T)
    for angle in (1e-9, 1e-6, 1e-3, 3.0):
        b = np.cos(angle) * a / np.linalg.norm(a) + np.sin(angle) * across / np.linalg.norm(across)
        assert estimates(a, b, np.zeros(1))["angle"] == pytest.approx(angle, rel=1e-6)


def test_the_same_weights_are_at_distance_0_and_a_multiple_at_angle_0():
    a = np.random.default_rng(4).standard_normal((1, SIZE))
    same, twice = estimates(a, a, np.full(1, 0.9)), estimates(a, 2 * a, np.full(1, 0.9))
    assert [float(same[name][0]) for name in ("distance", "distance_se", "relative", "angle")] == [0, 0, 0, 0]
    assert float(twice["relative"][0]) == pytest.approx(1, rel=1e-12)
    assert float(twice["angle"][0]) == 0
    assert np.isnan(estimates(np.zeros((1, SIZE)), a, np.zeros(1))["relative"]).all()
    assert np.isnan(cosines(np.zeros((1, SIZE)), a, np.zeros(1))[0]).all()


# Of a store


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_family_run(tmp_path_factory.mktemp("moved") / "run", NAMES, "olmo2")


@pytest.fixture(scope="module", params=[128, 16384])
def store(request, run, tmp_path_factory):
    """With sketches that are estimates for most tensors, and with some that hold every tensor whole."""
    out = tmp_path_factory.mktemp("stores") / f"s{request.param}.zarr"
    return od.collect(run, out=out, record=[SketchRecorder(request.param)], progress=Progress())


def weights(run, name):
    return {
        key: value.astype(np.float64).reshape(1, -1)
        for key, value in load_file(run / name / "model.safetensors").items()
    }


def check(rows, truth, size, column):
    """Within 5 standard errors; exact where the tensor fits in its sketch."""
    for row in rows.iter_rows(named=True):
        expected, error = truth[row["tensor"]], row[f"{column}_se"]
        if size == 16384 or error == 0:
            assert row[column] == pytest.approx(expected, rel=1e-6, abs=1e-6)
        else:
            assert abs(row[column] - expected) < 5 * error + 1e-6


def test_displacement_equals_the_weights(run, store):
    size = len(store.axis("component"))
    held = [weights(run, name) for name in NAMES]
    for reference, before in (("first", 0), ("previous", 2), (NAMES[1], 1)):
        rows = displacement(store, reference).filter(revision=NAMES[3])
        assert rows.height == len(held[3])
        for column in ("distance", "relative", "cosine", "angle"):
            truth = {name: exact(held[before][name], held[3][name])[column][0] for name in held[3]}
            check(rows, truth, size, column)
    steps = [{name: held[to][name] - held[to - 1][name] for name in held[0]} for to in (2, 3)]
    truth = {name: exact(steps[0][name], steps[1][name])["cosine"][0] for name in held[0]}
    check(rows, truth, size, "successive_cosine")
    assert rows["status"].unique().to_list() == ["measured"]


def test_the_first_revisions_have_no_successive_cosine(store):
    moved = displacement(store, "previous")
    cosine = moved.group_by("revision", maintain_order=True).agg(pl.col("successive_cosine").is_not_null().all())
    assert cosine["successive_cosine"].to_list() == [False, False, True, True]
    assert moved.filter(revision=NAMES[0])["distance"].unique().to_list() == [0.0]


def test_between_two_revisions_and_two_stores(store):
    moved = displacement(store).filter(revision=NAMES[2])
    inside = between(store, NAMES[0], NAMES[2])
    across = between((store, NAMES[0]), (store, NAMES[2]))
    assert inside.equals(across)
    shared = ["tensor", "layer", "role", "distance", "distance_se", "angle", "concentrated", "status"]
    assert inside.select(shared).equals(moved.select(shared))
    assert inside.columns[:3] == ["revision", "reference", "tensor"]


def test_the_path_equals_principal_components_of_the_weights(run, store):
    if len(store.axis("component")) < 16384:
        pytest.skip("estimates; the exact store is compared")
    held = np.stack([np.concatenate([w for _, w in sorted(weights(run, name).items())], axis=1)[0] for name in NAMES])
    u, s, _ = np.linalg.svd(held - held.mean(axis=0), full_matrices=False)
    path = trajectory(store, components=2)
    for place in (0, 1):
        rows = path.filter(component=place + 1)
        expected = u[:, place] * s[place] * np.sign(u[-1, place])
        assert rows["coordinate"].to_numpy() == pytest.approx(expected, rel=1e-6)
        assert rows["share"].to_numpy() == pytest.approx(s[place] ** 2 / (s**2).sum(), rel=1e-6)
        assert rows["share_se"].to_list() == [0.0] * 4


def test_shares_are_within_their_error(run, tmp_path):
    small = od.collect(run, out=tmp_path / "s.zarr", record=[SketchRecorder(64)], progress=Progress())
    whole = od.collect(run, out=tmp_path / "w.zarr", record=[SketchRecorder(16384)], progress=Progress())
    for by in ("all", "layer", "role"):
        a, b = (trajectory(each, by).select("group", "component", "share", "share_se") for each in (small, whole))
        errors = (a["share"] - b["share"]).abs() - 5 * a["share_se"]
        assert a.select("group", "component").equals(b.select("group", "component"))
        assert errors.max() < 1e-6, by


def refused(call, message):
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        call()


def test_refusals(run, store, tmp_path):
    without = od.collect(run, out=tmp_path / "p.zarr", revisions="first1", record=["parameters"], progress=Progress())
    must = f"{without.path} must have the group sketches; collect it with --record sketches, beside others"
    refused(lambda: displacement(without), must)
    refused(lambda: trajectory(without), must)
    refused(
        lambda: displacement(store, "previos"),
        f"reference must be first, previous, or a revision of {store.path} with sketches (got previos); "
        "did you mean 'previous'?",
    )
    refused(
        lambda: between(store, NAMES[0], "step7"),
        f"{store.path} must hold sketches of step7; see olmo-dyn show, or collect it with --record sketches",
    )
    other = od.collect(
        run, out=tmp_path / "o.zarr", revisions="first1", record=[SketchRecorder(64)], progress=Progress()
    )
    size = len(store.axis("component"))
    refused(
        lambda: between((store, NAMES[0]), (other, NAMES[0])),
        f"sketches must have one size to be compared ({store.path}: {size}, {other.path}: 64); "
        "collect one of the stores again",
    )
    refused(
        lambda: between(store, NAMES[0]),
        'write between(store, "step0", "step100"), or between((a, "step0"), (b, "step0"))',
    )
    refused(lambda: trajectory(store, "step"), "by must be all, layer or role (got 'step')")
    refused(lambda: trajectory(other), f"{other.path} must hold sketches of at least 3 revisions (got 1)")
    refused(lambda: trajectory(store, components=4), "components must be between 1 and 3, fewer than revisions (got 4)")


def test_arguments_of_another_kind_are_refused_in_one_line(store):
    path = "run.zarr"
    unopened = f"a store must be opened with od.open_store (got {path!r})"
    refused(lambda: between((path, NAMES[0]), (store, NAMES[1])), unopened)
    for measure in (trajectory, od.pairwise, od.embedding_decay):
        refused(lambda measure=measure: measure(path), unopened)
    refused(lambda: trajectory([store, path]), unopened)
    a_list = "tensors must be a list of names or roles, such as ['q_proj'] (got 'q_proj')"
    refused(lambda: displacement(store, tensors="q_proj"), a_list)
    word = 'reference must be a word, or a pair such as (store, "step1000") (got None)'
    refused(lambda: displacement(store, reference=None), word)
