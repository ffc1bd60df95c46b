"""Token files cut into instances, as both trainers cut them: each file by itself, its tail dropped, none across two files.

>>> files = TokenFiles.open([Path("part-0.npy"), Path("part-1.npy")], length=4096, dtype="uint32")  # doctest: +SKIP
>>> files.read([0, 17]).shape                                                                    # doctest: +SKIP
(2, 4096)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.probes.token_sources import TokenSource, looks_too_narrow, open_tokens


@dataclass(frozen=True)
class TokenFiles:
    """Instances of `length` tokens, numbered over all files in the order given; a file given twice is read twice.

    If `vocab_size` is given, ids beyond it are refused as they are read.
    """

    sources: tuple[TokenSource, ...]
    counts: tuple[int, ...]  # instances of each file
    length: int
    vocab_size: int | None = None

    @classmethod
    def open(cls, paths: Sequence[str | Path], *, length: int, dtype: str, unit: int | None = None) -> TokenFiles:
        """Open files of bare ids and cut them.

        Raises:
            ProbeError: a file holds no tokens of that dtype.
            TrainingError: there is no whole instance.
        """
        return cls.cut([open_tokens(path, dtype) for path in paths], length=length, unit=unit)

    @classmethod
    def cut(
        cls, sources: Sequence[TokenSource], *, length: int, unit: int | None = None, vocab_size: int | None = None
    ) -> TokenFiles:
        """Cut files into instances; `unit` is OLMo-core's max_target_sequence_length, by which files are cut first.

        Raises:
            TrainingError: there is no whole instance.
        """
        unit = unit or length
        if unit % length:
            raise TrainingError(f"the target length must be a multiple of {length} (got {unit})")
        counts = tuple(source.size // unit * (unit // length) for source in sources)
        if not any(counts):
            raise TrainingError(
                f"training needs at least one instance of {unit} tokens; the {len(sources)} files hold "
                f"{sum(source.size for source in sources)}: give more data or a shorter length"
            )
        return cls(tuple(sources), counts, length, vocab_size)

    @property
    def count(self) -> int:
        """Instances of all files."""
        return sum(self.counts)

    @property
    def token_count(self) -> int:
        """Tokens of all files, tails among them."""
        return sum(source.size for source in self.sources)

    def read(self, instances: Sequence[int] | Integer[np.ndarray, " chosen"]) -> Int64[np.ndarray, "chosen length"]:
        """Read these instances, in the order given; each file is read once, for all of its instances.

        Raises:
            TrainingError: an id is outside the vocabulary.
        """
        chosen = np.asarray(instances, np.int64)
        ends = np.cumsum(self.counts)
        owners = np.searchsorted(ends, chosen, side="right")
        rows = np.empty((len(chosen), self.length), np.int64)
        for file in np.unique(owners):
            places = np.flatnonzero(owners == file)
            starts = (chosen[places] - (ends[file] - self.counts[file])) * self.length
            source = self.sources[int(file)]
            spans = [(int(start), int(start) + self.length) for start in starts]
            for place, span, row in zip(places, spans, source.read(spans), strict=True):
                self._check(source, row, span[0])
                rows[place] = row
        return rows

    def _check(self, source: TokenSource, row: Integer[np.ndarray, " length"], start: int) -> None:
        place = int(row.argmin()) if row.min() < 0 else int(row.argmax())
        if row[place] < 0 or (self.vocab_size is not None and row[place] >= self.vocab_size):
            raise TrainingError(
                f"{source.name}: token ids must be below {self.vocab_size}, the model's vocabulary (got {row[place]} at token "
                f"{start + place}, read as {source.dtype}): check --data-dtype and the tokenizer"
            )
        if looks_too_narrow(row, source.dtype):
            raise TrainingError(
                f"{source.name}: every other id at token {start} is 0 or 1, as in a file of uint32 read as uint16: "
                "give --data-dtype uint32"
            )
