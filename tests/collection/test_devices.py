"""Weights that go to a device of their own: a stage ahead, surveyed there; the records are those of the CPU."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

import olmo_dynamics.collection.measure as measure_module
from olmo_dynamics.collecting import collect
from olmo_dynamics.collection.fetch_plan import Bounds, Load, Step
from olmo_dynamics.collection.memory_budget import MemoryBudget
from olmo_dynamics.collection.prefetch import RevisionStream
from olmo_dynamics.collection.recorded_pass import RecordedPass
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import Revision, TensorInfo
from olmo_dynamics.progress import Progress
from tests.runs import write_run

INFOS = [TensorInfo(name, "U8", (4,), "f", 4 * at, 4 * at + 4) for at, name in enumerate("abc")]


def collected(run: Path, out: Path, **options: object) -> RecordedStore:
    return collect(run, revisions="main", out=out, batch="4x16", progress=Progress(), **options)


def assert_near(found: RecordedStore, wanted: RecordedStore, *, rtol: float) -> None:
    assert found.groups == wanted.groups
    for group in wanted.groups:
        theirs = wanted.arrays(group)
        for name, mine in found.arrays(group).items():
            if np.issubdtype(mine.dtype, np.floating):
                np.testing.assert_allclose(mine, theirs[name], rtol=rtol, atol=rtol, err_msg=f"{group}/{name}")


def follow(monkeypatch: pytest.MonkeyPatch, *methods: tuple[type, str]) -> list[str]:
    """The methods' names, in the order in which they are called from now on."""
    called: list[str] = []

    def followed(kind: type, name: str) -> Callable[..., object]:
        method = getattr(kind, name)
        return lambda *given: (called.append(name), method(*given))[1]

    for kind, name in methods:
        monkeypatch.setattr(kind, name, followed(kind, name))
    return called


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stage_ahead_and_surveyed_there_the_records_are_the_same(
    dtype: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = collected(tiny_run, tmp_path / "here.zarr", dtype=dtype)
    surveyed = []
    survey = measure_module.tensor_stats_on_device

    def note(x: torch.Tensor, info: TensorInfo, **options: bool) -> object:
        surveyed.append((info.name, x.dtype))
        return survey(x, info, **options)

    monkeypatch.setattr(measure_module, "has_own_memory", lambda device: True)
    monkeypatch.setattr(measure_module, "tensor_stats_on_device", note)
    steps = follow(monkeypatch, (measure_module.Measurer, "_ready"), (RecordedPass, "run_prepared"))
    monkeypatch.setattr(RevisionStream, "has", lambda stream, stop: True)
    there = collected(tiny_run, tmp_path / "there.zarr", dtype=dtype)
    assert_near(there, here, rtol=1e-6)
    assert steps == ["_ready", *["_ready", "run_prepared"] * (len(steps) // 2 - 1), "run_prepared"]
    assert {each for _, each in surveyed} == {torch.float32}  # as stored, whatever it is computed in
    assert len(surveyed) == len({name for name, _ in surveyed}) == len(here.layout.axes["tensor"].labels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU here")
class TestOnCuda:
    """The whole of a collection on a GPU, beside the CPU's."""

    @pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
    def test_the_store_is_that_of_the_cpu(self, stored: torch.dtype, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", ("main",), dtype=stored)
        here, there = (
            collected(run, tmp_path / f"{device}.zarr", device=device, dtype="float32") for device in ("cpu", "cuda")
        )
        assert_near(there, here, rtol=1e-3)

    def test_weights_made_ready_ahead_change_no_bit(
        self, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ahead = collected(tiny_run, tmp_path / "ahead.zarr", device="cuda", dtype="bfloat16")
        monkeypatch.setattr(RevisionStream, "has", lambda stream, stop: False)
        in_turn = collected(tiny_run, tmp_path / "in_turn.zarr", device="cuda", dtype="bfloat16")
        assert_near(ahead, in_turn, rtol=0)


def test_what_has_come_is_known_without_waiting() -> None:
    stream = RevisionStream(Revision("main", "a" * 40), MemoryBudget(Bounds.of(100)))
    reading: list[Future[dict[str, np.ndarray]]] = [Future(), Future()]
    for infos, future in zip((INFOS[:2], INFOS[2:]), reading, strict=True):
        stream.send(Load(tuple(infos), early=False), future)
    stream.end()
    first, second = Step(None, (INFOS[0],)), Step(None, (INFOS[1], INFOS[2]))
    assert not stream.has(first)
    reading[0].set_result({info.name: np.zeros(4, np.uint8) for info in INFOS[:2]})
    assert stream.has(first)
    assert not stream.has(second)
    assert [info.name for info, _ in stream.tensors(first)] == ["a"]
    reading[1].set_result({"c": np.zeros(4, np.uint8)})
    assert [info.name for info, _ in stream.tensors(second)] == ["b", "c"]
