"""Files that are wholly there or not there: on this machine, in buckets, in .zip files and in repos.

>>> write_atomic(Path("run.zarr/zarr.json"), b"{}", partial=Path("run.zarr.partial"))  # doctest: +SKIP
"""

from olmo_dynamics.files.addresses import is_address, is_bucket
from olmo_dynamics.files.local_files import (
    atomic_writer,
    overwrite,
    sync_files,
    sync_folder,
    write_errors_named,
)
from olmo_dynamics.files.object_tree import ObjectPath
from olmo_dynamics.files.places import (
    Place,
    PlaceFile,
    Stamp,
    as_place,
    beside,
    fetch,
    fetch_all,
    files_under,
    forget,
    is_there,
    mapped,
    read_end,
    read_start,
    refresh,
    remove_tree,
    stamp_of,
    write_atomic,
    write_together,
)

__all__ = [
    "ObjectPath",
    "Place",
    "PlaceFile",
    "Stamp",
    "as_place",
    "atomic_writer",
    "beside",
    "fetch",
    "fetch_all",
    "files_under",
    "forget",
    "is_address",
    "is_bucket",
    "is_there",
    "mapped",
    "overwrite",
    "read_end",
    "read_start",
    "refresh",
    "remove_tree",
    "stamp_of",
    "sync_files",
    "sync_folder",
    "write_atomic",
    "write_errors_named",
    "write_together",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
