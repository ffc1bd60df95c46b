"""The optimiser's state that training of this library writes: one safetensors file, `{parameter}.exp_avg` and so on.

>>> state = written_state(checkpoint.read_spans, checkpoint.files, groups=[])                   # doctest: +SKIP
>>> state.steps["model.norm.weight"]                                                            # doctest: +SKIP
40.0
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from olmo_dynamics.checkpoints.formats.optimizer import OptimizerState, build_state
from olmo_dynamics.checkpoints.formats.plain_names import stored_info
from olmo_dynamics.checkpoints.formats.tensor_views import Stored, View
from olmo_dynamics.checkpoints.tensors import SpanReader, read_headers

WRITTEN_FILE = "training_state/optimizer.safetensors"


def written_state(
    read: SpanReader, files: Mapping[str, int], *, groups: Iterable[Mapping[str, Any]], name: str = ""
) -> OptimizerState | None:
    """Read the state's header and steps, with hyper-parameters by group; None before the first update, when there is no state.

    Raises:
        CheckpointError: the file is damaged, or no parameter has a first moment.
    """
    stored: dict[str, dict[str, Stored | float]] = {}
    for info in read_headers(read, {WRITTEN_FILE: files[WRITTEN_FILE]})[WRITTEN_FILE]:
        parameter, _, kind = info.name.rpartition(".")
        stored.setdefault(parameter, {})[kind] = stored_info(info)
    if not stored:
        return None
    return build_state(read, _views, stored=stored, groups=groups, where=WRITTEN_FILE, name=name)


def _views(stored: Iterable[Stored]) -> Iterator[View]:
    return (View(tensor.name, tensor) for tensor in stored)
