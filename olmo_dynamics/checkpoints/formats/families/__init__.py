"""The names of tensors in families that do not name them as Llama does, a file each.

`OWN_NAMES` gives the canonical tensors of such a family from its stored ones and the contents of `config.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from olmo_dynamics.checkpoints.formats.families.ladder_names import LADDER
from olmo_dynamics.checkpoints.formats.families.neox_names import neox_views
from olmo_dynamics.checkpoints.formats.tensor_views import Stored, View

LLAMA_SHAPED = ("olmo", "olmo2", "olmo3", "olmoe", "llama")
"""The families whose published names are canonical."""

OWN_NAMES: Mapping[str, Callable[[Iterable[Stored], Mapping[str, Any]], Iterator[View]]] = {"gpt_neox": neox_views}

NAMED_OTHERWISE = frozenset({*OWN_NAMES, LADDER})
"""The families whose tables of tensors have a column of published names."""
