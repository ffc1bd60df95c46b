"""Edits of weights at the fork: scaled, zeroed, a residual feature zeroed, or replaced by a function's result.

AdamW's moments of an edited parameter stay, except for elements that the edit set to zero: their moments become zero too, so
that old momentum does not bring them back at once. A zeroed weight is still trained; freeze it as well to keep it at zero.

    >>> parse_edit("model.layers.0.mlp.down_proj.weight[3]=0.5")
    WeightEdit(glob='model.layers.0.mlp.down_proj.weight', factor=0.5, rows=(3,))
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.training.fork.options import ForkOptions
from olmo_dynamics.training.state import TrainState, matches

_ROWS = re.compile(r"(.+)\[(\d+(?:,\d+)*)\]")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class WeightEdit:
    """Multiplication of the matching parameters by `factor`, or of some rows only."""

    glob: str
    factor: float
    rows: tuple[int, ...] = ()


def parse_edit(text: str) -> WeightEdit:
    """Parse `GLOB=FACTOR` or `GLOB[ROW,…]=FACTOR`.

    Raises:
        OptionError: the text is of neither form.
    """
    name, _, number = text.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not name or not math.isfinite(factor):
        raise OptionError(
            f"scale must be GLOB=FACTOR or GLOB[ROW]=FACTOR, such as '*.down_proj.weight=0.5' (got {text!r})"
        )
    found = _ROWS.fullmatch(name)
    rows = tuple(int(row) for row in found[2].split(",")) if found else ()
    return WeightEdit(found[1] if found else name, factor, rows)


def read_edits(options: ForkOptions) -> list[WeightEdit]:
    """The edits that scale, then those that zero."""
    return [parse_edit(text) for text in options.scale] + [parse_edit(f"{text}=0") for text in options.zero]


def describe_edits(options: ForkOptions) -> list[str]:
    """One line per edit, as provenance and lineage name them."""
    function = (
        options.edit
        and f"{getattr(options.edit, '__module__', '?')}.{getattr(options.edit, '__qualname__', options.edit)}"
    )
    return [
        *(f"scale {text}" for text in options.scale),
        *(f"zero {text}" for text in options.zero),
        *(f"zero feature {feature}" for feature in options.zero_feature),
        *([f"function {function}"] if function else []),
    ]


def check_edits(options: ForkOptions, shapes: Shapes, hidden_size: int) -> None:
    """Check that every edit has something to change.

    Raises:
        OptionError: a glob matches nothing, or a row or a feature does not exist.
    """
    for edit in read_edits(options):
        named = [name for name in shapes if matches(name, [edit.glob])]
        if not named:
            raise OptionError(no_match("an edit", edit.glob, shapes))
        for name in named:
            if max(edit.rows, default=0) >= shapes[name][0]:
                raise OptionError(f"rows of {name} must be within 0..{shapes[name][0] - 1} (got {max(edit.rows)})")
    for feature in options.zero_feature:
        if not 0 <= feature < hidden_size:
            raise OptionError(f"zero_feature must be within 0..{hidden_size - 1} (got {feature})")


def no_match(what: str, glob: str, names: Mapping[str, object]) -> str:
    """The error message for a glob that matches no parameter."""
    return f"{what} must name a parameter; {glob!r} matches none of {len(names)}, such as {', '.join(list(names)[:3])}"


def apply_edits(state: TrainState, options: ForkOptions) -> dict[str, dict[str, int]]:
    """Edit the weights in place; return for each tensor the number of elements `changed`, and of those now `zeroed`.

    Raises:
        TrainingError: the function returns another shape, or numbers that are not finite.
    """
    edits, counts = read_edits(options), {}
    for name, parameter in state.model.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            for part, factor in _parts(name, parameter, edits, options):
                part.mul_(factor) if factor else part.zero_()
            if options.edit is not None:
                parameter.copy_(_checked(name, before, options.edit(name, parameter.detach().clone())))
        changed, zeroed = parameter != before, (parameter == 0) & (before != 0)
        if changed.any():
            counts[name] = {"changed": int(changed.sum()), "zeroed": int(zeroed.sum())}
            for kind in ("exp_avg", "exp_avg_sq"):
                if kind in (moments := state.optimizer.state.get(parameter, {})):
                    moments[kind].masked_fill_(zeroed, 0.0)
    return counts


def _parts(
    name: str, parameter: Tensor, edits: list[WeightEdit], options: ForkOptions
) -> Iterator[tuple[Tensor, float]]:
    """Views of a parameter, each with its factor."""
    for edit in edits:
        if matches(name, [edit.glob]):
            yield from ((parameter[row], edit.factor) for row in edit.rows) if edit.rows else [(parameter, edit.factor)]
    axis = TensorInfo(name, "F32", tuple(parameter.shape), "", 0, 0).residual_axis
    if axis is not None:
        yield from ((parameter.select(axis, feature), 0.0) for feature in options.zero_feature)


def _checked(name: str, before: Tensor, after: Tensor) -> Tensor:
    if after.shape != before.shape or not torch.isfinite(after).all():
        given = f"shape {list(after.shape)}" if after.shape != before.shape else "numbers that are not finite"
        raise TrainingError(f"edit must return finite numbers of {name}'s shape {list(before.shape)} (got {given})")
    return after
