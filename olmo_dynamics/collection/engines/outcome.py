"""The outcome of one revision: its records, or the error that kept it out.

>>> Outcome("step100", notes=("optimizer is not recorded: step100 has no optimiser's state",)).measured is None
True
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from olmo_dynamics.collection.usage import RevisionUsage
from olmo_dynamics.errors import OlmoDynamicsError, OptionError, StoreError
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import Record


@dataclass(frozen=True)
class MeasuredRevision:
    """Everything that the store's row of a revision needs, and the cost of it.

    Attributes:
        revision: pinned to the commit that was read.
        groups: the groups that were measured.
        records: their values.
        dtype: of the weights as stored, such as `BF16`.
        weights_sha256: hash of the weights; empty where it would have to be read for.
        usage: bytes, requests and memory.
    """

    revision: Revision
    groups: tuple[str, ...]
    records: Sequence[Record]
    dtype: str
    weights_sha256: str
    usage: RevisionUsage


@dataclass(frozen=True)
class Outcome:
    """The outcome of the revision called `name`.

    Without `measured` and without `error`, no group could be measured, as the `notes` say, which are lines for the user.
    """

    name: str
    measured: MeasuredRevision | None = None
    error: Exception | None = None
    notes: tuple[str, ...] = ()


@contextmanager
def revision_named(name: str) -> Iterator[None]:
    """Let an error in a recorder, or in what it gave, name the revision; errors of the source and the disk say enough."""
    try:
        yield
    except Exception as error:
        if type(error) in (OptionError, StoreError) or not isinstance(error, OlmoDynamicsError):
            error.add_note(f"while {name} was measured")
        raise
