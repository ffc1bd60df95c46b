"""Tables of weights through time with the columns of `od.displacement`, `od.trajectory`, `od.pairwise` and of stores."""

from __future__ import annotations

import numpy as np
import polars as pl

from tests.plots.synthetic import LAYERS, revisions

STEPS = np.unique(np.concatenate([[0], np.geomspace(10, 100_000, 20)]).round(-1).astype(int))
LEADING = {"ingredient": pl.String, "stage": pl.Int64}


def _leading(steps: np.ndarray, line: str = "stage1") -> list[dict[str, object]]:
    return [
        {**each, "line": line, "position_step": each["step"], "position_tokens": each["tokens"]}
        for each in revisions(steps)
    ]


def displacement(floor: float = 2.3e-3, steps: np.ndarray = STEPS) -> pl.DataFrame:
    """By layer; the first revision is the reference."""
    rows = []
    for each in _leading(steps):
        step = int(str(each["step"]))
        for layer in range(LAYERS):
            relative = 1e-3 * (1 + layer / 4) * step**0.6
            angle = float(np.arctan(relative))
            turn = None if step < 30 else 0.6 * np.exp(-step / 3e4) + 0.02 * layer
            rows.append(
                {**each, "layer": layer, "distance": 20 * relative, "distance_se": 0.4 * relative, "relative": relative,
                 "relative_se": 0.02 * relative, "cosine": np.cos(angle), "cosine_se": 0.03 * np.sin(angle) ** 2,
                 "angle": angle, "angle_se": 0.03 * np.sin(angle), "successive_cosine": turn,
                 "successive_cosine_se": None if turn is None else 0.03,
                 "relative_floor": floor, "concentrated": False, "status": "measured"}
            )  # fmt: skip
    return pl.DataFrame(rows, schema_overrides=LEADING, infer_schema_length=None)


def path(lines: tuple[str, ...] = ("stage1",), run: bool = False) -> pl.DataFrame:
    rows = []
    for place, line in enumerate(lines):
        for number, each in enumerate(_leading(STEPS, line)):
            angle = number / len(STEPS) * 2
            at = (10 * np.cos(angle), 4 * np.sin(angle) + place, 0.5 * np.sin(3 * angle))
            shares = zip((0.7, 0.2, 0.05), (0.01, 0.005, 0.0), at, strict=True)
            for component, (share, error, coordinate) in enumerate(shares, 1):
                rows.append(
                    {**({"run": f"seed{place}"} if run else {}), **each, "group": "all", "component": component,
                     "coordinate": coordinate, "share": share, "share_se": error}
                )  # fmt: skip
    return pl.DataFrame(rows, schema_overrides=LEADING, infer_schema_length=None)


def pairs(steps: np.ndarray = STEPS) -> pl.DataFrame:
    rows = []
    for one in _leading(steps):
        for other in _leading(steps):
            near = float(np.exp(-abs(np.log1p(int(str(one["step"]))) - np.log1p(int(str(other["step"])))) / 5))
            shown = ("revision", "line", "step", "tokens")
            rows.append(
                {**one, **{f"other_{name}": other[name] for name in shown}, "group": "all", "distance": 40 * (1 - near),
                 "distance_se": 0.8 * (1 - near), "cosine": near, "cosine_se": 0.02 * (1 - near**2),
                 "angle": float(np.arccos(near)), "angle_se": 0.02 * (1 - near)}
            )  # fmt: skip
    return pl.DataFrame(rows, schema_overrides=LEADING, infer_schema_length=None)


def singular_values(roles: tuple[str, ...] = ("q_proj", "down_proj")) -> pl.DataFrame:
    """The table `spectra.singular_value` of one layer; the last two ranks are not proven."""
    rows = []
    for each in _leading(STEPS):
        step = int(str(each["step"]))
        for role in roles:
            for rank in range(1, 33):
                value = (1 + 2 * np.log1p(step / 100) / rank) * 0.9**rank
                rows.append(
                    {**each, "tensor": f"model.layers.5.{role}.weight", "layer": 5, "role": role, "expert": None,
                     "singular_rank": rank,
                     "status": "measured", "value": None if rank > 30 else value}
                )  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={**LEADING, "expert": pl.Int64}, infer_schema_length=None)


def spectra(roles: tuple[str, ...] = ("q_proj", "down_proj")) -> pl.DataFrame:
    rows = [
        {**each, "tensor": f"model.layers.{layer}.{role}.weight", "layer": layer, "role": role, "expert": None,
         "status": "measured", "spectral_norm": 1.0 + layer, "stable_rank": 200 / (1 + layer / 3 + int(str(each["step"])) ** 0.3)}
        for each in _leading(STEPS) for role in roles for layer in range(LAYERS)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={**LEADING, "expert": pl.Int64}, infer_schema_length=None)


def optimizer(roles: tuple[str, ...] = ("embed_tokens", "q_proj", "down_proj")) -> pl.DataFrame:
    rows = []
    for each in _leading(STEPS[1:]):
        step = int(str(each["step"]))
        for role in roles:
            for layer in [None] if role == "embed_tokens" else range(LAYERS):
                size = 1e-3 * (1 + (layer or 0)) / (1 + step / 1000)
                rows.append(
                    {**each, "tensor": f"{role}.{layer}", "layer": layer, "role": role, "status": "measured",
                     "exp_avg_rms": size, "exp_avg_sq_mean": 4 * size**2, "update_rms": 0.3, "eps_dominance": 0.01 * (layer or 0),
                     "signal_to_noise": 0.5,
                     "optimizer_step": step}
                )  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={**LEADING, "layer": pl.Int64}, infer_schema_length=None)


def embedding_decay() -> pl.DataFrame:
    rows = [
        {**each, "embedding": "model.embed_tokens.weight", "measured": 0.02 * size, "predicted": 0.02 * size * 1.001}
        for each in _leading(STEPS) for size in [float(np.exp(-3e-5 * int(str(each["step"]))))]
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides=LEADING, infer_schema_length=None)


def rotation(roles: tuple[str, ...] = ("q_proj", "down_proj")) -> pl.DataFrame:
    """Equilibrium is reached at step 30,000."""
    rows = [
        {**each, "tensor": f"{role}.{layer}", "layer": layer, "role": role, "angle": 0.1 + 0.01 * layer, "angle_se": 0.002,
         "predicted": 0.12 if int(str(each["step"])) > 30_000 else None, "updates": 100}
        for each in _leading(STEPS[1:]) for role in roles for layer in range(LAYERS)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides=LEADING, infer_schema_length=None)
