"""The input of a model: windows of token ids, with their mask, domains and byte counts.

>>> token_ids, mask = np.full((3, 4), 7), np.ones((3, 4), dtype=np.bool_)
>>> probe = Probe(token_ids, mask, np.array([0, 0, 1]), ("code", "tables"), np.full((3, 4), UNKNOWN_BYTES), 100)
>>> probe.shape, probe.token_count, probe.spans
((3, 4), 12, {'code': (0, 2), 'tables': (2, 3)})
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN_BYTES = -1
"""The value of every `token_bytes` if no tokenizer gives the text of the tokens."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Token ids with their mask, domains and byte counts; read-only, and checked when made.

    A window is a row of `token_ids`; it never spans two domains, and windows of one domain are adjacent. Padding is on
    the right (`mask` False, id 0, 0 bytes). A token that only separates documents has 0 bytes too.
    """

    token_ids: NDArray[np.int64]  # [sequences, positions]
    mask: NDArray[np.bool_]  # [sequences, positions], True where the token is real
    domain: NDArray[np.int64]  # [sequences], an index into `domains`
    domains: tuple[str, ...]
    token_bytes: NDArray[np.int64]  # [sequences, positions], UTF-8 bytes; -1 everywhere when unknown
    tokenizer_size: int  # number of ids in the tokenizer; the vocabulary's size if there is no tokenizer
    tokenizer_sha256: str = ""
    special_ids: tuple[int, ...] = ()  # ids of no text, as far as the tokenizer tells

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_order()
        for array in (self.token_ids, self.mask, self.domain, self.token_bytes):
            array.setflags(write=False)

    def _check_shapes(self) -> None:
        if self.token_ids.ndim != 2 or 0 in self.token_ids.shape:
            raise ValueError(
                f"token_ids must be [sequences, positions] and not empty (got shape {self.token_ids.shape})"
            )
        shapes = {"mask": self.mask.shape, "token_bytes": self.token_bytes.shape, "domain": (*self.domain.shape,)}
        expected = {"mask": self.shape, "token_bytes": self.shape, "domain": self.shape[:1]}
        if shapes != expected:
            raise ValueError(f"shapes must be {expected} (got {shapes})")

    def _check_order(self) -> None:
        if (self.mask[:, 1:] & ~self.mask[:, :-1]).any() or not self.mask[:, 0].all():
            raise ValueError("padding must be on the right, and every window must hold a token")
        used = np.unique(self.domain)
        if not np.array_equal(used, np.arange(len(self.domains))) or (np.diff(self.domain) < 0).any():
            raise ValueError(
                f"windows must be grouped by domain, {len(self.domains)} domains (got {self.domain.tolist()})"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(sequences, positions)."""
        return self.token_ids.shape[0], self.token_ids.shape[1]

    @property
    def token_count(self) -> int:
        """Tokens that are not padding."""
        return int(self.mask.sum())

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """Domain -> first window and one past the last."""
        edges = np.searchsorted(self.domain, np.arange(len(self.domains) + 1))
        return {name: (int(edges[k]), int(edges[k + 1])) for k, name in enumerate(self.domains)}

    @cached_property
    def sha256(self) -> str:
        """The hash of the model's input, in hexadecimal; the same on every machine.

        SHA-256 over one line of JSON (`{"domains": [[name, first, stop], …], "shape": [sequences, positions]}` with
        sorted keys, no spaces, ASCII), a newline, the token ids as little-endian int64 row by row, and the mask as one
        byte per element. Byte counts and the tokenizer are left out: the same ids are the same probe.
        """
        header: dict[str, Any] = {
            "domains": [[name, *span] for name, span in self.spans.items()],
            "shape": list(self.shape),
        }
        digest = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n")
        digest.update(self.token_ids.astype("<i8").tobytes())
        digest.update(self.mask.astype(np.uint8).tobytes())
        return digest.hexdigest()
