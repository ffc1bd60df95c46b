"""A model traced by nnsight, its modules found by site and layer.

    >>> traced = TracedModel(model)  # doctest: +SKIP
    >>> places = traced.places("residual_out", None)  # doctest: +SKIP
    >>> logits = traced.logits(token_ids, {place: scaled([45], 0.0) for place in places})  # doctest: +SKIP

Sites are found by their taps, so a model of any family is traced the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import nnsight
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from olmo_dynamics.errors import OptionError
from olmo_dynamics.interventions.edits import Edit
from olmo_dynamics.model import Tap
from olmo_dynamics.names import NO_LAYER, Site

Place = tuple[Site, int]
"""A site, and the layer it is in (`NO_LAYER` outside the blocks)."""

_LOGITS: Place = (Site.LOGITS, NO_LAYER)


class TracedModel:
    """Forward passes in which activations are read or edited; `root` is the nnsight object.

    Raises:
        OptionError: the module has no named sites.
    """

    def __init__(self, model: nn.Module) -> None:
        with warnings.catch_warnings():
            # nnsight warns of a module named `output`, which it renames as an attribute; no attribute of that name is used here.
            warnings.filterwarnings("ignore", "Module '.*' has a submodule named", UserWarning)
            self.root: Any = nnsight.NNsight(model)
        envoys = dict(self.root.named_modules())
        taps = [(f"{self.root.path}.{name}", tap) for name, tap in model.named_modules() if isinstance(tap, Tap)]
        self.envoys: dict[Place, Any] = {(tap.site, tap.layer): envoys[path] for path, tap in taps}
        self._widths: dict[Place, int] = {}
        if _LOGITS not in self.envoys:
            raise OptionError(
                f"the model must have named sites (got {type(model).__name__} without one for its logits); "
                "open a model of od.load_model"
            )

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of this model."""
        return tuple(site for site in Site if any(site == there for there, _ in self.envoys))

    @property
    def vocabulary(self) -> int:
        """The size of the model's vocabulary: the width of its logits."""
        return self.width(_LOGITS)

    def places(self, site: Site | str, layer: int | None) -> list[Place]:
        """The places of a site in the order of the forward pass: one, or all if no layer is given.

        Raises:
            OptionError: there is no such place.
        """
        if site not in self.sites:
            raise OptionError(
                f"site must be one of this model's (got {str(site)!r}); choose from {', '.join(self.sites)}"
            )
        site = Site(site)
        layers = sorted(there for each, there in self.envoys if each == site)
        if layer is None or layer in layers:
            return [(site, there) for there in layers if layer in (None, there)]
        if site.in_block:
            raise OptionError(
                f"layer must be {layers[0]} to {layers[-1]} at {site} (got {layer}); give one of them, or leave it out for all"
            )
        raise OptionError(
            f"layer must be left out at {site}, which lies outside the blocks (got {layer}); leave it out"
        )

    def width(self, place: Place) -> int:
        """The number of features at a place, measured with one token.

        Raises:
            OptionError: the values are choices of experts, not numbers that an edit can change.
        """
        if place not in self._widths:
            seen = self.outputs(torch.zeros(1, 1, dtype=torch.int64), [place])[0]
            if not seen.is_floating_point():
                raise OptionError(
                    f"an edited site must hold numbers (got {place[0]}, which holds choices of experts); choose another"
                )
            self._widths[place] = seen.shape[-1]
        return self._widths[place]

    def outputs(
        self, token_ids: Int[Tensor, "batch positions"], places: Sequence[Place]
    ) -> list[Shaped[Tensor, "batch positions width"]]:
        """The activations at places of one site, without gradient."""
        seen: list[Tensor] = []
        with torch.no_grad():  # noqa: SIM117 - nnsight needs the inner statement by itself
            with self.root.trace(token_ids):
                for place in places:
                    seen.append(self.envoys[place].output.detach())
        return seen

    def logits(
        self, token_ids: Int[Tensor, "batch positions"], edits: Mapping[Place, Edit]
    ) -> Float[Tensor, "batch positions vocab"]:
        """Logits of a forward pass in which each edit replaces the activation at its place; all places are of one site."""
        with torch.no_grad():  # noqa: SIM117 - nnsight needs the inner statement by itself
            with self.root.trace(token_ids):
                for place, edit in edits.items():
                    envoy = self.envoys[place]
                    envoy.output = edit(envoy.output)
                logits: Tensor = nnsight.save(self.root.output)
        return logits
