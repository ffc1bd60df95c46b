"""The groups of a forward pass, computed again by NumPy in float64 from what transformers computes at each site."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import MASSIVE_RANKS, WITHOUT_FIRST
from olmo_dynamics.quantities.declaration import Status
from tests.collection.reference import activation_statistics, feature_fractions, logit_statistics, token_losses
from tests.conformance.of_weights import Expected
from tests.conformance.seen import Seen

Array = np.ndarray
HALVES = (("", 0), (WITHOUT_FIRST, 1))
"""The ends of names, and the first position that counts."""


def activations(seen: Seen) -> Expected:
    found: Expected = {}
    for (name, layer), values in _measured_sites(seen).items():
        at = ("site", name), ("layer", layer)
        found["status", *at] = Status.MEASURED
        for suffix, first in HALVES:
            statistics = activation_statistics(values[:, first:][seen.mask[:, first:]])
            for quantity, value in statistics.items():
                by_feature = quantity in ("feature_rms", "feature_abs_max")
                if not by_feature or Site(name).hidden_wide:
                    found[quantity + suffix, *at] = value
    return found


def _measured_sites(seen: Seen) -> dict[tuple[str, int], Array]:
    found = {key: values for key, values in seen.sites.items() if key[0] not in ("logits", "heads")}
    if seen.config.experts is not None:
        found |= {("router_logits", layer): each for layer, each in enumerate(seen.router_logits)}
    return found


def outliers(seen: Seen) -> Expected:
    found: Expected = {}
    sites = ("attention_input", "mlp_input") if seen.before_norm else ("residual_in", "residual_middle")
    at_six: dict[str, list[tuple[Array, Array, Array]]] = {"": [], WITHOUT_FIRST: []}
    for layer in range(seen.config.layers):
        for label, site in zip(("attention_input", "mlp_input"), sites, strict=True):
            for suffix, first in HALVES:
                tokens = seen.sites[site, layer][:, first:][seen.mask[:, first:]]
                for name, values in feature_fractions(tokens).items():
                    found[name + suffix, ("input", label), ("layer", layer)] = values
                at_six[suffix].append(_at_six(tokens))
    for layer in range(-1, seen.config.layers):
        stream = seen.sites["embedding", -1] if layer < 0 else seen.sites["residual_out", layer]
        found |= {(name, ("layer", layer)): value for name, value in _massive(seen, stream).items()}
        found["status", ("layer", layer)] = Status.MEASURED
    for suffix, places in at_six.items():
        rule = _rule(*(np.array(each) for each in zip(*places, strict=True)))
        found |= {(f"llmint8_{name}{suffix}",): value for name, value in rule.items()}
    return found


def _at_six(tokens: Array) -> tuple[Array, Array, Array]:
    """By feature: the largest magnitude, the share of tokens at 6 and more, and at 6 RMS and more."""
    magnitude, rms = np.abs(tokens), np.sqrt((tokens**2).mean(1, keepdims=True))
    return magnitude.max(0), (magnitude >= 6).mean(0), (magnitude >= 6 * rms).mean(0)


def _rule(largest: Array, share: Array, rms_share: Array) -> dict[str, float]:
    """Dettmers et al. 2022: at 6 and more in a quarter of the places, and in 6 % of the tokens of one."""
    chosen = ((largest >= 6).mean(0) >= 0.25) & (share.max(0) >= 0.06)
    relative = ((rms_share > 0).mean(0) >= 0.25) & (rms_share.max(0) >= 0.06)
    found = {"count": chosen.sum(), "rms_count": relative.sum()}
    if not chosen.any():
        return found
    return found | {
        "layer_share": (largest >= 6)[:, chosen].mean(),
        "token_share": share[:, chosen].max(0).mean(),
        "magnitude": np.median(largest[:, chosen].max(0)),
    }


def _massive(seen: Seen, stream: Array) -> dict[str, Any]:
    windows = [x[kept] for x, kept in zip(stream, seen.mask, strict=True)]
    magnitudes = np.where(seen.mask[..., None], np.abs(stream), -1.0)
    places = np.argsort(-magnitudes, axis=None, kind="stable")[:MASSIVE_RANKS]
    row, position, feature = np.unravel_index(places, stream.shape)
    medians = np.array([np.median(np.abs(x)) for x in windows])
    massive = [(np.abs(x) > 100) & (np.abs(x) >= 1000 * median) for x, median in zip(windows, medians, strict=True)]
    return {
        "massive_value": stream.ravel()[places],
        "massive_sequence": row,
        "massive_position": position,
        "massive_token_id": seen.token_ids[row, position],
        "massive_feature": feature,
        "massive_median": medians.mean(),
        "massive_top3": np.mean([np.sort(np.abs(x), axis=None)[:-4:-1] for x in windows], axis=0),
        "massive_count": sum(each.sum() for each in massive),
    }


def logits(seen: Seen) -> Expected:
    found: Expected = {("status",): Status.MEASURED}
    for suffix, first in HALVES:
        chosen = seen.logits[:, first:][seen.mask[:, first:]]
        found |= {(name + suffix,): value for name, value in logit_statistics(chosen, seen.tokenizer_size).items()}
    return found


def loss(seen: Seen) -> Expected:
    found: Expected = {}
    losses = token_losses(seen.logits, seen.token_ids, seen.mask)
    nbytes = np.where(seen.token_ids == 0, 0, 1)  # the end of text has none, and every other id is one byte
    for number, domain in enumerate(seen.domains):
        at, rows = ("domain", domain), seen.domain == number
        for suffix, first in (("", 1), (WITHOUT_FIRST, 2)):
            some = losses[rows][:, first:]
            scored = np.isfinite(some)
            found["cross_entropy" + suffix, at] = some[scored].mean()
            found["scored_tokens" + suffix, at] = scored.sum()
            found["bits_per_byte" + suffix, at] = some[scored].sum() / np.log(2) / nbytes[rows][:, first:][scored].sum()
        known = np.isfinite(losses[rows])
        sums, counts = np.where(known, losses[rows], 0).sum(0), known.sum(0)
        found["position_cross_entropy", at] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        found["status", at] = Status.MEASURED
    return found


def tokens(seen: Seen) -> Expected:
    losses = token_losses(seen.logits, seen.token_ids, seen.mask)
    return {("token_cross_entropy",): losses, ("status",): Status.MEASURED}


def routing(seen: Seen) -> Expected:
    found: Expected = {}
    assert seen.config.experts is not None
    experts, per_token = seen.config.experts.count, seen.config.experts.per_token
    for layer, scores in enumerate(seen.router_logits):
        chosen = np.argsort(-scores, axis=-1, kind="stable")[..., :per_token]
        sent = np.zeros((*seen.mask.shape, experts), dtype=bool)
        np.put_along_axis(sent, chosen, True, axis=-1)
        real, probabilities = sent[seen.mask], special.softmax(scores[seen.mask], axis=-1).mean(0)
        counts, at = real.sum(0), ("layer", layer)
        load = counts / (per_token * seen.mask.sum())
        values = {
            "chosen_experts": np.where(seen.mask[..., None], chosen, -1),
            "expert_load": load,
            "mean_probability": probabilities,
            "load_imbalance": counts.max() / counts.mean(),
            "load_entropy": special.entr(load).sum() / np.log(experts) if experts > 1 else np.nan,
            "dead_experts": (counts < 0.1 * counts.mean()).sum(),
            "balance_loss": experts / per_token * (real.mean(0) * probabilities).sum(),
            "router_z": (special.logsumexp(scores[seen.mask], axis=-1) ** 2).mean(),
            "status": Status.MEASURED,
        }
        if per_token < experts:
            ordered = -np.sort(-scores[seen.mask], axis=-1)
            values["router_margin"] = (ordered[:, per_token - 1] - ordered[:, per_token]).mean()
        both = real.T.astype(int) @ real.astype(int)
        with np.errstate(invalid="ignore"):
            values["co_activation"] = np.where(np.eye(experts), np.nan, both / counts[:, None])
        found |= {(name, at): value for name, value in values.items()}
        for number, domain in enumerate(seen.domains):
            inside = seen.mask & (seen.domain == number)[:, None]
            found["domain_specialisation", ("domain", domain), at] = sent[inside].mean(0)
    return found | _over_layers(seen, found)


def _over_layers(seen: Seen, found: Expected) -> Expected:
    """The quantities of all layers together, of pairs of layers, and the tokens that are predicted."""
    assert seen.config.experts is not None
    layers, experts = range(seen.config.layers), seen.config.experts.count
    sent = [_sent(found["chosen_experts", ("layer", layer)][seen.mask], experts) for layer in layers]
    shares = [found["mean_probability", ("layer", layer)] for layer in layers]
    pooled: Expected = {
        ("pooled_balance_loss",): experts * (np.mean([each.mean(0) for each in sent], 0) * np.mean(shares, 0)).sum(),
        ("pooled_router_z",): np.mean([found["router_z", ("layer", layer)] for layer in layers]),
        ("predicted_token",): np.where(seen.mask, seen.logits[..., : seen.tokenizer_size].argmax(-1), -1),
    }
    for layer in layers:
        for later in range(layer + 1, seen.config.layers):
            both = sent[layer].T.astype(int) @ sent[later].astype(int)
            with np.errstate(invalid="ignore"):
                pooled["cross_layer_co_activation", ("layer", layer), ("later_layer", later)] = (
                    both / sent[layer].sum(0)[:, None]
                )
    return pooled


def _sent(chosen: Array, experts: int) -> Array:
    """True for the experts that each token goes to."""
    sent = np.zeros((len(chosen), experts), dtype=bool)
    np.put_along_axis(sent, chosen, True, axis=-1)
    return sent
