"""Chunks of a text: the windows that pass through every revision together, and the activations that are held of them.

Weights are read once per revision and chunk, so chunks are as large as their memory allows.

    >>> [windows.tolist() for windows in cut_windows(5, at_most=2, seed=None)]
    [[0, 1], [2, 3], [4]]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from olmo_dynamics.collection.feed.activation_batch import ActivationBatch
from olmo_dynamics.collection.feed.fed_site import FedSite
from olmo_dynamics.model import SiteValues
from olmo_dynamics.model.parts import slices
from olmo_dynamics.probes import Probe


def cut_windows(count: int, *, at_most: int, seed: int | None) -> list[Int64[np.ndarray, " windows"]]:
    """Windows in chunks of about equal size, at most `at_most` in each; in random order if there is a seed."""
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    chunks = -(-count // at_most)
    return [order[some] for some in slices(count, -(-count // chunks))]


class Chunk:
    """Windows of a probe, and their activations in each revision; padding is left out.

    `held` is memory for `[revision, layer, token, width]`, with places for the tokens of the largest chunk.
    """

    def __init__(self, probe: Probe, windows: Int64[np.ndarray, " windows"], site: FedSite, held: Tensor) -> None:
        self.token_ids = torch.tensor(probe.token_ids[windows])
        mask = probe.mask[windows]
        self._probe, self._windows, self._site, self._held = probe, windows, site, held
        self._starts = np.concatenate([[0], mask.sum(axis=1).cumsum()])
        self._padded = not mask.all()
        self._rows, self._positions = np.nonzero(mask)
        self._at = torch.tensor(np.flatnonzero(mask), device=held.device)

    def __len__(self) -> int:
        """The number of real tokens."""
        return len(self._rows)

    def keep(self, revision: int, seen: SiteValues) -> None:
        """Hold the values at the site; threads that see different windows may do so at once."""
        if seen.site is not self._site.site or seen.layer not in self._site.layers:
            return
        first, last = self._starts[seen.rows.start], self._starts[seen.rows.stop]
        values = seen.values.reshape(-1, seen.values.shape[-1])
        if self._padded:
            values = values[self._at[first:last] - seen.rows.start * self.token_ids.shape[1]]
        self._held[revision, self._site.layers.index(seen.layer), first:last, seen.columns] = values

    def activations(self, revisions: Sequence[str]) -> ActivationBatch:
        """All of its tokens as one batch, whose activations are the memory held."""
        held = self._held[:, :, : len(self)]
        rows, device = self._windows[self._rows], self._held.device
        return ActivationBatch(
            held if self._site.has_layer_axis else held[:, 0],
            tuple(revisions),
            torch.tensor(self._probe.token_ids[rows, self._positions], device=device),
            torch.tensor(rows, device=device),
            torch.tensor(self._positions, device=device),
            torch.tensor(self._probe.domain[rows], device=device),
            self._probe.domains,
        )


def batches_of(chunks: Iterator[ActivationBatch], size: int, seed: int | None) -> Iterator[ActivationBatch]:
    """Batches of `size` tokens, the last one smaller; tokens within a chunk in random order if there is a seed."""
    shuffling = None if seed is None else torch.Generator().manual_seed(seed)
    left: ActivationBatch | None = None
    for chunk in chunks:
        count = len(chunk)
        order = torch.arange(count) if shuffling is None else torch.randperm(count, generator=shuffling)
        order = order.to(chunk.token_ids.device)
        start = 0
        while start < count:
            some = order[start : start + size - (len(left) if left else 0)]
            start += len(some)
            taken = chunk.take(some)
            batch = taken if left is None else left.join(taken)
            left = None if len(batch) == size else batch
            if left is None:
                yield batch
        del chunk
    if left is not None:
        yield left
