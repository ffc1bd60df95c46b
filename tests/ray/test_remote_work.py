"""What travels to workers, and what they must have; without a cluster."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo_dynamics.checkpoints.folder import FolderSource
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect
from olmo_dynamics.collection.engines import Outcome, engine_choice
from olmo_dynamics.collection.engines.cluster_nodes import ClusterNode, Seen, WorkerSize, check_seen, looking
from olmo_dynamics.collection.engines.interruption import Interruption
from olmo_dynamics.collection.engines.remote_work import RemoteWork, portable
from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.options import CollectOptions
from olmo_dynamics.errors import EngineError, OptionError, StoreMismatchError
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress
from tests.ray.conftest import NAMES


def read_back(packed: bytes) -> Any:
    return pickle.loads(packed)  # noqa: S301  # of this test


NODES = [
    ClusterNode("a", "10.0.0.1", cpus=16, gpus=4),
    ClusterNode("b", "10.0.0.2", cpus=6, gpus=0),
    ClusterNode("c", "10.0.0.3", cpus=0, gpus=0),
]


@pytest.mark.parametrize(
    ("threads", "on_gpu", "size", "workers"),
    [
        (None, False, WorkerSize(6), 3),  # as many CPUs as the smallest node has
        (4, False, WorkerSize(4), 5),
        (None, True, WorkerSize(4, 1), 4),  # a GPU's part of its node
        (8, True, WorkerSize(8, 1), 2),
    ],
)
def test_a_worker_takes_its_part_of_a_node(threads: int | None, on_gpu: bool, size: WorkerSize, workers: int) -> None:
    assert WorkerSize.of(NODES, threads=threads, on_gpu=on_gpu) == size
    assert size.workers(NODES) == workers


def test_nodes_that_are_too_small_for_a_worker_are_named() -> None:
    with pytest.raises(EngineError) as problem:
        WorkerSize.of(NODES, threads=32, on_gpu=True)
    assert str(problem.value) == (
        "a worker needs a node with 32 CPUs and a GPU (got 3 nodes: the largest has 16 CPUs, and all together have 4 GPUs); "
        "lower --threads, or add a node"
    )


def test_dead_nodes_are_no_workers() -> None:
    row = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 4.0, "memory": 1e9}, "Alive": True}
    assert ClusterNode.of([row, row | {"Alive": False, "Resources": {}}]) == [ClusterNode("a", "10.0.0.1", 4, 0)]


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (Seen("", "", True), "every worker must run olmo_dynamics 0.1.0, as this process does (node 10.0.0.2 has none); install "
         "it there: pip install 'olmo-dynamics[ray]==0.1.0'"),
        (Seen("0.1.0", "b", True), "every worker must run the same olmo_dynamics 0.1.0 as this process (the source files of node "
         "10.0.0.2 are others); install the same there"),
        (Seen("0.1.0", "a", False), "runs/a must be visible on every worker as /data/runs/a (node 10.0.0.2 sees no such folder); "
         "mount it there under the same path, or collect from a hub repo"),
    ],
)  # fmt: skip
def test_a_node_that_lacks_something_is_refused(seen: Seen, told: str) -> None:
    with pytest.raises(EngineError) as problem:
        check_seen(seen, Seen("0.1.0", "a", True), "10.0.0.2", source="runs/a", folder="/data/runs/a")
    assert str(problem.value) == told


def test_looking_sees_the_version_the_sources_and_the_folder(tmp_path: Path) -> None:
    version, sources, has_folder = looking()(str(tmp_path))
    assert version and len(sources) == 64 and has_folder
    assert looking()(str(tmp_path / "absent")) == (version, sources, False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_the_second_interrupts(number: int) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.asked
        os.kill(os.getpid(), number)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_source_travels_without_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = HubSource("org/name", endpoint="http://127.0.0.1:9", token="hf_secret", cache=tmp_path)
    packed = pickle.dumps(source)
    assert source.hub_token == "hf_secret" and b"hf_secret" not in packed
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_worker")
    there = read_back(packed)
    assert (there.name, there.kind, there.hub_token) == ("org/name", "hub", "hf_of_the_worker")
    assert read_back(pickle.dumps(HubSource("org/name", token=False))).hub_token == ""


def test_a_folder_travels_as_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = read_back(pickle.dumps(FolderSource("runs/a")))
    assert (there.name, there.local_folder) == ("runs/a", tmp_path / "runs" / "a")


class OddError(Exception):
    """An exception that cannot be read again, since it is made from two values."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def test_errors_travel_with_their_place_and_ours_as_they_are() -> None:
    ours = portable(OptionError("max_rate must be positive", option="max_rate"))
    assert ours.typed == "--max-rate must be positive" and not hasattr(ours, "__notes__")
    assert isinstance(portable(StoreMismatchError("other weights")), StoreMismatchError)
    try:
        raise OddError(1, 2)
    except OddError as error:
        plain = portable(error)
    assert type(plain) is RuntimeError and str(plain) == "OddError: 1 and 2"
    assert "test_remote_work.py" in plain.__notes__[0]


class Travelling:
    """An engine whose every revision travels there and back, the last one first, as by a cluster of one worker."""

    notes = ()

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def outcomes(self, opener: Opener, revisions: list[Revision], listener: Progress) -> Iterator[Outcome]:
        packed = pickle.dumps(RemoteWork.of(opener, revisions, self._threads))
        for revision in reversed(revisions):
            outcome = read_back(packed).measure(revision.name, None, listener.advance)
            yield read_back(pickle.dumps(outcome))

    def throughput(self, setup: object) -> None:
        return None


def test_rows_that_have_travelled_are_those_of_this_process(
    eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"revisions": ",".join(NAMES[:2]), "batch": "2x16", "progress": Progress(), "threads": 1}
    options["record"] = ("parameters", "loss", "evaluation")
    wanted = collect(eight, out=tmp_path / "local.zarr", tasks="agreement", **options)
    monkeypatch.setattr(engine_choice, "LocalEngine", Travelling)
    found = collect(eight, out=tmp_path / "travelled.zarr", tasks="agreement", **options)
    assert found.groups == wanted.groups
    for group in wanted.groups:
        for name, values in wanted.arrays(group).items():
            assert np.array_equal(found.arrays(group)[name], values, equal_nan=values.dtype.kind == "f"), (
                f"{group}/{name}"
            )


def test_without_ray_the_engine_says_how_to_install_it(
    eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError) as problem:
        collect(eight, out=tmp_path / "s.zarr", engine="ray", progress=Progress())
    assert problem.value.typed == "--engine ray needs Ray, which is not installed; pip install 'olmo-dynamics[ray]'"
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engine": "spark"}, "--engine must be local or ray (got 'spark')"),
        ({"address": "10.0.0.1:6379"}, "--address needs the engine ray (got '10.0.0.1:6379'); leave it out"),
        ({"engine": "ray", "device": "cuda:1"},
         "--device must be cpu or cuda, since Ray gives each worker a GPU of its own (got 'cuda:1')"),
    ],
)  # fmt: skip
def test_engines_addresses_and_devices_that_do_not_fit_are_refused(given: dict[str, str], told: str) -> None:
    with pytest.raises(OptionError) as problem:
        CollectOptions(**given)
    assert problem.value.typed == told


def test_a_gpu_of_the_cluster_need_not_be_here() -> None:
    assert CollectOptions(engine="ray", device="cuda").device == "cuda"
