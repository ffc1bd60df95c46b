"""The first bytes of files, kept so that none is asked for twice.

A header is read with a guess of 64 KiB, the end of which belongs to tensors; the header is read again where the file is
hashed; configs, indices and tokenizers are read by several callers. Kept bytes always begin at the first byte of a file.

    >>> cache = PrefixCache({"config.json": 2})
    >>> cache.keep(Span("config.json", 0, 2), np.frombuffer(b"{}", np.uint8))
    >>> cache.find(Span("config.json", 1, 2)).tobytes()
    b'}'
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from olmo_dynamics.checkpoints.tensors import Span

KEPT_FRONT = 1 << 20  # 1 MiB: the front of a large file, which is its header
KEPT_FILE = 16 << 20  # 16 MiB: a whole small file; a tokenizer takes 7 MB

_NOTHING = np.empty(0, np.uint8)


class PrefixCache:
    """Bytes read from the beginning of each file; `sizes` are the files' sizes."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._kept: dict[str, np.ndarray] = {}

    def find(self, span: Span) -> np.ndarray:
        """The kept bytes of a span, from its start on; often empty."""
        return self._kept.get(span.file, _NOTHING)[span.start : span.stop]

    def keep(self, span: Span, raw: np.ndarray) -> None:
        """Keep the bytes of a span, if they continue the kept ones and the whole stays small."""
        kept = self._kept.get(span.file, _NOTHING)
        whole = span.stop == self._sizes[span.file]
        if span.start <= len(kept) < span.stop <= (KEPT_FILE if whole else KEPT_FRONT):
            self._kept[span.file] = np.concatenate([kept, raw[len(kept) - span.start :]]) if span.start else raw
