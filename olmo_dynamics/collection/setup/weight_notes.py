"""Lines for the user on weights that are not what a config, or a reader, expects.

>>> weight_notes(checkpoint, setup, mapped=True)  # doctest: +SKIP
('step10: 14 tensors are not measured, since they hold packed or whole numbers, which are not weights: …',)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial

import numpy as np

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.collection.setup.collection_setup import CollectionSetup
from olmo_dynamics.model import has_other_head, missing_head
from olmo_dynamics.names import FLOAT_DTYPES, TensorInfo
from olmo_dynamics.quantities.declaration import Reads

_SAMPLES, _SAMPLE_BYTES = 4, 1 << 16  # stretches of 64 KiB
_SHOWN = 8  # kinds of tensors in a note


def weight_notes(checkpoint: Checkpoint, setup: CollectionSetup, *, mapped: bool) -> tuple[str, ...]:
    """Lines on a revision's weights where they are not what its config, or a reader, expects."""
    found = [*_of_head(checkpoint, setup, mapped=mapped)] if setup.runs_model(setup.groups) else []
    if setup.recorders_of(setup.groups, Reads.WEIGHTS):
        found += _not_measured(checkpoint, setup)
    return tuple(found)


def _of_head(checkpoint: Checkpoint, setup: CollectionSetup, *, mapped: bool) -> Iterator[str]:
    name, config = checkpoint.revision.name, checkpoint.config
    missing = missing_head(config, checkpoint.tensors)
    if missing:
        yield (
            f"{name} has no language-model head ({missing}): activations are recorded up to the final norm; logits and "
            "losses are not recorded"
        )
    read = checkpoint.read_many if mapped else partial(_sample, checkpoint)
    if config.get("tie_word_embeddings") and has_other_head(checkpoint.tensors, read):
        yield (
            f"{name}: config.json ties lm_head.weight to the embedding, but the file holds a head of other values; the "
            "file's head is used, as in transformers"
        )


def _sample(checkpoint: Checkpoint, infos: Sequence[TensorInfo]) -> dict[str, np.ndarray]:
    """A few stretches of tensors that are far away: heads that differ do so nearly everywhere."""
    found = {}
    for info in infos:
        if info.file not in checkpoint.files:  # joined from pieces
            found[info.name] = checkpoint.read(info)
            continue
        starts = np.linspace(info.start, max(info.start, info.stop - _SAMPLE_BYTES), _SAMPLES, dtype=np.int64)
        spans = [Span(info.file, int(at), min(int(at) + _SAMPLE_BYTES, info.stop)) for at in starts]
        found[info.name] = np.concatenate(checkpoint.read_spans(spans))
    return found


def _not_measured(checkpoint: Checkpoint, setup: CollectionSetup) -> Iterator[str]:
    """A line on the tensors whose numbers are not weights, such as the packed words of a quantised model."""
    name, tensors = checkpoint.revision.name, checkpoint.tensors.values()
    others = [info for info in tensors if info.dtype not in FLOAT_DTYPES and info.size and _is_asked(info, setup)]
    if others:
        yield (
            f"{name}: {_count(others)} not measured, since they hold packed or whole numbers, which are not weights: "
            f"{_kinds(others)}; {_count(setup.tensors)} measured"
        )
    scaled = [info for info in setup.tensors if info.dtype.startswith("F8_")]
    if scaled and any("scale" in info.role for info in tensors):
        yield f"{name}: measured as they are stored, without the scales beside them: {_kinds(scaled)}"


def _is_asked(info: TensorInfo, setup: CollectionSetup) -> bool:
    patterns = setup.options.tensors
    return not patterns or any(fnmatchcase(info.name, pattern) or info.role == pattern for pattern in patterns)


def _count(infos: Sequence[TensorInfo]) -> str:
    return f"{len(infos)} tensors are" if len(infos) > 1 else "1 tensor is"


def _kinds(infos: Sequence[TensorInfo]) -> str:
    kinds = list(dict.fromkeys(f"{info.role} ({info.dtype})" for info in infos))
    return f"{', '.join(kinds[:_SHOWN])}{', …' if len(kinds) > _SHOWN else ''}"
