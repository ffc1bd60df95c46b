"""Documents read from text files: `.txt` holds one, `.jsonl` one per line in the field `text`, gzipped or not.

    >>> for document in read_documents(Path("c4-sample.01.json.gz")):  # doctest: +SKIP
    ...     print(len(document))

`read_documents` is a generator, so reading the first tokens of a large file reads only its beginning, and never more than
a line of 64 MiB at once. A UTF-8 byte order mark at the beginning of a file is not part of its text.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from olmo_dynamics.errors import ProbeError

_LINES = (".jsonl", ".jsonl.gz", ".json.gz")
SUFFIXES = (".txt", *_LINES)
MOST_BYTES = 64 << 20
"""The most bytes of one line: a small compressed file can hold a line of any length."""
_IDLE_BYTES = 4 << 20  # of lines in a row without text, for the same reason


def domain_name(path: Path) -> str:
    """The file's name without the ending of its format: `c4-sample.01` for `c4-sample.01.json.gz`."""
    return path.name.removesuffix(_suffix(path))


def read_documents(path: Path, *, most_bytes: int | None = None) -> Iterator[str]:
    """Iterate over the documents of a file, in order, without empty ones; of a `.txt` file, at most its first `most_bytes`.

    Raises:
        ProbeError: while reading, if the file or a line of it cannot be read.
    """
    suffix = _suffix(path)
    try:
        yield from _text(path, most_bytes) if suffix == ".txt" else _lines(path, suffix)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ProbeError(f"cannot read the text file {path}: {reason}") from error


def beginning(text: str, characters: int) -> str:
    """The text up to a word's end near that many characters, so that its tokens are the first tokens of the whole text.

    >>> beginning("the tide clerk", 10)
    'the tide'
    """
    if len(text) <= characters:
        return text
    end = text.rfind(" ", 1, characters + 1)
    while end > 0 and not text[end - 1].isalnum():
        end = text.rfind(" ", 1, end)
    return text[: end if end > 0 else characters]


def _suffix(path: Path) -> str:
    found = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if found is None or path.name == found:
        raise ProbeError(f"a text file must be named *{', *'.join(SUFFIXES)} (got {path})")
    return found


def _text(path: Path, most_bytes: int | None) -> Iterator[str]:
    with path.open("rb") as file:
        raw = file.read(-1 if most_bytes is None else most_bytes)
        whole = not file.read(1)
    text = _decode(raw, path, offset=0, whole=whole)
    if text:
        yield text if whole else beginning(text, len(text) - 1)


def _lines(path: Path, suffix: str) -> Iterator[str]:
    offset = idle = 0
    with gzip.open(path) if suffix.endswith(".gz") else path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MOST_BYTES + 1), b""), 1):
            if len(line) > MOST_BYTES:
                raise ProbeError(f"{path} line {number} must be at most {MOST_BYTES >> 20} MiB long; split its text")
            text = _field(_decode(line, path, offset=offset), path, number)
            offset += len(line)
            idle = 0 if text else idle + len(line)
            if idle > _IDLE_BYTES:
                raise ProbeError(
                    f"{path} line {number}: more than {_IDLE_BYTES >> 20} MiB of lines have no text; remove them"
                )
            if text:
                yield text


def _decode(raw: bytes, path: Path, *, offset: int, whole: bool = True) -> str:
    """The text of some bytes; a character cut off at their end is left out unless they are `whole`."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(raw, final=whole)
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise ProbeError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {place}; convert it, for example with iconv"
        ) from error
    return text if offset else text.removeprefix("\ufeff")


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
