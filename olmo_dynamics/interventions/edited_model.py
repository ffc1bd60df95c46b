"""A resident model whose activations can be read and edited at its named sites.

    >>> editable = open_model(od.load_model(run, "step400-tokens409600"))  # doctest: +SKIP
    >>> editable.read(token_ids, site="residual_out", layer=3).shape  # doctest: +SKIP
    torch.Size([2, 128, 96])
    >>> editable.scale(probe, 45, factor=0.5).increase  # doctest: +SKIP

For anything else, `traced` is the nnsight object of the model, and `at` finds a site in it:

    >>> with editable.traced.trace(token_ids):  # doctest: +SKIP
    ...     editable.at("residual_out", 1).output[:, 0] = 0
    ...     logits = editable.traced.output.save()
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
from olmo_dynamics.interventions.effects import Effect, ProbeLoss, averaged, compared, token_losses
from olmo_dynamics.interventions.tracing import Place, TracedModel
from olmo_dynamics.names import Site
from olmo_dynamics.probes import Probe

_TOKENS_AT_ONCE = 1024  # in one forward pass: their logits take 400 MiB where the vocabulary has 100,000 ids

_Edits = Mapping[Place, Edit]
_Prepare = Callable[[Tensor], _Edits]  # from the token ids of one forward pass


def open_model(model: nn.Module) -> EditableModel:
    """Open a model of `od.load_model`, of any family, dtype and device, at its named sites.

    The model itself can be used as before: an edit lasts one forward pass.

    Raises:
        OptionError: the module has no named sites.
    """
    return EditableModel(model)


class EditableModel:
    """A model whose activations are read and edited by site and layer, made by `open_model`.

    A site is a `Site` or its name. Without a layer, every layer that has the site is edited in one forward pass. The
    effect of an edit is measured on a probe, before and after.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._traced = TracedModel(model)

    def __repr__(self) -> str:
        layers = 1 + max(layer for _, layer in self._traced.envoys)
        return f"EditableModel({type(self.model).__name__} of {layers} layers, at {', '.join(self.sites)})"

    @property
    def traced(self) -> Any:
        """The `nnsight.NNsight` of the model, for your own traces."""
        return self._traced.root

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of this model."""
        return self._traced.sites

    def at(self, site: Site | str, layer: int | None = None) -> Any:
        """The nnsight envoy of one place: in a trace, its `.output` is the activation.

        Raises:
            OptionError: there is no such place, or there are several.
        """
        return self._traced.envoys[self._place(site, layer)]

    def read(
        self, token_ids: Int[Tensor, "batch positions"], *, site: Site | str, layer: int | None = None
    ) -> Shaped[Tensor, "batch positions width"]:
        """The activation at one place, in the model's dtype and on its device, without gradient.

        Raises:
            OptionError: there is no such place, there are several, or the token ids have another shape.
        """
        if token_ids.ndim != 2:
            raise OptionError(
                f"token_ids must be [batch, positions] (got {list(token_ids.shape)}); give a batch, even of one sequence"
            )
        return self._traced.outputs(token_ids, [self._place(site, layer)])[0]

    def loss(self, probe: Probe) -> ProbeLoss:
        """The loss of the unedited model.

        Raises:
            OptionError: the probe holds ids outside the model's vocabulary.
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
        """Set features to zero all at once, or each to its mean over the probe at that place.

        Zero also removes the part of a feature that is the same at every token; the mean removes only the part that
        differs between tokens.

        Raises:
            OptionError: there is no such place or feature.
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
        """Ablate each feature by itself, as `ablate` does; the loss before is measured once.

        Raises:
            OptionError: there is no such place or feature.
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
        """Multiply features by a factor, at each of the edited layers in turn.

        Raises:
            OptionError: there is no such place or feature.
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
        """Add a vector at every token, at each of the edited layers in turn.

        Raises:
            OptionError: there is no such place, or its width is not the vector's.
        """
        places = self._traced.places(site, layer)
        width = self._traced.width(places[0])
        if tuple(vector.shape) != (width,):
            raise OptionError(
                f"vector must be [{width}], one number for each feature of {places[0][0]} (got {list(vector.shape)}); "
                "give a vector of that width"
            )
        edits = dict.fromkeys(places, shifted(vector))
        return self._effect(probe, _always(edits), places, "vector added")

    def patch(
        self,
        probe: Probe,
        donor: EditableModel,
        *,
        site: Site | str = Site.RESIDUAL_OUT,
        layer: int | None = None,
        features: int | Iterable[int] | None = None,
    ) -> Effect:
        """Replace this model's activation, or some features of it, by the donor's for the same tokens.

        Raises:
            OptionError: one of the models lacks the place, their widths differ, or there is no such feature.
        """
        places = self._traced.places(site, layer)
        self._check_donor(donor, places)
        donor._check_ids(probe)
        chosen = self._features(range(self._traced.width(places[0])) if features is None else features, places)

        def prepare(token_ids: Tensor) -> _Edits:
            donated = donor._traced.outputs(token_ids, places)
            return {place: replaced(chosen, one) for place, one in zip(places, donated, strict=True)}

        what = "activation" if features is None else _named(chosen)
        return self._effect(probe, prepare, places, f"{what} patched")

    def apply(
        self, probe: Probe, edit: Edit, *, site: Site | str = Site.RESIDUAL_OUT, layer: int | None = None
    ) -> Effect:
        """Apply any edit: a function from an activation [batch, positions, width] to another of its shape.

        Raises:
            OptionError: there is no such place.
        """
        places = self._traced.places(site, layer)
        edits = dict.fromkeys(places, edit)
        return self._effect(probe, _always(edits), places, getattr(edit, "__name__", type(edit).__name__))

    def _place(self, site: Site | str, layer: int | None) -> Place:
        places = self._traced.places(site, layer)
        if len(places) > 1:
            raise OptionError(f"layer must be given at {places[0][0]} (got none); give one of 0 to {places[-1][1]}")
        return places[0]

    def _features(self, features: int | Iterable[int], places: Sequence[Place]) -> list[int]:
        """Features as a list of numbers, each checked to exist."""
        chosen = [operator.index(each) for each in ([features] if isinstance(features, int | np.integer) else features)]
        width = self._traced.width(places[0])
        outside = [each for each in chosen if not 0 <= each < width]
        if outside or not chosen:
            given = str(outside[0]) if outside else "none"
            raise OptionError(
                f"features of {places[0][0]} must be 0 to {width - 1} (got {given}); give one or several of them"
            )
        return chosen

    def _check_donor(self, donor: EditableModel, places: Sequence[Place]) -> None:
        site, last = places[-1]
        donor._traced.places(site, last)
        width, donated = self._traced.width(places[0]), donor._traced.width(places[0])
        if width != donated:
            raise OptionError(
                f"donor must be as wide at {site} as the model, {width} features (got {donated}); "
                "patch between revisions of one run"
            )

    def _ablated(self, probe: Probe, sets: Sequence[list[int]], places: Sequence[Place], fill: Fill) -> list[Effect]:
        if fill not in ("zero", "mean"):
            raise OptionError(f"fill must be 'zero' or 'mean' (got {fill!r}); choose one of them")
        zero = torch.zeros(self._traced.width(places[0]))
        values = self._means(probe, places) if fill == "mean" else dict.fromkeys(places, zero)
        before, effects = self.loss(probe), []
        for features in sets:
            edits = {place: filled(features, values[place][features]) for place in places}
            after = self._losses(probe, _always(edits))
            effects.append(compared(f"{_named(features)} set to {fill}", places, before, after))
        return effects

    def _means(self, probe: Probe, places: Sequence[Place]) -> dict[Place, Tensor]:
        """Each feature's mean over the probe's real tokens in the unedited model, with sums in float64."""
        sums = {place: torch.zeros(self._traced.width(place), dtype=torch.float64) for place in places}
        for token_ids, real in self._batches(probe):
            for place, seen in zip(places, self._traced.outputs(token_ids, places), strict=True):
                sums[place] += seen.cpu()[real].sum(dim=0, dtype=torch.float64)
        return {place: total / probe.token_count for place, total in sums.items()}

    def _effect(self, probe: Probe, prepare: _Prepare, places: Sequence[Place], words: str) -> Effect:
        return compared(words, places, self.loss(probe), self._losses(probe, prepare))

    def _losses(self, probe: Probe, prepare: _Prepare) -> ProbeLoss:
        """The loss under the edits that `prepare` returns for each batch of token ids."""
        batches = (token_ids for token_ids, _ in self._batches(probe))
        found = [token_losses(self._traced.logits(token_ids, prepare(token_ids)), token_ids) for token_ids in batches]
        return averaged(torch.cat(found), probe)

    def _batches(self, probe: Probe) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over token ids and mask, some sequences at a time."""
        self._check_ids(probe)
        sequences = max(1, _TOKENS_AT_ONCE // probe.shape[1])
        token_ids, mask = torch.tensor(probe.token_ids), torch.tensor(probe.mask)
        return zip(torch.split(token_ids, sequences), torch.split(mask, sequences), strict=True)

    def _check_ids(self, probe: Probe) -> None:
        largest, vocabulary = int(probe.token_ids.max()), self._traced.vocabulary
        if largest >= vocabulary:
            raise OptionError(
                f"token ids must be below the model's {vocabulary} (got {largest}); make the probe with this model's tokenizer"
            )


def _always(edits: _Edits) -> _Prepare:
    return lambda _: edits


def _named(features: Sequence[int]) -> str:
    return f"feature {features[0]}" if len(features) == 1 else f"{len(features)} features"
