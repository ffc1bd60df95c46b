"""The declaration of a measurement: a `Quantity` is one thing we measure, a `Group` several measured together, and a `Record`
one measured value. Nothing here imports NumPy.

    >>> loudness = Quantity("loudness", long_name="loudness", formula="sum(abs(x))", unit="weight unit")
    >>> Group("noise", ("tensor",), "Noise of weights.", (loudness,))["loudness"].key
    'noise/loudness'
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.quantities.as_html import shown, table

if TYPE_CHECKING:
    import numpy as np


class Status(IntEnum):
    """The reason for a number in a store, or for its absence."""

    NOT_MEASURED = 0  # not asked for, or it does not exist here
    MEASURED = 1
    NONFINITE = 2  # measured, and the weights or activations hold NaN or Inf: a NaN beside it is a true one
    DEGENERATE = 3  # measured, and a ratio's denominator is zero (all elements equal, or all zero): that ratio is NaN
    EXCLUDED = 4  # not measured, since the published bytes are not this revision's
    ABSENT = 5  # a tensor or layer that this run does not have


class Reads(StrEnum):
    """The kinds of values that a recorder can be shown."""

    WEIGHTS = "weights"  # every tensor of a checkpoint, as it streams past
    ACTIVATIONS = "activations"  # sites of a forward pass over a probe
    OPTIMIZER = "optimizer"  # an optimiser's state of every tensor
    GRADIENTS = "gradients"  # of every tensor, or of the stream at a site, in a backward pass


GROUP_AXES: tuple[str, ...] = ("*",)
"""Axes of a quantity that lies on the base axes of its group."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One thing we measure, declared once; recorder, store, frame, axis title and glossary all read this record.

    `group` and, unless given, `axes` (those beside `revision`, which every quantity has) are filled in by the `Group`.
    Where `dtype` is an integer, -1 means that there is no value.
    """

    name: str
    group: str = ""
    long_name: str = ""
    axes: tuple[str, ...] = GROUP_AXES
    formula: str = ""
    source: str = ""
    unit: str = "1"
    symbol: str = ""
    valid: tuple[float, float] = (-math.inf, math.inf)
    dtype: str = "float64"
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", _names(f"the axes of {self.name}", self.axes))
        if self.dtype not in DTYPES:
            raise OptionError(f"dtype of {self.name} must be one of {', '.join(DTYPES)} (got {self.dtype!r})")

    @property
    def key(self) -> str:
        """`group/name`, unique."""
        return f"{self.group}/{self.name}"

    @property
    def described(self) -> str:
        """Long name, unit and formula as one line, such as a reader sees who points at the name."""
        unit = "dimensionless" if self.unit in ("1", "") else self.unit
        return f"{self.long_name or self.name} ({unit}){f': {self.formula}' if self.formula else ''}"

    def _repr_html_(self) -> str:
        """Name, unit, formula, axes and source as HTML."""
        axes = ", ".join(("revision", *self.axes))
        facts = {"": self.long_name, "unit": self.unit, "formula": self.formula, "axes": axes, "source": self.source}
        return shown(self.key, {name: text for name, text in (facts | {"note": self.note}).items() if text})


@dataclass(frozen=True, slots=True)
class Group:
    """The quantities that one recorder measures together: a group of the store, and a table.

    A quantity lies on the group's `axes` (beside `revision`) unless it names its own. A store adds a `status` to a group that
    declares none, and fills it in. `attributes` say how it was measured (a seed, a size); the store keeps them with the group.

        >>> group = Group("silent", ("layer",), "Features that stay near zero.", (Quantity("silent_share"),))
        >>> [quantity.key for quantity in group.quantities], group["silent_share"].axes
        (['silent/silent_share'], ('layer',))

    Raises:
        OptionError: a name is not an identifier, is taken, or an axis or a quantity is declared twice.
    """

    name: str
    axes: tuple[str, ...] = ()
    introduction: str = ""
    quantities: tuple[Quantity, ...] = ()
    attributes: Mapping[str, str | int | float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _check_name("a group", self.name)
        if self.name in RESERVED_GROUPS:
            raise OptionError(f"a group must not be called {self.name}: every store has one; choose another name")
        axes = _names(f"the axes of {self.name}", self.axes)
        declared = tuple(
            replace(each, group=self.name, axes=axes if each.axes == GROUP_AXES else each.axes)
            for each in _declared(self.name, self.quantities)
        )
        names = [each.name for each in declared]
        for name in names:
            _check_name("a quantity", name)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise OptionError(f"group {self.name} must declare {twice[0]} once (got it {names.count(twice[0])} times)")
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "quantities", declared)

    def __getitem__(self, name: str) -> Quantity:
        """The quantity of that name.

        Raises:
            OptionError: the group declares no such quantity.
        """
        for quantity in self.quantities:
            if quantity.name == name:
                return quantity
        known = [quantity.name for quantity in self.quantities]
        raise OptionError(
            f"group {self.name} declares no quantity {name!r}; it has {', '.join(known)}{did_you_mean(name, known)}"
        )

    def __contains__(self, name: str) -> bool:
        return any(quantity.name == name for quantity in self.quantities)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The axes that some quantity lies on, beside `revision`."""
        return tuple(dict.fromkeys(name for quantity in self.quantities for name in quantity.axes))

    def with_status(self) -> Group:
        """The group with a `status` on its base axes, unless it declares one."""
        return self if STATUS in self else replace(self, quantities=(*self.quantities, _STATUS))

    def only(self, names: Collection[str]) -> Group:
        """The group with some of its quantities."""
        return replace(self, quantities=tuple(each for each in self.quantities if each.name in names))

    def _repr_html_(self) -> str:
        """The introduction, and one row per quantity; its formula appears when its name is pointed at."""
        rows = [
            ((each.name, each.described), each.unit, ", ".join(("revision", *each.axes)), each.long_name)
            for each in self.quantities
        ]
        return shown(f"Group {self.name}", {"": self.introduction}, table(("quantity", "unit", "axes", ""), rows))


