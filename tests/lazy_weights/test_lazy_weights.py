"""Lazy arrays of weights: the values are those in the files, and no other bytes are read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import close_session, constants, snapshot_download
from huggingface_hub.utils.tqdm import disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import olmo_dynamics as od
from olmo_dynamics.auditing import Quarantine, save_quarantine
from olmo_dynamics.auditing.quarantine import QuarantineEntry
from olmo_dynamics.checkpoints import Checkpoint, FolderSource, MemorySource, Source, open_source
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.errors import HeaderError, OptionError, SelectionError
from olmo_dynamics.names import Revision, TensorInfo
from tests.checkpoints.formats.writing import (
    State,
    core_experiment,
    native_config,
    to_core,
    to_native,
    write_core,
    write_native,
)
from tests.hub import LocalHub
from tests.hub.process import sent_spans
from tests.runs import TINY

REPO = "tiny-org/tiny-run"
UP, EMBEDDING, NORM = "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight", "model.norm.weight"
STEPS = ("step0-tokens0", "step10-tokens20480", "step1000-tokens2048000")
Files = Mapping[str, bytes]


def state_of(seed: int) -> State:
    """Tensors of all dtypes; the first fills the part of the file that is fetched with the header."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "first": drawn(1 << 14).double(),
        EMBEDDING: drawn(64, 20480).half(),
        UP: drawn(48, 32).bfloat16(),
        NORM: drawn(32),
        "scale": drawn(),
        "counts": torch.tensor([seed, 7]),
        "small": drawn(4, 6).to(torch.float8_e4m3fn),
        "smaller": drawn(2, 3, 4).to(torch.float8_e5m2),
    }


def files(state: State) -> dict[str, bytes]:
    return {"config.json": json.dumps({"model_type": "olmo2"}).encode(), "model.safetensors": save(state)}


STATES = {name: state_of(seed) for seed, name in enumerate(STEPS)}
RUN: Mapping[str, Files] = {name: files(state) for name, state in STATES.items()}


def whole(name: str) -> np.ndarray:
    """A tensor of all steps, as torch reads it."""
    stacked = torch.stack([state[name].double() for state in STATES.values()]).numpy()
    kept = {torch.float64: np.float64, torch.int64: np.int64}
    return stacked.astype(kept.get(STATES[STEPS[0]][name].dtype, np.float32))


def info(name: str) -> TensorInfo:
    source = MemorySource(RUN)
    return source.open(source.find(STEPS[0])).tensors[name]


def write(folder: Path, run: Mapping[str, Files]) -> Path:
    for revision, contents in run.items():
        (folder / revision).mkdir(parents=True)
        for name, content in contents.items():
            (folder / revision / name).write_bytes(content)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with the run, and an empty Hugging Face cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    with LocalHub() as hub:
        hub.add_repo(REPO, RUN)
        yield hub
    close_session()


def cached(hub: LocalHub) -> Source:
    disable_progress_bars()
    for name in RUN:
        folder = snapshot_download(
            REPO, revision=name, endpoint=hub.endpoint, token=False, cache_dir=constants.HF_HUB_CACHE
        )
    return open_source(Path(folder).parents[1])


PLACES: dict[str, Callable[[LocalHub, Path], Source]] = {
    "hub": lambda hub, _: HubSource(REPO, endpoint=hub.endpoint, token=False),
    "cache": lambda hub, _: cached(hub),
    "folder": lambda _, folder: FolderSource(write(folder / "run", RUN)),
}


@pytest.mark.parametrize("place", PLACES)
def test_values_are_those_in_the_files(place: str, hub: LocalHub, tmp_path: Path) -> None:
    source = PLACES[place](hub, tmp_path)
    assert source.kind == place
    arrays = od.weights(source)
    assert set(arrays.data_vars) == set(STATES[STEPS[0]])
    for name, array in arrays.data_vars.items():
        assert array.dtype == whole(str(name)).dtype
        np.testing.assert_array_equal(array, whole(str(name)), str(name))
    arrays.close()


