"""Tensors joined from shards, and the index of the shards."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from olmo_dynamics.checkpoints.folder import FolderCheckpoint
from olmo_dynamics.checkpoints.formats.distcp import read_distributed
from olmo_dynamics.checkpoints.formats.tensor_views import Chunk, Stored, TensorSet, View, check_cover
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import Revision
from tests.checkpoints.formats.writing import alone, saved

Blocks = list[tuple[tuple[int, ...], tuple[int, ...]]]  # corner and shape of each shard


def write_shards(folder: Path, tensor: torch.Tensor, blocks: Blocks) -> None:
    """A distributed checkpoint of one tensor, each shard on a rank of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    storage: dict[MetadataIndex, _StorageInfo] = {}
    chunks = []
    for rank, (corner, shape) in enumerate(blocks):
        block = tensor[tuple(slice(at, at + size) for at, size in zip(corner, shape, strict=True))]
        blob = b"something before" * rank + saved(block.clone())
        (folder / f"__{rank}_0.distcp").write_bytes(blob)
        chunks.append(ChunkStorageMetadata(torch.Size(corner), torch.Size(shape)))
        index = MetadataIndex("w", torch.Size(corner), rank)
        storage[index] = _StorageInfo(f"__{rank}_0.distcp", 16 * rank, len(blob) - 16 * rank)
    entry = TensorStorageMetadata(TensorProperties(dtype=tensor.dtype), tensor.shape, chunks)
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata({"w": entry}, storage_data=storage)))


def read_shards(folder: Path) -> tuple[Stored, FolderCheckpoint]:
    checkpoint = FolderCheckpoint("run", Revision("step7"), folder)
    return read_distributed(checkpoint.read_spans, checkpoint.files, "").tensors["w"], checkpoint


