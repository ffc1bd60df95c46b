"""Text as token files: `.txt` and JSON lines tokenised once by the revision's tokenizer, kept in the cache by content.

Each document is followed by the token that ends documents, as in the files that OLMo publishes; documents keep their order.

    >>> path = tokenised(Path("notes.jsonl"), Writer.of(tokenizer_json, vocab_size=100352))    # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.probes.documents import SUFFIXES, read_documents
from olmo_dynamics.probes.tokenizer import ProbeTokenizer
from olmo_dynamics.settings import cache_dir
from olmo_dynamics.training.token_sources import dtype_for


@dataclass(frozen=True)
class Writer:
    """A tokenizer, the id that ends a document, and how ids are stored."""

    tokenizer: ProbeTokenizer
    end_of_text: int
    dtype: str

    @classmethod
    def of(cls, tokenizer_json: bytes | None, *, vocab_size: int, end_of_text: int | None = None) -> Writer:
        """The writer of this tokenizer; `end_of_text` is what the model's config says, used where the tokenizer says nothing.

        Raises: TrainingError where there is no tokenizer, no end of documents, or one that knows more ids than the model.
        """
        if tokenizer_json is None:
            raise TrainingError("text wants a tokenizer and the revision has no tokenizer.json: give --tokenizer FILE")
        tokenizer = ProbeTokenizer(tokenizer_json)
        end = tokenizer.end_of_text if tokenizer.end_of_text is not None else end_of_text
        if end is None:
            raise TrainingError(
                "text wants a token that ends documents; tokenizer and config name none: tokenise it yourself"
            )
        if tokenizer.size > vocab_size:
            raise TrainingError(
                f"the tokenizer must know at most {vocab_size} ids, the model's vocabulary; got {tokenizer.size}: "
                "give the tokenizer of this model"
            )
        return cls(tokenizer, end, dtype_for(vocab_size))


def is_text(name: str) -> bool:
    """Whether the name is that of a text file rather than of token ids."""
    return name.endswith(SUFFIXES)


def tokenised(path: Path, writer: Writer) -> Path:
    """The token file of a text file, written to the cache unless one of the same contents is there.

    Raises: TrainingError if the file is missing; ProbeError if it cannot be read; DiskFullError is left to the caller's disk.
    """
    if not path.is_file():
        raise TrainingError(f"wanted a text file, {path} is none; check the path")
    with path.open("rb") as file:
        contents = hashlib.file_digest(file, "sha256").hexdigest()
    suffix = next(suffix for suffix in SUFFIXES if path.name.endswith(suffix))
    words = f"{contents} {suffix} {writer.tokenizer.sha256} {writer.end_of_text} {writer.dtype}"
    found = cache_dir() / "tokens" / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.{writer.dtype}"
    if not found.is_file():
        found.parent.mkdir(parents=True, exist_ok=True)
        _write(path, found, writer)
    return found


def _write(path: Path, target: Path, writer: Writer) -> None:
    temporary = target.with_name(f".{target.name}.{id(target)}.partial")
    try:
        with temporary.open("wb") as file:
            for document in read_documents(path):
                ids = [*writer.tokenizer.encode(document), writer.end_of_text]
                np.asarray(ids, dtype=writer.dtype).tofile(file)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
