"""Parsing revision names into stage, ingredient, step and token label.

Publishers name a checkpoint after its place in training, each project a little differently. `parse_revision` reads every
form seen on the hub; a name that it cannot read is still a revision, known by its name alone (`main`, `nitro`, `fp32`).

    [stageN-] [ingredientK-] [5e-5-] step[_]N [-tokensT] [-suffix]

    >>> parse_revision("stage2-ingredient3-step23852-tokens51B").step
    23852
    >>> parse_revision("step_0025").step, parse_revision("main").step
    (25, None)
"""

import math
import re
from dataclasses import replace

from olmo_dynamics.names import Revision

# 18 digits: every step fits an int64, and int() never meets its length limit.
_NAME = re.compile(
    r"(?:stage(?P<stage>[0-9]{1,18})-)?"
    r"(?:ingredient(?P<ingredient>[0-9A-Za-z+]{1,64})-)?"
    r"(?:(?P<prefix>[0-9]+(?:\.[0-9]+)?e[+-]?[0-9]+)-)?"
    r"step_?(?P<step>[0-9]{1,18})"
    r"(?:-tokens(?P<label>[0-9]+(?:\.[0-9]+)?[A-Za-z]?))?"
    r"(?:-(?P<suffix>.+))?",
    re.DOTALL,
)

SortKey = tuple[int, float, tuple[int, tuple[tuple[int, str], ...]], float, float, str, str]


def parse_revision(name: str) -> Revision:
    """The revision that a name describes; a name outside the grammar gives a `Revision` with no other field.

    The text after `tokens` is kept as it stands (`21B`): six published rules round it, so it is a label, not a number.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return Revision(name)
    return Revision(
        name,
        stage=int(found["stage"]) if found["stage"] else None,
        ingredient=found["ingredient"],
        step=int(found["step"]),
        token_label=found["label"],
        prefix=found["prefix"],
        suffix=found["suffix"],
    )


def sort_key(revision: Revision) -> SortKey:
    """A key for the natural order: stage, ingredient, learning-rate prefix, step, name.

    Merged ingredients (`1+2`) follow the single ones, names without a step follow those with one, and `main` is last.
    """
    group = 2 if revision.name == "main" else int(revision.step is None)
    return (
        group,
        -1 if revision.stage is None else revision.stage,
        _ingredient_key(revision.ingredient),
        float(revision.prefix) if revision.prefix else -1.0,
        math.inf if revision.step is None else revision.step,
        revision.suffix or "",
        revision.name,
    )


def _ingredient_key(ingredient: str | None) -> tuple[int, tuple[tuple[int, str], ...]]:
    if ingredient is None:
        return 0, ()
    parts = ingredient.split("+")
    return len(parts), tuple((int(part) if part.isdigit() else -1, part) for part in parts)


def named_revision(name: str) -> Revision:
    """The revision that a name describes, with its exact tokens if the name gives them.

    In `step100-tokens1048576` the label has no unit: it is not rounded but the count itself, as in folders that a fork writes.
    """
    revision = parse_revision(name)
    label = revision.token_label
    return replace(revision, tokens=int(label)) if label and label.isdecimal() and len(label) < 19 else revision
