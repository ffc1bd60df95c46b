"""Distributed checkpoints of torch (`.metadata` and `__{rank}_{bucket}.distcp`), read without torch.

`.metadata` is a pickle that lists the tensors, their shards, and the bytes of the file at which each shard is a `torch.save`
archive of its own. So the index costs one file, and each shard one span.

    >>> index = read_distributed(read, files, "model_and_optim")                                # doctest: +SKIP
    >>> index.tensors["model.lm_head.norm.weight"].shape                                        # doctest: +SKIP
    (64,)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NoReturn

from olmo_dynamics.checkpoints.formats.pickle_allowlist import METADATA, TORCH_DTYPES, TRAINER, to_counts
from olmo_dynamics.checkpoints.formats.tensor_views import Chunk, Stored, check_cover
from olmo_dynamics.checkpoints.formats.torch_files import open_torch_bytes
from olmo_dynamics.checkpoints.formats.unpickling import PickledObject, Symbol, brief, read_pickle
from olmo_dynamics.checkpoints.tensors import LFS_POINTER, Span, SpanReader, refuse_pointer
from olmo_dynamics.errors import CheckpointError

INDEX_NAME = ".metadata"
MAX_INDEX_BYTES = 512 << 20  # 512 MiB; a shard takes about 100 bytes
MAX_OBJECT_BYTES = 1 << 20  # 1 MiB; hyper-parameters take about 1 kB each

_Places = Mapping[tuple[str, tuple[int, ...] | None], Span]


@dataclass(frozen=True)
class Distributed:
    """Contents of a distributed checkpoint: tensors by name, and the spans of pickled objects by name."""

    tensors: Mapping[str, Stored]
    objects: Mapping[str, Span]
    read: SpanReader

    def read_objects(self, names: Sequence[str]) -> dict[str, Any]:
        """Read pickled objects as plain values, by name.

        Raises:
            CheckpointError: one is too large, hostile or damaged.
        """
        spans = [self.objects[name] for name in names]
        for name, span in zip(names, spans, strict=True):
            if span.stop - span.start > MAX_OBJECT_BYTES:
                raise CheckpointError(
                    f"{span.file}: {name} must have at most {MAX_OBJECT_BYTES} bytes (got {span.stop - span.start})"
                )
        return {
            name: open_torch_bytes(raw, f"{span.file} at byte {span.start}", TRAINER).plain()
            for name, span, raw in zip(names, spans, self.read(spans), strict=True)
        }


def read_distributed(read: SpanReader, files: Mapping[str, int], folder: str) -> Distributed:
    """Read the index of the distributed checkpoint in `folder` (empty for the top folder).

    Raises:
        CheckpointError: `.metadata` is missing, hostile or damaged, or names a shard that is missing or cut off.
    """
    file = str(PurePosixPath(folder) / INDEX_NAME)
    if file not in files:
        raise CheckpointError(f"{file}, the index of the .distcp files, is missing; fetch it")
    if files[file] > MAX_INDEX_BYTES:
        raise CheckpointError(f"{file} must have at most {MAX_INDEX_BYTES} bytes (got {files[file]})")
    [raw] = read([Span(file, 0, files[file])])
    refuse_pointer(file, raw.tobytes())
    index = read_pickle(raw.tobytes(), file=file, allowed=METADATA)
    try:
        places = _read_places(index.state["storage_data"], files, folder)
        entries = index.state["state_dict_metadata"].items()
        tensors = {
            name: _read_tensor(name, entry, places) for name, entry in entries if entry.kind == "TensorStorageMetadata"
        }
        objects = {name: _find(name, None, places) for name, entry in entries if entry.kind == "BytesStorageMetadata"}
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as problem:
        raise CheckpointError(
            f"{file} is not the index of a distributed checkpoint ({brief(problem)}); fetch it again"
        ) from None
    cut_off = next((span for span in places.values() if span.stop > files[span.file]), None)
    if cut_off is not None:
        _refuse_short(read, cut_off, files[cut_off.file])
    return Distributed(tensors, objects, read)


def _refuse_short(read: SpanReader, needed: Span, size: int) -> NoReturn:
    """Refuse a shard that ends before the bytes that the index needs of it."""
    [head] = read([Span(needed.file, 0, min(size, len(LFS_POINTER)))])
    refuse_pointer(needed.file, head.tobytes())
    raise CheckpointError(
        f"{needed.file} must have bytes {needed.start} to {needed.stop} (it has {size} bytes); it is cut off, fetch it again"
    )


def _read_places(storage: Mapping[PickledObject, PickledObject], files: Mapping[str, int], folder: str) -> _Places:
    places = {}
    for key, value in storage.items():
        fields = value.state
        if fields.get("transform_descriptors"):
            raise CheckpointError(
                f"{folder}: shards written with {brief(fields['transform_descriptors'])} cannot be read"
            )
        corner = key.state.get("offset")  # absent if there is none
        places[key.state["fqn"], None if corner is None else to_counts(corner)] = _check_place(fields, files, folder)
    return places


def _check_place(fields: Mapping[str, Any], files: Mapping[str, int], folder: str) -> Span:
    name, start, length = fields["relative_path"], fields["offset"], fields["length"]
    [start, length] = to_counts((start, length))
    if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise CheckpointError(f"{folder}/{INDEX_NAME} names {brief(name)}, which lies outside the checkpoint")
    file = str(PurePosixPath(folder) / name)
    if file not in files:
        raise CheckpointError(f"{folder}/{INDEX_NAME} names {file}, which is missing; fetch it")
    return Span(file, start, start + length)


def _read_tensor(name: str, entry: PickledObject, places: _Places) -> Stored:
    fields = entry.state
    dtype = _read_dtype(name, fields["properties"])
    chunks = []
    for chunk in fields["chunks"]:
        corner, shape = to_counts(chunk.state["offsets"]), to_counts(chunk.state["sizes"])
        if math.prod(shape):  # ranks beyond a tensor's last row hold empty shards
            chunks.append(Chunk(_find(name, corner, places), shape, corner, packed=True))
    return check_cover(Stored(name, dtype, to_counts(fields["size"]), tuple(chunks)))


def _read_dtype(name: str, properties: PickledObject) -> str:
    state = properties.state
    dtype = state[0] if isinstance(state, tuple) else state["dtype"]
    if not isinstance(dtype, Symbol) or dtype.name not in TORCH_DTYPES:
        raise CheckpointError(f"tensor {name} has dtype {brief(dtype)}; known dtypes: {', '.join(TORCH_DTYPES)}")
    return TORCH_DTYPES[dtype.name]


def _find(name: str, corner: tuple[int, ...] | None, places: _Places) -> Span:
    found = places.get((name, corner))
    if found is None and corner is not None and not any(corner):
        found = places.get((name, None))  # tensors that are not sharded are listed without a corner
    if found is None:
        where = f"the shard at {list(corner)} of " if corner else ""
        raise CheckpointError(f"{INDEX_NAME} does not tell where {where}{name} is stored; fetch the checkpoint again")
    return found
