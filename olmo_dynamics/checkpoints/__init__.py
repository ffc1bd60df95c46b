"""Sources of weights: hubs, folders, memory.

A `Source` lists a run's revisions, a `Checkpoint` gives one revision's tensors as bytes. This package does not interpret
the weights; it imports no torch, and huggingface_hub only when a hub is used.

    >>> open_source("allenai/OLMo-2-0425-1B").kind
    'hub'
"""

from typing import TYPE_CHECKING, Any

from olmo_dynamics.checkpoints.catalog.known_runs import KnownRun, find_run, known_run, known_runs
from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision
from olmo_dynamics.checkpoints.catalog.selection import select
from olmo_dynamics.checkpoints.catalog.training_phases import PlacedRevision, order_trainings
from olmo_dynamics.checkpoints.folder import FolderSource
from olmo_dynamics.checkpoints.http.ranges import REQUEST_BYTES
from olmo_dynamics.checkpoints.integrity import ShardHashes
from olmo_dynamics.checkpoints.memory import MemorySource
from olmo_dynamics.checkpoints.open_source import open_source
from olmo_dynamics.checkpoints.source import Checkpoint, Source

if TYPE_CHECKING:
    from olmo_dynamics.checkpoints.hub import HubSource

__all__ = [
    "REQUEST_BYTES",
    "Checkpoint",
    "FolderSource",
    "HubSource",
    "KnownRun",
    "MemorySource",
    "PlacedRevision",
    "ShardHashes",
    "Source",
    "find_run",
    "known_run",
    "known_runs",
    "open_source",
    "order_trainings",
    "parse_revision",
    "select",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name == "HubSource":  # huggingface_hub takes a third of a second to import
        from olmo_dynamics.checkpoints.hub import HubSource

        return HubSource
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
