"""Sources and checkpoints: a `Source` lists revisions and opens one as a `Checkpoint`, which gives its tensors' bytes.

Folders, hubs and memory differ in three points only (which files there are, how spans of them are read, where a hash is
found). Everything else is defined here, once, so every source refuses the same broken checkpoint with the same message.

    >>> with source.open(source.find("stage1-step10000-tokens21B")) as checkpoint:              # doctest: +SKIP
    ...     raw = checkpoint.read(checkpoint.tensors["model.norm.weight"])
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Self

import numpy as np

from olmo_dynamics.checkpoints import formats
from olmo_dynamics.checkpoints.http.ranges import REQUEST_BYTES
from olmo_dynamics.checkpoints.http.rate_limit import check_rate
from olmo_dynamics.checkpoints.tensors import Span, parse_object, refuse_pointer, weight_files
from olmo_dynamics.errors import CheckpointError, UnknownRevisionError, did_you_mean
from olmo_dynamics.names import Revision, TensorInfo

CONFIG_FILE = "config.json"
MAX_CONFIG_BYTES = 16 << 20  # 16 MiB; real ones take a few hundred bytes


class Source(ABC):
    """A run's checkpoints, by name."""

    name: str
    kind: str  # "hub", "cache", "folder", "bucket", "web" or "memory"

    @abstractmethod
    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """All revisions, in training order; `refresh` fetches a cached list again."""

    @abstractmethod
    def open(self, revision: Revision) -> Checkpoint:
        """Pin the revision and list its files; weights are read later.

        Raises:
            UnknownRevisionError: there is no such revision.
        """

    def find(self, name: str) -> Revision:
        """The revision of that exact name.

        Raises:
            UnknownRevisionError: there is no such revision; the message shows near names.
        """
        for revision in self.revisions():
            if revision.name == name:
                return revision
        raise self.unknown_revision(name)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the last listing that a user should read; none for most sources."""
        return ()

    def limit_rate(self, bytes_per_second: float | None) -> None:
        """Limit the bytes received per second over all connections together, None for no limit; folders have no limit.

        Raises:
            OptionError: the rate is not a positive number.
        """
        if bytes_per_second is not None:
            check_rate(bytes_per_second)

    def catalogue_age(self) -> float | None:
        """Seconds since the list of revisions was fetched, None where nothing is cached."""
        return None

    def unknown_revision(self, name: str) -> UnknownRevisionError:
        """The error about a name that does not exist, with the names near it."""
        names = [revision.name for revision in self.revisions()]
        return UnknownRevisionError(
            f"{self.name} has no revision {name!r}; `olmo-dyn revisions {self.name}` lists all {len(names)}"
            f"{did_you_mean(name, names, 5, cutoff=0.5)}"
        )


class Checkpoint(ABC):
    """One pinned revision: its config, its tensors, and their bytes.

    `files` maps each file's name to its size in bytes. The arrays that it gives are uint8, one axis, read-only.
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
    def release_spans(self, spans: Sequence[Span]) -> None:
        """Return the memory that mapped spans take."""

    @abstractmethod
    def close(self) -> None:
        """Close connections and mapped files; nothing can be read afterwards, but arrays already given stay valid."""

    @property
    def label(self) -> str:
        """`source@revision`, as errors name it."""
        return f"{self.source}@{self.revision.name}"

    @property
    def bytes_moved(self) -> int:
        """Bytes read from the source so far; files found in the Hugging Face cache do not count."""
        return self._moved

    @property
    def requests_made(self) -> int:
        """Requests for parts of files sent so far, including failed tries; 0 where no network is used."""
        return 0

    @cached_property
    def stored_as(self) -> formats.Format | None:
        """The format the weights are stored in, None for plain safetensors."""
        return formats.find_format(self.read_spans, self.files)

    @property
    def format(self) -> str:
        """`safetensors`, `pytorch` (a .bin file), `olmo` or `olmo-core`."""
        return self.stored_as.name if self.stored_as else "safetensors"

    @property
    def optimizer(self) -> formats.OptimizerState | None:
        """The optimiser's state under canonical names, None if it is not published."""
        with self._naming_revision():
            return self.stored_as.optimizer if self.stored_as else None

    @property
    def trainer(self) -> dict[str, Any]:
        """The trainer's counters and data position, as plain values; empty if they are not published."""
        with self._naming_revision():
            return self.stored_as.trainer if self.stored_as else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The revision's own config under Hugging Face's names; branches of one repo differ in it.

        Raises:
            CheckpointError: it is missing, too large, or not a JSON object.
        """
        if self.stored_as:
            with self._naming_revision():
                return self.stored_as.config
        words = self._words or self._read_words()
        with self._naming_revision():
            return formats.plain_config(words)

    @property
    def stated_config(self) -> dict[str, Any]:
        """`config`, or empty where it is missing, damaged or of another computation: weights can be measured without it."""
        with suppress(CheckpointError):
            return self.config
        return {}

    @cached_property
    def _words(self) -> dict[str, Any]:
        """The contents of `config.json`; empty where it is missing or damaged."""
        with suppress(CheckpointError):
            return self._read_words()
        return {}

    def _read_words(self) -> dict[str, Any]:
        size = self.files.get(CONFIG_FILE, 0)
        with self._naming_revision():
            if size > MAX_CONFIG_BYTES:
                raise CheckpointError(f"{CONFIG_FILE} must have at most {MAX_CONFIG_BYTES} bytes (got {size})")
            return parse_object(self.read_file(CONFIG_FILE), CONFIG_FILE, CheckpointError)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every weight tensor by its Hugging Face name where that is known, in file order; reads headers only.

        Raises:
            CheckpointError: there are no weights, a header is broken (HeaderError), or the index is wrong (IndexFileError).
        """
        with self._naming_revision():
            return self._weights[1]

    @cached_property
    def _weights(self) -> tuple[formats.TensorSet | None, dict[str, TensorInfo]]:
        """The tensors as views of stored ones, None where each is stored by itself, and their places."""
        if self.stored_as:
            return self.stored_as.weights, dict(self.stored_as.weights.infos)
        return formats.plain_weights(self.read_spans, self.files, lambda: self._words)

    @property
    def published_names(self) -> dict[str, str]:
        """The stored name of each tensor, in a family that names tensors in a way of its own; empty in others."""
        views, _ = self._weights
        return views.stored_names if views and self.stated_config.get("model_type") in formats.NAMED_OTHERWISE else {}

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all weights, without headers."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @cached_property
    def dtype(self) -> str:
        """The weights' dtype by their headers, such as `BF16`, or `BF16+F32` if mixed; configs may be wrong about it."""
        return "+".join(sorted({tensor.dtype for tensor in self.tensors.values()}))

    def read(self, tensor: TensorInfo) -> np.ndarray:
        """Read one tensor's bytes."""
        return self.read_many([tensor])[tensor.name]

    def read_many(self, tensors: Sequence[TensorInfo]) -> dict[str, np.ndarray]:
        """Read several tensors' bytes, by name; over HTTP in parallel, neighbours in one request."""
        return {each.name: raw for each, raw in zip(tensors, self.read_parts(tensors), strict=True)}

    def read_parts(self, parts: Sequence[TensorInfo]) -> list[np.ndarray]:
        """Read the bytes of tensors, or of `rows` of them, in the order given."""
        views, _ = self._weights
        if views is None:
            return self.read_spans(self.stored_spans(parts))
        with self._naming_revision():
            return views.read_parts(parts)

    def release(self, tensors: Sequence[TensorInfo]) -> None:
        """Return mapped pages of tensors that will not be used again; arrays already given stay valid, and read them again."""
        self.release_spans(self.stored_spans(tensors))

    def stored_spans(self, tensors: Sequence[TensorInfo]) -> list[Span]:
        """The parts of files that hold some tensors; of a tensor that is joined from pieces, all of them."""
        views, _ = self._weights
        spans = [Span(tensor.file, tensor.start, tensor.stop) for tensor in tensors]
        return views.spans([tensor.name for tensor in tensors]) if views else spans

    def read_file(self, name: str) -> bytes:
        """Read a whole small file, such as `tokenizer.json`.

        Raises:
            CheckpointError: the checkpoint has no such file.
        """
        if name not in self.files:
            some = ", ".join(sorted(self.files)[:8]) or "nothing"
            raise CheckpointError(f"{self.label} has no file {name}; among its {len(self.files)} files are {some}")
        content = self.read_spans([Span(name, 0, self.files[name])])[0].tobytes()
        with self._naming_revision():
            refuse_pointer(name, content)
        return content

    def read_spans(self, spans: Sequence[Span]) -> list[np.ndarray]:
        """Read spans of files, in the order given.

        Raises:
            CheckpointError: a span lies outside its file, as when a tensor belongs to another checkpoint.
        """
        for span in spans:
            size = self.files.get(span.file, -1)
            if not 0 <= span.start <= span.stop <= size:
                found = f"the file has {size} bytes" if size >= 0 else "there is no such file"
                raise CheckpointError(
                    f"{self.label}: cannot read bytes {span.start} to {span.stop} of {span.file}: {found}; "
                    "use tensors of this checkpoint"
                )
        return self._fetch(spans)

    @property
    def weight_files(self) -> list[str]:
        """The files that hold the weights; only an index is read."""
        return self.stored_as.weight_files if self.stored_as else weight_files(self.read_spans, self.files)

    def weights_sha256(self) -> str:
        """Hash of the weights: the file's own sha256, or that of the lines `{sha256}  {name}` of all shards, by name."""
        with self._naming_revision():
            names = self.weight_files
        if len(names) == 1:
            return self.file_sha256(names[0])
        lines = "\n".join(f"{self.file_sha256(name)}  {name}" for name in names)
        return hashlib.sha256(lines.encode()).hexdigest()

    def known_sha256(self) -> str:
        """`weights_sha256`, or empty if all bytes would have to be read once more for it."""
        return self.weights_sha256()

    @property
    def expected_sha256(self) -> Mapping[str, str]:
        """The published hash of each safetensors weight file, by name; empty if none is published."""
        return {}

    def file_sha256(self, name: str) -> str:
        """Hash of one file, which is read whole."""
        digest, size = hashlib.sha256(), self.files[name]
        for start in range(0, size, REQUEST_BYTES):
            digest.update(self.read_spans([Span(name, start, min(start + REQUEST_BYTES, size))])[0].data)
        return digest.hexdigest()

    def file_id(self, name: str) -> str:
        """A hash that files of the same bytes share; unlike `file_sha256`, a hub lists it for every file."""
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

    def __exit__(self, *_: object) -> None:
        self.close()
