"""Objects: named bytes without folders, in a bucket, a .zip file or a repo, and the operations that a store needs of them.

An object is written whole or not at all, which is all that a rename does for a file. So a store in a bucket keeps the order of
its writes and needs no renames.

    >>> bucket.write("run.zarr/zarr.json", b"{}")  # doctest: +SKIP
    >>> bucket.create("run.zarr.lock", b"process 12")  # unless there is one  # doctest: +SKIP
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from olmo_dynamics.errors import StoreError


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as it is listed: its size in bytes, a tag that tells its versions apart, and when it was written.

    `modified` is in seconds since 1970, by the clock of the server; 0 where that is not known.
    """

    size: int
    tag: str
    modified: float = 0.0


class ChangedError(Exception):
    """An object that is not the version that was to be replaced."""


class Objects(Protocol):
    """A place that holds objects by their keys, such as `stores/run.zarr/zarr.json`.

    Raises:
        NetworkError: the place does not answer, in any of the operations.
        AccessError: it refuses.
    """

    @property
    def address(self) -> str:
        """The place as a user writes it, such as `s3://bucket`; it holds no credentials."""

    @property
    def is_prompt(self) -> bool:
        """True if a read costs no journey over a network."""

    def list(self, prefix: str) -> dict[str, Entry]:
        """All objects whose keys begin with a prefix, which is empty or ends in a slash."""

    def list_level(self, prefix: str) -> Sequence[str]:
        """The keys of the objects right under a prefix, and none deeper."""

    def find(self, key: str) -> Entry | None:
        """One object, asked for by its key and not listed; None where there is none."""

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of an object from `start` to `stop`, or to its end.

        Raises:
            FileNotFoundError: there is no such object.
        """

    def read_version(self, key: str) -> tuple[bytes, str]:
        """A whole object, and the tag of its version; empty where a place holds no other.

        Raises:
            FileNotFoundError: there is no such object.
        """

    def write(self, key: str, data: bytes) -> Entry:
        """Write a whole object, in place of one that is there."""

    def create(self, key: str, data: bytes) -> Entry:
        """Write an object unless there is one.

        Raises:
            FileExistsError: there is one.
        """

    def replace(self, key: str, data: bytes, tag: str) -> Entry:
        """Write an object in place of the version of that tag.

        Raises:
            ChangedError: there is another version, or none.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are passed over."""


class ReadOnlyObjects(ABC):
    """The writing half of `Objects` for a place that can only be read."""

    address: str

    def read_version(self, key: str) -> tuple[bytes, str]:
        """A whole object, of which there is one version.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return self.read(key), ""

    @abstractmethod
    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of an object from `start` to `stop`, or to its end."""

    def list_level(self, prefix: str) -> Sequence[str]:
        """Refuse, as nobody holds a lock where nothing is written.

        Raises:
            StoreError: always.
        """
        raise self._refusal()

    def write(self, key: str, data: bytes) -> Entry:
        """Refuse to write.

        Raises:
            StoreError: always.
        """
        raise self._refusal()

    def create(self, key: str, data: bytes) -> Entry:
        """Refuse to write.

        Raises:
            StoreError: always.
        """
        raise self._refusal()

    def replace(self, key: str, data: bytes, tag: str) -> Entry:
        """Refuse to write.

        Raises:
            StoreError: always.
        """
        raise self._refusal()

    def delete(self, keys: Sequence[str]) -> None:
        """Refuse to delete.

        Raises:
            StoreError: always.
        """
        raise self._refusal()

    def _refusal(self) -> StoreError:
        return StoreError(f"{self.address} can only be read; copy the store into a folder or a bucket to append to it")