RECORDER = "recorder"
"""The attribute that names the class that measured a group; a store accepts any other class there."""

DESCRIPTIVE = frozenset({RECORDER, "counts_file"})
"""Attributes that tell of a group and decide no number: a store accepts any other value there."""

RESERVED_GROUPS = ("revisions", "probe")
"""Groups of every store that hold no measurement."""

DTYPES = ("float64", "float32", "int64", "int16", "uint8")
"""The dtypes of quantities."""


def _check_name(kind: str, name: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise OptionError(f"{kind} must be named in lower-case letters, digits and underscores (got {name!r})")


def _names(what: str, axes: Iterable[str]) -> tuple[str, ...]:
    """Names of axes as a tuple: `("layer")` is text, and would else be five axes."""
    if isinstance(axes, str) or not isinstance(axes, Iterable):
        raise OptionError(f"{what} must be a tuple of names such as ('layer',) (got {axes!r})")
    names = tuple(axes)
    for name in names if names != GROUP_AXES else ():
        _check_name("an axis", name)
        if names.count(name) > 1:
            raise OptionError(f"{what} must be named once each (got {name} {names.count(name)} times)")
    return names


def _declared(group: str, quantities: Iterable[Quantity]) -> tuple[Quantity, ...]:
    if not isinstance(quantities, Iterable):
        raise OptionError(
            f"the quantities of {group} must be a tuple (got {quantities!r} alone); write (Quantity(...),)"
        )
    given = tuple(quantities)
    for each in given:
        if not isinstance(each, Quantity):
            raise OptionError(f"the quantities of {group} must be declared by Quantity(...) (got {each!r})")
    return given


STATUS = "status"
"""The quantity that tells missing numbers from true NaN; see `Status`."""

_STATUS = Quantity(
    STATUS,
    long_name="status",
    formula="0 not measured, 1 measured, 2 measured and not finite, 3 measured with a ratio undefined, 4 excluded, 5 absent",
    source="olmo_dynamics",
    dtype="uint8",
)


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One measured value: of which quantity, at which labels of its axes, and the array over the axes left open.

    `at` fixes some of the quantity's axes by label (`{"tensor": "model.norm.weight"}`, `{"site": "residual_out", "layer":
    3}`); `values` spans the remaining axes, in the quantity's order. A scalar fixes them all.
    """

    quantity: Quantity
    values: np.ndarray
    at: dict[str, str | int | float] = field(default_factory=dict)
