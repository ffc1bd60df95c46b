"""A resident model opened at its named sites, to read and to edit what passes there.

    >>> opened = open_model(od.load_model(run, "step900-tokens921600"))  # doctest: +SKIP
    >>> opened.read(token_ids, site="residual_out", layer=3).shape  # doctest: +SKIP
    torch.Size([2, 128, 96])
    >>> opened.scale(probe, 45, factor=0.5).increase  # doctest: +SKIP

For what has no method here, `traced` is nnsight's own object, and `at` finds a site in it:

    >>> with opened.traced.trace(token_ids):  # doctest: +SKIP
    ...     opened.at("residual_out", 1).output[:, 0] = 0
    ...     logits = opened.traced.output.save()
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from olmo_dynamics.errors import OptionError
from olmo_dynamics.interventions.edits import Edit, Fill, filled, replaced, scaled, shifted
from olmo_dynamics.interventions.effects import Effect, Losses, averaged, compared, token_losses
from olmo_dynamics.interventions.tracing import Place, TracedModel
from olmo_dynamics.names import Site
from olmo_dynamics.probes import Probe

_TOKENS_AT_ONCE = 1024  # in one forward pass: their logits take 400 MiB where the vocabulary has 100,000 ids

_Edits = Mapping[Place, Edit]
_Prepare = Callable[[Tensor], _Edits]  # from the token ids of one forward pass


def open_model(model: nn.Module) -> Opened:
    """A model of `od.load_model`, of any family, dtype and device, opened at its named sites.

    The model itself can be used as before: an edit lasts one forward pass.

    Raises OptionError for a module without named sites.
    """
    return Opened(model)


class Opened:
    """A model whose activations are read and edited by site and layer; `open_model` makes it.

    A site is a `Site` or its name. A layer left out means every layer that has the site, edited in one forward pass. What
    an edit does is measured over a probe, before and after.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._traced = TracedModel(model)

    def __repr__(self) -> str:
        layers = 1 + max(layer for _, layer in self._traced.envoys)
        return f"Opened({type(self.model).__name__} of {layers} layers, at {', '.join(self.sites)})"

    @property
    def traced(self) -> Any:
        """The `nnsight.NNsight` of the model, for traces of one's own."""
        return self._traced.root

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites this model has."""
        return self._traced.sites

    def at(self, site: Site | str, layer: int | None = None) -> Any:
        """nnsight's envoy of one place: in a trace, its `.output` is the activation.

        Raises OptionError where there is no such place, or several.
        """
        return self._traced.envoys[self._place(site, layer)]

    def read(
        self, token_ids: Int[Tensor, "batch positions"], *, site: Site | str, layer: int | None = None
    ) -> Shaped[Tensor, "batch positions width"]:
        """The activation at one place, in the model's dtype and on its device, without gradient.

        Raises OptionError where there is no such place, or several, or token ids of another shape.
        """
        if token_ids.ndim != 2:
            raise OptionError(
                f"token_ids must be [batch, positions]; got {list(token_ids.shape)}: give a batch, if only of one sequence"
            )
        return self._traced.outputs(token_ids, [self._place(site, layer)])[0]

    def loss(self, probe: Probe) -> Losses:
        """The loss of the model as it is.

        Raises OptionError for a probe with ids that the model does not know.
        """
        return self._losses(probe, _always({}))

    def ablate(
        self,
        probe: Probe,
        features: int | Iterable[int],
        *,
        site: Site | str = Site.RESIDUAL_OUT,
        layer: int | None = None,
        fill: Fill = "zero",
    ) -> Effect:
        """What features are worth: all of them at once set to zero, or each to its mean over the probe at that place.

        Zero also takes away what a feature is at every token alike; the mean takes only what tells tokens apart.

        Raises OptionError where there is no such place or feature.
        """
        places = self._traced.places(site, layer)
        return self._ablated(probe, [self._features(features, places)], places, fill)[0]

    def ablate_each(
        self,
        probe: Probe,
        features: Iterable[int],
        *,
        site: Site | str = Site.RESIDUAL_OUT,
        layer: int | None = None,
        fill: Fill = "zero",
    ) -> list[Effect]:
        """`ablate` of each feature by itself; the loss before is measured once.

        Raises OptionError where there is no such place or feature.
        """
        places = self._traced.places(site, layer)
        return self._ablated(probe, [[one] for one in self._features(features, places)], places, fill)

    def scale(
        self,
        probe: Probe,
        features: int | Iterable[int],
        *,
        factor: float,
        site: Site | str = Site.RESIDUAL_OUT,
        layer: int | None = None,
    ) -> Effect:
        """Features multiplied by a factor; where several layers are edited, once more at each.

        Raises OptionError where there is no such place or feature.
        """
        places = self._traced.places(site, layer)
        chosen = self._features(features, places)
        edits = dict.fromkeys(places, scaled(chosen, float(factor)))
        return self._effect(probe, _always(edits), places, f"{_named(chosen)} times {factor:g}")

    def add(
        self,
        probe: Probe,
        vector: Float[Tensor, " width"],
        *,
        site: Site | str = Site.RESIDUAL_OUT,
        layer: int | None = None,
    ) -> Effect:
        """A vector added at every token; where several layers are edited, once more at each.

        Raises OptionError where there is no such place, or it has not as many features as the vector.
        """
        places = self._traced.places(site, layer)
        width = self._traced.width(places[0])
        if tuple(vector.shape) != (width,):
            raise OptionError(
                f"vector must be [{width}], one number for each feature of {places[0][0]}; got {list(vector.shape)}: "
                "give a vector of that width"
            )
        edits = dict.fromkeys(places, shifted(vector))
        return self._effect(probe, _always(edits), places, "vector added")

    def patch(
        self,
        probe: Probe,
        donor: Opened,
        *,
        site: Site | str = Site.RESIDUAL_OUT,
        layer: int | None = None,
        features: int | Iterable[int] | None = None,
    ) -> Effect:
        """The donor's activation of the same tokens in place of this model's: whole, or some features of it.

        Raises OptionError where either model lacks the place, their widths differ, or there is no such feature.
        """
        places = self._traced.places(site, layer)
        self._check_donor(donor, places)
        donor._check_ids(probe)
        chosen = self._features(range(self._traced.width(places[0])) if features is None else features, places)

        def taken(token_ids: Tensor) -> _Edits:
            donated = donor._traced.outputs(token_ids, places)
            return {place: replaced(chosen, one) for place, one in zip(places, donated, strict=True)}

        what = "activation" if features is None else _named(chosen)
        return self._effect(probe, taken, places, f"{what} patched")

    def apply(
        self, probe: Probe, edit: Edit, *, site: Site | str = Site.RESIDUAL_OUT, layer: int | None = None
    ) -> Effect:
        """Any edit: a function from an activation [batch, positions, width] to another of its shape.

        Raises OptionError where there is no such place.
        """
        places = self._traced.places(site, layer)
        edits = dict.fromkeys(places, edit)
        return self._effect(probe, _always(edits), places, getattr(edit, "__name__", type(edit).__name__))

    def _place(self, site: Site | str, layer: int | None) -> Place:
        places = self._traced.places(site, layer)
        if len(places) > 1:
            raise OptionError(f"one layer of {places[0][0]} is wanted; got none: give one of 0 to {places[-1][1]}")
        return places[0]

    def _features(self, features: int | Iterable[int], places: Sequence[Place]) -> list[int]:
        """Features as a list of numbers that exist."""
        chosen = [operator.index(each) for each in ([features] if isinstance(features, int | np.integer) else features)]
        width = self._traced.width(places[0])
        outside = [each for each in chosen if not 0 <= each < width]
        if outside or not chosen:
            came = str(outside[0]) if outside else "none"
            raise OptionError(
                f"features of {places[0][0]} must be 0 to {width - 1}; got {came}: give one or several of them"
            )
        return chosen

    def _check_donor(self, donor: Opened, places: Sequence[Place]) -> None:
        site, last = places[-1]
        donor._traced.places(site, last)
        width, donated = self._traced.width(places[0]), donor._traced.width(places[0])
        if width != donated:
            raise OptionError(
                f"donor must be as wide at {site} as the model, {width} features; got {donated}: "
                "patch between revisions of one run"
            )

    def _ablated(self, probe: Probe, sets: Sequence[list[int]], places: Sequence[Place], fill: Fill) -> list[Effect]:
        if fill not in ("zero", "mean"):
            raise OptionError(f"fill must be 'zero' or 'mean'; got {fill!r}: choose one of them")
        zero = torch.zeros(self._traced.width(places[0]))
        values = self._means(probe, places) if fill == "mean" else dict.fromkeys(places, zero)
        before, effects = self.loss(probe), []
        for features in sets:
            edits = {place: filled(features, values[place][features]) for place in places}
            after = self._losses(probe, _always(edits))
            effects.append(compared(f"{_named(features)} set to {fill}", places, before, after))
        return effects

    def _means(self, probe: Probe, places: Sequence[Place]) -> dict[Place, Tensor]:
        """Each feature's mean over the probe's real tokens, in the model as it is; sums in float64."""
        sums = {place: torch.zeros(self._traced.width(place), dtype=torch.float64) for place in places}
        for token_ids, real in self._batches(probe):
            for place, seen in zip(places, self._traced.outputs(token_ids, places), strict=True):
                sums[place] += seen.cpu()[real].sum(dim=0, dtype=torch.float64)
        return {place: total / probe.token_count for place, total in sums.items()}

    def _effect(self, probe: Probe, prepare: _Prepare, places: Sequence[Place], words: str) -> Effect:
        return compared(words, places, self.loss(probe), self._losses(probe, prepare))

    def _losses(self, probe: Probe, prepare: _Prepare) -> Losses:
        """The loss under the edits that `prepare` makes for each batch of token ids."""
        batches = (token_ids for token_ids, _ in self._batches(probe))
        found = [token_losses(self._traced.logits(token_ids, prepare(token_ids)), token_ids) for token_ids in batches]
        return averaged(torch.cat(found), probe)

    def _batches(self, probe: Probe) -> Iterator[tuple[Tensor, Tensor]]:
        """Token ids and mask of some sequences at a time."""
        self._check_ids(probe)
        sequences = max(1, _TOKENS_AT_ONCE // probe.shape[1])
        token_ids, mask = torch.tensor(probe.token_ids), torch.tensor(probe.mask)
        return zip(torch.split(token_ids, sequences), torch.split(mask, sequences), strict=True)

    def _check_ids(self, probe: Probe) -> None:
        largest, known = int(probe.token_ids.max()), self._traced.vocabulary
        if largest >= known:
            raise OptionError(
                f"token ids must be below the model's {known}; got {largest}: make the probe with this model's tokenizer"
            )


def _always(edits: _Edits) -> _Prepare:
    return lambda _: edits


def _named(features: Sequence[int]) -> str:
    return f"feature {features[0]}" if len(features) == 1 else f"{len(features)} features"
