"""Building a probe from files: read, tokenize, split into windows, check against the model.

    >>> probe = load_probe(tokenizer_json, text=[Path("news.jsonl.gz")], batch=(8, 512), vocab_size=100352)  # doctest: +SKIP
    >>> probe.shape  # doctest: +SKIP
    (8, 512)

A text file is one domain, named by its stem. Its documents are joined by the tokenizer's end-of-text token, if it has
one, as in pretraining; that token counts 0 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmo_dynamics.errors import OptionError, ProbeError
from olmo_dynamics.probes.documents import MOST_BYTES, beginning, domain_name, read_documents
from olmo_dynamics.probes.probe import UNKNOWN_BYTES, Probe
from olmo_dynamics.probes.token_files import domain_names, read_tokens
from olmo_dynamics.probes.token_sources import dtype_for
from olmo_dynamics.probes.tokenizer import ProbeTokenizer
from olmo_dynamics.probes.windows import Window, pad, round_robin, split_windows

_SPREAD, _SLACK = 4, 1 << 20  # a normaliser may shorten a text, a tokenizer may pass over white space

BUILT_IN = ("encyclopedia", "narrative", "dialogue", "code", "mathematics", "tables")
"""The domains of the built-in probe, each a file in `texts/`."""


@dataclass(frozen=True, slots=True)
class _Domain:
    """The rows of ids of one domain, and their origin; no window spans two rows."""

    name: str
    origin: str
    rows: list[NDArray[Any]]
    has_rows: bool = False  # the file says where its rows end


def load_probe(
    tokenizer_json: bytes | None,
    *,
    text: Sequence[Path] = (),
    tokens: Sequence[str | Path] | str | Path = (),
    tokens_dtype: str | None = None,
    batch: tuple[int, int] | None = None,
    length: int = 512,
    vocab_size: int,
) -> Probe:
    """Build the probe of a model from text files, from token files or, with neither, from the built-in texts.

    A window is `length` tokens. A `batch` (B, T) asks for at most B windows of T tokens, taken from the domains in turn,
    and reads only as much of each file as that needs. A token file is one domain too. The rows of a two-dimensional one are
    never joined; without a batch they are the windows. A token file without a header holds ids of `tokens_dtype`, by default
    the dtype in which the trainers store ids of this vocabulary.

    Raises:
        ProbeError: a file cannot be read, holds nothing to predict, or holds ids outside the vocabulary.
        OptionError: the arguments contradict each other, or ask for an empty probe.
    """
    tokens = [tokens] if isinstance(tokens, str | Path) else tokens
    if text and tokens:
        raise OptionError("a probe must be made of text files or of token files (got both)")
    tokenizer = None if tokenizer_json is None else ProbeTokenizer(tokenizer_json)
    count, length = batch or (None, length)
    if length < 2 or (count is not None and count < 1):
        raise OptionError(f"a probe needs at least 1 window of 2 tokens (got batch={batch}, length={length})")
    most = math.inf if count is None else count * length
    if tokens:
        domains = _token_domains(tokens, tokens_dtype or dtype_for(vocab_size), most)
        widths = [row.size for domain in domains if domain.has_rows for row in domain.rows[:1]]
        length = max(widths, default=length) if batch is None else length
    else:
        domains = _text_domains(tokenizer, text, most)
    windows = [_windows(domain, length, count, vocab_size) for domain in domains]
    if count is not None:
        windows = round_robin(windows, count)
    return _probe([domain.name for domain in domains], windows, length, tokenizer, vocab_size)


def _token_domains(names: Sequence[str | Path], dtype: str, most: float) -> list[_Domain]:
    """One domain per file of token ids."""
    domains = []
    for domain, name in zip(domain_names(names), names, strict=True):
        array = read_tokens(name, dtype=dtype, most=most)
        domains.append(_Domain(domain, str(name), list(np.atleast_2d(array)), has_rows=array.ndim == 2))
    return domains


def _text_domains(tokenizer: ProbeTokenizer | None, paths: Sequence[Path], most: float) -> list[_Domain]:
    """One domain per file, each of about `most` tokens, or of all it has."""
    if tokenizer is None:
        raise ProbeError(
            "text needs a tokenizer.json; the source has none; give one with --tokenizer, or token ids with --tokens"
        )
    named: dict[str, Path] = {}
    for path in paths:
        name = domain_name(path)
        if name in named:
            raise ProbeError(
                f"text files must differ in their names (got {named[name]} and {path} for the domain {name!r}); rename one"
            )
        named[name] = path
    texts = {name: _read(path, most * tokenizer.longest) for name, path in named.items()} or _built_in()
    return [
        _Domain(name, str(named.get(name, f"the built-in text {name!r}")), [_join(tokenizer, documents, most)])
        for name, documents in texts.items()
    ]


def _read(path: Path, most: float) -> Iterator[str]:
    """The documents of a file of which about `most` characters are needed; all of them if that is infinite."""
    whole = most == math.inf
    total = 0
    for document in read_documents(path, most_bytes=_SLACK + _SPREAD * int(MOST_BYTES if whole else most)):
        total += len(document)
        if whole and total > MOST_BYTES:
            raise ProbeError(
                f"{path} holds more than {MOST_BYTES >> 20} MiB of text; take a part of it with --batch BxT, such as 64x512"
            )
        yield document


def _built_in() -> dict[str, Iterable[str]]:
    folder = files(__package__).joinpath("texts")
    return {name: [folder.joinpath(f"{name}.txt").read_text(encoding="utf-8")] for name in BUILT_IN}


def _join(tokenizer: ProbeTokenizer, documents: Iterable[str], most: float) -> NDArray[np.int64]:
    """The ids of documents with the end of text between them; reading stops at `most` ids."""
    separator = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    ids: list[int] = []
    for document in documents:
        ids += [*(separator if ids else []), *_encode(tokenizer, document, most - len(ids))]
        if len(ids) >= most:
            break
    return np.array(ids, dtype=np.int64)


def _encode(tokenizer: ProbeTokenizer, document: str, most: float) -> list[int]:
    """The ids of a document, or of as much of its beginning as gives `most` of them."""
    size = len(document) if most == math.inf else _SPREAD * int(most) * tokenizer.longest
    while True:
        text = beginning(document, size)
        ids = tokenizer.encode(text)
        if len(ids) >= most or len(text) == len(document):
            return ids
        size *= _SPREAD


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
        special_ids=() if tokenizer is None else tokenizer.special_ids,
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
