"""Hashes of weight files, computed from tensors as they are read, and compared with those the hub lists.

A shard is its header followed by its tensors, without gaps; so the bytes of all its tensors are the file. Nothing more is
read for the hash than the header, which is already in memory.

    >>> hashes = ShardHashes(checkpoint)                                                        # doctest: +SKIP
    >>> for info in hashes.order("model-00001-of-00006.safetensors"):                           # doctest: +SKIP
    ...     hashes.feed(info, checkpoint.read(info))
"""

from __future__ import annotations

import hashlib
import threading

import numpy as np

from olmo_dynamics.checkpoints.source import Checkpoint
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import IntegrityError
from olmo_dynamics.names import TensorInfo


class ShardHashes:
    """Check the files of `checkpoint.expected_sha256`; threads may feed it at once, and hash without the GIL."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._expected = {file: sha256 for file, sha256 in checkpoint.expected_sha256.items() if self._is_covered(file)}
        self._shards: dict[str, _Shard] = {}
        self._lock = threading.Lock()
        self.checked: set[str] = set()

    @property
    def unchecked(self) -> set[str]:
        """Files whose hash is known, and that have not been read whole so far."""
        return set(self._expected) - self.checked

    def order(self, file: str) -> list[TensorInfo]:
        """The tensors of a file in the order of their bytes."""
        return [info for info in self._checkpoint.tensors.values() if info.file == file]

    def _is_covered(self, file: str) -> bool:
        """True if the tensors are the file, without gaps; stacked experts are read in pieces, which are not hashed."""
        infos = self.order(file)
        return bool(infos) and infos[0].start + sum(info.nbytes for info in infos) == self._checkpoint.files[file]

    def feed(self, info: TensorInfo, raw: np.ndarray) -> None:
        """Hash a tensor, or a part of one that begins at `info.start`; bytes fed too early are kept until their turn.

        Raises:
            IntegrityError: the file is now complete, and does not have the hash that the hub lists.
        """
        if info.file not in self._expected:
            return
        shard = self._shard(info.file)
        shard.feed(info.start, raw)
        if shard.is_complete():
            self._compare(info.file, shard.digest.hexdigest())

    def _shard(self, file: str) -> _Shard:
        with self._lock:
            if file not in self._shards:
                begin = min(info.start for info in self.order(file))
                [header] = self._checkpoint.read_spans([Span(file, 0, begin)])
                self._shards[file] = _Shard(self._checkpoint.files[file], header)
            return self._shards[file]

    def _compare(self, file: str, found: str) -> None:
        expected = self._expected[file]
        if found != expected:
            raise IntegrityError(
                f"{self._checkpoint.label}: {file} should have sha256 {expected}, the bytes received have {found}; nothing "
                "measured of this revision can be trusted: collect it again, and if it fails again, report it to the repo's owner"
            )
        self.checked.add(file)


class _Shard:
    """A file of `size` bytes, hashed from its first byte on."""

    def __init__(self, size: int, header: np.ndarray) -> None:
        self.digest = hashlib.sha256(header.data)
        self._size, self._at = size, len(header)
        self._waiting: dict[int, np.ndarray] = {}
        self._hashing = False
        self._lock = threading.Lock()

    def is_complete(self) -> bool:
        """True if every byte has been hashed."""
        with self._lock:
            return self._at == self._size and not self._hashing

    def feed(self, start: int, raw: np.ndarray) -> None:
        """Add a piece, and hash up to the first gap, unless another thread is doing so."""
        with self._lock:
            if len(raw) and start >= self._at:
                self._waiting[start] = raw
        while (piece := self._claim()) is not None:
            self.digest.update(piece.data)
            with self._lock:
                self._at += len(piece)
                self._hashing = False

    def _claim(self) -> np.ndarray | None:
        with self._lock:
            if self._hashing or self._at not in self._waiting:
                return None
            self._hashing = True
            return self._waiting.pop(self._at)
