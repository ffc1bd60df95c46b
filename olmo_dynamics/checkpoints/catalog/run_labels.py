"""Recipe, size and seed of a run, read from the name of its repo or folder.

    >>> run_labels("allenai/DataDecide-dolma1_7-no-code-300M")
    RunLabels(recipe='dolma1_7-no-code', size='300M', seed=None)
    >>> run_labels("EleutherAI/pythia-160m-seed3")
    RunLabels(recipe='pythia', size='160m', seed='3')

The recipe is the rest of the name: runs of one recipe and size are replicates, which differ in their seed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_COLLECTIONS = ("DataDecide-",)
"""Words before the recipe in repos that belong to one collection."""

_SIZE = re.compile(r"[0-9]+(?:\.[0-9]+)?[MBT]", re.IGNORECASE)
_SEED = re.compile(r"(?:^|[-_])seed[-_]?(?P<seed>[0-9]{1,18})(?=$|[-_])", re.IGNORECASE)
_BREAK = re.compile(r"([-_])")


@dataclass(frozen=True, slots=True)
class RunLabels:
    """The recipe of a run, its size as the name spells it (empty if it tells none), and its seed (None if it tells none)."""

    recipe: str
    size: str = ""
    seed: str | None = None


def run_labels(source: str) -> RunLabels:
    """The labels that the last part of a source's name tells.

    >>> run_labels("allenai/OLMo-2-0425-1B-SFT"), run_labels("runs/mine")
    (RunLabels(recipe='OLMo-2-0425-SFT', size='1B', seed=None), RunLabels(recipe='mine', size='', seed=None))
    """
    name = source.rstrip("/").rsplit("/", 1)[-1]
    for collection in _COLLECTIONS:
        name = name.removeprefix(collection)
    found = _SEED.search(name)
    words = _BREAK.split(_SEED.sub("", name))
    sizes = [word for word in words if _SIZE.fullmatch(word)]
    # A word goes together with the separator before it.
    rest = "".join(
        words[place - 1] * (place > 0) + word
        for place, word in enumerate(words)
        if place % 2 == 0 and not _SIZE.fullmatch(word)
    )
    seed = str(int(found["seed"])) if found else None
    return RunLabels(rest.strip("-_") or name, "-".join(sizes), seed)
