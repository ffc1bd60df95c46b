"""The bandwidth of a source: stated, measured by one read, or assumed.

>>> Bandwidth.of(50e6), Bandwidth.of(None).origin
(Bandwidth(rate=50000000.0, origin='stated'), 'assumed')
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Literal, Self

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import OptionError

DEFAULT_RATE = 100e6
"""Bytes per second assumed where no rate is stated or measured."""

MEASURED: Final = "measured"
SAMPLE_BYTES = 8 << 20
"""Bytes read to measure a rate, 8 MiB at most."""

Origin = Literal["stated", "measured", "assumed"]


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """A `rate` in bytes per second, and its origin."""

    rate: float
    origin: Origin

    @classmethod
    def of(cls, given: float | str | None) -> Self:
        """A stated rate, or the assumed one.

        Raises:
            OptionError: the rate is not a positive number.
        """
        if given is None:
            return cls(DEFAULT_RATE, "assumed")
        if isinstance(given, str) or not given > 0:
            raise OptionError(f"rate must be positive bytes per second, or {MEASURED!r}; got {given!r}")
        return cls(float(given), "stated")

    @classmethod
    def measure(cls, checkpoint: Checkpoint) -> Self:
        """Measure one timed read: the end of the largest tensor, since beginnings of files may have been read before.

        A file on this machine that was read lately comes from memory, and that is the rate which shows.
        """
        largest = max(checkpoint.tensors.values(), key=lambda info: info.nbytes)
        if checkpoint.stored_as:
            span = max(checkpoint.stored_as.weights.spans([largest.name]), key=lambda span: span.stop - span.start)
        else:
            span = Span(largest.file, largest.start, largest.stop)
        span = span._replace(start=max(span.start, span.stop - SAMPLE_BYTES))
        started = time.perf_counter()
        [raw] = checkpoint.read_spans([span])
        raw.copy()  # what is mapped is read only when it is looked at
        return cls(len(raw) / (time.perf_counter() - started), MEASURED)

    def limited(self, most: float | None) -> Self:
        """No faster than a stated limit."""
        return self if most is None or self.rate <= most else type(self)(most, "stated")
