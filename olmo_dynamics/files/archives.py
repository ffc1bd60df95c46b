"""Stores in a .zip file, read in place, and written as a new file.

>>> archive = ZipArchive(Path("run.zarr.zip"))  # doctest: +SKIP
>>> archive.read("zarr.json")  # doctest: +SKIP
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from olmo_dynamics.errors import StoreDamagedError
from olmo_dynamics.files.objects import Entry, ReadOnlyObjects

SUFFIX = ".zip"

_OLDEST = (1980, 1, 1, 0, 0, 0)  # the first date that the format has, so that equal stores give equal files


class ZipArchive(ReadOnlyObjects):
    """The files of a .zip file.

    Raises:
        StoreDamagedError: the file is no .zip file, or is cut.
    """

    is_prompt = True

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        with self._named():
            self._file = zipfile.ZipFile(path)  # open for as long as it is read
        self._lock = threading.Lock()

    def list(self, prefix: str) -> dict[str, Entry]:
        """All files whose names begin with a prefix; a version is told by its checksum."""
        return {
            each.filename: Entry(each.file_size, f"{each.CRC:08x}")
            for each in self._file.infolist()
            if not each.is_dir() and each.filename.startswith(prefix)
        }

    def find(self, key: str) -> Entry | None:
        """One file, None where there is none."""
        return self.list(key).get(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file from `start` to `stop`, or to its end.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._lock, self._named():
            try:
                return self._file.read(key)[start:stop]
            except KeyError:
                raise FileNotFoundError(key) from None

    @property
    def top(self) -> str:
        """The one folder that holds all files, as of a folder that was packed by hand; empty if files lie beside it."""
        tops = {name.partition("/")[0] for name in self._file.namelist()}
        return tops.pop() if len(tops) == 1 else ""

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except zipfile.BadZipFile as error:
            raise StoreDamagedError(f"{self.address} is not a whole .zip file ({error}); copy it again") from None


def write_archive(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files as they are, since a store's are compressed already; the same files give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name, _OLDEST), data)
