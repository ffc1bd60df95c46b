"""Distances from the weights themselves: equal to NumPy's, and within the error of those from sketches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.weights.weight_groups import rounding_of
from olmo_dynamics.progress import Progress
from olmo_dynamics.recorders.sketches import SketchRecorder
from tests.runs import write_run

NAMES = ("step0-tokens0", "step10-tokens1B", "step20-tokens2B")
GROUPED = {"layer": "layer", "role": "role", "all": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("exact") / "run", NAMES)


@pytest.fixture(scope="module")
def store(run: Path, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "s.zarr"
    return od.collect(run, out=out, record=[SketchRecorder(128)], progress=Progress())


def weights(run: Path, name: str) -> dict[str, np.ndarray]:
    return {key: value.astype(np.float64).ravel() for key, value in load_file(run / name / "model.safetensors").items()}


def by_hand(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    u, v = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return {
        "distance": float(np.linalg.norm(b - a)),
        "relative": float(np.linalg.norm(b - a) / np.linalg.norm(a)),
        "cosine": float(u @ v),
        "angle": float(2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))),
    }


@pytest.mark.parametrize(("reference", "before"), [("first", 0), ("previous", 1), (NAMES[1], 1)])
def test_equal_to_numpy(run: Path, reference: str, before: int) -> None:
    held = [weights(run, name) for name in NAMES]
    rows = od.displacement(run, reference, exact=True).filter(revision=NAMES[2])
    assert set(rows["tensor"]) == set(held[2])
    for row in rows.iter_rows(named=True):
        expected = by_hand(held[before][row["tensor"]], held[2][row["tensor"]])
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12)
        assert [row[f"{name}_se"] for name in expected] == [0, 0, 0, 0]


@pytest.mark.parametrize("by", GROUPED)
def test_groups_are_one_long_vector_each(run: Path, store, by: str) -> None:
    labels = od.displacement(run, exact=True).filter(revision=NAMES[2]).select("tensor", "layer", "role")
    exact, sketched = (
        od.displacement(each, by=by, exact=each is run).filter(revision=NAMES[2]) for each in (run, store)
    )
    column = GROUPED[by]
    for row, estimate in zip(exact.iter_rows(named=True), sketched.iter_rows(named=True), strict=True):
        members = labels.filter(pl.col(column).eq_missing(row[column])) if column else labels
        a, b = (
            np.concatenate([weights(run, name)[each] for each in members["tensor"]]) for name in (NAMES[0], NAMES[2])
        )
        expected = by_hand(a, b)
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12)
        for name, value in expected.items():
            assert abs(estimate[name] - value) <= 4.5 * estimate[f"{name}_se"] + 1e-6, (by, name)


def test_a_store_reads_its_own_run_and_both_ways_have_the_same_columns(run: Path, store) -> None:
    exact, sketched = od.displacement(store, exact=True), od.displacement(store)
    assert exact.equals(od.displacement(run, exact=True))
    assert exact.schema == sketched.schema
    shared = ["revision", "line", "step", "tensor", "layer", "role"]
    assert exact.select(shared).sort("revision", "tensor").equals(sketched.select(shared).sort("revision", "tensor"))


def test_chosen_revisions_tensors_and_another_run(run: Path, store) -> None:
    options = {"revisions": "step10..20", "tensors": ["q_proj", "*.norm.weight"]}
    chosen = [od.displacement(each, exact=each is run, **options) for each in (run, store)]
    for found in chosen:
        assert found["revision"].unique().sort().to_list() == sorted(NAMES[1:])
        assert found["role"].unique().sort().to_list() == ["norm", "q_proj"]
        assert found.filter(revision=NAMES[1])["distance"].to_list() == [0.0] * 3  # the first of those that are chosen
    other = od.displacement(run, (run, NAMES[0]), exact=True)
    assert other.equals(od.displacement(run, NAMES[0], exact=True))
    assert od.displacement(store, (store, NAMES[0])).equals(od.displacement(store, NAMES[0]))


def test_float32_and_bfloat16_have_their_floors(run: Path, store, tmp_path: Path) -> None:
    assert od.displacement(store)["relative_floor"].max() == pytest.approx(2**0.5 * rounding_of("F32"), rel=2)
    values = np.random.default_rng(0).standard_normal(100_000)
    rounded = _bfloat16(values.astype(np.float32))
    assert rounding_of("BF16") == pytest.approx(np.linalg.norm(rounded - values) / np.linalg.norm(values), rel=0.02)
    assert np.isnan(rounding_of("I8"))


def _bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return kept.view(np.float32).astype(np.float64)


def test_weights_of_another_shape_or_with_nan_are_told_apart(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "step0-tokens0"
    folder.mkdir(parents=True)
    one = {"model.norm.weight": np.ones(4, np.float32), "lm_head.weight": np.ones((2, 2), np.float32)}
    save_file(one, folder / "model.safetensors")
    two = {"model.norm.weight": np.ones(5, np.float32), "lm_head.weight": np.full((2, 2), np.nan, np.float32)}
    (tmp_path / "run" / "step1-tokens1").mkdir()
    save_file(two, tmp_path / "run" / "step1-tokens1" / "model.safetensors")
    found = od.displacement(tmp_path / "run", exact=True).filter(step=1)
    assert found.select("tensor", "distance", "status").rows() == [("lm_head.weight", None, "non-finite")]


def test_tensors_that_one_revision_lacks_are_counted(run: Path, tmp_path: Path) -> None:
    cut = write_run(tmp_path / "run", NAMES[:2])
    path = cut / NAMES[0] / "model.safetensors"
    kept = {name: each for name, each in load_file(path).items() if "layers.1.mlp" not in name}
    save_file(kept, path, {"format": "pt"})
    options = {"record": [SketchRecorder(128)], "revisions": NAMES[1], "progress": Progress()}
    sketched = od.collect(cut, out=tmp_path / "s.zarr", **options)
    other = od.collect(run, out=tmp_path / "cut.zarr", **options | {"tensors": "*.layers.0.*"})
    for by, expected in (("all", [3]), ("layer", [0, 0, 3]), ("tensor", None)):
        found = od.displacement(cut, by=by, exact=True).filter(revision=NAMES[1])
        assert (found["left_out"].to_list() if expected else "left_out" in found.columns) == (expected or False)
    assert od.between((other, NAMES[1]), (sketched, NAMES[1]), by="all")["left_out"].to_list() == [0]
    assert od.between((sketched, NAMES[1]), (other, NAMES[1]), by="all")["left_out"].to_list() == [14]


def test_refusals(run: Path) -> None:
    with pytest.raises(OptionError) as told:
        od.displacement(run, "step10", exact=True)
    assert str(told.value) == (
        f"reference must be first, previous, or a revision of {run} (got step10); did you mean 'step10-tokens1B'?"
    )
    with pytest.raises(OptionError) as told:
        od.displacement(run, exact=True, tensors=["nothing"])
    assert str(told.value) == (
        f"revisions must share a tensor that nothing matches, of one shape and in BF16, F16, F32, F64 ({run} has none); "
        "give other tensors"
    )
    with pytest.raises(OptionError) as told:
        od.displacement(run)
    assert str(told.value) == f"displacement needs a store with sketches (got {run}); add exact=True to read weights"
    store = run.parent / "named.zarr"
    store.mkdir(exist_ok=True)
    (store / "zarr.json").write_text("{}")
    for exact in (True, False):
        with pytest.raises(OptionError) as told:
            od.displacement(store, exact=exact)
        must = f"{store} is a store, which must be opened: displacement(od.open_store({str(store)!r}), …)"
        assert str(told.value) == must
    with pytest.raises(OptionError, match=r"^by must be tensor, layer, role or all \(got 'step'\)$"):
        od.displacement(run, exact=True, by="step")  # type: ignore[arg-type]


# Of the runs that Ai2's own trainers wrote


@pytest.mark.parametrize(("folder", "names"), [
    ("olmo/tiny-olmo2", ("step40-unsharded", "step80-unsharded")), ("olmo_core/tiny-olmo3", ("step40", "step80")),
])  # fmt: skip
def test_native_runs_move_as_their_sketches_say(
    shared: Path, folder: str, names: tuple[str, str], tmp_path: Path
) -> None:
    run = shared / "data" / "native" / folder
    store = od.collect(run, out=tmp_path / "s.zarr", record=[SketchRecorder(256)], progress=Progress())
    assert set(store.done) == set(names)
    agree(od.displacement(store), od.displacement(store, exact=True), names[1])
    agree(od.displacement(store, by="layer"), od.displacement(store, by="layer", exact=True), names[1])


def agree(sketched: pl.DataFrame, exact: pl.DataFrame, revision: str) -> None:
    """The errors of the estimates have the spread that they state, and none is beyond 4.5 of it."""
    keys = [name for name in ("tensor", "layer", "role") if name in sketched.columns]
    both = sketched.filter(revision=revision).join(
        exact.filter(revision=revision), on=keys, nulls_equal=True, suffix="_exact"
    )
    assert both.height == exact.filter(revision=revision).height > 4
    for name in ("distance", "relative", "cosine", "angle"):
        off, error = (both[name] - both[f"{name}_exact"]).to_numpy(), both[f"{name}_se"].to_numpy()
        known = error == 0
        assert off[known] == pytest.approx(0, abs=2e-6), name
        scores = off[~known] / error[~known]
        assert np.abs(scores).max(initial=0) < 4.5 and (not len(scores) or 0.3 < np.sqrt(np.mean(scores**2)) < 1.7), (
            name
        )


def test_a_reference_of_zeros_has_a_distance_and_no_ratio(tmp_path: Path) -> None:
    written, name = write_run(tmp_path, NAMES[:2]), "model.layers.0.self_attn.v_proj.weight"
    path = written / NAMES[0] / "model.safetensors"
    save_file({key: each * (key != name) for key, each in load_file(path).items()}, path, {"format": "pt"})
    row = od.displacement(written, NAMES[0], exact=True, tensors=[name]).to_dicts()[1]
    assert row["distance"] == pytest.approx(np.linalg.norm(weights(written, NAMES[1])[name]))
    assert [row[each] for each in ("relative", "cosine", "angle", "relative_floor")] == [None] * 4
