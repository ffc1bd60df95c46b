"""Named places inside a model where activations can be read and edited.

A `Tap` hands on what it is given. It exists so that a forward hook (ours, or an intervention library's) has a module
with a plain name to hold on to, and so that the site's meaning is written in the model's own code.

    >>> import torch
    >>> from olmo_dynamics.names import Site
    >>> tap = Tap(Site.RESIDUAL_MIDDLE, layer=3)
    >>> handle = tap.register_forward_hook(lambda tap, inputs, x: print(tap.site, tap.layer, tuple(x.shape)))
    >>> _ = tap(torch.zeros(2, 5, 8))
    residual_middle 3 (2, 5, 8)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from jaxtyping import Shaped
from torch import Tensor, nn

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import NO_LAYER, Site


class Tap(nn.Module):
    """A module that returns its input, at a named site of a layer (`NO_LAYER` outside the blocks).

    A streamed pass sets `watch`, which is shown the tap, what else is given, and the input: a call costs less than a hook.
    """

    def __init__(self, site: Site, layer: int = NO_LAYER) -> None:
        super().__init__()
        self.site = site
        self.layer = layer
        self.watch: Callable[[Tap, Mapping[str, object], Tensor], None] | None = None

    def forward(
        self, x: Shaped[Tensor, "batch positions width"], **beside: object
    ) -> Shaped[Tensor, "batch positions width"]:
        """`x` itself, not a copy; hooks are shown whatever else is given."""
        if self.watch is not None:
            self.watch(self, beside, x)
        return x

    if TYPE_CHECKING:  # nn.Module itself promises Any

        def __call__(self, x: Tensor, **beside: object) -> Tensor:
            """`forward`, and the hooks."""

    def extra_repr(self) -> str:
        """The text that `print(model)` shows between the brackets."""
        return str(self.site) if self.layer == NO_LAYER else f"{self.site}, layer {self.layer}"


def taps(model: nn.Module) -> Iterator[Tap]:
    """Every tap in a model, or in a part of one."""
    return (module for module in model.modules() if isinstance(module, Tap))


def find_tap(model: nn.Module, site: Site, layer: int = NO_LAYER) -> Tap:
    """The tap at one site of one layer.

    Raises:
        OptionError: the model has no such site or layer.
    """
    layers = {tap.layer: tap for tap in taps(model) if tap.site == site}
    if layer in layers:
        return layers[layer]
    if not layers:
        raise OptionError(f"site must be one that the model has, {_listed(model)} (got {site})")
    there = f"its layers are {min(layers)} to {max(layers)}" if site.in_block else "it lies outside the blocks"
    raise OptionError(f"site and layer must name a place in the model (got {site} of layer {layer}); {there}")


def _listed(model: nn.Module) -> str:
    there = {tap.site for tap in taps(model)}
    return ", ".join(site for site in Site if site in there)
