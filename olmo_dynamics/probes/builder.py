"""Building a probe from files: read, tokenize, split into windows, check against the model.

    >>> probe = load_probe(tokenizer_json, text=[Path("news.jsonl.gz")], batch=(8, 512), vocab_size=100352)  # doctest: +SKIP
    >>> probe.shape  # doctest: +SKIP
    (8, 512)

A text file is one domain, named by its stem. Its documents are joined by the tokenizer's end-of-text token, if it has
one, as in pretraining; that token counts 0 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmo_dynamics.errors import OptionError, ProbeError
from olmo_dynamics.probes.documents import domain_name, read_documents
from olmo_dynamics.probes.numpy_tokens import read_tokens
from olmo_dynamics.probes.probe import UNKNOWN_BYTES, Probe
from olmo_dynamics.probes.tokenizer import ProbeTokenizer
from olmo_dynamics.probes.windows import Window, pad, round_robin, split_windows

BUILT_IN = ("encyclopedia", "narrative", "dialogue", "code", "mathematics", "tables")
"""The domains of the built-in probe, each a file in `texts/`."""


@dataclass(frozen=True, slots=True)
class _Domain:
    """The rows of ids of one domain, and their origin; no window spans two rows."""

    name: str
    origin: str
    rows: list[NDArray[Any]]


def load_probe(
    tokenizer_json: bytes | None,
    *,
    text: Sequence[Path] = (),
    tokens: Path | None = None,
    batch: tuple[int, int] | None = None,
    length: int = 512,
    vocab_size: int,
) -> Probe:
    """Build the probe of a model from text files, from a token file or, with neither, from the built-in texts.

    A window is `length` tokens. A `batch` (B, T) asks for at most B windows of T tokens, taken from the domains in turn,
    and reads only as much of each file as that needs. The rows of a two-dimensional token file are never joined; without
    a batch they are the windows.

    Raises:
        ProbeError: a file cannot be read, holds nothing to predict, or holds ids outside the vocabulary.
        OptionError: the arguments contradict each other, or ask for an empty probe.
    """
    if text and tokens is not None:
        raise OptionError("a probe must be made of text files or of one token file (got both)")
    tokenizer = None if tokenizer_json is None else ProbeTokenizer(tokenizer_json)
    count, length = batch or (None, length)
    if length < 2 or (count is not None and count < 1):
        raise OptionError(f"a probe needs at least 1 window of 2 tokens (got batch={batch}, length={length})")
    if tokens is not None:
        array = read_tokens(tokens)
        domains = [_Domain(tokens.name.removesuffix(".npy"), str(tokens), list(np.atleast_2d(array)))]
        length = array.shape[1] if batch is None and array.ndim == 2 else length
    else:
        domains = _text_domains(tokenizer, text, math.inf if count is None else count * length)
    windows = [_windows(domain, length, count, vocab_size) for domain in domains]
    if count is not None:
        windows = round_robin(windows, count)
    return _probe([domain.name for domain in domains], windows, length, tokenizer, vocab_size)


def _text_domains(tokenizer: ProbeTokenizer | None, paths: Sequence[Path], most: float) -> list[_Domain]:
    """One domain per file, each of about `most` tokens, or of all it has."""
    if tokenizer is None:
        raise ProbeError("text needs a tokenizer.json; the source has none; give token ids in a .npy file instead")
    named: dict[str, Path] = {}
    for path in paths:
        name = domain_name(path)
        if name in named:
            raise ProbeError(
                f"text files must differ in their names (got {named[name]} and {path} for the domain {name!r}); rename one"
            )
        named[name] = path
    texts = {name: read_documents(path) for name, path in named.items()} or _built_in()
    return [
        _Domain(name, str(named.get(name, f"the built-in text {name!r}")), [_join(tokenizer, documents, most)])
        for name, documents in texts.items()
    ]


def _built_in() -> dict[str, Iterable[str]]:
    folder = files(__package__).joinpath("texts")
    return {name: [folder.joinpath(f"{name}.txt").read_text(encoding="utf-8")] for name in BUILT_IN}


def _join(tokenizer: ProbeTokenizer, documents: Iterable[str], most: float) -> NDArray[np.int64]:
    """The ids of documents with the end of text between them; reading stops at `most` ids."""
    separator = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    ids: list[int] = []
    for document in documents:
        ids += [*(separator if ids else []), *tokenizer.encode(document)]
        if len(ids) >= most:
            break
    return np.array(ids, dtype=np.int64)


def _windows(domain: _Domain, length: int, count: int | None, vocab_size: int) -> list[Window]:
    """The windows of a domain, at most `count`, with every id inside the vocabulary."""
    numbered = (
        (row, window) for row, ids in enumerate(domain.rows) for window in enumerate(split_windows(ids, length))
    )
    found = []
    for row, (number, window) in islice(numbered, count):
        _check_ids(window, vocab_size, f"{domain.origin}, row {row}, position", number * length)
        found.append(window)
    if not found:
        raise ProbeError(
            f"{domain.origin} must hold at least two tokens in a row; there is nothing to predict otherwise"
        )
    return found


def _check_ids(window: Window, vocab_size: int, where: str, start: int) -> None:
    outside = (window < 0) | (window >= vocab_size)
    if outside.any():
        place = int(outside.argmax())
        raise ProbeError(
            f"{where} {start + place}: token id {window[place]} is outside the model's vocabulary of {vocab_size} ids; "
            "use the tokenizer, or token file, that belongs to the model"
        )


def _probe(
    names: list[str], windows: list[list[Window]], length: int, tokenizer: ProbeTokenizer | None, vocab_size: int
) -> Probe:
    kept = [(name, some) for name, some in zip(names, windows, strict=True) if some]
    token_ids, mask = pad([window for _, some in kept for window in some], length)
    return Probe(
        token_ids,
        mask,
        domain=np.repeat(np.arange(len(kept), dtype=np.int64), [len(some) for _, some in kept]),
        domains=tuple(name for name, _ in kept),
        token_bytes=_token_bytes(token_ids, mask, tokenizer),
        tokenizer_size=vocab_size if tokenizer is None else tokenizer.size,
        tokenizer_sha256="" if tokenizer is None else tokenizer.sha256,
    )


def _token_bytes(
    token_ids: NDArray[np.int64], mask: NDArray[np.bool_], tokenizer: ProbeTokenizer | None
) -> NDArray[np.int64]:
    """Bytes of each token, 0 at padding; -1 everywhere if the tokenizer lacks the bytes of any token."""
    unknown = np.full(token_ids.shape, UNKNOWN_BYTES, dtype=np.int64)
    if tokenizer is None or token_ids.max() >= tokenizer.size:
        return unknown
    counts = np.where(mask, tokenizer.token_bytes[token_ids], 0)
    return unknown if (counts < 0).any() else counts
