"""Options of an activation feed: its text, the size of its batches, its memory, and where it is computed.

>>> FeedOptions.of({"batch_tokens": 1024, "chunk_memory": "2GiB"}).chunk_bytes
2147483648
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from olmo_dynamics.collection.limits import Limits, parse_bytes
from olmo_dynamics.collection.options import DTYPES, CollectOptions, PassKeywords
from olmo_dynamics.errors import OptionError, reject_unknown

_OF_TEXT = ("text", "tokens", "tokens_dtype", "tokenizer", "batch", "device", "dtype")
_LIMITS = ("max_memory", "max_rate", "threads")


class FeedKeywords(PassKeywords, total=False):
    """Further keyword options of `stream_activations`; see `FeedOptions`."""

    batch_tokens: int
    chunk_memory: int | str
    shuffle_seed: int | None
    quarantine: str | Path | None
    include_quarantined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedOptions:
    """Options of an activation feed.

    Attributes:
        batch_tokens: tokens of a batch; the last one may have fewer.
        chunk_memory: bytes for the activations of the tokens that pass through the revisions together, as a number or such as
            `4GiB`. Weights are read once per revision for each such chunk.
        shuffle_seed: None keeps the order of the text. A seed puts windows in random order over the whole text, and tokens in
            random order within a chunk.
        quarantine: a file of revisions to exclude; unless given, the one that the last audit of the run left.
        include_quarantined: feed them all the same.
        measure: the text, the device and the dtype, as `CollectOptions` names them.
        limits: bytes fetched ahead, rate and threads.
    """

    batch_tokens: int = 4096
    chunk_memory: int | str = "1GiB"
    shuffle_seed: int | None = None
    quarantine: str | Path | None = None
    include_quarantined: bool = False
    measure: CollectOptions
    limits: Limits

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise OptionError(f"batch_tokens must be at least 1 (got {self.batch_tokens})")
        if self.chunk_bytes < 1:
            raise OptionError(f"chunk_memory must be at least one byte (got {self.chunk_memory!r})")
        if self.shuffle_seed is not None and not 0 <= self.shuffle_seed < 1 << 63:
            raise OptionError(f"shuffle_seed must be at least 0 and below 2**63 (got {self.shuffle_seed})")

    @classmethod
    def of(cls, given: FeedKeywords) -> FeedOptions:
        """The options that keywords give.

        Raises:
            OptionError: a keyword is unknown, or its value cannot be used.
        """
        reject_unknown(given, FeedKeywords.__annotations__)
        words: Mapping[str, Any] = {**given}
        own = {name: value for name, value in words.items() if name not in (*_OF_TEXT, *_LIMITS)}
        measure = CollectOptions(**{name: words[name] for name in _OF_TEXT if name in words})
        return cls(**own, measure=measure, limits=Limits(**{name: words[name] for name in _LIMITS if name in words}))

    @property
    def chunk_bytes(self) -> int:
        """Bytes for the activations of a chunk."""
        return parse_bytes(self.chunk_memory)

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the pass, and of the activations."""
        auto = "bfloat16" if torch.device(self.measure.device).type == "cuda" else "float32"
        return DTYPES[auto if self.measure.dtype == "auto" else self.measure.dtype]
