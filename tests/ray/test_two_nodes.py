"""Collections by the workers of a real cluster of two nodes, and by those of one that loses a node."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.files import Place, as_place, is_there
from olmo_dynamics.frames import open_store
from olmo_dynamics.progress import Progress
from tests.hub import LocalHub
from tests.ray.cluster import PORTS, Cluster, Node, driver, free_port
from tests.ray.conftest import NAMES
from tests.remote.conftest import ACCOUNT, bucket_server, make_bucket, upload
from tests.remote.faulty import FaultyServer

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")

REPO, SECRET = "allenai/tiny", "hf_a_token_that_no_log_may_hold"
OPTIONS = {"batch": "2x16", "record": ("parameters", "loss")}
TYPED = ("--batch", "2x16", "--record", "parameters,loss", "-q", "--engine", "ray")
INTERRUPTED = "\nolmo-dyn: interrupted; finished work is kept; run the same command again to continue\n"
RATE = 150_000  # bytes per second of a connection: a revision takes about one second


class Front(FaultyServer):
    """What nodes take for the server of buckets; that itself may be started after them."""

    def __init__(self, port: int) -> None:
        super().__init__(f"http://127.0.0.1:{port}")
        self.port = port


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with Front(free_port(PORTS[::-1])) as front:
        yield front


@pytest.fixture(scope="module")
def cluster(front: Front) -> Iterator[Cluster]:
    with Cluster(**ACCOUNT, AWS_ENDPOINT_URL=front.endpoint) as cluster:
        yield cluster


@pytest.fixture
def second(cluster: Cluster) -> Iterator[Node]:
    """A second node, for one test."""
    node = cluster.add()
    yield node
    if node in cluster.nodes:
        cluster.end(node)


def run(cluster: Cluster, *arguments: str, folder: Path, **variables: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a collection."""
    process = driver("collect", *arguments, *TYPED, "--address", cluster.address, folder=folder, **variables)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def assert_same(out: Place | str, wanted: Path) -> None:
    found, theirs = open_store(out), open_store(wanted)
    of = ["revision", "step", "commit", "dtype", "weights_sha256"]
    assert found.table("revisions").select(of).equals(theirs.table("revisions").select(of))
    assert found.groups == theirs.groups
    for group in theirs.groups:
        arrays = found.arrays(group)
        assert arrays.keys() == theirs.arrays(group).keys()
        for name, values in theirs.arrays(group).items():
            assert np.array_equal(arrays[name], values, equal_nan=values.dtype.kind == "f"), f"{group}/{name}"


@pytest.mark.slow
def test_the_store_is_that_of_one_process_and_a_damaged_revision_ends_nothing(
    cluster: Cluster, second: Node, eight: Path, tmp_path: Path
) -> None:
    folder, spoilt = tmp_path / "run", NAMES[2]
    shutil.copytree(eight, folder)
    weights = folder / spoilt / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError) as problem:
        collect(folder, out=tmp_path / "local.zarr", progress=Progress(), **OPTIONS)
    code, printed, said = run(cluster, "run", "--out", "ray.zarr", folder=tmp_path)
    told = f"olmo-dyn: {problem.value}\n".replace(str(tmp_path / "local.zarr"), "ray.zarr").replace(f"{tmp_path}/", "")
    assert (code, printed, said) == (2, "", told)
    assert open_store(tmp_path / "ray.zarr").done == {*NAMES} - {spoilt}
    assert_same(tmp_path / "ray.zarr", tmp_path / "local.zarr")


def wait_for(process: subprocess.Popen[str], out: Path | str, rows: int) -> None:
    """Wait until a collection has written so many rows."""
    while not (is_there(as_place(out)) and len(open_store(out).done) >= rows):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def assert_nowhere(secret: str, cluster: Cluster) -> None:
    """No log has it."""
    assert not [path for path in cluster.logs if secret.encode() in path.read_bytes()]


