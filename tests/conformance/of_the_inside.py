"""The groups of the model's inside and of gradients, computed again by NumPy in float64 from transformers' arrays."""

from __future__ import annotations

import math

import numpy as np
import torch

from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.inside.in_context import positions_compared
from olmo_dynamics.recorders.inside.induction import LONGEST, SEED, repeated_windows
from tests.conformance.of_weights import Expected
from tests.conformance.seen import Seen
from tests.recorders.inside.material import attention_in_transformers
from tests.recorders.inside.test_attention import by_formula as attention_statistics
from tests.recorders.inside.test_lens import by_formula as lens_statistics
from tests.recorders.inside.test_writes import shares

Array = np.ndarray


def attention(seen: Seen) -> Expected:
    found: Expected = {}
    lengths = seen.mask.sum(1).tolist()
    for layer, arrays in enumerate(seen.attention):
        statistics = attention_statistics(arrays, lengths)
        judged = [values for name, values in statistics.items() if not name.endswith("_64") or max(lengths) >= 64]
        undefined = np.isnan(np.array(judged, dtype=float)).any(0)
        statistics["status"] = np.where(undefined, Status.DEGENERATE, Status.MEASURED)
        found |= {(name, ("layer", layer)): values for name, values in statistics.items()}
    return found


def writes(seen: Seen) -> Expected:
    found: Expected = {}
    for layer in range(seen.config.layers):
        middle = "residual_in" if seen.config.parallel_residual else "residual_middle"
        for part, before in (("attention", "residual_in"), ("mlp", middle)):
            at = ("layer", layer), ("part", part)
            w, x = _write(seen, part, layer)[seen.mask], seen.sites[before, layer][seen.mask]
            one, other = np.linalg.norm(w, axis=1), np.linalg.norm(x, axis=1)
            found["write_ratio", *at] = (one / other).mean()
            found["write_cosine", *at] = ((w * x).sum(1) / one / other).mean()
            found["status", *at] = Status.MEASURED
        matrix = seen.weights[f"model.layers.{layer}.self_attn.o_proj.weight"]
        heads, slices = (np.split(x, seen.config.heads, axis=-1) for x in (seen.sites["heads", layer], matrix))
        found["head_write_l2", ("layer", layer)] = [
            np.linalg.norm(a[seen.mask] @ m.T, axis=1).mean() for a, m in zip(heads, slices, strict=True)
        ]
    found["status", ("layer", -1), ("part", "embedding")] = Status.MEASURED
    layers = range(seen.config.layers)
    given = {"before": [seen.sites["residual_in", layer] for layer in layers], "logits": seen.logits}
    given |= {part: [_write(seen, part, layer) for layer in layers] for part in ("attention", "mlp")}
    for (layer, part), share in shares(seen.model, given, seen, seen.sample, seen.rounding).items():
        found["logit_share", ("layer", layer), ("part", part)] = share
    return found


def _write(seen: Seen, part: str, layer: int) -> Array:
    return seen.sites[f"{part}_output" if seen.before_norm else f"{part}_output_normed", layer]


def lens(seen: Seen) -> Expected:
    found: Expected = {}
    streams = np.stack([seen.sites["residual_out", layer] for layer in range(seen.config.layers)])
    logits = _through_the_head(seen, streams)
    for layer in range(seen.config.layers):
        for number, domain in enumerate(seen.domains):
            statistics = lens_statistics(logits, seen, seen.sample, layer, number) | {"status": Status.MEASURED}
            found |= {(name, ("layer", layer), ("domain", domain)): value for name, value in statistics.items()}
    return found


def _through_the_head(seen: Seen, stream: Array) -> Array:
    """The final norm and the head, in float64."""
    gain, bias = seen.weights.get("model.norm.weight"), seen.weights.get("model.norm.bias")
    norms = seen.config.norms
    centres = norms.centred if norms else gain is None or bias is not None
    centred = stream - stream.mean(-1, keepdims=True) if centres else stream
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + seen.config.norm_eps)
    head = seen.weights.get("lm_head.weight", seen.weights["model.embed_tokens.weight"])
    return ((normed if gain is None else normed * gain) + (0 if bias is None else bias)) @ head.T


