"""The local engine: revisions measured in this process, one after another, the bytes of the next ones fetched meanwhile.

>>> for outcome in LocalEngine(threads=2).outcomes(opener, revisions, Progress()):  # doctest: +SKIP
...     store.append(outcome.measured.revision, outcome.measured.records)
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from olmo_dynamics.collection.cost_estimate import estimate
from olmo_dynamics.collection.engines.outcome import MeasuredRevision, Outcome, revision_named
from olmo_dynamics.collection.measure import Measurer
from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.prefetch import OpenRevision, Prefetcher, RevisionStream
from olmo_dynamics.collection.setup import CollectionSetup
from olmo_dynamics.collection.throughput import Throughput
from olmo_dynamics.collection.usage import RevisionUsage, resident_bytes
from olmo_dynamics.collection.verification import TOKENS, verify
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress


class LocalEngine:
    """Measures with the threads of this process."""

    notes: tuple[str, ...] = ()

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def outcomes(self, opener: Opener, revisions: Sequence[Revision], listener: Progress) -> Generator[Outcome]:
        """One outcome for each revision, in order; closing the generator ends all fetching."""
        resident, expected = resident_bytes(), False
        with (
            Prefetcher(opener.open, revisions, opener.bounds) as prefetcher,
            Measurer(opener.setup, self._threads) as measurer,
        ):
            for stream in prefetcher:
                listener.begin(stream.revision.name)
                if not expected and stream.opening.exception() is None:  # all are expected to be as large as the first
                    expected = True
                    nbytes = len(revisions) * stream.opened.fetch_plan.nbytes
                    listener.expect(revisions=len(revisions), nbytes=nbytes)
                yield _outcome(stream, _Work(opener, measurer, resident, len(revisions), listener))

    def throughput(self, setup: CollectionSetup) -> Throughput | None:
        """That of this machine, measured in a moment."""
        return Throughput.measure(setup.compute_dtype, device=setup.options.device, threads=self._threads)


class _Work:
    """The measuring of one revision at a time."""

    def __init__(self, opener: Opener, measurer: Measurer, resident: int, revisions: int, listener: Progress) -> None:
        self._opener, self._measurer, self._listener = opener, measurer, listener
        self._resident, self._revisions = resident, revisions

    def measured(self, stream: RevisionStream) -> MeasuredRevision:
        """The records of a revision, and their cost."""
        opened, opener = stream.opened, self._opener
        planned = estimate(
            opened,
            opener.setup,
            opener.bounds,
            mapped=opener.mapped,
            threads=self._measurer.threads,
            resident=self._resident,
            revisions=self._revisions,
        )
        checkpoint = opened.checkpoint
        with revision_named(checkpoint.revision.name):
            records = self._measurer.records(stream, self._listener.advance)
            sha256 = stream.weights_sha256.result()
        usage = RevisionUsage.of(opened, planned)
        return MeasuredRevision(checkpoint.revision, opened.groups, records, checkpoint.dtype, sha256, usage)

    def unverified(self, opened: OpenRevision) -> str:
        """Compare the forward pass with transformers', if that is asked for; a line if it could not be compared."""
        setup = self._opener.setup
        if not setup.options.verify or setup.probe is None or opened.excluded:
            return ""
        return verify(opened.checkpoint, torch.tensor(setup.probe.token_ids[:1, :TOKENS]))


def _outcome(stream: RevisionStream, work: _Work) -> Outcome:
    """Errors are caught here, outside of the generator: whoever clears the frames of a traceback must not end it."""
    name, notes = stream.revision.name, tuple[str, ...]()
    try:
        notes = stream.opened.notes
        if not stream.opened.groups:
            return Outcome(name, notes=notes)
        unverified = work.unverified(stream.opened)
        notes = (*notes, unverified) if unverified else notes
        return Outcome(name, work.measured(stream), notes=notes)
    except Exception as error:
        return Outcome(name, error=error, notes=notes)