ROWS: Blocks = [((0, 0), (3, 6)), ((3, 0), (3, 6)), ((6, 0), (1, 6)), ((7, 0), (0, 6))]
GRID: Blocks = [((row, column), (4 - row % 3, 3)) for row in (0, 4) for column in (0, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "blocks", [ROWS, ROWS[::-1], GRID, [((0, 0), (7, 6))]], ids=["rows", "reversed", "grid", "whole"]
)
def test_shards_are_put_together_as_torch_does(blocks: Blocks, dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.randn(7, 6).to(dtype)
    write_shards(tmp_path, tensor, blocks)
    state = {"w": torch.empty(7, 6, dtype=dtype)}
    with alone():
        dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    assert torch.equal(state["w"], tensor)
    stored, checkpoint = read_shards(tmp_path)
    raw = TensorSet(checkpoint.read_spans, [View("w", stored)]).read("w")
    assert raw.tobytes() == tensor.view(torch.uint8).numpy().tobytes()
    assert raw.flags.aligned


@pytest.mark.parametrize("rows", [(0, 2), (2, 5), (3, 6), (6, 7), (0, 7)])
def test_rows_are_taken_from_the_shards_that_hold_them(rows: tuple[int, int], tmp_path: Path) -> None:
    tensor = torch.randn(7, 6)
    write_shards(tmp_path, tensor, ROWS)
    stored, checkpoint = read_shards(tmp_path)
    for transposed in (False, True):
        view = View("part", stored, rows, transposed=transposed)
        wanted = tensor[slice(*rows)].T if transposed else tensor[slice(*rows)]
        tensors = TensorSet(checkpoint.read_spans, [view])
        assert tensors.infos["part"].shape == tuple(wanted.shape)
        np.testing.assert_array_equal(tensors.read("part").view("<f4").reshape(wanted.shape), wanted.numpy())
        assert len(view.spans) == sum(corner[0] < rows[1] and corner[0] + shape[0] > rows[0] for corner, shape in ROWS)


def test_a_span_that_several_tensors_need_is_read_once(tmp_path: Path) -> None:
    write_shards(tmp_path, torch.randn(7, 6), [((0, 0), (7, 6))])
    stored, checkpoint = read_shards(tmp_path)
    before = checkpoint.bytes_moved
    tensors = TensorSet(checkpoint.read_spans, [View(f"row {row}", stored, (row, row + 1)) for row in range(7)])
    tensors.read_many(list(tensors.infos))
    assert checkpoint.bytes_moved - before == checkpoint.files["__0_0.distcp"]


@pytest.mark.parametrize(
    ("blocks", "problem"),
    [
        (ROWS[1:], "shards are missing"),
        ([*ROWS, ((2, 0), (2, 6))], "shards overlap"),
        ([((0, 0), (7, 3))], "shards are missing"),
        ([((0, 0), (7, 6)), ((3, 3), (1, 1))], "shards overlap"),
    ],
)
def test_shards_that_do_not_cover_the_tensor(blocks: Blocks, problem: str, tmp_path: Path) -> None:
    write_shards(tmp_path, torch.randn(7, 6), blocks)
    with pytest.raises(CheckpointError) as caught:
        read_shards(tmp_path)
    assert str(caught.value) == f"tensor w of shape [7, 6]: {problem}; fetch the checkpoint again"


def test_a_shard_outside_the_tensor() -> None:
    chunk = Chunk(Span("f", 0, 8), (2,), (1,))
    with pytest.raises(
        CheckpointError, match=r"^tensor w of shape \[2\]: a shard lies outside it; fetch the checkpoint again$"
    ):
        check_cover(Stored("w", "F32", (2,), (chunk,)))


def test_a_shard_that_is_nowhere(tmp_path: Path) -> None:
    write_shards(tmp_path, torch.randn(7, 6), ROWS)
    metadata = dcp.FileSystemReader(tmp_path).read_metadata()
    del metadata.storage_data[MetadataIndex("w", torch.Size((3, 0)), 1)]
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(
        CheckpointError, match=r"^.metadata does not tell where the shard at \[3, 0\] of w is stored; fetch"
    ):
        read_shards(tmp_path)


@given(data=st.data())
def test_any_tiling_gives_the_whole(data: Any) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    whole = np.arange(math.prod(shape), dtype="<f4").reshape(shape)
    cuts = [sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    pieces, chunks, at = [], [], 0
    for place in np.ndindex(*(len(cut) - 1 for cut in cuts)):
        corner = tuple(cut[i] for cut, i in zip(cuts, place, strict=True))
        sizes = tuple(cut[i + 1] - cut[i] for cut, i in zip(cuts, place, strict=True))
        block = whole[tuple(slice(low, low + size) for low, size in zip(corner, sizes, strict=True))]
        chunks.append(Chunk(Span("f", at, at + block.nbytes), sizes, corner))
        pieces.append(block.tobytes())
        at += block.nbytes
    raw = np.frombuffer(b"".join(pieces), np.uint8)
    stored = check_cover(Stored("w", "F32", shape, tuple(chunks)))
    first = data.draw(st.integers(0, shape[0] - 1))
    rows = (first, data.draw(st.integers(first + 1, shape[0])))
    found = TensorSet(lambda spans: [raw[span.start : span.stop] for span in spans], [View("v", stored, rows)]).read(
        "v"
    )
    assert found.tobytes() == whole[slice(*rows)].tobytes()
    part = data.draw(st.tuples(st.integers(0, rows[1] - rows[0]), st.integers(0, rows[1] - rows[0])).map(sorted))
    taken = whole[slice(*rows)][slice(*part)]
    assert _part(raw, View("v", stored, rows), part) == taken.tobytes()
    if len(shape) > 1:
        flat = (rows[1] - rows[0], math.prod(shape[1:]))
        assert _part(raw, View("v", stored, rows, flat), part) == taken.tobytes()
        turned = whole[slice(*rows)].reshape(flat).T
        ends = sorted((data.draw(st.integers(0, flat[1])), data.draw(st.integers(0, flat[1]))))
        assert _part(raw, View("v", stored, rows, flat, transposed=True), ends) == turned[slice(*ends)].tobytes()


def _part(raw: np.ndarray, view: View, rows: list[int]) -> bytes:
    tensors = TensorSet(lambda spans: [raw[span.start : span.stop] for span in spans], [view])
    [found] = tensors.read_parts([view.info.rows(*rows)])
    return found.tobytes()


def test_a_part_of_another_tensor_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, torch.randn(7, 6), ROWS)
    stored, checkpoint = read_shards(tmp_path)
    tensors = TensorSet(checkpoint.read_spans, [View("w", stored)])
    other = replace(tensors.infos["w"], shape=(7, 5), stop=7 * 5 * 4)
    with pytest.raises(CheckpointError) as caught:
        tensors.read_parts([other.rows(1, 2)])
    assert str(caught.value) == "w is stored as (7, 6), and not as (1, 5); use tensors of this checkpoint"
