"""Text as token files: `.txt` and JSON lines, tokenized once with the revision's tokenizer and cached by content.

Each document is followed by the token that ends documents, as in the files that OLMo publishes; documents keep their order.

    >>> path = tokenize(Path("notes.jsonl"), TokenWriter.of(tokenizer_json, vocab_size=100352))    # doctest: +SKIP
"""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from olmo_dynamics.errors import DiskFullError, TrainingError
from olmo_dynamics.probes.documents import SUFFIXES, read_documents
from olmo_dynamics.probes.token_sources import dtype_for
from olmo_dynamics.probes.tokenizer import ProbeTokenizer
from olmo_dynamics.settings import cache_dir


@dataclass(frozen=True)
class TokenWriter:
    """A tokenizer, the id that ends a document, and the dtype of stored ids."""

    tokenizer: ProbeTokenizer
    end_of_text: int
    dtype: str

    @classmethod
    def of(cls, tokenizer_json: bytes | None, *, vocab_size: int, end_of_text: int | None = None) -> TokenWriter:
        """Make the writer of this tokenizer; `end_of_text`, of the model's config, is used if the tokenizer has none.

        Raises:
            TrainingError: there is no tokenizer or no token that ends documents, or the tokenizer has more ids than the model.
        """
        if tokenizer_json is None:
            raise TrainingError("text needs a tokenizer, and the revision has no tokenizer.json: give --tokenizer FILE")
        tokenizer = ProbeTokenizer(tokenizer_json)
        end = tokenizer.end_of_text if tokenizer.end_of_text is not None else end_of_text
        if end is None:
            raise TrainingError(
                "text needs a token that ends documents; neither tokenizer nor config names one: tokenize it yourself"
            )
        if tokenizer.size > vocab_size:
            raise TrainingError(
                f"the tokenizer must have at most {vocab_size} ids, the model's vocabulary (got {tokenizer.size}): "
                "give the tokenizer of this model"
            )
        return cls(tokenizer, end, dtype_for(vocab_size))


def is_text(name: str) -> bool:
    """True if the name is that of a text file rather than of token ids."""
    return name.endswith(SUFFIXES)


def tokenize(path: Path, writer: TokenWriter) -> Path:
    """The token file of a text file, written to the cache unless one of the same contents is there.

    Raises:
        TrainingError: the file is missing.
        ProbeError: the file cannot be read.
        DiskFullError: the tokens do not fit on the disk.
    """
    if not path.is_file():
        raise TrainingError(f"{path} is not a text file: check the path")
    with path.open("rb") as file:
        contents = hashlib.file_digest(file, "sha256").hexdigest()
    suffix = next(suffix for suffix in SUFFIXES if path.name.endswith(suffix))
    identity = f"{contents} {suffix} {writer.tokenizer.sha256} {writer.end_of_text} {writer.dtype}"
    found = cache_dir() / "tokens" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.{writer.dtype}"
    if not found.is_file():
        found.parent.mkdir(parents=True, exist_ok=True)
        _write(path, found, writer)
    return found


def _write(path: Path, target: Path, writer: TokenWriter) -> None:
    temporary = target.with_name(f".{target.name}.{id(target)}.partial")
    try:
        with temporary.open("wb") as file:
            for document in read_documents(path):
                ids = [*writer.tokenizer.encode(document), writer.end_of_text]
                file.write(np.asarray(ids, dtype=writer.dtype).tobytes())
        temporary.replace(target)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFullError(
            f"no space for the tokens of {path} in {target.parent}: free some space and run again"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