def test_a_tensor_of_one_step_moves_its_bytes_and_no_others(hub: LocalHub) -> None:
    arrays = od.weights(HubSource(REPO, endpoint=hub.endpoint, token=False))
    file, front = "model.safetensors", 1 << 16
    assert sent_spans(hub) == [(file, 0, front)] * 3, "the headers of three steps"
    array, expected, place = arrays[EMBEDDING].sel(step=1000), whole(EMBEDDING)[2], info(EMBEDDING)
    row = place.nbytes // 64
    assert (array.dims, sent_spans(hub)) == (("vocabulary", "hidden_20480"), [])

    np.testing.assert_array_equal(array, expected)
    assert sent_spans(hub) == [(file, place.start, place.stop)]
    np.testing.assert_array_equal(array[10:13, ::-7], expected[10:13, ::-7])
    assert sent_spans(hub) == [(file, place.start + 10 * row, place.start + 13 * row)]
    np.testing.assert_array_equal(array[[63, 1, 63]], expected[[63, 1, 63]])
    far = [(file, place.start + first * row, place.start + first * row + row) for first in (1, 63)]
    assert sorted(sent_spans(hub)) == far
    np.testing.assert_array_equal(array[[3, 1]], expected[[3, 1]])
    assert sent_spans(hub) == [(file, place.start + row, place.start + 4 * row)], "one request is faster than two"
    np.testing.assert_array_equal(arrays[EMBEDDING].isel(vocabulary=-1, hidden_20480=5), whole(EMBEDDING)[:, -1, 5])
    assert sent_spans(hub) == [(file, place.stop - row, place.stop)] * 3
    assert array[3:3].values.shape == (0, 20480)
    assert sent_spans(hub) == []
    arrays.close()


def key(size: int) -> st.SearchStrategy[Any]:
    places = st.integers(-size, size - 1)
    slices = st.slices(size).filter(
        lambda each: range(size)[each] or (each.step or 1) > 0
    )  # xarray fails at (0, 0, -1)
    return st.one_of(slices, places, st.lists(places, max_size=5).map(lambda each: np.array(each, dtype=np.int64)))


@settings(max_examples=60)
@given(data=st.data())
def test_any_index_gives_what_numpy_gives(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([UP, "smaller", NORM]))
    expected = whole(name)
    found = od.weights(MemorySource(RUN), tensors=name)[name]
    for axis, size in enumerate(expected.shape):
        place = data.draw(key(size))
        found = found.isel({whole_dims(name)[axis]: place})
        expected = expected[(*(slice(None),) * (axis - whole(name).ndim + expected.ndim), place)]
    np.testing.assert_array_equal(found.values, expected)


def whole_dims(name: str) -> tuple[str, ...]:
    inner = {
        UP: ("intermediate", "hidden"),
        NORM: ("hidden",),
        "smaller": tuple(f"smaller_axis{at}" for at in range(3)),
    }
    return ("revision", *inner[name])


class TestCoordinates:
    def test_tell_the_position_of_each_revision(self) -> None:
        state = files({NORM: torch.ones(4)})
        names = [
            "stage1-step0-tokens0B",
            "stage2-ingredient1-step9-tokens1B",
            "stage2-ingredient2-step9-tokens1B",
            "main",
        ]
        arrays = od.weights(MemorySource(dict.fromkeys(names, state)))
        assert arrays.revision.values.tolist() == names
        np.testing.assert_array_equal(arrays.step, [0, 9, 9, np.nan])
        np.testing.assert_array_equal(arrays.stage, [1, 2, 2, np.nan])
        assert arrays.line.values.tolist() == ["stage1", "stage2/ingredient1", "stage2/ingredient2", "run"]
        assert arrays.ingredient.values.tolist() == ["", "1", "2", ""]
        assert set(arrays.coords) == {"revision", "step", "tokens", "stage", "line", "ingredient", "seed", "commit"}
        assert arrays[NORM].attrs == {"long_name": NORM, "stored_as": "F32", "role": "norm"}

    def test_a_step_of_several_revisions_asks_to_choose(self) -> None:
        state = files({NORM: torch.ones(4)})
        names = ["stage1-step0-tokens0B", "stage1-step9-tokens1B", "stage2-step9-tokens1B", "main"]
        source = MemorySource(dict.fromkeys(names, state))
        norm = od.weights(source)[NORM]
        assert norm.sel(step=0).revision == names[0]
        assert norm.sel(step=slice(None, 3)).revision.values.tolist() == names[:1]
        for label in (9, [0, 9], slice(0, 9)):
            with pytest.raises(OptionError) as caught:
                norm.sel(step=label)
            assert str(caught.value) == (
                "step 9 is that of 2 revisions; choose one line of training, as in od.weights(run, revisions='stage1') "
                "(the coordinate `line` lists them), or a revision with .sel(revision=NAME)"
            )
        assert norm.isel(revision=norm.line == "stage2").sel(step=9).revision == names[2]
        assert od.weights(source, revisions="stage1")[NORM].sel(step=[9, 0]).revision.values.tolist() == names[1::-1]

    def test_a_step_that_no_revision_has_names_the_nearest(self) -> None:
        norm = od.weights(MemorySource(RUN | {"main": RUN[STEPS[0]]}))[NORM]
        with pytest.raises(OptionError) as caught:
            norm.sel(step=900)
        assert str(caught.value) == (
            "step must be that of a revision (got 900); the nearest are 10 and 1000, and method='nearest' takes one of them"
        )
        assert norm.sel(step=900, method="nearest").step == 1000
        assert norm.sel(step=[4, 6], method="nearest").step.values.tolist() == [0, 10]
        with pytest.raises(OptionError, match=r"^step must be that of a revision \(got 900\); the nearest are"):
            norm.sel(step=900, method="nearest", tolerance=5)

    @pytest.mark.parametrize(("label", "named"), [("10", "10"), ([None], None), (slice("a", None), "a")])
    def test_a_step_is_a_number(self, label: object, named: object) -> None:
        with pytest.raises(OptionError) as caught:
            od.weights(MemorySource(RUN))[NORM].sel(step=label)
        assert str(caught.value) == f"step must be a number, as in .sel(step=1000) (got {named!r})"

    def test_arrays_follow_xarrays_rules(self) -> None:
        up = od.weights(MemorySource(RUN))[UP]
        means = up.mean(["intermediate", "hidden"])
        np.testing.assert_array_equal(means, [each.mean() for each in whole(UP)])
        moved = (up - up.sel(step=0)).drop_indexes("step").swap_dims(revision="step")
        np.testing.assert_array_equal(moved.sel(step=1000), whole(UP)[2] - whole(UP)[0])
        np.testing.assert_array_equal(up.sortby("step", ascending=False).copy(deep=True), whole(UP)[::-1])


