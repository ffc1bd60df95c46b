"""Real text available on every machine, as tokens: the standard library's sources and the language reference's prose.

Nothing is downloaded. For one interpreter the text, the tokenizer and the token arrays are always the same.

    >>> corpus = build_corpus(max_bytes=100_000, entries=300)
    >>> corpus.train.dtype, corpus.held_out.size < corpus.train.size
    (dtype('uint16'), True)
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from jaxtyping import UInt16
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from olmo_dynamics.errors import OptionError

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
END_OF_TEXT_ID, PADDING_ID = 0, 1
HELD_OUT_FRACTION = 0.05

# Third-party packages, tests, other languages' data, tables of code points, and files generated on the machine.
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"}
    | {"lib-dynload", "encodings", "ensurepip", "pydoc_data", "msilib"}
)
SKIPPED_PREFIXES = ("_sysconfigdata", "_sysconfig_vars", "config-")


@dataclass(frozen=True)
class Corpus:
    """Token arrays for training and for evaluation, and their tokenizer; documents end in `<|endoftext|>`."""

    tokenizer_json: bytes
    train: UInt16[np.ndarray, " tokens"]
    held_out: UInt16[np.ndarray, " tokens"]

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `train.npy` and `held_out.npy` under a temporary name, then rename the folder."""
        temporary = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir(parents=True)
        (temporary / "tokenizer.json").write_bytes(self.tokenizer_json)
        np.save(temporary / "train.npy", self.train)
        np.save(temporary / "held_out.npy", self.held_out)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """The corpus that `save` wrote."""
        arrays = (np.load(folder / f"{name}.npy") for name in ("train", "held_out"))
        return cls((folder / "tokenizer.json").read_bytes(), *arrays)


def build_corpus(*, max_bytes: int, entries: int) -> Corpus:
    """Gather at most `max_bytes` of text, train a byte-level BPE of `entries` tokens on it, and encode it.

    The last twentieth of the text is held out, from the training of the tokenizer too.

    Raises:
        OptionError: the vocabulary cannot hold all bytes, or does not fit 16 bits.
    """
    fewest, most = 256 + len((END_OF_TEXT, PADDING)), 1 << 16
    if not fewest <= entries <= most:
        raise OptionError(f"a byte-level vocabulary in 16 bits must have {fewest} to {most} entries (got {entries})")
    train, held_out = split_texts(gather_texts(max_bytes))
    tokenizer = train_tokenizer(train, entries)
    return Corpus(tokenizer.to_str().encode(), _encode(tokenizer, train), _encode(tokenizer, held_out))


def gather_texts(max_bytes: int) -> list[str]:
    """Gather sources and prose, shuffled together by a fixed seed; the document that exceeds `max_bytes` is cut there."""
    texts = [*_sources(Path(sysconfig.get_path("stdlib"))), *(topics[name] for name in sorted(topics))]
    chosen = []
    left = max_bytes
    for index in np.random.Generator(np.random.PCG64(0)).permutation(len(texts)):
        text = texts[index].encode()[:left].decode(errors="ignore")
        left -= len(text.encode())
        chosen.append(text)
        if left <= 0:
            break
    return chosen


def split_texts(texts: list[str]) -> tuple[list[str], list[str]]:
    """Split texts where `HELD_OUT_FRACTION` of all characters is left; one text may be cut in two."""
    cut = round((1 - HELD_OUT_FRACTION) * sum(map(len, texts)))
    before, after = [], []
    for text in texts:
        before.append(text[:cut])
        after.append(text[cut:])
        cut = max(0, cut - len(text))
    return [text for text in before if text], [text for text in after if text]


def train_tokenizer(texts: list[str], entries: int) -> Tokenizer:
    """Train a byte-level BPE without unknown tokens; `<|endoftext|>` is id 0 and `<|pad|>`, in no text, is id 1."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=entries,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _sources(stdlib: Path) -> Iterator[str]:
    """The `.py` files under the standard library's folder, in order of their relative paths."""
    found = []
    for folder, folders, names in os.walk(stdlib):
        folders[:] = filter(_is_included, folders)
        found += [Path(folder, name) for name in filter(_is_included, names) if name.endswith(".py")]
    for path in sorted(found, key=lambda path: path.relative_to(stdlib).as_posix()):
        yield path.read_text(encoding="utf-8", errors="ignore")


def _is_included(name: str) -> bool:
    return name not in SKIPPED_FOLDERS and not name.startswith(SKIPPED_PREFIXES)


def _encode(tokenizer: Tokenizer, texts: list[str]) -> UInt16[np.ndarray, " tokens"]:
    ids = [[*encoding.ids, END_OF_TEXT_ID] for encoding in tokenizer.encode_batch(texts)]
    return np.concatenate([np.array(document, dtype=np.uint16) for document in ids])
