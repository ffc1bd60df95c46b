"""An activation feed: aligned batches of several revisions, with a layer's weights at a time and nothing on disk.

>>> feed = ActivationFeed(source, "step100,step900", site="residual_out", layer=2, options=FeedOptions.of({}))  # doctest: +SKIP
>>> next(iter(feed)).activations.shape  # doctest: +SKIP
torch.Size([2, 4096, 2048])

A chunk of the text passes through one revision after another, and its activations are held; then its tokens are given in
batches. So the weights of a revision are read once per chunk, and the memory does not grow with the text.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.collection.feed.activation_batch import ActivationBatch
from olmo_dynamics.collection.feed.chunks import Chunk, batches_of, cut_windows
from olmo_dynamics.collection.feed.fed_revisions import FedRevisions, naming
from olmo_dynamics.collection.feed.feed_options import FeedOptions
from olmo_dynamics.collection.feed.revision_pass import run_pass
from olmo_dynamics.collection.prefetch import Prefetcher, RevisionStream
from olmo_dynamics.errors import OptionError, counted
from olmo_dynamics.model import Compute, StreamedPass
from olmo_dynamics.names import Site


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """The cost of one turn through a feed.

    Attributes:
        tokens: all tokens of the text.
        batches: the number of batches.
        chunks: how often each revision's weights are read.
        chunk_tokens: the most tokens that pass through the revisions together.
        held_bytes: memory for the activations and the stream of a chunk.
        weight_bytes: bytes of weights to read, if all revisions are as large as the first.
    """

    tokens: int
    batches: int
    chunks: int
    chunk_tokens: int
    held_bytes: int
    weight_bytes: int


class ActivationFeed:
    """Batches of activations of the same tokens in several revisions; each `iter` streams the weights anew.

    Leaving a loop early, or closing its iterator, ends all downloads and frees all memory.

    Attributes:
        revisions: names of the revisions, in training order: the first axis of a batch.
        steps: their steps; None where a name tells none.
        notes: lines for the user, such as revisions in quarantine that are left out.

    Raises:
        OlmoDynamicsError: those of `olmo_dynamics.stream_activations`.
    """

    def __init__(
        self,
        source: Source,
        revisions: str | Collection[str],
        *,
        site: Site | str,
        layer: int | Sequence[int] | None = None,
        options: FeedOptions,
    ) -> None:
        self._options = options
        self._fed = FedRevisions(source, revisions, site=site, layer=layer, options=options)
        self._source = source.name
        self.revisions = tuple(each.name for each in self._fed.chosen)
        self.steps = tuple(each.step for each in self._fed.chosen)
        self.notes = self._fed.notes
        self._chunks = cut_windows(
            len(self._fed.probe.token_ids), at_most=self._windows_at_most(), seed=options.shuffle_seed
        )

    @property
    def plan(self) -> FeedPlan:
        """Tokens, memory and bytes of one turn through the feed."""
        window = self._fed.probe.shape[1]
        chunk_tokens = max(map(len, self._chunks)) * window
        passes = len(self._chunks) * len(self.revisions)
        return FeedPlan(
            tokens=self._fed.probe.token_count,
            batches=len(self),
            chunks=len(self._chunks),
            chunk_tokens=chunk_tokens,
            held_bytes=chunk_tokens * self._token_bytes,
            weight_bytes=passes * self._fed.weight_bytes,
        )

    def __len__(self) -> int:
        """The number of batches."""
        return math.ceil(self._fed.probe.token_count / self._options.batch_tokens)

    def __iter__(self) -> Generator[ActivationBatch]:
        """Iterate over the batches.

        Raises:
            CheckpointError: a revision cannot be read, or is not comparable with the first; the message names it.
        """
        in_turn = list(self._fed.chosen) * len(self._chunks)
        with Prefetcher(self._fed.open, in_turn, self._fed.bounds, hashed=False) as prefetcher:
            chunks = self._passed(iter(prefetcher))
            yield from batches_of(chunks, self._options.batch_tokens, self._options.shuffle_seed)

    def __repr__(self) -> str:
        plan, fed = self.plan, self._fed
        batches = "1 batch" if plan.batches == 1 else f"{plan.batches} batches"
        return (
            f"ActivationFeed: {fed.site} in {counted(len(self.revisions), 'revision')} of {self._source}\n"
            f"  {counted(plan.tokens, 'token')} in {batches} of {self._options.batch_tokens}, "
            f"{counted(fed.site.width(fed.config), 'feature')}, {self._options.compute_dtype}\n"
            f"  {counted(plan.chunks, 'chunk')} of at most {counted(plan.chunk_tokens, 'token')}, "
            f"{plan.held_bytes / 1e6:,.1f} MB; {plan.weight_bytes / 1e6:,.1f} MB of weights to read"
        )

    def _passed(self, streams: Iterator[RevisionStream]) -> Iterator[ActivationBatch]:
        """Each chunk when it has passed through every revision; the memory of its activations is that of the next."""
        held = self._memory()
        for windows in self._chunks:
            chunk = Chunk(self._fed.probe, windows, self._fed.site, held)
            for number in range(len(self.revisions)):
                self._pass_one(next(streams), chunk, number)
            yield chunk.activations(self.revisions)

    def _pass_one(self, stream: RevisionStream, chunk: Chunk, number: int) -> None:
        with naming(stream.revision.name):
            config = stream.opened.config
            assert config is not None
            streamed = StreamedPass(config, chunk.token_ids, sites={self._fed.site.site}, compute=self._compute)
            run_pass(stream, streamed, partial(chunk.keep, number))

    @property
    def _compute(self) -> Compute:
        options = self._options
        return Compute(device=options.measure.device, dtype=options.compute_dtype, threads=options.limits.thread_count)

    def _memory(self) -> Tensor:
        """Places for the activations of the largest chunk."""
        site, probe = self._fed.site, self._fed.probe
        tokens = max(int(probe.mask[windows].sum()) for windows in self._chunks)
        shape = (len(self.revisions), len(site.layers), tokens, site.width(self._fed.config))
        dtype = torch.int64 if site.site.is_choice else self._options.compute_dtype
        return torch.empty(shape, dtype=dtype, device=self._options.measure.device)

    @property
    def _token_bytes(self) -> int:
        """Memory per token of a chunk: its activations in all revisions, and its stream in one."""
        site, config, dtype = self._fed.site, self._fed.config, self._options.compute_dtype
        each = torch.int64.itemsize if site.site.is_choice else dtype.itemsize
        held = len(self.revisions) * len(site.layers) * site.width(config) * each
        return held + config.hidden_size * dtype.itemsize

    def _windows_at_most(self) -> int:
        """The most windows of a chunk.

        Raises:
            OptionError: the memory does not hold one.
        """
        needed = self._fed.probe.shape[1] * self._token_bytes
        if self._options.chunk_bytes < needed:
            raise OptionError(
                f"chunk_memory must hold one window, {needed:,} bytes (got {self._options.chunk_memory!r}); give more, "
                "shorter windows by batch=BxT, or fewer revisions"
            )
        return self._options.chunk_bytes // needed
