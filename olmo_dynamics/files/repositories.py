"""Stores in a repo of the Hugging Face hub, read by fsspec: `hf://datasets/owner/name/run.zarr`.

>>> repository = Repository(parse_address("hf://datasets/owner/name/run.zarr"))  # doctest: +SKIP
>>> repository.read("run.zarr/zarr.json")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from olmo_dynamics.errors import AccessError, NetworkError
from olmo_dynamics.files.addresses import Address
from olmo_dynamics.files.objects import Entry, ReadOnlyObjects


class Repository(ReadOnlyObjects):
    """The files of a repo, whose token huggingface_hub finds as it does for checkpoints."""

    is_prompt = False

    def __init__(self, address: Address) -> None:
        self.address = address.root
        self.root = address.place
        self.filesystem: Any = import_module("fsspec").filesystem(address.scheme)

    def list(self, prefix: str) -> dict[str, Entry]:
        """All files whose paths begin with a prefix, which names a folder; none where there is no such folder."""
        with self._translated(prefix):
            try:
                found = self.filesystem.find(self._path(prefix.rstrip("/")), detail=True)
            except FileNotFoundError:
                return {}
        return {
            str(path).removeprefix(f"{self.root}/"): Entry(int(facts["size"]), _tag(facts))
            for path, facts in found.items()
        }

    def find(self, key: str) -> Entry | None:
        """One file, None where there is none."""
        with self._translated(key):
            try:
                facts = self.filesystem.info(self._path(key))
            except FileNotFoundError:
                return None
        return Entry(int(facts["size"]), _tag(facts))

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file from `start` to `stop`, or to its end.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._translated(key):
            return bytes(self.filesystem.cat_file(self._path(key), start=start, end=stop))

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}" if key else self.root

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        where = f"{self.address}/{key}" if key else self.address
        try:
            yield
        except FileNotFoundError:
            raise
        except PermissionError:
            raise AccessError(f"{where} may not be read; run `hf auth login`, or set HF_TOKEN") from None
        except Exception as error:  # of the client's and its connections' many kinds
            raise NetworkError(
                f"{where} could not be read ({type(error).__name__}); run the same command again"
            ) from None


def _tag(facts: dict[str, Any]) -> str:
    """A text that tells the versions of a file apart."""
    return str(facts.get("blob_id") or facts.get("etag") or facts.get("mtime") or facts["size"])
