"""A tokenizer.json for probes: text to ids, and the number of bytes of text of each id.

>>> tokenizer = ProbeTokenizer(Path("tokenizer.json").read_bytes())  # doctest: +SKIP
>>> tokenizer.encode("a probe"), tokenizer.size  # doctest: +SKIP
([64, 21743], 100278)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from olmo_dynamics.errors import ProbeError
from olmo_dynamics.probes.probe import UNKNOWN_BYTES

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""Spellings of the token that ends a document; a tokenizer.json does not mark that token."""

BEGINNING_OF_TEXT = ("<s>", "<|begin_of_text|>", "<bos>")
"""Spellings of a token that begins a document; where there is none, the one that ends a document does."""


class ProbeTokenizer:
    """A tokenizer without truncation, padding or added tokens; `sha256` is the hash of its tokenizer.json.

    Raises:
        ProbeError: the tokenizers library cannot read the tokenizer.json.
    """

    def __init__(self, tokenizer_json: bytes) -> None:
        try:
            text = tokenizer_json.decode()
            self._tokenizer = Tokenizer.from_str(text)
            self._fields: dict[str, Any] = json.loads(text)
        except Exception as error:  # the library raises bare Exception
            reason = " ".join(str(error).split())
            raise ProbeError(
                f"tokenizer.json must be readable by the tokenizers library (got the error: {reason})"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.sha256 = hashlib.sha256(tokenizer_json).hexdigest()

    def encode(self, text: str, *, with_special_tokens: bool = False) -> list[int]:
        """The ids of a text, without the tokens that the tokenizer adds at its ends unless they are asked for."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=with_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, including special tokens."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    @cached_property
    def size(self) -> int:
        """The number of ids: the largest plus one."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1

    @cached_property
    def longest(self) -> int:
        """The most characters that the spelling of an id has."""
        return max(map(len, self._tokenizer.get_vocab()), default=1)

    @property
    def end_of_text(self) -> int | None:
        """The id that separates documents, or None if no token has one of the known spellings."""
        return self._first_added(END_OF_TEXT)

    @property
    def beginning_of_text(self) -> int | None:
        """The id that a text begins with, or None if no token has one of the known spellings."""
        return self._first_added((*BEGINNING_OF_TEXT, *END_OF_TEXT))

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of special tokens, which stand for no text."""
        return tuple(int(token["id"]) for token in self._fields.get("added_tokens") or () if token.get("special"))

    @cached_property
    def token_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes of the text of each id [size]; -1 for unused ids, and for all ids if it is not byte-level.

        A byte-level vocabulary spells each byte as one character, so a token's characters are its bytes. Added tokens
        are plain text. The end of text counts 0: it separates documents and is part of none. If the tokenizer normalises
        text (OLMo 1's to NFC), the bytes are those of the normalised text.
        """
        counts = np.full(self.size, UNKNOWN_BYTES, dtype=np.int64)
        if not self._byte_level:
            return counts
        for spelling, token_id in self._tokenizer.get_vocab(with_added_tokens=False).items():
            counts[token_id] = len(spelling)
        for token in self._fields.get("added_tokens") or ():
            counts[token["id"]] = len(token["content"].encode())
        if self.end_of_text is not None:
            counts[self.end_of_text] = 0
        return counts

    def _first_added(self, spellings: Sequence[str]) -> int | None:
        added = {token["content"]: int(token["id"]) for token in self._fields.get("added_tokens") or ()}
        return next((added[spelling] for spelling in spellings if spelling in added), None)

    @property
    def _byte_level(self) -> bool:
        steps = [self._fields.get("pre_tokenizer"), self._fields.get("decoder")]
        flat = [
            step for outer in steps if outer for step in (outer, *outer.get("pretokenizers", outer.get("decoders", ())))
        ]
        return any(step["type"] == "ByteLevel" for step in flat)
