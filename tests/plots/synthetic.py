"""Tables with the columns and the shapes that a store's tables have, filled with curves like a real run's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

STEPS = np.unique(np.concatenate([[0], np.geomspace(10, 100_000, 29)]).round(-1).astype(int))
TOKENS_PER_STEP = 4_194_304
LAYERS = 12
BLOCK_ROLES = {"q_proj": 0.03, "k_proj": 0.032, "v_proj": 0.025, "o_proj": 0.022, "q_norm": 1.0, "k_norm": 1.0,
               "gate_proj": 0.028, "up_proj": 0.024, "down_proj": 0.023, "post_attention_layernorm": 0.3,
               "post_feedforward_layernorm": 0.35}  # fmt: skip
DOMAINS = {"code": 1.1, "dialogue": 2.7, "encyclopedia": 2.3, "mathematics": 1.9, "narrative": 2.9, "tables": 1.5}
QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


def revisions(steps: np.ndarray = STEPS) -> list[dict[str, object]]:
    return [
        {"revision": f"stage1-step{step}-tokens{step * TOKENS_PER_STEP // 10**9}B", "stage": 1, "ingredient": None,
         "step": int(step), "tokens": int(step) * TOKENS_PER_STEP}
        for step in steps
    ]  # fmt: skip


def staged(table: Callable[[np.ndarray], pl.DataFrame], end: int = 100_000) -> pl.DataFrame:
    """A table of a training in two stages: stage 1 up to `end`, then three ingredients that branch from there."""
    first = table(np.unique(np.geomspace(10, end, 25).round(-1).astype(int)))
    parts = [_placed(first, stage=1, ingredient=None, after=0)]
    for ingredient in "123":
        second = table(np.array([2_000, 4_000, 6_000, 8_000, 10_000]))
        parts.append(_placed(second, stage=2, ingredient=ingredient, after=end))
    return pl.concat(parts)


def _placed(frame: pl.DataFrame, *, stage: int, ingredient: str | None, after: int) -> pl.DataFrame:
    """The rows as those of one line of training that begins `after` so many steps of others."""
    line = f"stage{stage}" + (f"/ingredient{ingredient}" if ingredient else "")
    return frame.with_columns(
        pl.format(line + "/step{}", "step").alias("revision"),
        stage=pl.lit(stage, pl.Int64),
        ingredient=pl.lit(ingredient, pl.String),
        line=pl.lit(line),
        position_step=pl.col("step") + after,
        position_tokens=pl.col("tokens") + after * TOKENS_PER_STEP,
    )


def _table(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema_overrides={"stage": pl.Int64, "ingredient": pl.String}, infer_schema_length=None)


def _grown(step: int, layer: int, end: float, rate: float = 0.7) -> float:
    """From 0.02 to `end` over training, deeper layers a little later and higher, with some seasoning."""
    progress = np.log1p(step / 300) / np.log1p(100_000 / 300)
    wiggle = 1 + 0.02 * np.sin(0.7 * layer + 3 * progress)
    return float((0.02 + (end - 0.02) * progress ** (rate + 0.08 * layer) * (0.7 + 0.6 * layer / LAYERS)) * wiggle)


def parameters(steps: np.ndarray = STEPS, roles: tuple[str, ...] = tuple(BLOCK_ROLES)) -> pl.DataFrame:
    rows: list[dict[str, object]] = []
    for revision in revisions(steps):
        step = int(str(revision["step"]))
        outside = {
            "embed_tokens": ("model.embed_tokens", 0.05),
            "norm": ("model.norm", 2.0),
            "lm_head": ("lm_head", 0.08),
        }
        for role, (name, end) in outside.items():
            rows.append(
                {**revision, "tensor": f"{name}.weight", "layer": None, "role": role, **_statistics(step, 3, end)}
            )
        for layer in range(LAYERS):
            for role in roles:
                place = (
                    ""
                    if "layernorm" in role
                    else ("mlp." if role in ("gate_proj", "up_proj", "down_proj") else "self_attn.")
                )
                rows.append({**revision, "tensor": f"model.layers.{layer}.{place}{role}.weight", "layer": layer, "role": role,
                             **_statistics(step, layer, BLOCK_ROLES[role])})  # fmt: skip
    return _table(rows)


def _statistics(step: int, layer: int, end: float) -> dict[str, object]:
    rms = _grown(step, layer, end)
    kurtosis = 3 + 60 * (1 - layer / LAYERS) ** 3 * np.log1p(step / 1000) / 5
    return {"rms": rms, "l2_norm": rms * 512, "kurtosis": float(kurtosis), "abs_max": rms * (5 + float(kurtosis)),
            "norm_sparsity": 1.2533 + float(kurtosis) / 100, "element_count": 262_144, "status": 1}  # fmt: skip


def activations(steps: np.ndarray = STEPS, sites: tuple[str, ...] = ("residual_out",)) -> pl.DataFrame:
    rows: list[dict[str, object]] = []
    for revision in revisions(steps):
        progress = np.log1p(int(str(revision["step"])) / 300) / np.log1p(100_000 / 300)
        for site in ("embedding", *sites, "final_norm"):
            for layer in range(LAYERS) if site in sites else [None]:
                depth = 0 if layer is None else layer + 1
                rms = 0.05 + (0.3 + 4 * progress) * np.sqrt(2 * depth) * (1 + 0.1 * progress * depth) / 3
                kurtosis = 1 + 400 * progress**3 * np.exp(-(((depth - 3) / 3) ** 2))
                rows.append({**revision, "site": site, "layer": layer, "rms": float(rms),
                             "l2_norm": float(rms) * 22.6,
                             "kurtosis": float(kurtosis) + 2, "feature_kurtosis": float(kurtosis),
                             "rms_without_first": float(rms) * 0.97, "max_median_ratio": float(kurtosis) * 1.7 + 4})  # fmt: skip
    return _table(rows)


def loss(steps: np.ndarray = STEPS) -> pl.DataFrame:
    rows: list[dict[str, object]] = []
    for revision in revisions(steps):
        step = int(str(revision["step"]))
        for domain, end in DOMAINS.items():
            entropy = end + (11.5 - end) / (1 + (step / 150) ** 0.62)
            rows.append(
                {
                    **revision,
                    "domain": domain,
                    "cross_entropy": entropy,
                    "bits_per_byte": entropy / 3.1,
                    "scored_tokens": 1365,
                }
            )
    return _table(rows)


def logits(steps: np.ndarray = STEPS) -> pl.DataFrame:
    return _table(
        [{**revision, "lse_mean": 11.5 + 3 * np.log1p(index)} for index, revision in enumerate(revisions(steps))]
    )


def embedding_quantiles(
    steps: np.ndarray = STEPS, embeddings: tuple[str, ...] = ("embed_tokens", "lm_head")
) -> pl.DataFrame:
    rows = [
        {**revision, "embedding": name, "quantile": quantile,
         "value": 0.6 * (1 - 0.12 * index * (name == "embed_tokens") / 5 + 0.04 * index * (name == "lm_head"))
         * float(np.exp(0.12 * np.log(quantile / (1 - quantile)) * (0.3 + index / 40)))}
        for index, revision in enumerate(revisions(steps)) for name in embeddings for quantile in QUANTILES
    ]  # fmt: skip
    return _table(rows)


def parameter_quantiles(steps: np.ndarray = STEPS, layers: int = LAYERS, role: str = "q_proj") -> pl.DataFrame:
    rows = [
        {**revision, "tensor": f"model.layers.{layer}.self_attn.{role}.weight", "layer": layer, "role": role,
         "quantile": quantile,
         "value": _grown(int(str(revision["step"])), layer, 0.03) * float(np.log(quantile / (1 - quantile))) * 0.55}
        for revision in revisions(steps) for layer in range(layers) for quantile in QUANTILES
    ]  # fmt: skip
    return _table(rows)


def births(steps: np.ndarray = STEPS, features: int = 14) -> pl.DataFrame:
    rows: list[dict[str, object]] = []
    for index in range(features):
        first = int(STEPS[min(8 + index, len(STEPS) - 1)])
        for revision in revisions(steps):
            step = int(str(revision["step"]))
            for layer in range(LAYERS):
                for place in ("attention", "mlp"):
                    reached = step >= first and abs(layer - 3 - index % 4) <= 1 + np.log10(step / first + 1) * 2
                    rows.append({**revision, "layer": layer, "input": place, "feature": 37 * index + 11,
                                 "magnitude": 6.5 + 9 * np.log1p(step / first) if reached else 2.0,
                                 "fraction": 0.3 if reached else 0.0, "is_outlier": step >= first,
                                 "first_step": first})  # fmt: skip
    return _table(rows)


def expert_shares(steps: np.ndarray = STEPS, layers: tuple[int, ...] = (0, 5, 11), experts: int = 16) -> pl.DataFrame:
    """The table routing.expert_load: alike at the beginning, then each layer has its favourites."""
    rows = [
        {**revision, "layer": layer, "expert": expert, "value": float(share)}
        for index, revision in enumerate(revisions(steps)) for layer in layers
        for expert, share in enumerate(_favourites(layer, experts, index / 30))
    ]  # fmt: skip
    return _table(rows)


def _favourites(seed: int, experts: int, progress: float) -> np.ndarray:
    drawn = np.random.default_rng(seed).dirichlet(np.full(experts, 2.0))
    share: np.ndarray = (1 - progress) / experts + progress * drawn
    return share


def specialisation(layers: tuple[int, ...] = (0, 5, 11), experts: int = 16, per_token: int = 4) -> pl.DataFrame:
    """The table routing.domain_specialisation of one revision."""
    rows = [
        {**revisions()[-1], "domain": domain, "layer": layer, "expert": expert, "value": float(share) * per_token}
        for index, domain in enumerate(DOMAINS) for layer in layers
        for expert, share in enumerate(_favourites(10 * index + layer, experts, 0.6))
    ]  # fmt: skip
    return _table(rows)


def settled(steps: np.ndarray = STEPS, baseline: float = 0.125) -> pl.DataFrame:
    """The table of frames.saturation: later layers settle earlier, the last revision agrees with itself."""
    rows = [
        {**revision, "layer": layer, "baseline": baseline, "reference": "main",
         "saturation": baseline + (1 - baseline) * (index / max(1, len(steps) - 1)) ** (1 - layer / 2 / LAYERS)}
        for index, revision in enumerate(revisions(steps)) for layer in range(LAYERS)
    ]  # fmt: skip
    return _table(rows)
