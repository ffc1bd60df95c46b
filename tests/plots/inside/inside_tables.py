"""Tables with the columns of the groups inside a model, with curves like a real run's."""

from __future__ import annotations

import numpy as np
import polars as pl

from tests.plots.synthetic import revisions

FEW = np.array([0, 10, 100, 1_000, 10_000])
LAYERS, HEADS, DOMAINS = 3, 4, ("prose", "code")
TYPES = {"stage": pl.Int64, "ingredient": pl.String, "layer": pl.Int64}


def _frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    types = TYPES if "layer" in rows[0] else {name: TYPES[name] for name in ("stage", "ingredient")}
    return pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None)


def attention(steps: np.ndarray = FEW, layers: int = LAYERS, heads: int = HEADS) -> pl.DataFrame:
    rows = []
    for each in revisions(steps):
        grown = np.log1p(int(str(each["step"]))) / 10
        for layer in range(layers):
            for head in range(heads):
                low = 1 / (1 + 5 * grown * (head == layer))
                rows.append(
                    {**each, "layer": layer, "head": head, "status": "measured", "entropy": 3.2 * low, "entropy_normalised": low,
                     "sink_mass": 0.06 + grown * (head == 0) / 2, "sink_rate": 0.1 * grown, "sink_rate_64": grown * (head == 0),
                     "previous_token_mass": 0.06 + 0.5 * grown * (head == 1), "value_norm_ratio": 1 - grown / 2,
                     "max_logit": 4 * np.exp(5 * grown) + head, "row_max_mean": 2 + grown,
                     "prefix_matching": 0.011 + grown * (head == 2)}
                )  # fmt: skip
    return _frame(rows)


def losses(steps: np.ndarray = FEW) -> pl.DataFrame:
    rows = []
    for each in revisions(steps):
        grown = np.log1p(int(str(each["step"]))) / 10
        rows.append(
            {**each, "first_half_loss": 8.3, "second_half_loss": 8.3 - 6 * grown, "in_context_score": -0.4 * grown}
        )
    return _frame(rows)


def writes(steps: np.ndarray = FEW) -> pl.DataFrame:
    """The embedding's share is in a row without a layer; all shares of a revision sum to 1."""
    rows = []
    for each in revisions(steps):
        rows.append(
            {**each, "layer": None, "part": "attention", "write_ratio": None, "write_cosine": None, "logit_share": 0.1}
        )
        for layer in range(LAYERS):
            for part, share in (("attention", -0.1), ("mlp", 0.4)):
                rows.append({**each, "layer": layer, "part": part, "write_ratio": 30.0 / (1 + layer) ** 3,
                             "write_cosine": 0.1 * layer - 0.1, "logit_share": share})  # fmt: skip
    return _frame(rows)


def lens(steps: np.ndarray = FEW) -> pl.DataFrame:
    rows = [
        {**each, "layer": layer, "domain": domain, "status": "measured", "token_count": count,
         "cross_entropy": 8.0 - layer - place, "kl_to_final": float(LAYERS - 1 - layer), "top1_agreement": (layer + 1) / LAYERS}
        for each in revisions(steps) for layer in range(LAYERS)
        for place, (domain, count) in enumerate(zip(DOMAINS, (30, 10), strict=True))
    ]  # fmt: skip
    return _frame(rows)


def gradients(steps: np.ndarray = FEW, experts: int = 0) -> pl.DataFrame:
    rows = []
    for each in revisions(steps):
        shared = {**each, "status": "measured", "l2_norm": 0.2, "l2_norm_se": 0.01}
        rows.append(
            {
                **shared,
                "tensor": "lm_head.weight",
                "layer": None,
                "expert": None,
                "role": "lm_head",
                "probe_l2_norm": 1.0,
            }
        )
        for layer in range(LAYERS):
            for role, size in (("q_proj", 1e-4), ("down_proj", 0.03)):
                for expert in range(experts) if experts and role == "down_proj" else (None,):
                    rows.append({**shared, "tensor": f"{layer}.{expert}.{role}", "layer": layer, "expert": expert, "role": role,
                                 "probe_l2_norm": size * (1 + layer)})  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={**TYPES, "expert": pl.Int64}, infer_schema_length=None)


