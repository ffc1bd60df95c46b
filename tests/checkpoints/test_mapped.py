"""Local files: read in place, and their memory returned afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils.tqdm import disable_progress_bars

from olmo_dynamics.checkpoints import FolderSource
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.checkpoints.mapped import MappedFile
from olmo_dynamics.checkpoints.source import Checkpoint
from olmo_dynamics.names import Revision
from tests.checkpoints.conftest import REPO, noise, pack
from tests.hub import LocalHub

BYTES = 8 << 20
FILES = {"config.json": b"{}", "model.safetensors": pack({"a": noise(1, BYTES // 4), "b": noise(2, 7)})}


def resident(path: Path) -> int:
    """Bytes of a file that count as this process's memory."""
    total, counting = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            counting = line.endswith(path.name) and Path(line[line.index("/") :]).samefile(path)
        elif counting and words[0] == "Rss:":
            total += int(words[1]) << 10
    return total


def check_gives_pages_back(checkpoint: Checkpoint, path: Path) -> None:
    tensors = list(checkpoint.tensors.values())
    raws = checkpoint.read_many(tensors)
    sums = {name: int(raw.sum(dtype=np.int64)) for name, raw in raws.items()}
    assert resident(path) >= BYTES
    checkpoint.release([checkpoint.tensors["a"]])
    assert resident(path) < BYTES // 8
    assert {name: int(raw.sum(dtype=np.int64)) for name, raw in raws.items()} == sums
    checkpoint.release(tensors)
    assert resident(path) == 0


def test_a_folders_tensors_are_views_and_their_pages_are_given_back(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    with FolderSource(tmp_path).open(FolderSource(tmp_path).revisions()[0]) as checkpoint:
        first, second = (checkpoint.read(checkpoint.tensors["a"]) for _ in range(2))
        assert np.shares_memory(first, second)
        assert not first.flags.owndata
        check_gives_pages_back(checkpoint, tmp_path / "model.safetensors")


def test_so_are_those_of_the_hugging_face_cache(hub: LocalHub, tmp_path: Path) -> None:
    disable_progress_bars()
    hub.add_repo(REPO, {"main": FILES})
    path = hf_hub_download(REPO, "model.safetensors", endpoint=hub.endpoint, token=False)
    assert path.startswith(constants.HF_HUB_CACHE)
    with HubSource(REPO, endpoint=hub.endpoint, cache=tmp_path, token=False).open(Revision("main")) as checkpoint:
        check_gives_pages_back(checkpoint, Path(path).resolve())


def test_what_came_over_the_wire_stays(hub: LocalHub, tmp_path: Path) -> None:
    hub.add_repo(REPO, {"main": FILES})
    with HubSource(REPO, endpoint=hub.endpoint, cache=tmp_path, token=False).open(Revision("main")) as checkpoint:
        raw = checkpoint.read(checkpoint.tensors["b"])
        checkpoint.release([checkpoint.tensors["b"]])
        assert raw.tobytes() == noise(2, 7)[2]


def test_an_empty_file_can_be_mapped_and_released(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    file = MappedFile(tmp_path / "empty")
    file.release(0, 0)
    assert len(file.bytes) == 0


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (4095, 4097), (4096, 4096), (9999, 10_000)])
def test_any_span_can_be_released(tmp_path: Path, start: int, stop: int) -> None:
    data = np.random.default_rng(0).bytes(10_000)
    (tmp_path / "file").write_bytes(data)
    file = MappedFile(tmp_path / "file")
    file.release(start, stop)
    assert file.bytes.tobytes() == data