class TestRevisionsThatDiffer:
    def test_missing_elements_are_nan_and_named(self) -> None:
        """A tensor that a revision lacks, a vocabulary that changes, another number of axes, and whole numbers."""
        first = {"model.embed_tokens.weight": torch.ones(3, 2), NORM: torch.ones(2), "counts": torch.tensor([5])}
        last = {
            "model.embed_tokens.weight": torch.ones(4, 2),
            "lm_head.weight": torch.ones(4, 2),
            NORM: torch.ones(1, 2),
        }
        arrays = od.weights(
            MemorySource({"step1": files(first), "step2": files(last | {"odd": torch.ones(2, 2).cfloat()})})
        )
        nan = np.nan
        assert arrays.sizes == {"revision": 2, "vocabulary": 4, "hidden": 2, "counts_element": 1}
        embedding, head = arrays[EMBEDDING], arrays["lm_head.weight"]
        np.testing.assert_array_equal(embedding, [[[1, 1]] * 3 + [[nan, nan]], [[1, 1]] * 4])
        np.testing.assert_array_equal(embedding[:, [3, 0], 1], [[nan, 1], [1, 1]])
        np.testing.assert_array_equal(head, [[[nan, nan]] * 4, [[1, 1]] * 4])
        np.testing.assert_array_equal(arrays[NORM], [[1, 1], [nan, nan]])
        np.testing.assert_array_equal(arrays["counts"], [[5.0], [nan]])
        assert (embedding.attrs["shorter"], head.attrs["absent"]) == (["step1"], ["step1"])
        assert "absent" not in embedding.attrs and "shorter" not in head.attrs

    def test_two_sizes_of_an_axis_have_two_names(self) -> None:
        state = {"model.embed_tokens.weight": torch.ones(6, 2), "lm_head.weight": torch.ones(4, 2)}
        arrays = od.weights(MemorySource({"step1": files(state)}))
        assert arrays["lm_head.weight"].dims == ("revision", "vocabulary", "hidden")
        assert arrays[EMBEDDING].dims == ("revision", "vocabulary_6", "hidden")

    def test_refused_and_excluded_revisions_are_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        cut = {"config.json": b"{}", "model.safetensors": b"\xff" * 8}
        source = MemorySource(RUN | {"step2000": cut})
        entries = {name: QuarantineEntry(("duplicate: the weights of step0",)) for name in STEPS[1:2]}
        file = save_quarantine(Quarantine("memory", entries), tmp_path / "quarantine.json")
        with caplog.at_level(logging.WARNING):
            arrays = od.weights(source, quarantine=file)
        damage = (
            "memory@step2000: model.safetensors: a header must have at most 100000000 bytes (its length field says "
            "18446744073709551615); the file is damaged or is not safetensors"
        )
        assert arrays.revision.values.tolist() == [STEPS[0], STEPS[2]]
        assert arrays.attrs == {
            "source": "memory",
            "left_out": [f"{STEPS[1]}: duplicate: the weights of step0", f"step2000: {damage}"],
        }
        assert caplog.messages == [
            f"2 of 4 revisions left out: {STEPS[1]} (duplicate: the weights of step0); step2000 ({damage})"
        ]
        with pytest.raises(HeaderError, match="18446744073709551615"):
            od.weights(source, revisions="step2000")
        with pytest.raises(SelectionError) as caught:
            od.weights(source, revisions=STEPS[1], quarantine=file)
        assert str(caught.value) == (
            f"revisions must name one that is not in quarantine (got 1 revision, such as {STEPS[1]}, all in {file}); "
            "include_quarantined=True opens them"
        )
        opened = od.weights(source, revisions=STEPS[1], quarantine=file, include_quarantined=True)
        assert opened.revision.values.tolist() == [STEPS[1]]