def totals(steps: np.ndarray = FEW) -> pl.DataFrame:
    """The second revision has no upper end, the third no point, the fourth too few windows."""
    scale = [400.0, 800.0, np.nan, np.nan, 1600.0]
    low, high = [200.0, 300.0, 500.0, np.nan, 900.0], [900.0, np.inf, np.inf, np.nan, 4000.0]
    rows = []
    for place, each in enumerate(revisions(steps)):
        rows.append(
            {**each, "total_l2_norm": 6.0 / (1 + place), "total_l2_norm_se": 0.5 if place else 4.0,
             "total_probe_l2_norm": 2.0 / (1 + place), "noise_scale": scale[place % 5], "noise_scale_low": low[place % 5],
             "noise_scale_high": high[place % 5], "noise_status": (1, 1, 3, 0, 1)[place % 5],
             "lambda_vecmean_activation": 0.6 - 0.1 * place, "lambda_vecmean_gradient": -0.6 + 0.1 * place,
             "lambda_meannorm_activation": 0.5, "lambda_meannorm_gradient": -0.4}
        )  # fmt: skip
    return _frame(rows)


def massive(steps: np.ndarray = FEW) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The tables `outliers.massive_top3`, `outliers.massive_median` and `outliers.massive`."""
    top, median, places = [], [], []
    for each in revisions(steps):
        for layer in (None, *range(LAYERS)):
            size = 0.5 if layer is None else 1 + int(str(each["step"])) / 10
            top += [{**each, "layer": layer, "top": k, "value": size / k} for k in (1, 2, 3)]
            median.append({**each, "layer": layer, "value": 0.2})
            places += [
                {**each, "layer": layer, "rank": rank, "value": -size, "sequence": 0, "position": 0 if rank < 6 else rank,
                 "token_id": 7 + rank, "feature": 3 if rank < 8 else 5}
                for rank in range(1, 9)
            ]  # fmt: skip
    return _frame(top), _frame(median), _frame(places)


def positions(steps: np.ndarray = FEW, length: int = 65, domains: tuple[str, ...] = DOMAINS) -> pl.DataFrame:
    rows = [
        {**each, "domain": domain, "position": position, "status": "measured", "value": 8 - np.log2(position)}
        for each in revisions(steps) for domain in domains for position in range(1, length)
    ]  # fmt: skip
    return _frame(rows)


def logits(steps: np.ndarray = FEW) -> pl.DataFrame:
    rows = [
        {**each, "entropy": 8.0 - place, "top_probability": 0.05 * place, "lse_mean": 8.3, "logit_centred_rms": 0.1 * 3**place}
        for place, each in enumerate(revisions(steps))
    ]  # fmt: skip
    return _frame(rows)


def embeddings(steps: np.ndarray = FEW) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables `embeddings` and `embeddings.decile_rms`."""
    names = ("lm_head.weight", "model.embed_tokens.weight")
    rows = [
        {**each, "embedding": name, "unseen_rms": 0.02, "padding_rms": None if name == names[0] else 0.01}
        for each in revisions(steps) for name in names
    ]  # fmt: skip
    tenths = [
        {**each, "embedding": name, "decile": decile, "value": 0.02 * decile}
        for each in revisions(steps) for name in names for decile in range(1, 11)
    ]  # fmt: skip
    return _frame(rows), _frame(tenths)


def classes(steps: np.ndarray = FEW) -> pl.DataFrame:
    shares = {"learned": 0.6, "stagnated": 0.2, "high variance": 0.15, "unlearned": 0.05}
    rows = [
        {**each, "line": "stage1", "trend": trend, "share": share, "forgotten": 0.3, "classified": 1_234}
        for each in revisions(steps) for trend, share in shares.items()
    ]  # fmt: skip
    return _frame(rows)
