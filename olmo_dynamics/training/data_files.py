"""What a fork is to read: token files, text files or addresses, each with a weight or none.

>>> given = DataFiles.open(["web.npy=0.7", "code.jsonl=0.3"], dtype="uint32", texts=None)   # doctest: +SKIP
>>> given.weights                                                                           # doctest: +SKIP
(0.7, 0.3)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.training.texts import Writer, is_text, tokenised
from olmo_dynamics.training.token_sources import WEB, MappedTokens, TokenSource, open_tokens


@dataclass(frozen=True)
class DataFiles:
    """Files that are open; `weights` is empty where they follow each other."""

    sources: tuple[TokenSource, ...]
    weights: tuple[float, ...] = ()

    @classmethod
    def open(cls, names: Sequence[str | Path], *, dtype: str, texts: Callable[[], Writer]) -> DataFiles:
        """The files of these names, `NAME=WEIGHT` where they are to be mixed; `texts` is asked only if one is text.

        Raises: TrainingError for what cannot be read; OptionError for weights on some alone.
        """
        parted = [split_weight(str(name)) for name in names]
        weights = tuple(weight for _, weight in parted if weight is not None)
        if weights and len(weights) < len(parted):
            bare = next(name for name, weight in parted if weight is None)
            raise OptionError(f"data wants a weight on every file or on none; {bare} has none: write {bare}=WEIGHT")
        writer: list[Writer] = []
        sources: list[TokenSource] = []
        for name, _ in parted:
            if is_text(name) and name.startswith(WEB):
                raise TrainingError(f"text is read from local files, only token ids over http; got {name}: download it first")
            if is_text(name):
                writer = writer or [texts()]
                file = open_tokens(tokenised(Path(name).expanduser(), writer[0]), writer[0].dtype)
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
    """`web.npy=0.7` as its two parts; a file that has such a name is a file."""
    path, mark, text = name.rpartition("=")
    if not mark or Path(name).expanduser().exists():
        return name, None
    try:
        return path, float(text)
    except ValueError:
        return name, None