def test_tensors_are_chosen_by_glob_or_role() -> None:
    source = MemorySource(RUN)
    assert set(od.weights(source, tensors="norm,*.mlp.*").data_vars) == {UP, NORM}
    assert set(od.weights(source, tensors=["smal*"]).data_vars) == {"small", "smaller"}
    with pytest.raises(OptionError) as caught:
        od.weights(source, tensors="up_prj")
    assert str(caught.value) == (
        "tensors must be globs or roles that match some of the 8 tensors (got up_prj); did you mean 'up_proj'?"
    )


CONFIG = {**TINY, "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "rope_theta": 10000.0}
PARTS = {"self_attn.q": 16, "self_attn.k": 8, "self_attn.v": 8, "mlp.up": 24, "mlp.gate": 24}


@pytest.mark.parametrize("encoded", [False, True], ids=["pt", "safetensors"])
def test_native_checkpoints_are_read_row_by_row(encoded: bool, tmp_path: Path) -> None:
    """The trainer stores some tensors as one; three rows of the second half of one are read."""
    state = {f"model.layers.0.{part}_proj.weight": torch.randn(rows, 16) for part, rows in PARTS.items()}
    write_native(tmp_path / "step7", native_config(CONFIG), to_native(state), encoded=encoded)
    source = CountingSource(tmp_path)
    arrays = od.weights(source)
    with source.counted(sum(tensor.nbytes for tensor in state.values())):
        for name, tensor in state.items():
            np.testing.assert_array_equal(arrays[name].sel(step=7), tensor)
    gate = "model.layers.0.mlp.gate_proj.weight"
    with source.counted(3 * 16 * 4):
        np.testing.assert_array_equal(arrays[gate].sel(step=7)[5:8], state[gate][5:8])


def test_large_shards_of_olmo_core_are_read_row_by_row(tmp_path: Path) -> None:
    """Each shard is an archive, whose directory is read once."""
    state = {UP: torch.randn(600, 512), "model.layers.0.mlp.gate_proj.weight": torch.randn(24, 512)}
    write_core(tmp_path / "step7", core_experiment({**CONFIG, "hidden_size": 512}), to_core(state))
    source = CountingSource(tmp_path)
    arrays = od.weights(source)
    for name, tensor in state.items():
        np.testing.assert_array_equal(arrays[name].sel(step=7), tensor)
        np.testing.assert_array_equal(arrays[name].sel(step=7)[5:8], tensor[5:8])
    with source.counted(3 * 512 * 4):
        np.testing.assert_array_equal(arrays[UP].sel(step=7)[-3:, ::100], state[UP][-3:, ::100])


class CountingSource(FolderSource):
    """A folder of one checkpoint, whose bytes are counted."""

    def open(self, revision: Revision) -> Checkpoint:
        self.opened = super().open(revision)
        return self.opened

    @contextmanager
    def counted(self, nbytes: int) -> Iterator[None]:
        before = self.opened.bytes_moved
        yield
        assert self.opened.bytes_moved - before == nbytes


@pytest.mark.parametrize("run", ["olmo/tiny-olmo2", "olmo_core/tiny-olmo3"])
def test_runs_of_ai2s_trainers_are_read(run: str, shared: Path) -> None:
    source = FolderSource(shared / "data/native" / run)
    arrays = od.weights(source)
    assert arrays.step.values.tolist() == [40, 80]
    with source.open(source.revisions()[1]) as checkpoint:
        for name, tensor in checkpoint.tensors.items():
            expected = checkpoint.read(tensor).view("<f4").reshape(tensor.shape)
            np.testing.assert_array_equal(arrays[name].sel(step=80), expected)
            np.testing.assert_array_equal(arrays[name].sel(step=80)[3:9:2], expected[3:9:2])