def induction(seen: Seen) -> Expected:
    length = min(LONGEST, seen.config.max_positions // 2)
    ids = repeated_windows(length, seen.tokenizer_size, (0,), SEED).token_ids
    found: Expected = {}
    for layer, arrays in enumerate(attention_in_transformers(seen.ours, torch.tensor(ids))):
        matched = [arrays["weights"][:, :, i, i - length + 1] for i in range(length, 2 * length)]
        found["prefix_matching", ("layer", layer)] = np.mean(matched, axis=(0, 1))
        found["status", ("layer", layer)] = np.full(seen.config.heads, Status.MEASURED)
    losses = seen.losses(ids)
    found["first_half_loss",], found["second_half_loss",] = losses[:, 1:length].mean(), losses[:, length:].mean()
    compared = positions_compared(seen.mask.shape[1])
    if compared is not None:
        early, late = compared
        losses = seen.losses(seen.token_ids)[seen.mask[:, late]]
        found["in_context_score",] = (losses[:, late] - losses[:, early]).mean()
    return found


def gradients(seen: Seen) -> Expected:
    found: Expected = {}
    counts = seen.mask.sum(1) - 1
    squares = {name: np.array([(each.gradients[name] ** 2).sum() for each in seen.windows]) for name in seen.weights}
    probe = {name: (whole_gradient(seen, name) ** 2).sum() for name in seen.weights}
    for name in seen.weights:
        mean, error = _mean_and_error(np.sqrt(squares[name]))
        values = {
            "l2_norm": mean,
            "l2_norm_se": error,
            "probe_l2_norm": math.sqrt(probe[name]),
            "status": Status.MEASURED,
        }
        found |= {(key, ("tensor", name)): value for key, value in values.items()}
    total, of_probe = sum(squares.values()), sum(probe.values())
    found["total_l2_norm",], found["total_l2_norm_se",] = _mean_and_error(np.sqrt(total))
    found["total_probe_l2_norm",] = math.sqrt(of_probe)
    square = (counts.sum() ** 2 * of_probe - (counts**2 * total).sum()) / (counts.sum() ** 2 - (counts**2).sum())
    trace = (total.mean() - square) / (1 / counts).mean()
    found["noise_square",], found["noise_trace",] = square, trace
    found["noise_status",] = Status.MEASURED if square > 0 else Status.DEGENERATE
    found["noise_scale",] = trace / square if square > 0 else math.nan
    return found | _growth(seen)


def _growth(seen: Seen) -> Expected:
    found: Expected = {}
    last = seen.config.layers - 1
    for kind, word in (("stream", "activation"), ("stream_gradients", "gradient")):
        ends = [np.concatenate([getattr(each, kind)[layer] for each in seen.windows]) for layer in (0, last)]
        means, norms = ([size(each) for each in ends] for size in (_of_mean, _mean_norm))
        found[f"lambda_vecmean_{word}",] = math.log(means[1] / means[0]) / seen.config.layers
        found[f"lambda_meannorm_{word}",] = math.log(norms[1] / norms[0]) / seen.config.layers
    return found


def gradient_stream(seen: Seen) -> Expected:
    found: Expected = {}
    for layer in range(-1, seen.config.layers):
        vectors = np.concatenate([each.stream_gradients[layer] for each in seen.windows])
        found["l2_norm", ("layer", layer)] = _mean_norm(vectors)
        found["status", ("layer", layer)] = Status.MEASURED
    return found


def gradient_rows(seen: Seen) -> Expected:
    found: Expected = {}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in seen.weights:
            found["row_l2", ("embedding", name)] = np.linalg.norm(whole_gradient(seen, name), axis=1)
            found["status", ("embedding", name)] = Status.MEASURED
    return found


def whole_gradient(seen: Seen, name: str) -> Array:
    """The gradient of the whole probe's mean loss."""
    counts = seen.mask.sum(1) - 1
    return sum(n * each.gradients[name] for n, each in zip(counts, seen.windows, strict=True)) / counts.sum()


def _mean_and_error(values: Array) -> tuple[float, float]:
    return values.mean(), values.std(ddof=1) / math.sqrt(len(values))


def _of_mean(vectors: Array) -> float:
    return float(np.linalg.norm(vectors.mean(0)))


def _mean_norm(vectors: Array) -> float:
    return float(np.linalg.norm(vectors, axis=1).mean())
