"""Checksums of a store's files: CRC-32C after every piece of bytes, SHA-256 inside every `zarr.json`.

>>> unseal(seal(b"numbers"))
b'numbers'
>>> is_intact(seal_document({"node_type": "group", "attributes": {"title": "loss"}}))
True
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import google_crc32c

DOCUMENT_HASH = "document_sha256"
"""The attribute of a node that holds the SHA-256 of its `zarr.json` without this attribute, in canonical JSON."""

VALUES_CHECKSUM = "values_crc32c"
"""The attribute of an array that does not grow which holds the CRC-32C of its values: the same can be written again."""

_LENGTH = 4


def checksum(data: bytes) -> int:
    """The CRC-32C of some bytes."""
    return int(google_crc32c.value(data))


def seal(data: bytes) -> bytes:
    """Some bytes, and after them their checksum as Zarr's codec `crc32c` writes it."""
    return data + checksum(data).to_bytes(_LENGTH, "little")


def unseal(data: bytes) -> bytes:
    """The bytes before a checksum.

    Raises:
        ValueError: the checksum is not theirs.
    """
    inner = data[:-_LENGTH]
    if len(data) < _LENGTH or checksum(inner) != int.from_bytes(data[-_LENGTH:], "little"):
        raise ValueError("the checksum does not match")
    return inner


def seal_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """A `zarr.json` with its hash among the attributes."""
    bare = _bare(document)
    return {**bare, "attributes": {**bare["attributes"], DOCUMENT_HASH: _hash(bare)}}


def is_intact(document: Mapping[str, Any]) -> bool:
    """True if a `zarr.json` has the hash that it names."""
    return bool(document["attributes"].get(DOCUMENT_HASH) == _hash(_bare(document)))


def _bare(document: Mapping[str, Any]) -> dict[str, Any]:
    attributes = {name: value for name, value in document["attributes"].items() if name != DOCUMENT_HASH}
    return {**document, "attributes": attributes}


def _hash(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
