"""The data files of a fork: token files, text files or addresses, each with or without a weight.

>>> given = DataFiles.open(["web.npy=0.7", "code.jsonl=0.3"], dtype="uint32", texts=None)   # doctest: +SKIP
>>> given.weights                                                                           # doctest: +SKIP
(0.7, 0.3)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.probes.token_sources import WEB, MappedTokens, TokenSource, open_tokens
from olmo_dynamics.training.data.tokenize import TokenWriter, is_text, tokenize


@dataclass(frozen=True)
class DataFiles:
    """Open files; `weights` is empty if they follow each other."""

    sources: tuple[TokenSource, ...]
    weights: tuple[float, ...] = ()

    @classmethod
    def open(cls, names: Sequence[str | Path], *, dtype: str, texts: Callable[[], TokenWriter]) -> DataFiles:
        """Open the files of these names, `NAME=WEIGHT` to mix them; `texts` is called only if one is text.

        Raises:
            ProbeError: a file cannot be read.
            TrainingError: text is given by its address.
            OptionError: some files have a weight and others have none.
        """
        parted = [split_weight(str(name)) for name in names]
        weights = tuple(weight for _, weight in parted if weight is not None)
        if weights and len(weights) < len(parted):
            bare = next(name for name, weight in parted if weight is None)
            raise OptionError(f"either all data files or none must have a weight; {bare} has none: write {bare}=WEIGHT")
        writer: list[TokenWriter] = []
        sources: list[TokenSource] = []
        for name, _ in parted:
            if is_text(name) and name.startswith(WEB):
                raise TrainingError(
                    f"text must be a local file; only token ids are read over http (got {name}): download it first"
                )
            if is_text(name):
                writer = writer or [texts()]
                file = open_tokens(tokenize(Path(name).expanduser(), writer[0]), writer[0].dtype)
                assert isinstance(file, MappedTokens)
                sources.append(replace(file, name=name))
            else:
                sources.append(open_tokens(name, dtype))
        return cls(tuple(sources), weights)

    @property
    def token_count(self) -> int:
        """Tokens of all files."""
        return sum(source.size for source in self.sources)


def split_weight(name: str) -> tuple[str, float | None]:
    """`web.npy=0.7` as its two parts; the name of an existing file is never split."""
    path, mark, text = name.rpartition("=")
    if not mark or Path(name).expanduser().exists():
        return name, None
    try:
        return path, float(text)
    except ValueError:
        return name, None
