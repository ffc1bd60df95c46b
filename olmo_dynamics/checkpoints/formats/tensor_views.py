"""Canonical tensors as views of stored ones, and the reading of them.

A `Stored` tensor is made of `Chunk`s (one in most files, one per rank in distributed checkpoints). A `View` gives the rows of
it that are a canonical tensor, transposed or not. A view of one run of bytes is read as that run, without a copy; else its
pieces are joined in one new array.

    >>> chunk = Chunk(Span("model.pt", 64, 112), (6, 2), (0, 0))
    >>> fused = Stored("att_proj.weight", "F32", (6, 2), (chunk,))
    >>> View("k_proj.weight", fused, rows=(2, 4)).info
    TensorInfo(name='k_proj.weight', dtype='F32', shape=(2, 2), file='model.pt', start=80, stop=96)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from olmo_dynamics.checkpoints.formats.pickle_allowlist import TENSORS, PickledTensor, extent
from olmo_dynamics.checkpoints.formats.torch_files import open_torch_file
from olmo_dynamics.checkpoints.tensors import ITEM_BITS, Span, SpanReader
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import ITEM_BYTES, TensorInfo

MAX_CELLS = 1 << 20
"""Largest grid of borders for which the chunks of one tensor are checked."""

WHOLE_BYTES = 1 << 20
"""Archives of at most 1 MiB are read whole even for a few rows: finding these takes three requests more."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A block of a stored tensor: the span of its bytes, its shape, and the position of its first corner in the whole.

    `strides` count elements, None if the block is contiguous. A `packed` span is a whole `torch.save` archive.
    """

    span: Span
    shape: tuple[int, ...]
    corner: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor under its stored name and in its stored pieces; the chunks cover it once."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class View:
    """A canonical tensor: `rows` of a stored one, as a matrix of shape `block` if given, transposed or not."""

    name: str
    stored: Stored
    rows: tuple[int, int] | None = None
    block: tuple[int, ...] | None = None
    transposed: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape."""
        block = self.block or self._row_shape
        return block[::-1] if self.transposed else block

    @cached_property
    def info(self) -> TensorInfo:
        """The tensor as a `TensorInfo`; a tensor joined from pieces has no place in a single file.

        Its span then starts at 0 of a file named after the stored tensor, so that its size is right.
        """
        [first, *others] = self.spans or [Span(self.stored.name, 0, 0)]
        nbytes = math.prod(self.shape) * ITEM_BITS[self.stored.dtype] // 8
        whole = not others and self._is_plain and first.stop - first.start == nbytes
        file, start = (first.file, first.start) if whole else (f"({self.stored.name})", 0)
        return TensorInfo(self.name, self.stored.dtype, self.shape, file, start, start + nbytes)

    @cached_property
    def spans(self) -> list[Span]:
        """The spans to read, one per chunk that holds some of the rows."""
        return [self._span(chunk) for chunk in self.chunks]

    def part(self, first: int, stop: int) -> View | None:
        """The rows `first` up to `stop` of the canonical tensor; None where they do not lie together in the stored one."""
        low, high = self._row_range
        count = self.block[0] if self.block else high - low
        if self.transposed or not self.stored.shape or not count or (high - low) % count:
            return None
        each = (high - low) // count
        block = (stop - first, *self.block[1:]) if self.block else None
        return replace(self, rows=(low + first * each, low + stop * each), block=block)

    def assemble(self, raws: Sequence[np.ndarray]) -> np.ndarray:
        """The canonical tensor's bytes (uint8, one axis, read-only), from the bytes of `spans`.

        Raises:
            CheckpointError: a packed chunk is not the one in the index.
        """
        if len(raws) == 1 and self._is_plain:
            return raws[0]
        kind = np.dtype(f"V{ITEM_BYTES[self.stored.dtype]}")  # only bytes are moved: NumPy has no bfloat16
        whole = self._gather(raws, kind)
        turned = whole.reshape(self.shape[::-1]).T if self.transposed else whole
        # a copy also aligns the elements, which they seldom are in a packed chunk
        found = np.array(turned, order="C", copy=True if len(raws) == 1 else None).reshape(-1).view(np.uint8)
        found.flags.writeable = False
        return found

    def _gather(self, raws: Sequence[np.ndarray], kind: np.dtype) -> np.ndarray:
        """The rows as one array; of a single chunk, as a view of its bytes."""
        first, last = self._row_range
        spans = [slice(*_row_overlap(chunk, first, last)) for chunk in self.chunks]
        blocks = [self._values(*each[:2], kind, each[2]) for each in zip(self.chunks, raws, spans, strict=True)]
        if len(blocks) == 1:
            return blocks[0]
        whole = np.empty(self._row_shape, kind)
        for chunk, rows, block in zip(self.chunks, spans, blocks, strict=True):
            start = chunk.corner[0] + rows.start - first
            columns = tuple(slice(at, at + size) for at, size in zip(chunk.corner[1:], chunk.shape[1:], strict=True))
            whole[(slice(start, start + len(block)), *columns)] = block
        return whole

    def _values(self, chunk: Chunk, raw: np.ndarray, kind: np.dtype, rows: slice) -> np.ndarray:
        """The given rows of a chunk, shaped."""
        strides = chunk.strides
        if chunk.packed:
            base = chunk.span.start
            found = _located(lambda spans: [raw[a - base : b - base] for _, a, b in spans], self.stored, chunk)
            raw, strides = raw[found.span.start - base : found.span.stop - base], found.strides
        values = np.frombuffer(raw, kind)
        if strides is not None:
            # as_strided is safe here: the span was measured and checked with the same strides
            steps = tuple(stride * kind.itemsize for stride in strides)
            return np.lib.stride_tricks.as_strided(values, chunk.shape, steps, writeable=False)[rows]
        if chunk.packed and chunk.shape:
            return values.reshape(chunk.shape)[rows]
        return values.reshape((rows.stop - rows.start, *chunk.shape[1:]) if chunk.shape else ())

    def _span(self, chunk: Chunk) -> Span:
        if chunk.packed or chunk.strides is not None or not chunk.shape:
            return chunk.span
        if self.rows is None and len(self.stored.chunks) == 1:
            return chunk.span
        low, high = _row_overlap(chunk, *self._row_range)
        row_bytes = math.prod(chunk.shape[1:]) * ITEM_BITS[self.stored.dtype] // 8
        return Span(chunk.span.file, chunk.span.start + low * row_bytes, chunk.span.start + high * row_bytes)

    @cached_property
    def chunks(self) -> list[Chunk]:
        """The chunks that hold some of the rows."""
        first, last = self._row_range
        return [chunk for chunk in self.stored.chunks if not chunk.shape or range(*_row_overlap(chunk, first, last))]

    @property
    def _row_range(self) -> tuple[int, int]:
        return self.rows or (0, self.stored.shape[0] if self.stored.shape else 1)

    @property
    def _row_shape(self) -> tuple[int, ...]:
        return (self.rows[1] - self.rows[0], *self.stored.shape[1:]) if self.rows else self.stored.shape

    @property
    def _is_plain(self) -> bool:
        """True if the bytes of a single span are the tensor, unchanged."""
        chunks = self.chunks
        return not self.transposed and len(chunks) == 1 and not chunks[0].packed and chunks[0].strides is None


