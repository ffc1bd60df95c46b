"""The groups and quantities of several stores that compare, and the reason why others do not.

Two probes of different tokenizers hold different tokens: of the losses only bits per byte compare. Two probes of one
tokenizer hold different text, on which no loss compares. Groups that were measured in another way, such as sketches of another
seed, are left out as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from olmo_dynamics.errors import StoreMismatchError
from olmo_dynamics.frames.joining.joined_axes import joined_axis
from olmo_dynamics.quantities import in_order
from olmo_dynamics.quantities.declaration import STATUS, Group, Quantity
from olmo_dynamics.store import Axis, Layout, Store

_OF_THE_VOCABULARY = frozenset({
    "lens", "ngram", "tokens", "induction", "logits", "gradients", "gradient_stream", "gradient_rows", "loss",
})  # fmt: skip
"""Groups whose nats are those of a token of the vocabulary."""

_OF_TOKENS = frozenset({"token", "decile", "sequence"})
"""Axes along tokens, or windows, of one probe or vocabulary."""


@dataclass(frozen=True)
class Probes:
    """The probes of several stores: the number of different ones, and of their tokenizers."""

    probes: int
    tokenizers: int

    @classmethod
    def of(cls, stores: Sequence[Store]) -> Probes:
        """Count the probes and tokenizers of stores; a store without a probe does not count."""
        held = [probe for store in stores if (probe := store.attributes.get("probe"))]
        told = {probe.get("tokenizer_sha256") or f"probe {probe['sha256']}" for probe in held}
        return cls(len({probe["sha256"] for probe in held}), len(told))

    def reason(self, quantity: Quantity) -> str:
        """The reason why the values of a quantity do not compare between the stores; empty if they do."""
        if self.probes < 2:
            return ""
        along = _OF_TOKENS.intersection(quantity.axes)
        in_nats = quantity.unit == "nat/token" or (
            quantity.group in _OF_THE_VOCABULARY and quantity.unit.lstrip("(").startswith(("nat", "token (nat"))
        )
        if self.tokenizers > 1 and in_nats:
            return f"it is in {quantity.unit} of {self.tokenizers} tokenizers, which do not compare; bits per byte do"
        if along:
            return f"it lies on the {min(along)}s of {self.probes} probes"
        if in_nats or quantity.unit == "bit/byte":
            same_text = self.tokenizers > 1
            return "" if same_text else f"it was measured on {self.probes} texts; collect it with the same --text"
        return ""


def shared_layout(stores: Sequence[Store]) -> tuple[Layout, dict[str, str]]:
    """The axes and groups of several stores as one, and by `group` or `group/quantity` the reason for leaving it out."""
    held = [store.layout for store in stores]
    probes, left_out = Probes.of(stores), dict[str, str]()
    names = list(dict.fromkeys(name for layout in held for name in layout.groups))
    axes = dict(_axes(held, left_out))
    kept = [group for name in in_order(names) if (group := _group(name, held, probes, axes, left_out))]
    return Layout(axes, kept), {name: why for name, why in left_out.items() if "/" in name or name in names}


def _axes(held: Sequence[Layout], left_out: dict[str, str]) -> Iterator[tuple[str, Axis]]:
    for name in dict.fromkeys(name for layout in held for name in layout.axes):
        try:
            yield name, joined_axis([layout.axes[name] for layout in held if name in layout.axes])
        except StoreMismatchError as error:
            left_out[f"axis {name}"] = str(error)


def _group(
    name: str, held: Sequence[Layout], probes: Probes, axes: Mapping[str, Axis], left_out: dict[str, str]
) -> Group | None:
    """A group with the quantities that compare; None if none does."""
    groups = [layout.groups[name] for layout in held if name in layout.groups]
    first = groups[0]
    alike = [Layout(layout.axes, [layout.groups[name]]) for layout in held if name in layout.groups]
    differing = next((why for other in alike[1:] if (why := _declared(alike[0], other))), "")
    if differing:
        left_out[name] = differing
        return None
    quantities = {each.name: each for group in reversed(groups) for each in group.quantities}
    ordered = [quantities[each] for each in dict.fromkeys(each.name for group in groups for each in group.quantities)]
    for quantity in ordered:
        missing = next((left_out[f"axis {axis}"] for axis in quantity.axes if axis not in axes), "")
        if why := probes.reason(quantity) or missing:
            left_out[quantity.key] = why
    kept = tuple(each for each in ordered if each.key not in left_out)
    if not any(each.name != STATUS for each in kept):
        left_out[name] = next(left_out[each.key] for each in ordered if each.key in left_out)
        return None
    return replace(first, quantities=kept)


def _declared(mine: Layout, theirs: Layout) -> str:
    """The first difference in two declarations of a group, without that of their axes' labels."""
    used = {name: mine.axes[name] for group in mine.groups for name in mine.axis_names(group)}
    also = {name: theirs.axes[name] for group in theirs.groups for name in theirs.axis_names(group)}
    both = {**also, **used}
    return Layout(both, mine.groups).difference_in_shared(Layout(both, theirs.groups))
