"""Every built-in group has the same numbers, bit by bit, whichever way a collection comes by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import olmo_dynamics.model.stream as stream_module
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.progress import Progress
from olmo_dynamics.recorders.lookup import built_in_groups
from tests.checkpoints.formats.test_one_model import WRITERS
from tests.conformance.drawn_runs import NAMES, DrawnRun, collected, draw_run
from tests.hub import LocalHub
from tests.model.drawing import tiny_config

REPO = "org/drawn"
NEED_MORE = {"ngram", "evaluation"}
"""Groups that are recorded only with an option of their own."""


@pytest.fixture(scope="module", params=["olmoe", pytest.param("olmo3", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DrawnRun:
    return draw_run(tmp_path_factory.mktemp("drawn"), tiny_config(request.param, layers=2))


@pytest.fixture(scope="module")
def whole(run: DrawnRun, tmp_path_factory: pytest.TempPathFactory) -> RecordedStore:
    """Both revisions, from a folder, at once and by one thread."""
    return collected(run, tmp_path_factory.mktemp("whole") / "s.zarr", threads=1)


def assert_identical(one: RecordedStore, other: RecordedStore) -> None:
    assert one.groups == other.groups
    for group in one.groups:
        arrays = other.arrays(group)
        for name, values in one.arrays(group).items():
            assert values.tobytes() == arrays[name].tobytes(), f"{group}/{name}"


def test_every_group_is_recorded(run: DrawnRun, whole: RecordedStore) -> None:
    lacking = set(built_in_groups()) - set(whole.groups)
    assert lacking <= NEED_MORE | (set() if run.config.experts else {"routing", "experts"})
    assert whole.done == set(NAMES)


def test_threads_a_hub_and_shards_together(run: DrawnRun, whole: RecordedStore, tmp_path: Path) -> None:
    with LocalHub() as hub:
        hub.add_repo(REPO, {name: run.folder / name for name in NAMES})
        source = HubSource(REPO, endpoint=hub.endpoint)
        for shard in ("2/2", "1/2"):
            collected(run, tmp_path / "s.zarr", source=source, threads=4, shard=shard, max_memory="40kB")
    assert_identical(whole, open_store(tmp_path / "s.zarr"))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 4])
def test_threads(threads: int, run: DrawnRun, whole: RecordedStore, tmp_path: Path) -> None:
    assert_identical(whole, collected(run, tmp_path / "s.zarr", threads=threads))


@pytest.mark.slow
def test_a_run_that_is_interrupted_and_run_again(run: DrawnRun, whole: RecordedStore, tmp_path: Path) -> None:
    class Interrupting(Progress):
        def finish(self, name: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collected(run, tmp_path / "s.zarr", progress=Interrupting())
    assert open_store(tmp_path / "s.zarr").done == {NAMES[0]}
    assert_identical(whole, collected(run, tmp_path / "s.zarr"))


@pytest.mark.slow
def test_each_group_alone(run: DrawnRun, whole: RecordedStore, tmp_path: Path) -> None:
    for group in whole.groups:
        size = 64 if group in ("sketches", "optimizer") else None
        store = collected(run, tmp_path / "s.zarr", record=group, sketch_size=size)
    assert_identical(whole, store)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 50])
def test_passes_cut_into_smaller_pieces_differ_by_rounding_alone(
    tokens: int, run: DrawnRun, whole: RecordedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "CPU_TOKENS", tokens)
    store = collected(run, tmp_path / "s.zarr")
    for group in whole.groups:
        for name, values in whole.arrays(group).items():
            scale = float(np.nanmax(np.abs(values.astype(float)), initial=1e-6))
            np.testing.assert_allclose(
                store.arrays(group)[name], values, rtol=1e-5, atol=1e-6 * scale, err_msg=f"{group}/{name}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["native", "core", "pytorch"])
def test_checkpoints_of_other_formats(writer: str, tmp_path: Path) -> None:
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 4, "hidden_size": 16, "intermediate_size": 24, "layers": 2}
    run = draw_run(tmp_path, tiny_config("olmo2", **sizes, vocab_size=32))
    here = collected(run, tmp_path / "here.zarr")
    for name, model in run.models.items():
        WRITERS[writer](tmp_path / writer / name, {key: each.clone() for key, each in model.state_dict().items()})
    options = {"tokenizer": run.folder / NAMES[0] / "tokenizer.json", "source": tmp_path / writer}
    there = collected(run, tmp_path / "there.zarr", **options)
    for group in set(here.groups) - {"optimizer"}:  # the writers have a state of their own
        for name, values in here.arrays(group).items():
            other = in_order(there, group, name, like=here)
            assert values.tobytes() == other.tobytes(), f"{group}/{name}"


def in_order(store: RecordedStore, group: str, name: str, *, like: RecordedStore) -> np.ndarray:
    """An array with its axes in the order of another store's labels."""
    values = store.arrays(group)[name]
    for place, axis in enumerate(store.quantity(group, name).axes, start=1):
        labels, wanted = (each.axis(axis).labels.tolist() for each in (store, like))
        values = values.take([labels.index(label) for label in wanted], axis=place)
    return values
