"""The tokens of a probe that the lens looks at, and their vectors, kept until the head comes.

    >>> sample = LensSample.of(np.ones((2, 4), dtype=bool), most=512)
    >>> sample.rows, sample.positions
    (array([0, 0, 0, 1, 1, 1]), array([0, 1, 2, 0, 1, 2]))

They are tokens with a next token in their window: all of them if there are at most `most`, else so many, evenly spaced.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from olmo_dynamics.errors import OptionError
from olmo_dynamics.recorders.base import Observation
from olmo_dynamics.recorders.context import Context

LENS_TOKENS = 512
"""Tokens that the lens looks at, unless another number is given."""


def check_lens_tokens(tokens: int) -> int:
    """The number of tokens, if the lens can be given it.

    Raises:
        OptionError: there are fewer than 512.
    """
    if not isinstance(tokens, int) or tokens < LENS_TOKENS:
        raise OptionError(f"lens tokens must be a whole number of at least {LENS_TOKENS} (got {tokens!r})")
    return tokens


def evenly_spaced(count: int, most: int) -> Int64[np.ndarray, " some"]:
    """All of `count` places, or at most so many of them, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


@dataclass(frozen=True, eq=False)
class LensSample:
    """The windows and positions of the tokens of a sample, window by window."""

    rows: Int64[np.ndarray, " tokens"]
    positions: Int64[np.ndarray, " tokens"]

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "sequences positions"], most: int) -> LensSample:
        """The sample of a probe."""
        rows, positions = np.nonzero(mask[:, :-1] & mask[:, 1:])
        places = evenly_spaced(len(rows), most)
        return cls(rows[places], positions[places])

    @classmethod
    def of_context(cls, context: Context, most: int) -> LensSample:
        """The sample of a pass's probe; empty where there is none."""
        return cls.of(np.zeros((1, 1), dtype=bool) if context.probe is None else context.probe.mask, most)

    def __len__(self) -> int:
        return len(self.rows)

    def within(self, seen: Observation) -> Int64[np.ndarray, " some"]:
        """The places in the sample of the tokens of an observation."""
        inside = (self.rows >= seen.rows.start) & (self.rows < seen.rows.stop)
        there = (self.positions >= seen.positions.start) & (self.positions < seen.positions.stop)
        return np.flatnonzero(inside & there)

    def pick(
        self, seen: Observation, places: Int64[np.ndarray, " some"], values: Tensor | None = None
    ) -> Float[Tensor, "some width"]:
        """A copy of the vectors of an observation, or of others beside them, at some places of the sample."""
        rows, positions = self.rows[places] - seen.rows.start, self.positions[places] - seen.positions.start
        values = (seen.values if values is None else values).detach()
        return values[torch.tensor(rows, device=values.device), torch.tensor(positions, device=values.device)]


class KeptVectors:
    """Vectors of a sample's tokens, by a key such as a layer; keepers that saw different tokens merge."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._pieces: dict[Hashable, list[tuple[np.ndarray, Tensor]]] = {}
        self._whole: dict[Hashable, Tensor] = {}

    def keep(self, key: Hashable, sample: LensSample, seen: Observation) -> None:
        """Keep the vectors of an observation."""
        places = sample.within(seen)
        if len(places):
            self._pieces.setdefault(key, []).append((places, sample.pick(seen, places)))

    def merge(self, other: KeptVectors) -> None:
        """Add what `other` keeps."""
        for key, pieces in other._pieces.items():
            self._pieces.setdefault(key, []).extend(pieces)

    def of(self, key: Hashable, places: Int64[np.ndarray, " some"]) -> Float[Tensor, "some width"]:
        """The vectors of one key at some places of the sample."""
        return self._whole[key][torch.tensor(places, device=self._whole[key].device)]

    def take(self, key: Hashable) -> Float[Tensor, "tokens width"] | None:
        """The vectors of one key, which are let go of; None if there are none."""
        return self._whole.pop(key, None)

    def settle(self) -> None:
        """Lay the pieces of each key together, in the order of the sample."""
        for key, pieces in self._pieces.items():
            first = pieces[0][1]
            whole = first.new_empty((self._tokens, first.shape[1]))
            for places, vectors in pieces:
                whole[torch.tensor(places, device=first.device)] = vectors
            self._whole[key] = whole
        self._pieces = {}
