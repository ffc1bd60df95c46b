"""Documents read from text files: `.txt` holds one, `.jsonl` one per line in the field `text`, gzipped or not.

    >>> for document in read_documents(Path("c4-sample.01.json.gz")):  # doctest: +SKIP
    ...     print(len(document))

`read_documents` is a generator, so reading the first tokens of a large file reads only its beginning.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from olmo_dynamics.errors import ProbeError

_LINES = (".jsonl", ".jsonl.gz", ".json.gz")
SUFFIXES = (".txt", *_LINES)


def domain_name(path: Path) -> str:
    """The file's name without the ending of its format: `c4-sample.01` for `c4-sample.01.json.gz`."""
    return path.name.removesuffix(_suffix(path))


def read_documents(path: Path) -> Iterator[str]:
    """Iterate over the documents of a file, in order, without empty ones.

    Raises:
        ProbeError: while reading, if the file or a line of it cannot be read.
    """
    suffix = _suffix(path)
    try:
        yield from _text(path) if suffix == ".txt" else _lines(path, suffix)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ProbeError(f"cannot read the text file {path}: {reason}") from error


def _suffix(path: Path) -> str:
    found = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if found is None or path.name == found:
        raise ProbeError(f"a text file must be named *{', *'.join(SUFFIXES)} (got {path})")
    return found


def _text(path: Path) -> Iterator[str]:
    text = _decode(path.read_bytes(), path, offset=0)
    if text:
        yield text


def _lines(path: Path, suffix: str) -> Iterator[str]:
    offset = 0
    with gzip.open(path) if suffix.endswith(".gz") else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = _field(_decode(line, path, offset=offset), path, number)
            offset += len(line)
            if text:
                yield text


def _decode(raw: bytes, path: Path, *, offset: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise ProbeError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {place}; convert it, for example with iconv"
        ) from error


def _field(line: str, path: Path, number: int) -> str:
    """The `text` of one line, empty for a blank line."""
    if not line.strip():
        return ""
    try:
        text = json.loads(line)["text"]
        text.encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ProbeError(
            f"{path} line {number} must be a JSON object whose field 'text' is text (got {_fault(error)})"
        ) from error
    return str(text)


def _fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON, {error.msg} at column {error.colno}"
    if isinstance(error, UnicodeEncodeError):
        return f"half of a surrogate pair, at character {error.start}"
    if isinstance(error, RecursionError):
        return "JSON nested too deeply"
    return "other contents"
