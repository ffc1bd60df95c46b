"""The groups of weights and of an optimiser's state, computed again by NumPy in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from olmo_dynamics.quantities import QUANTILES
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.tensor_names import residual_axis_of, role_of
from tests.collection.reference import parameter_statistics
from tests.collection.test_optimizer_state import NUMBERS, by_hand
from tests.conformance.drawn_runs import BETAS, EPS, RATE, SKETCH_SIZE, STEP
from tests.conformance.seen import Seen
from tests.recorders.test_sketches import by_definition
from tests.recorders.test_spectra import reference as singular_statistics

Expected = dict[tuple[Any, ...], Any]
"""Values by quantity and labels: `("rms", ("tensor", "model.norm.weight"))`."""


def parameters(seen: Seen) -> Expected:
    found: Expected = {}
    for name, x in seen.weights.items():
        found |= _at(("tensor", name), parameter_statistics(x) | {"element_count": x.size, "status": Status.MEASURED})
        axis = residual_axis_of(role_of(name), x.shape)
        if axis is not None and x.ndim == 2:
            features = {"residual_feature_l2": np.sqrt((x**2).sum(1 - axis))}
            vectors = np.quantile(np.sqrt((x**2).sum(axis)), QUANTILES)
            found |= _at(("tensor", name), features | {"residual_vector_l2_quantile": vectors})
        elif axis is not None:
            vectors = np.full(len(QUANTILES), np.linalg.norm(x))  # one vector
            found |= _at(("tensor", name), {"residual_feature_l2": np.abs(x), "residual_vector_l2_quantile": vectors})
    return found


def embeddings(seen: Seen) -> Expected:
    found: Expected = {}
    counts = np.bincount(seen.token_ids[seen.mask], minlength=seen.config.vocab_size)
    used = sorted(np.flatnonzero(counts), key=lambda token: (counts[token], token))
    unseen = np.flatnonzero(counts[: seen.tokenizer_size] == 0)
    for name, x in seen.weights.items():
        if role_of(name) in ("embed_tokens", "lm_head"):
            rows = np.sqrt((x**2).sum(1))
            values = {
                "row_l2": rows,
                "row_l2_quantile": np.quantile(rows, QUANTILES),
                "row_rms": np.sqrt((x**2).mean()),
                "decile_rms": [np.sqrt((x[ids] ** 2).mean()) for ids in np.array_split(used, 10)],
                "padding_rms": np.sqrt((x[seen.tokenizer_size :] ** 2).mean()),
                "mean_row_l2": np.linalg.norm(x.mean(0)),
                "status": Status.MEASURED,
            }
            values |= {"unseen_rms": np.sqrt((x[unseen] ** 2).mean())} if len(unseen) else {}
            found |= _at(("embedding", name), values)
    return found


def sketches(seen: Seen) -> Expected:
    found: Expected = {}
    for name, x in seen.weights.items():
        values = {"sketch": _sketch(name, x), "element_count": x.size, "status": Status.MEASURED}
        found |= _at(("tensor", name), values)
    return found


def optimizer(seen: Seen) -> Expected:
    found: Expected = {("learning_rate",): RATE}
    for name, moments in seen.state.items():
        m, v = moments["exp_avg"], moments["exp_avg_sq"]
        values = dict(zip(NUMBERS, by_hand(m, v, STEP, BETAS, EPS), strict=True))
        values["exp_avg_sketch"] = _sketch(name, m.double().numpy())
        found |= _at(("tensor", name), values | {"update_status": Status.MEASURED, "status": Status.MEASURED})
    return found


def spectra(seen: Seen) -> Expected:
    found: Expected = {}
    for name, x in seen.weights.items():
        if x.ndim == 2 and min(x.shape) > 1:
            values = singular_statistics(x)
            bounds = np.where(np.isfinite(values["singular_value"]), 0.0, np.nan)  # of rounding, so next to nothing
            values |= {
                "singular_value_bound": bounds,
                "spectral_norm_bound": 0.0,
                "spectral_norm_limit": values["spectral_norm"],
            }
            found |= _at(("tensor", name), values | {"full_status": Status.MEASURED, "status": Status.MEASURED})
    return found


def head_spectra(seen: Seen) -> Expected:
    found: Expected = {}
    config = seen.config
    for name, x in seen.weights.items():
        role = role_of(name)
        if role not in ("q_proj", "k_proj", "v_proj", "o_proj"):
            continue
        count = config.heads if role in ("q_proj", "o_proj") else config.kv_heads
        for head, part in enumerate(np.split(x, count, axis=1 if role == "o_proj" else 0)):
            s = np.linalg.svd(part, compute_uv=False)
            p = s / s.sum()
            values = {
                "head_spectral_norm": s[0],
                "head_stable_rank": (s**2).sum() / s[0] ** 2,
                "head_effective_rank": math.exp(-(p * np.log(p)).sum()),
                "status": Status.MEASURED,
            }
            found |= {(key, ("tensor", name), ("head", head)): value for key, value in values.items()}
    return found


def _sketch(name: str, x: np.ndarray) -> np.ndarray:
    if x.size <= SKETCH_SIZE:
        return np.pad(x.ravel(), (0, SKETCH_SIZE - x.size))
    return by_definition(x.ravel(), name, x.shape, SKETCH_SIZE)


def _at(label: tuple[str, Any], values: dict[str, Any]) -> Expected:
    return {(name, label): value for name, value in values.items()}
