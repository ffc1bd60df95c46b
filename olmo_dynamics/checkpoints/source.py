"""Where checkpoints come from: a `Source` lists revisions and opens one as a `Checkpoint`, which hands out tensors' bytes.

Folders, hubs and memory differ in three small things only (which files there are, how spans of them are read, where a
hash comes from); all meaning is given here, once, so every source refuses the same broken checkpoint with the same words.

    >>> source = open_source("allenai/OLMo-2-0425-1B")                                          # doctest: +SKIP
    >>> with source.open(source.find("stage1-step10000-tokens21B")) as checkpoint:              # doctest: +SKIP
    ...     raw = checkpoint.read(checkpoint.tensors["model.norm.weight"])
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from olmo_dynamics.checkpoints.revision_names import near_names
from olmo_dynamics.checkpoints.tensors import Span, parse_object, read_tensors, weight_files
from olmo_dynamics.checkpoints.throttle import check_rate
from olmo_dynamics.errors import CheckpointError, UnknownRevisionError, UnknownSourceError
from olmo_dynamics.names import Revision, TensorInfo

if TYPE_CHECKING:
    from olmo_dynamics.checkpoints.formats import Format, OptimizerState

CONFIG_FILE = "config.json"
MAX_CONFIG_BYTES = 16 << 20  # 16 MiB; real ones take a few hundred bytes

REQUEST_BYTES = 32 << 20
"""What one request over a network asks for at most, 32 MiB: it fills a connection, and four share a large tensor."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class Source(ABC):
    """A run's checkpoints, by name."""

    name: str
    kind: str  # "hub", "folder" or "memory"

    @abstractmethod
    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """What exists, in training order; `refresh` asks anew where a listing was cached."""

    @abstractmethod
    def open(self, revision: Revision) -> Checkpoint:
        """Pin the revision and list its files; weights are read later.

        Raises:
            UnknownRevisionError: there is no such revision.
        """

    def find(self, name: str) -> Revision:
        """The revision of that exact name.

        Raises:
            UnknownRevisionError: there is none; names near it are shown.
        """
        for revision in self.revisions():
            if revision.name == name:
                return revision
        raise self.unknown_revision(name)

    def limit_rate(self, bytes_per_second: float | None) -> None:
        """Receive at most that much over all connections together, or by None as much as comes; folders have no limit.

        Raises:
            OptionError: the rate is not a positive number.
        """
        if bytes_per_second is not None:
            check_rate(bytes_per_second)

    def catalogue_age(self) -> float | None:
        """Seconds since the list of revisions was fetched, or None where nothing is cached."""
        return None

    def unknown_revision(self, name: str) -> UnknownRevisionError:
        """The error that says `name` does not exist and what names lie near it."""
        names = [revision.name for revision in self.revisions()]
        near = ", ".join(near_names(name, names)) or "none"
        return UnknownRevisionError(
            f"{self.name} has no revision {name!r}; near names: {near}; "
            f"`olmo-dyn revisions {self.name}` lists all {len(names)}"
        )


