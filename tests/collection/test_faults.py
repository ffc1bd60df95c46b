"""Whatever goes wrong on the way, alone or all together with kills in between, the store is that of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.frames import open_store
from olmo_dynamics.progress import Progress
from tests.hub import Fault, LocalHub
from tests.runs import write_revision

REPO = "allenai/tiny"
RECORD = ("parameters", "loss")
NAMES = tuple(f"stage1-step{step}-tokens1B" for step in range(1, 21))

# gzip is not among them: bytes are asked for as they are.
STEADY = {  # what a second try mends: kind, and what it needs beside
    "429": {}, "500": {}, "502": {}, "503": {}, "504": {}, "408": {}, "hang_up": {}, "reset": {"keep": 1000},
    "short": {"keep": 1000}, "stall": {"keep": 1000, "seconds": 0.01}, "ignore_range": {}, "expired": {"host": "cdn"},
    "slow": {"seconds": 0.01}, "missing_headers": {"path": ""}, "wrong_size": {"host": "cdn", "keep": 100},
}  # fmt: skip
REFUSED = {"wrong_payload": {"host": "cdn"}}
"""What leaves a revision out, until it is collected again."""

IMPATIENT = RetryPolicy(tries=30, sleep=lambda stop, seconds: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty revisions, each with weights of its own."""
    folder = tmp_path_factory.mktemp("faults") / "run"
    write_revision(folder / NAMES[0], 0)
    weights = load_file(folder / NAMES[0] / "model.safetensors")
    for number, name in enumerate(NAMES[1:], 1):
        (folder / name).mkdir()
        for file in ("config.json", "tokenizer.json"):
            (folder / name / file).write_bytes((folder / NAMES[0] / file).read_bytes())
        moved = {key: tensor * (1 + number / 50) for key, tensor in weights.items()}
        save_file(moved, folder / name / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def undisturbed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "s.zarr"
    collect(run, out=out, batch="2x16", record=RECORD, progress=Progress())
    return out


@pytest.fixture
def hub(run: Path) -> LocalHub:
    with LocalHub() as hub:
        hub.add_repo(REPO, {name: run / name for name in NAMES})
        yield hub


def assert_same(out: Path, undisturbed: Path, names: tuple[str, ...] = NAMES) -> None:
    found, wanted = open_store(out), open_store(undisturbed)
    assert found.done == set(names)
    of = ["revision", "step", "dtype", "weights_sha256"]
    assert found.table("revisions").select(of).equals(wanted.table("revisions").select(of).head(len(names)))
    for group in RECORD:
        for name, values in wanted.arrays(group).items():
            ours, theirs = found.arrays(group)[name], values[: len(names)] if values.ndim > 1 else values
            assert np.array_equal(ours, theirs, equal_nan=values.dtype.kind == "f"), f"{group}/{name}"


@pytest.mark.parametrize("kind", [*STEADY, *REFUSED])
def test_one_fault(kind: str, hub: LocalHub, undisturbed: Path, tmp_path: Path) -> None:
    options = {"batch": "2x16", "record": RECORD, "progress": Progress(), "revisions": "all:first2"}
    source = HubSource(REPO, endpoint=hub.endpoint, retry=IMPATIENT)
    source.revisions()
    fault = hub.add_fault(
        Fault(kind, **{"path": "model.safetensors", "after": 2, "times": 2} | (STEADY | REFUSED)[kind])
    )
    if kind in REFUSED:
        with pytest.raises(CheckpointError, match="of 2 revisions cannot be measured"):
            collect(source, out=tmp_path / "s.zarr", **options)
        hub.faults.clear()
    collect(source, out=tmp_path / "s.zarr", **options)
    assert fault.struck > 0
    assert_same(tmp_path / "s.zarr", undisturbed, NAMES[:2])


CODE = """
import sys
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect
from olmo_dynamics.errors import OlmoDynamicsError
from olmo_dynamics.progress import Progress
from tests.collection.test_faults import IMPATIENT, RECORD, REPO
try:
    collect(HubSource(REPO, endpoint=sys.argv[1], retry=IMPATIENT), out=sys.argv[2], batch="2x16", record=RECORD,
            max_memory="40kB", progress=Progress())
except OlmoDynamicsError as problem:
    print(problem)
    sys.exit(2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_all_faults_at_random_and_kills_in_between(seed: int, hub: LocalHub, undisturbed: Path, tmp_path: Path) -> None:
    kinds = {**STEADY, **REFUSED}
    for number, (kind, needs) in enumerate(kinds.items()):
        share = 0.02 if kind in STEADY else 0.005
        hub.add_fault(Fault(kind, times=None, probability=share, seed=100 * seed + number, **needs))
    draw = random.Random(seed)
    out = tmp_path / "s.zarr"
    kills = 0
    for _ in range(40):
        process = subprocess.Popen([sys.executable, "-c", CODE, hub.endpoint, str(out)], env=os.environ)
        if kills < 4:
            before = len(open_store(out).done) if out.exists() else 0
            wanted = before + draw.randint(1, 5)
            while process.poll() is None and not (out.exists() and len(open_store(out).done) >= wanted):
                time.sleep(0.01)
            time.sleep(draw.random() * 0.2)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        elif process.wait() == 0:
            break
    assert kills > 0 and sum(fault.struck for fault in hub.faults) > 20
    assert_same(out, undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.zarr"]


@pytest.mark.parametrize(
    ("kind", "host", "after"),
    [
        ("stall", "cdn", 1),  # in the midst of weights; the others while the file's header is asked for
        pytest.param("slow", "cdn", 0, marks=pytest.mark.slow),
        pytest.param("slow", "hub", 0, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_while_a_host_is_silent_ends_at_once(
    kind: str, host: str, after: int, hub: LocalHub, undisturbed: Path, tmp_path: Path
) -> None:
    third = hub.repositories[REPO].branches[NAMES[2]]
    address = third.files["model.safetensors"].sha256 if host == "cdn" else f"{third.id}/model.safetensors"
    fault = hub.add_fault(Fault(kind, address, host=host, after=after, times=None, seconds=60.0, keep=1000))
    out = tmp_path / "s.zarr"
    command = [sys.executable, "-m", "olmo_dynamics", "collect", REPO, "--out", str(out), "-q",
               "--revisions", "all:first4", "--batch", "2x16", "--record", ",".join(RECORD)]  # fmt: skip
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: fault.struck > 0 and out.exists() and open_store(out).done == set(NAMES[:2]))
        process.send_signal(signal.SIGINT)  # whatever it could do is done: it waits for the third
        began = time.monotonic()
        _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 10  # a silent host is given up after 30 s; a machine at rest takes one second
    assert process.returncode == 130
    assert said.lstrip("\n") == "olmo-dyn: interrupted; finished work is kept; run the same command again to continue\n"
    hub.faults.clear()
    options = {"revisions": "all:first4", "batch": "2x16", "record": RECORD, "progress": Progress()}
    collect(HubSource(REPO, endpoint=hub.endpoint), out=out, **options)
    assert_same(out, undisturbed, NAMES[:4])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
