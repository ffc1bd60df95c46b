"""The revisions that a collection could not measure: each is named, and the others go on.

>>> left_out = LeftOut()
>>> left_out.add("step100", CheckpointError("step100 lacks lm_head.weight"))
>>> left_out.raise_any(4, "run.zarr")
Traceback (most recent call last):
olmo_dynamics.errors.CheckpointError: 1 of 4 revisions cannot be measured (step100), the others are in run.zarr; last reason: \
step100 lacks lm_head.weight
"""

from __future__ import annotations

from pathlib import Path
from traceback import clear_frames

from olmo_dynamics.collection.memory_budget import StoppedError
from olmo_dynamics.errors import (
    CheckpointError,
    DiskFullError,
    OlmoDynamicsError,
    ProbeError,
    StoreBusyError,
    StoreMismatchError,
    UnknownModelError,
    UnknownRevisionError,
    counted,
)

OF_THE_REVISION = (CheckpointError, UnknownModelError, UnknownRevisionError, ProbeError, StoreMismatchError)
"""Errors about one revision: the next one has as good a chance as before."""

OF_ALL = (DiskFullError, StoreBusyError, StoppedError)
"""Errors that every further revision would meet."""

PATIENCE = 3
"""Revisions in a row that may fail for any other reason, such as the network or a recorder, before the collection ends."""


def reason(error: Exception) -> str:
    """The error in one line; of an unexpected one its kind as well."""
    return str(error) if isinstance(error, OlmoDynamicsError) else f"{type(error).__name__}: {error}"


class LeftOut:
    """Revisions with the errors that kept them out."""

    def __init__(self) -> None:
        self._errors: dict[str, Exception] = {}
        self._in_a_row = 0

    def succeed(self) -> None:
        """Note that a revision has been measured, so that errors before it were not of all."""
        self._in_a_row = 0

    def add(self, name: str, error: Exception) -> None:
        """Keep a revision's error.

        Raises:
            Exception: the error itself, if the revisions that follow would meet it too.
        """
        if isinstance(error, OF_ALL):
            raise error
        clear_frames(error.__traceback__)  # or its frames would hold the revision's weights
        self._errors[name] = error
        if not isinstance(error, OF_THE_REVISION):
            self._in_a_row += 1
            if self._in_a_row == PATIENCE:
                raise self._first_other()

    def raise_any(self, revisions: int, store: str | Path) -> None:
        """Name the revisions that were left out, if there are any.

        Raises:
            CheckpointError: there are; the last one's error is told.
            Exception: the first error that is not about its revision alone, as it was.
        """
        if not self._errors:
            return
        if not all(isinstance(error, OF_THE_REVISION) for error in self._errors.values()):
            raise self._first_other()
        names = list(self._errors)
        raise CheckpointError(
            f"{len(names)} of {counted(revisions, 'revision')} cannot be measured ({', '.join(names[:3])}"
            f"{', …' if len(names) > 3 else ''}), the others are in {store}; last reason: {self._errors[names[-1]]}"
        )

    def _first_other(self) -> Exception:
        """An unexpected error comes first, so that it is seen as a bug; it tells how many revisions were left out."""
        others = [error for error in self._errors.values() if not isinstance(error, OF_THE_REVISION)]
        unexpected = [error for error in others if not isinstance(error, OlmoDynamicsError)]
        return (unexpected or others)[0]