class Checkpoint(ABC):
    """One pinned revision: its config, its tensors, and their bytes.

    `files` maps each file's name to its size in bytes. Arrays handed out are uint8, one axis, read-only.
    """

    def __init__(self, source: str, revision: Revision, files: Mapping[str, int]) -> None:
        self.source = source
        self.revision = revision
        self.files: Mapping[str, int] = dict(files)
        self._moved = 0

    @abstractmethod
    def _fetch(self, spans: Sequence[Span]) -> list[np.ndarray]:
        """Read spans that are known to lie inside their files."""

    @abstractmethod
    def _release(self, spans: Sequence[Span]) -> None:
        """Give back the memory that spans take while they are mapped."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections and mapped files; nothing can be read after, but arrays handed out stay valid."""

    @property
    def label(self) -> str:
        """`source@revision`, as errors name it."""
        return f"{self.source}@{self.revision.name}"

    @property
    def bytes_moved(self) -> int:
        """Bytes read from the source so far; a file found in the Hugging Face cache counts nothing."""
        return self._moved

    @property
    def requests_made(self) -> int:
        """Requests for parts of files sent so far, tries that failed among them; none where nothing goes over a network."""
        return 0

    @cached_property
    def stored_as(self) -> Format | None:
        """The format the weights are stored in, None for plain safetensors."""
        from olmo_dynamics.checkpoints.formats import find_format  # only few checkpoints need them

        return find_format(self.read_spans, self.files)

    @property
    def format(self) -> str:
        """`safetensors`, `pytorch` (a .bin file), `olmo` or `olmo-core`."""
        return self.stored_as.name if self.stored_as else "safetensors"

    @property
    def optimizer(self) -> OptimizerState | None:
        """The optimiser's state under canonical names, None where none is published."""
        with self._naming_revision():
            return self.stored_as.optimizer if self.stored_as else None

    @property
    def trainer(self) -> dict[str, Any]:
        """The trainer's counters and position in the data, as plain values; empty where none are published."""
        with self._naming_revision():
            return self.stored_as.trainer if self.stored_as else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The revision's own config in Hugging Face's words; branches of one repo differ in it.

        Raises:
            CheckpointError: it is missing, too large, or no JSON object.
        """
        if self.stored_as:
            with self._naming_revision():
                return self.stored_as.config
        size = self.files.get(CONFIG_FILE, 0)
        if size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{self.label}: {CONFIG_FILE} may take {MAX_CONFIG_BYTES} bytes, it has {size}")
        with self._naming_revision():
            return parse_object(self.read_file(CONFIG_FILE), CONFIG_FILE, CheckpointError)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every weight tensor by its Hugging Face name, in file order; reads headers only.

        Raises:
            CheckpointError: no weights, a broken header (HeaderError), or a wrong index (IndexFileError).
        """
        with self._naming_revision():
            if self.stored_as:
                return dict(self.stored_as.weights.infos)
            return read_tensors(self.read_spans, self.files)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all weights, headers not counted."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @cached_property
    def dtype(self) -> str:
        """The weights' dtype as the headers say, such as `BF16`, or `BF16+F32` where mixed; configs may lie about it."""
        return "+".join(sorted({tensor.dtype for tensor in self.tensors.values()}))

    def read(self, tensor: TensorInfo) -> np.ndarray:
        """One tensor's bytes."""
        return self.read_many([tensor])[tensor.name]

    def read_many(self, tensors: Sequence[TensorInfo]) -> dict[str, np.ndarray]:
        """Several tensors' bytes by name; over HTTP in parallel, neighbours in one request."""
        if self.stored_as:
            with self._naming_revision():
                return self.stored_as.weights.read_many([tensor.name for tensor in tensors])
        raws = self.read_spans([Span(tensor.file, tensor.start, tensor.stop) for tensor in tensors])
        return {tensor.name: raw for tensor, raw in zip(tensors, raws, strict=True)}

    def release(self, tensors: Sequence[TensorInfo]) -> None:
        """Say that these tensors will not be looked at again: mapped pages are given back, and elsewhere nothing happens.

        Arrays handed out stay valid; looking at them again reads the file again.
        """
        if self.stored_as:
            self._release(self.stored_as.weights.spans([tensor.name for tensor in tensors]))
        else:
            self._release([Span(tensor.file, tensor.start, tensor.stop) for tensor in tensors])

    def read_file(self, name: str) -> bytes:
        """A whole small file, such as `tokenizer.json`.

        Raises:
            CheckpointError: the checkpoint has no such file.
        """
        if name not in self.files:
            some = ", ".join(sorted(self.files)[:8]) or "nothing"
            raise CheckpointError(f"{self.label} has no file {name}; among its {len(self.files)} files are {some}")
        [raw] = self.read_spans([Span(name, 0, self.files[name])])
        return raw.tobytes()

    def read_spans(self, spans: Sequence[Span]) -> list[np.ndarray]:
        """The bytes of spans of files, in the order asked.

        Raises:
            CheckpointError: a span lies outside its file, as when a tensor belongs to another checkpoint.
        """
        for span in spans:
            size = self.files.get(span.file, -1)
            if not 0 <= span.start <= span.stop <= size:
                came = f"the file has {size} bytes" if size >= 0 else "there is no such file"
                raise CheckpointError(
                    f"{self.label}: wanted bytes {span.start} to {span.stop} of {span.file}, but {came}; "
                    "take tensors from this checkpoint"
                )
        return self._fetch(spans)

    def weights_sha256(self) -> str:
        """Hash of the weights: the file's own sha256, or that of the lines `{sha256}  {name}` of all shards, by name."""
        with self._naming_revision():
            names = self.stored_as.weight_files if self.stored_as else weight_files(self.read_spans, self.files)
        if len(names) == 1:
            return self.file_sha256(names[0])
        lines = "\n".join(f"{self.file_sha256(name)}  {name}" for name in names)
        return hashlib.sha256(lines.encode()).hexdigest()

    def known_sha256(self) -> str:
        """`weights_sha256`, or nothing where all bytes would have to move once more to tell."""
        return self.weights_sha256()

    @property
    def expected_sha256(self) -> Mapping[str, str]:
        """The hash that the publisher lists of each safetensors weight file, by name; empty where none is published."""
        return {}

    def file_sha256(self, name: str) -> str:
        """Hash of one file, which is read whole."""
        digest, size = hashlib.sha256(), self.files[name]
        for start in range(0, size, REQUEST_BYTES):
            [block] = self.read_spans([Span(name, start, min(start + REQUEST_BYTES, size))])
            digest.update(block.data)
        return digest.hexdigest()

    def file_id(self, name: str) -> str:
        """A hash that files of the same bytes share; unlike `file_sha256`, a hub gives it for every file without reading."""
        return self.file_sha256(name)

    @contextmanager
    def _naming_revision(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as problem:
            if str(problem).startswith(self.label):
                raise
            raise type(problem)(f"{self.label}: {problem}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(name: str | Path) -> Source:
    """The source of that name: the address of a checkpoint, a folder that exists, or a hub repo.

    Raises:
        UnknownSourceError: it is none of them.
    """
    if str(name).startswith(("https://", "http://")):
        from olmo_dynamics.checkpoints.web import WebSource

        return WebSource(str(name))
    if name and Path(name).expanduser().is_dir():
        from olmo_dynamics.checkpoints.folder import FolderSource

        return FolderSource(name)
    if isinstance(name, str) and _HUB_NAME.fullmatch(name) and not any(word in name for word in ("--", "..")):
        from olmo_dynamics.checkpoints.hub import HubSource

        return HubSource(name)
    raise UnknownSourceError(
        f"wanted a folder of checkpoints or a hub repo such as allenai/OLMo-2-0425-1B, got {str(name)!r}; "
        "check the spelling and the working directory"
    )
