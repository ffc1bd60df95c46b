"""Unbiased linear CKA of representations: between revisions, layers, and models of any width that read the same tokens.

>>> pairs = similarity(open_store("run.zarr"), layer=5)  # doctest: +SKIP
>>> pairs.filter(revision="step1000").select("other_step", "cka", "cka_se")  # doctest: +SKIP

It is the cosine of sketches of U-centred Gram matrices, so no activation is needed any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl
from jaxtyping import Float64

from olmo_dynamics.checkpoints import select
from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.weights.estimates import concentrated
from olmo_dynamics.frames.weights.sketch_stack import RUN, Stores, named_stores, told_paths
from olmo_dynamics.frames.weights.sketched import Facts, require_same_facts
from olmo_dynamics.frames.weights.weight_pairs import ordered_pairs, pair_numbers
from olmo_dynamics.store import Store

REPRESENTATIONS = "representations"

Across = Literal["revisions", "layers", "both"]

_FACTS = {"number of tokens": "tokens", "seed": "seed", "size": "size"}


def similarity(
    store: Stores,
    site: str = "residual_out",
    layer: int | None = None,
    *,
    across: Across = "revisions",
    revisions: str = "all",
) -> pl.DataFrame:
    """Unbiased linear CKA of every two revisions at one layer, of every two layers of a revision, or of all of these.

    CKA is `⟨U, V⟩ / (‖U‖ ‖V‖)` of the U-centred Gram matrices of the sample's tokens (Kornblith et al. 2019, arXiv:1905.00414;
    Song et al. 2012). It is 1 for representations that differ by a rotation and a scale alone, and about 0, on either side, for
    independent ones. Here it is the cosine of two sketches; up to 91 tokens these are the matrices themselves, and it is exact.

    Args:
        store: a store with the group `representations`; or a list of them, or a dict by name, such as models of two widths.
            All must have read the same probe, by the same sample of its tokens.
        site: a site that was recorded.
        layer: one layer, -1 outside the blocks; every layer unless given.
        across: the places that are compared: `revisions` at the same layer, `layers` of the same revision, or `both`, every place
            with every other, as for two models of different depth.
        revisions: an expression such as `stage1:log24`, applied to each store.

    Returns:
        One row per ordered pair: the leading columns of one (of several stores, their name as `run`), `site` and `layer`; of
        the other `other_revision`, `other_step`, `other_layer` and so on; `cka` and its standard error `cka_se`, about
        `(1 - cka²) / sqrt(4096)`. The error is that of sketching alone: another choice of tokens would give another CKA.
        `concentrated` is true where a handful of pairs of tokens hold the mass, so that 95 % intervals hold less often
        than 93 %. Places without finite representations are left out.

    Raises:
        OptionError: a store has no representations, of this site or layer; the stores' probes or sketches differ; there is
            nothing to compare; or `across` has another value.
        SelectionError: the expression cannot be read, or matches nothing.
    """
    if across not in get_args(Across):
        near = did_you_mean(str(across), get_args(Across))
        raise OptionError(f"across must be revisions, layers or both (got {across!r}){near}")
    named = named_stores(store)
    facts = {name: _facts(each, site, layer) for name, each in named.items()}
    first, *others = named
    for other in others:
        _require_same_probe(named[first], named[other])
        require_same_facts(named[first], facts[first], named[other], facts[other])
    parts = [_Places.of(each, site, layer, revisions, run=name if others else "") for name, each in named.items()]
    frames = [each.pairs() for each in _joined(parts).split(across)]
    if not frames:
        what = "two layers of a revision" if across == "layers" else "two revisions"
        raise OptionError(
            f"{told_paths(named)} must hold finite representations of {what} at {_told(site, layer)}; collect more, or "
            "choose others"
        )
    return pl.concat(frames)


@dataclass(frozen=True)
class _Places:
    """Revisions and layers with finite sketches; `leading` has one row for each."""

    leading: pl.DataFrame
    values: Float64[np.ndarray, "place component"]
    spread: float  # the variance of an estimate over that of independent signs; 0 where a sketch is the matrix itself

    @classmethod
    def of(cls, store: Store, site: str, layer: int | None, revisions: str, *, run: str) -> _Places:
        """Those of a store's chosen revisions, at one layer or at all."""
        held = [each for each in store.revisions() if REPRESENTATIONS in store.recorded(each.name)]
        names = [each.name for each in select(held, revisions)]
        grid = Grid(store)
        values = grid.array(REPRESENTATIONS, "gram_sketch", {"site": site})
        kept = np.isfinite(values).all(axis=2) & grid.leading["revision"].is_in(names).to_numpy()[:, np.newaxis]
        if layer is not None:
            kept &= store.axis("layer").labels == layer
        leading = grid.rows(("layer",), kept)
        named = leading.select(
            *([pl.lit(run).alias(RUN)] if run else []), pl.exclude("layer"), pl.lit(site).alias("site"), "layer"
        )
        return cls(named, values[kept].astype(np.float64), 0.0 if _is_exact(store) else 1.0)

    def split(self, across: Across) -> Iterator[_Places]:
        """The places that are compared with one another: in each part two at least."""
        of_one = [name for name in (RUN, "revision") if name in self.leading.columns]
        same = {"revisions": ["layer"], "layers": of_one}
        numbered = self.leading.with_row_index("place")
        for part in [numbered] if across == "both" else numbered.partition_by(same[across], maintain_order=True):
            if part.height > 1:
                yield _Places(part.drop("place"), self.values[part["place"].to_numpy()], self.spread)

    def pairs(self) -> pl.DataFrame:
        """The numbers of every pair."""
        spread = np.full(len(self.values), self.spread)
        found = pair_numbers((self.values @ self.values.T)[np.newaxis], 2 * spread[:1] / self.values.shape[1])
        few = concentrated(self.values, spread)
        numbers = {"cka": found["cosine"], "cka_se": found["cosine_se"]}
        columns = [pl.Series(name, each.reshape(-1)).fill_nan(None) for name, each in numbers.items()]
        both = pl.Series("concentrated", (few[:, np.newaxis] | few).reshape(-1))
        return ordered_pairs(self.leading).with_columns(*columns, both)


