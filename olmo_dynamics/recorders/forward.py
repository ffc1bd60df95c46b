"""All recorders that watch a forward pass, behind one `observe`.

    >>> recorders = ForwardRecorders(probe, 16, {"activations", "loss"}, available=tuple(Site))  # doctest: +SKIP
    >>> for stage in stages(config):  # doctest: +SKIP
    ...     streamed.run(stage, weights, recorders.observe)
    ...     records += recorders.harvest()

Harvesting after each stage drops what that stage's layer needed, so memory does not grow with the number of layers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from jaxtyping import Shaped
from torch import Tensor

from olmo_dynamics.names import Record, Site
from olmo_dynamics.recorders.activations import ActivationRecorder
from olmo_dynamics.recorders.losses import LossRecorder, ProbeTokens
from olmo_dynamics.recorders.outliers import INPUTS, OUTPUTS, OutlierRecorder
from olmo_dynamics.recorders.routing import RoutingRecorder

FORWARD_GROUPS = ("activations", "outliers", "logits", "loss", "tokens", "routing")
"""The groups that need a forward pass."""

_LOSS_GROUPS = frozenset({"logits", "loss", "tokens"})
_ROUTING = frozenset({Site.ROUTER_LOGITS, Site.CHOSEN_EXPERTS})
_NORMED_INPUTS = frozenset({Site.ATTENTION_INPUT, Site.MLP_INPUT})


def sites_of(group: str, available: Collection[Site]) -> frozenset[Site]:
    """The sites a group reads, of those a model has; outliers are read after input norms where there are any."""
    if group in _LOSS_GROUPS:
        return frozenset({Site.LOGITS})
    if group == "activations":
        return frozenset(site for site in available if site is not Site.LOGITS and not site.is_choice)
    if group == "routing":
        return _ROUTING & frozenset(available)
    normed = _NORMED_INPUTS & frozenset(available)
    return (normed or frozenset(INPUTS) - _NORMED_INPUTS) | frozenset(OUTPUTS)


@runtime_checkable
class Observation(Protocol):
    """Activations at one site, for some sequences and positions of the probe."""

    @property
    def site(self) -> Site:
        """Where they were read."""

    @property
    def layer(self) -> int:
        """The block, or NO_LAYER."""

    @property
    def values(self) -> Shaped[Tensor, "batch positions width"]:
        """The activations; indices where experts were chosen."""

    @property
    def rows(self) -> slice:
        """Sequences of the probe."""

    @property
    def positions(self) -> slice:
        """Positions of those sequences."""

    @property
    def columns(self) -> slice:
        """Of the width: logits come in slices of the vocabulary."""


class ForwardRecorders:
    """The recorders of the wanted groups; groups that need no forward pass are passed over.

    Two that saw different sequences of the same stage merge, as long as neither has harvested it.
    """

    def __init__(
        self,
        probe: ProbeTokens,
        config_layers: int,
        groups: Collection[str],
        *,
        available: Collection[Site],
        vocab_size: int | None = None,
    ) -> None:
        self.groups = frozenset(groups) & frozenset(FORWARD_GROUPS)
        self._sites_of = {group: sites_of(group, available) for group in self.groups}
        self.sites: frozenset[Site] = frozenset().union(*self._sites_of.values())
        self._probe = probe
        self._unharvested = set(range(config_layers))
        self._layers: set[int] = set()  # seen since they were last harvested
        self._activations = ActivationRecorder()
        self._outliers = OutlierRecorder(probe.token_ids)
        self._routing = RoutingRecorder(probe)
        self._vocab_size = vocab_size
        self._losses: LossRecorder | None = None  # made when logits come: it holds ten numbers a token
        self._losses_given = False
        self._rule_given = False

    def observe(self, seen: Observation) -> None:
        """Shows one observation to every recorder that wants it."""
        self._layers.add(seen.layer)
        if seen.site is Site.LOGITS:
            if self.groups & _LOSS_GROUPS:
                self._loss_recorder().observe(seen.values, seen.rows, seen.positions, seen.columns.start)
            return
        mask = self._probe.mask[seen.rows, seen.positions]
        if "activations" in self.groups and seen.site in self._sites_of["activations"]:
            self._activations.observe(seen.site, seen.layer, seen.values, mask, seen.positions.start)
        if "outliers" in self.groups and seen.site in self._sites_of["outliers"]:
            self._outliers.observe(seen.site, seen.layer, seen.values, mask, seen.rows)

        if "routing" in self.groups and seen.site in self._sites_of["routing"]:
            self._routing.observe(seen.site, seen.layer, seen.values, seen.rows, seen.positions)

    def merge(self, other: ForwardRecorders) -> None:
        """Adds what `other` saw and has not harvested."""
        self._layers |= other._layers
        self._activations.merge(other._activations)
        self._outliers.merge(other._outliers)
        self._routing.merge(other._routing)
        if other._losses is not None:
            self._loss_recorder().merge(other._losses)

    def harvest(self, layer: int | None = None) -> list[Record]:
        """What was measured at one layer (or at all seen since the last harvest), whose state is dropped.

        What spans layers comes with the last layer, and what needs all logits with the last of them.
        """
        layers = sorted(self._layers) if layer is None else [layer]
        records = []
        for each in layers:
            records += self._activations.harvest(each) + self._outliers.harvest(each) + self._routing.harvest(each)
        self._layers.difference_update(layers)
        self._unharvested.difference_update(layers)
        if not self._unharvested:
            records += self._over_layers()
        if self._losses is not None and self._losses.complete:
            records += self._of_losses()
        return records

    def records(self) -> list[Record]:
        """Everything not yet harvested, complete or not."""
        return self.harvest() + self._over_layers() + self._of_losses()

    def _loss_recorder(self) -> LossRecorder:
        self._losses = self._losses or LossRecorder(self._probe, self._vocab_size)
        return self._losses

    def _over_layers(self) -> list[Record]:
        given, self._rule_given = self._rule_given, True
        return [] if given else self._outliers.rule_records()

    def _of_losses(self) -> list[Record]:
        given, self._losses_given = self._losses_given, True
        wanted = self.groups & _LOSS_GROUPS
        return [] if given or not wanted else [r for r in self._loss_recorder().records() if r.quantity.group in wanted]