class TensorSet:
    """Canonical tensors by name, read span by span or joined; nothing is read before it is needed."""

    def __init__(self, read: SpanReader, views: Iterable[View]) -> None:
        self._read = read
        self._opened: dict[Chunk, Chunk] = {}
        self._views: dict[str, View] = {}
        for view in views:
            if view.name in self._views:
                names = f"{self._views[view.name].stored.name} and {view.stored.name}"
                raise CheckpointError(f"tensor {view.name} is stored twice, as {names}; use another copy")
            self._views[view.name] = view
        self.infos: Mapping[str, TensorInfo] = {name: view.info for name, view in self._views.items()}
        self.stored_names = {name: view.stored.name for name, view in self._views.items()}

    def read(self, name: str) -> np.ndarray:
        """Read one tensor's bytes."""
        return self.read_many([name])[name]

    def read_many(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Read several tensors' bytes, by name, in one round of reads; a span that two of them need is read once.

        Raises:
            CheckpointError: there is no such tensor, or its pieces are not those in the index.
        """
        return dict(zip(names, self._read_views([(self._view(name), slice(None)) for name in names]), strict=True))

    def read_parts(self, parts: Sequence[TensorInfo]) -> list[np.ndarray]:
        """Read the bytes of tensors, or of `TensorInfo.rows` of them, in the order given.

        Raises:
            CheckpointError: as `read_many`.
        """
        return self._read_views([self._part(part) for part in parts])

    def _read_views(self, views: Sequence[tuple[View, slice]]) -> list[np.ndarray]:
        """The bytes of views, each cut."""
        spans = list(dict.fromkeys(span for view, _ in views for span in view.spans))
        raws = dict(zip(spans, self._read(spans), strict=True))
        return [view.assemble([raws[span] for span in view.spans])[cut] for view, cut in views]

    def _part(self, part: TensorInfo) -> tuple[View, slice]:
        """The view that holds a part of a tensor, and the bytes of it that are the part."""
        view = self._view(part.name)
        whole = view.info
        if part.shape == whole.shape:
            return view, slice(None)
        row, first = whole.nbytes // whole.shape[0], part.start - whole.start
        if whole != replace(part, shape=whole.shape, start=whole.start, stop=whole.stop) or first % row:
            raise CheckpointError(
                f"{part.name} is stored as {whole.shape}, and not as {part.shape}; use tensors of this checkpoint"
            )
        stop = first + part.nbytes
        rows = view.part(first // row, stop // row)
        return (self._unpacked(rows), slice(None)) if rows else (view, slice(first, stop))

    def _unpacked(self, rows: View) -> View:
        """Some rows of a tensor, with the large archives that they are in opened: else these would be read whole."""
        stored, needed = rows.stored, rows.chunks
        large = {chunk for chunk in needed if chunk.packed and chunk.span.stop - chunk.span.start > WHOLE_BYTES}
        for chunk in large - self._opened.keys():
            self._opened[chunk] = _located(self._read, stored, chunk)
        chunks = tuple(self._opened[each] if each in large else each for each in stored.chunks)
        return replace(rows, stored=replace(stored, chunks=chunks)) if large else rows

    def _view(self, name: str) -> View:
        if name not in self._views:
            raise CheckpointError(f"there is no tensor {name} among the {len(self._views)} tensors of this checkpoint")
        return self._views[name]

    def spans(self, names: Sequence[str]) -> list[Span]:
        """The spans that hold these tensors, each once."""
        return list(dict.fromkeys(span for name in names for span in self._views[name].spans))


def stored_tensor(name: str, tensor: PickledTensor, place: Span) -> Stored:
    """A tensor of one chunk, from its description in a pickle and the place of its bytes."""
    strides = None if tensor.contiguous else tensor.strides
    chunk = Chunk(place, tensor.shape, (0,) * len(tensor.shape), strides)
    return Stored(name, tensor.dtype, tensor.shape, (chunk,))


def check_cover(stored: Stored) -> Stored:
    """Return a stored tensor whose chunks cover it exactly once.

    Raises:
        CheckpointError: a chunk lies outside it or overlaps another, or a part is missing.
    """
    for chunk in stored.chunks:
        sides = zip(chunk.corner, chunk.shape, stored.shape, strict=True)
        if not len(chunk.corner) == len(chunk.shape) == len(stored.shape) or any(
            at + n > size for at, n, size in sides
        ):
            raise _cover_refusal(stored, "a shard lies outside it")
    borders = [sorted({at for chunk in stored.chunks for at in (chunk.corner[axis], chunk.corner[axis] + chunk.shape[axis])}
                      | {0, size}) for axis, size in enumerate(stored.shape)]  # fmt: skip
    cells = [len(places) - 1 for places in borders]
    if math.prod(cells) > MAX_CELLS:
        raise _cover_refusal(stored, "its shards are too irregular")
    ranks = [{place: rank for rank, place in enumerate(places)} for places in borders]
    counts = np.zeros(cells, np.int32)
    for chunk in stored.chunks:
        counts[
            tuple(slice(rank[at], rank[at + n]) for rank, at, n in zip(ranks, chunk.corner, chunk.shape, strict=True))
        ] += 1
    if counts.size and (counts != 1).any():
        raise _cover_refusal(stored, "shards are missing" if (counts == 0).any() else "shards overlap")
    return stored


def _cover_refusal(stored: Stored, problem: str) -> CheckpointError:
    return CheckpointError(f"tensor {stored.name} of shape {list(stored.shape)}: {problem}; fetch the checkpoint again")


def _row_overlap(chunk: Chunk, first: int, last: int) -> tuple[int, int]:
    """The rows of a chunk between two rows of the whole, counted from the chunk's own first row."""
    if not chunk.shape:
        return 0, 1
    low = max(first - chunk.corner[0], 0)
    return low, max(low, min(last - chunk.corner[0], chunk.shape[0]))


def _located(read: SpanReader, stored: Stored, chunk: Chunk) -> Chunk:
    """A packed chunk as the span of its elements; reads the archive's directory and pickle."""
    file, base = chunk.span.file, chunk.span.start

    def read_inside(spans: Sequence[Span]) -> Sequence[np.ndarray]:
        return read([Span(file, base + span.start, base + span.stop) for span in spans])

    opened = open_torch_file(read_inside, f"{file} at byte {base}", chunk.span.stop - base, TENSORS)
    found = opened.value
    if not isinstance(found, PickledTensor) or (found.dtype, found.shape) != (stored.dtype, chunk.shape):
        given = f"{found.dtype} {list(found.shape)}" if isinstance(found, PickledTensor) else type(found).__name__
        raise CheckpointError(
            f"{opened.file} must hold {stored.dtype} {list(chunk.shape)} of tensor {stored.name} (found {given}); fetch it again"
        )
    place = opened.place(found)
    assert place.stop - place.start == extent(found.shape, found.strides) * ITEM_BYTES[found.dtype]
    strides = None if found.contiguous else found.strides
    return Chunk(Span(file, base + place.start, base + place.stop), chunk.shape, chunk.corner, strides)
