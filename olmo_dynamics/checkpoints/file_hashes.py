"""Hashes of the files of a checkpoint that training wrote: `training_state/SHA256SUMS`, as `sha256sum -c` reads it.

Paths in it begin at the checkpoint's folder, so `sha256sum -c training_state/SHA256SUMS` there verifies it without this
library. Checkpoints that version 0.1.0 wrote have no such file.

    >>> parse_sums(format_sums({"config.json": "0" * 64}), "step5-tokens320").keys()
    dict_keys(['config.json'])
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from olmo_dynamics.checkpoints.source import Checkpoint
from olmo_dynamics.errors import IntegrityError

SUMS_FILE = "training_state/SHA256SUMS"
MAX_SUMS_BYTES = 1 << 20  # 1 MiB; ours take a few hundred bytes

_LINE = re.compile(r"([0-9a-f]{64})  ([^\r\n]+)")
_REMEDY = "choose another checkpoint, or copy this one again"


def format_sums(sums: Mapping[str, str]) -> bytes:
    """The contents of the file: one line per file, sorted by name."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items())).encode()


def parse_sums(text: bytes, where: str) -> dict[str, str]:
    """The sha256 of each file by name; `where` names the checkpoint in errors.

    Raises:
        IntegrityError: the text is not such lines, the last of them whole.
    """
    lines = text.decode("utf-8", "replace").split("\n")
    found = [_LINE.fullmatch(line) for line in lines[:-1]]
    if lines[-1] or not found or not all(found):
        raise IntegrityError(f"{where}: {SUMS_FILE} is damaged (it must be lines of a sha256 and a file): {_REMEDY}")
    return {each[2]: each[1] for each in found if each}


def read_sums(checkpoint: Checkpoint) -> dict[str, str]:
    """The sha256 of each file that the checkpoint was written with; empty if its writer kept none.

    Raises:
        IntegrityError: the list of hashes is damaged.
    """
    if SUMS_FILE not in checkpoint.files:
        return {}
    if checkpoint.files[SUMS_FILE] > MAX_SUMS_BYTES:
        raise IntegrityError(
            f"{checkpoint.label}: {SUMS_FILE} must have at most {MAX_SUMS_BYTES} bytes (got {checkpoint.files[SUMS_FILE]}): "
            f"{_REMEDY}"
        )
    return parse_sums(checkpoint.read_file(SUMS_FILE), checkpoint.label)


def verify_files(checkpoint: Checkpoint, sums: Mapping[str, str], names: Collection[str]) -> None:
    """Compare files, which are read whole, with their hashes.

    Raises:
        IntegrityError: a file is missing, has no hash, or has other bytes than those that were written.
    """
    for name in names:
        if name not in checkpoint.files:
            problem = "is missing"
        elif name not in sums:
            problem = f"is damaged or was added ({SUMS_FILE} does not list it)"
        elif checkpoint.file_sha256(name) != sums[name]:
            problem = f"is damaged (its sha256 is not the one in {SUMS_FILE})"
        else:
            continue
        raise IntegrityError(f"{checkpoint.label}: {name} {problem}: {_REMEDY}")