def test_ctrl_c_keeps_what_is_finished(cluster: Cluster, eight: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    with LocalHub() as hub:
        hub.add_repo(REPO, {name: eight / name for name in NAMES}, private=True, token=SECRET)
        source = HubSource(REPO, endpoint=hub.endpoint, token=SECRET)
        collect(source, out=tmp_path / "local.zarr", progress=Progress(), **OPTIONS)
        hub.rate = RATE
        arguments = ("collect", REPO, "--out", str(out), *TYPED, "--address", cluster.address)
        process = driver(*arguments, folder=tmp_path, HF_ENDPOINT=hub.endpoint, HF_TOKEN=SECRET)
        wait_for(process, out, 1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (130, INTERRUPTED)
        assert 1 <= len(open_store(out).done) < len(NAMES)
        hub.rate = None
        collect(source, out=out, progress=Progress(), **OPTIONS)
    assert_same(out, tmp_path / "local.zarr")
    assert_nowhere(SECRET, cluster)


def test_from_a_bucket_into_a_bucket_and_a_node_that_dies_costs_only_its_revision(
    cluster: Cluster, second: Node, front: Front, eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bucket_server(front.port, tmp_path / "server.txt") as server:
        for name, value in (ACCOUNT | {"AWS_ENDPOINT_URL": server}).items():  # of this process and the driver
            monkeypatch.setenv(name, value)
        bucket = make_bucket(server)
        run, out = upload(eight, f"{bucket}/run"), f"{bucket}/s.zarr"
        collect(run, out=tmp_path / "local.zarr", progress=Progress(), **OPTIONS)
        collect(run, out=out, revisions=NAMES[0], progress=Progress(), **OPTIONS)
        front.total_rate = RATE  # of what workers read
        process = driver("collect", run, "--out", out, *TYPED, "--address", cluster.address, folder=tmp_path)
        wait_for(process, out, 2)
        second.kill()
        left = len(NAMES) - len(open_store(out).done)
        front.total_rate = None
        printed, said = process.communicate(timeout=200)
        assert (process.returncode, said) == (0, "")
        assert printed.split() == ["store", out, "revisions", "8", "missing", "0"]
        assert left >= 2  # both nodes were at work
        assert_same(out, tmp_path / "local.zarr")


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_a_node_that_dies_costs_only_its_revision(
    cluster: Cluster, second: Node, eight: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s.zarr"
    with LocalHub() as hub:
        hub.add_repo(REPO, {name: eight / name for name in NAMES}, private=True, token=SECRET)
        collect(
            HubSource(REPO, endpoint=hub.endpoint, token=SECRET),
            out=tmp_path / "local.zarr",
            progress=Progress(),
            **OPTIONS,
        )
        hub.rate = RATE
        arguments = ("collect", REPO, "--out", str(out), *TYPED, "--address", cluster.address)
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": SECRET}
        process = driver(*arguments, folder=tmp_path, **variables)
        wait_for(process, out, 1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        done = open_store(out).done
        assert (process.returncode, said) == (130, INTERRUPTED)
        assert 1 <= len(done) < len(NAMES)
        process = driver(*arguments, folder=tmp_path, **variables)
        wait_for(process, out, len(done) + 1)
        second.kill()
        left = len(NAMES) - len(open_store(out).done)
        printed, said = process.communicate(timeout=200)
    assert (process.returncode, said) == (0, "")
    assert printed.split() == ["store", str(out), "revisions", "8", "missing", "0"]
    assert left >= 2  # both nodes were at work
    assert_same(out, tmp_path / "local.zarr")
    assert_nowhere(SECRET, cluster)


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused_and_a_folder_that_it_does_not_see(
    cluster: Cluster, eight: Path, tmp_path: Path
) -> None:
    hidden = Path("/proc/self/cwd") / eight.name  # the folder of whoever looks
    code, printed, said = run(cluster, str(hidden), "--out", str(tmp_path / "s.zarr"), folder=eight.parent)
    told = (
        f"olmo-dyn: {hidden} must be visible on every worker as {hidden} (node ADDRESS sees no such folder); mount it there "
        "under the same path, or collect from a hub repo\n"
    )
    assert (code, printed, re.sub(r"node [\d.]+", "node ADDRESS", said)) == (2, "", told)
    older = tmp_path / "older" / "olmo_dynamics-0.0.9.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: olmo-dynamics\nVersion: 0.0.9\n", encoding="utf-8")
    node = cluster.add(PYTHONPATH=str(older.parent))
    code, printed, said = run(cluster, str(eight), "--out", str(tmp_path / "s.zarr"), folder=tmp_path)
    cluster.end(node)
    assert (code, printed) == (2, "")
    assert re.fullmatch(
        r"olmo-dyn: every worker must run olmo_dynamics (\S+), as this process does \(node [\d.]+ runs 0\.0\.9\); "
        r"install it there: pip install 'olmo-dynamics\[ray\]==\1'\n",
        said,
    )
    assert not (tmp_path / "s.zarr").exists()
