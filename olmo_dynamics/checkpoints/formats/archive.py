"""Zip archives as `torch.save` writes them: members are stored uncompressed, so each is a span of the file.

Only the directory at the end and the small headers of the members are read. An archive with compressed or encrypted members, a
repeated name, or members that overlap or exceed the file is refused, whatever its directory claims.

    >>> members = read_members(read, "model.pt", 933608)                                        # doctest: +SKIP
    >>> members["data/0"]                                                                       # doctest: +SKIP
    Span(file='model.pt', start=6784, stop=137856)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from olmo_dynamics.checkpoints.tensors import Span, SpanReader, refuse_pointer
from olmo_dynamics.errors import CheckpointError

TAIL_BYTES = 1 << 16  # 64 KiB hold the directory of all but the largest files: one read instead of two
MAX_DIRECTORY_BYTES = 256 << 20  # 256 MiB; a member takes about 80 bytes

_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_WIDE_END = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    header: int  # where its local header begins
    size: int


def read_members(read: SpanReader, file: str, size: int) -> dict[str, Span]:
    """The members of an archive by name, without the folder that holds them all; `size` is the file's, in bytes.

    Raises:
        CheckpointError: it is not a zip of stored members, is cut off, or its members overlap.
    """
    try:
        entries, end = _read_directory(read, file, size)
        return _locate(read, file, entries, end)
    except (struct.error, UnicodeDecodeError, ValueError) as problem:
        raise _refusal(file, str(problem)) from None


def _read_directory(read: SpanReader, file: str, size: int) -> tuple[list[_Entry], int]:
    """The entries, and the position of the directory."""
    if size < _END.size:
        raise ValueError(f"it has {size} bytes")
    tail_start = max(0, size - TAIL_BYTES)
    [raw] = read([Span(file, tail_start, size)])
    tail = raw.tobytes()
    refuse_pointer(file, tail)  # a pointer is so short that its tail is all of it
    count, length, start = _directory_place(tail)
    if length > MAX_DIRECTORY_BYTES or start + length > size:
        raise ValueError(f"its directory should be at bytes {start} to {start + length} of {size}")
    if start < tail_start:
        [raw] = read([Span(file, start, start + length)])
        listing = raw.tobytes()
    else:
        listing = tail[start - tail_start : start - tail_start + length]
    return _parse_entries(listing, count), start


def _directory_place(tail: bytes) -> tuple[int, int, int]:
    """Number of members, length and start of the directory, from the last bytes of the file."""
    signature, *_, count, length, start, comment = _END.unpack(tail[-_END.size :])
    if signature != b"PK\5\6" or comment:
        raise ValueError("it does not end as one; it is cut off, or was written by torch before 1.6")
    wide = tail[-_END.size - _LOCATOR.size : -_END.size]
    if wide[:4] != b"PK\6\7":
        return count, length, start
    end = tail[-_END.size - _LOCATOR.size - _WIDE_END.size : -_END.size - _LOCATOR.size]
    signature, *_, count, length, start = _WIDE_END.unpack(end)
    if signature != b"PK\6\6":
        raise ValueError("its directory cannot be found")
    return count, length, start


def _parse_entries(listing: bytes, count: int) -> list[_Entry]:
    entries, at = [], 0
    for _ in range(count):
        fields = _ENTRY.unpack_from(listing, at)
        signature, _, _, flags, method, _, _, _, packed, size, name_length, extra_length, note_length = fields[:13]
        name_start = at + _ENTRY.size
        extra_start = name_start + name_length
        at = extra_start + extra_length + note_length
        if signature != b"PK\1\2" or at > len(listing):
            raise ValueError("its directory is damaged")
        if method or flags & 1:
            raise ValueError("it has compressed or encrypted members")
        name = listing[name_start:extra_start].decode("utf-8")
        size, packed, header = _widen(size, packed, fields[-1], listing[extra_start : extra_start + extra_length])
        if size != packed:
            raise ValueError("it has a stored member of two sizes")
        entries.append(_Entry(name, header, size))
    return entries


def _widen(size: int, packed: int, header: int, extra: bytes) -> tuple[int, int, int]:
    """Sizes and offset, from the 64-bit field of `extra` if they do not fit into 32 bits."""
    narrow = 0xFFFFFFFF
    if narrow not in (size, packed, header):
        return size, packed, header
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            size, packed, header = (next(numbers, narrow) if old == narrow else old for old in (size, packed, header))
            break
        at += 4 + length
    return size, packed, header


def _locate(read: SpanReader, file: str, entries: list[_Entry], end: int) -> dict[str, Span]:
    """The span of each member, by its local header; it may not reach into the next header or the directory."""
    ordered = sorted(entries, key=lambda entry: entry.header)
    if any(entry.header + _LOCAL.size > end for entry in ordered):
        raise ValueError("it has a member outside the file")
    heads = read([Span(file, entry.header, entry.header + _LOCAL.size) for entry in ordered])
    members: dict[str, Span] = {}
    borders = [entry.header for entry in ordered[1:]] + [end]
    for entry, raw, border in zip(ordered, heads, borders, strict=True):
        signature, _, flags, method, *_, name_length, extra_length = _LOCAL.unpack(raw.tobytes())
        start = entry.header + _LOCAL.size + name_length + extra_length
        if signature != b"PK\3\4" or method or flags & 1 or start + entry.size > border:
            raise ValueError(f"its member {entry.name[:80]!r} is not where the directory says")
        name = entry.name.partition("/")[2]  # torch puts everything into one folder, named after the file
        if not name or name in members:
            raise ValueError(f"its member {entry.name[:80]!r} appears twice, or in no folder")
        members[name] = Span(file, start, start + entry.size)
    return members


def _refusal(file: str, problem: str) -> CheckpointError:
    return CheckpointError(f"{file} must be a zip of torch.save, but {problem}; fetch the file again")