def _joined(parts: Sequence[_Places]) -> _Places:
    values = np.concatenate([each.values for each in parts])
    return _Places(pl.concat([each.leading for each in parts]), values, parts[0].spread)


def _facts(store: Store, site: str, layer: int | None) -> Facts:
    """The facts of a store's sketches, if it has the site and the layer.

    Raises:
        OptionError: it has no representations, or none of these.
    """
    if REPRESENTATIONS not in store.groups:
        raise OptionError(
            f"{store.path} must have the group {REPRESENTATIONS}; collect it with --record {REPRESENTATIONS}, beside others"
        )
    attributes = store.group(REPRESENTATIONS).attributes
    sites = str(attributes.get("sites", ",".join(store.axis("site").labels))).split(",")
    if site not in sites:
        raise OptionError(f"site must be one that {store.path} holds, {', '.join(sites)} (got {site!r})")
    layers = store.axis("layer").labels
    if layer is not None and layer not in layers:
        raise OptionError(f"layer must be one that {store.path} holds, {layers[0]} to {layers[-1]} (got {layer!r})")
    return {words: attributes.get(name) for words, name in _FACTS.items()}


def _require_same_probe(one: Store, other: Store) -> None:
    hashes = [str(each.attributes["probe"].get("sha256")) for each in (one, other)]
    if hashes[0] != hashes[1]:
        raise OptionError(
            f"stores must have read the same probe to be compared ({one.path}: sha256 {hashes[0]}, {other.path}: sha256 "
            f"{hashes[1]}); collect one of them again, with the other's tokens"
        )


def _is_exact(store: Store) -> bool:
    """True if there is a component for each pair of tokens."""
    tokens = store.group(REPRESENTATIONS).attributes.get("tokens")
    return isinstance(tokens, int) and tokens * (tokens - 1) // 2 <= len(store.axis("gram_component"))


def _told(site: str, layer: int | None) -> str:
    return site if layer is None else f"{site} of layer {layer}"
