"""The group `representations`: the spread of a sample of tokens at each layer, and a sketch by which layers are compared.

    >>> recorder = RepresentationRecorder(tokens=1024).start(Context(config=config, probe=probe))  # doctest: +SKIP
    >>> recorder.attributes()  # doctest: +SKIP
    {'tokens': 1024, 'seed': 0, 'size': 4096, 'sites': 'residual_out'}

The vectors of the sample are kept until their layer has been seen whole: one vector for each token and site.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.inside.lens_sample import KeptVectors
from olmo_dynamics.recorders.kernels.gram_sketch import GRAM_SEED, GRAM_SIZE, TILE, gram_sketch
from olmo_dynamics.recorders.representations.feature_spread import EIGENVALUES, spread
from olmo_dynamics.recorders.representations.token_sample import GRAM_TOKENS, check_gram_tokens, token_sample

_SITES = tuple(site for site in Site if site.is_measured)


class RepresentationRecorder(Recorder):
    """The group `representations`, of at most `tokens` tokens of the probe, at some sites of each layer.

    Raises:
        OptionError: `tokens` is below 4, or a site is unknown or holds no vectors.
    """

    group = GROUPS["representations"]
    sites = frozenset({Site.RESIDUAL_OUT})
    by_default = False

    def __init__(self, tokens: int = GRAM_TOKENS, sites: str | Collection[str] = (Site.RESIDUAL_OUT,)) -> None:
        self.tokens = check_gram_tokens(tokens)
        self.sites = check_sites(sites)  # type: ignore[misc]  # of this object
        self._kept = KeptVectors(0)

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The sites that the model has, ranks of eigenvalues, and the components of a sketch."""
        sites = [site.value for site in self.context.sites if site in _SITES]
        return {"site": sites, "eigenvalue_rank": range(1, EIGENVALUES + 1), "gram_component": range(GRAM_SIZE)}

    def attributes(self) -> Mapping[str, str | int | float]:
        """Everything that two sketches must share to be compared, beside the probe; and the sites."""
        named = ",".join(site.value for site in _SITES if site in self.sites)
        return {"tokens": len(self._sample), "seed": GRAM_SEED, "size": GRAM_SIZE, "sites": named}

    def kept_bytes(self) -> int:
        """The vectors of the sample at one layer, and at one of its sites copies, products and singular values of them."""
        config, tokens = self.context.config, len(self._sample)
        if config is None:
            return 0
        width = config.hidden_size
        kept, copies = 8 * len(self.sites) * tokens * width, 28 * tokens * width
        return kept + copies + 24 * min(tokens, width) ** 2 + 8 * TILE * tokens

    def begin(self) -> None:
        """Choose the sample."""
        self._sample = token_sample(self.context, self.tokens)
        self._kept = KeptVectors(len(self._sample))

    def observe(self, seen: Observation) -> None:
        """Keep the vectors of the sample's tokens."""
        self._kept.keep((seen.site, seen.layer), self._sample, seen)

    def merge(self, other: RepresentationRecorder) -> None:
        """Add the tokens that `other` saw."""
        self._kept.merge(other._kept)

    def finish_layer(self, layer: int) -> Iterator[Record]:
        """The records of a layer's sites, whose vectors are let go of."""
        self._kept.settle()
        for site in _SITES:
            vectors = self._kept.take((site, layer))
            if vectors is not None:
                for name, value in measure(vectors).items():
                    yield self.record(name, value, site=site.value, layer=layer)


def measure(vectors: Float[Tensor, "tokens width"]) -> dict[str, object]:
    """Every number of the group of one layer's vectors, by name; all NaN where a vector is not finite."""
    if not bool(torch.isfinite(vectors).all()):
        return {"status": np.uint8(Status.NONFINITE)}
    sketch, norm = gram_sketch(vectors)
    found = {**spread(vectors), "gram_sketch": sketch.astype(np.float32), "gram_norm": norm}
    defined = all(math.isfinite(value) for value in found.values() if isinstance(value, float))
    return {**found, "status": np.uint8(Status.MEASURED if defined else Status.DEGENERATE)}


def check_sites(sites: str | Collection[str]) -> frozenset[Site]:
    """Sites by their names, given as a list or a text with commas.

    Raises:
        OptionError: a name is none of a site that holds vectors, or there is no name.
    """
    names = [each.strip() for each in sites.split(",")] if isinstance(sites, str) else list(sites)
    known = [site.value for site in _SITES]
    for name in names or [""]:
        if name not in known:
            raise OptionError(
                f"gram sites must be some of {', '.join(known)} (got {name!r}){did_you_mean(name, known)}"
            )
    return frozenset(map(Site, names))
