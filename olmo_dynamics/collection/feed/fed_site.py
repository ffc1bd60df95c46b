"""The place in the model that an activation feed reads: one site, in one layer or several.

>>> FedSite.of("residual_out", [1, 3], config).layers  # doctest: +SKIP
(1, 3)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.model import ModelConfig, model_sites
from olmo_dynamics.names import NO_LAYER, Site


@dataclass(frozen=True, slots=True)
class FedSite:
    """A site and its layers, `NO_LAYER` outside the blocks; a list of layers gives activations a layer axis."""

    site: Site
    layers: tuple[int, ...]
    has_layer_axis: bool = False

    @classmethod
    def of(cls, site: Site | str, layer: int | Sequence[int] | None, config: ModelConfig) -> FedSite:
        """The place of that name in a model.

        Raises:
            OptionError: the model has no such site or layer.
        """
        there = [each.value for each in model_sites(config)]
        if site not in there:
            raise OptionError(
                f"site must be one that {config.model_type} has: {', '.join(there)} (got {str(site)!r})"
                f"{did_you_mean(str(site), there)}"
            )
        site = Site(site)
        if not site.in_block:
            if layer is not None:
                raise OptionError(f"layer must be left out at {site}, which lies outside the blocks (got {layer!r})")
            return cls(site, (NO_LAYER,))
        return cls(site, _layers(site, layer, config.layers), has_layer_axis=not isinstance(layer, int | np.integer))

    @property
    def until(self) -> int | None:
        """The number of blocks that a pass runs through to reach it; None for all, and the head."""
        return None if self.site.after_blocks else max(self.layers) + 1

    def width(self, config: ModelConfig) -> int:
        """The number of values per token in a model."""
        own = {
            Site.QUERY: config.query_width,
            Site.QUERY_ROTATED: config.query_width,
            Site.KEY: config.kv_width,
            Site.MLP_HIDDEN: config.intermediate_size,
            Site.LOGITS: config.vocab_size,
        }
        if config.experts is not None:
            own |= {Site.ROUTER_LOGITS: config.experts.count, Site.CHOSEN_EXPERTS: config.experts.per_token}
        return own.get(self.site, config.hidden_size)

    def __str__(self) -> str:
        if self.layers == (NO_LAYER,):
            return str(self.site)
        plural = "s" if len(self.layers) > 1 else ""
        return f"{self.site} of layer{plural} {', '.join(map(str, self.layers))}"


def _layers(site: Site, layer: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    """The layers asked for, each checked to exist."""
    advice = f"give one of 0 to {count - 1}, or a list of them"
    if layer is None:
        raise OptionError(f"layer must be given at {site} (got none); {advice}")
    given = [layer] if isinstance(layer, int | np.integer) else list(layer)
    outside = [each for each in given if not isinstance(each, int | np.integer) or not 0 <= each < count]
    if outside or not given:
        raise OptionError(
            f"layer must be 0 to {count - 1} at {site} (got {outside[0] if outside else 'none'}); {advice}"
        )
    [(most, times)] = Counter(given).most_common(1)
    if times > 1:
        raise OptionError(f"layers must differ (got {most} {times} times); name each once")
    return tuple(map(int, given))
