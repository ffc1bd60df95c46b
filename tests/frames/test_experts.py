"""The experts of a layer taken together equal the tensor that holds them all."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import pool_experts
from olmo_dynamics.names import TensorInfo

REVISION = {"revision": "step1", "stage": None, "ingredient": None, "step": 1, "tokens": 4}
EXACT = ("l2_norm", "rms", "mean", "std", "min", "max", "abs_max", "abs_mean", "norm_sparsity", "element_count",
         "zero_count", "nan_count", "inf_count")  # fmt: skip
NOT_DERIVABLE = ("abs_median", "kurtosis", "max_sparsity", "tail_ratio")


def row(name: str, values: np.ndarray, revision: dict[str, object] | None = None) -> dict[str, object]:
    """The row of a tensor in the table `parameters`, by its definitions."""
    x, info = values.ravel().astype(np.float64), TensorInfo(name, "F32", values.shape, "f", 0, 0)
    finite, magnitude = bool(np.isfinite(x).all()), np.abs(x)
    status = "measured" if finite and magnitude.max() > 0 else "degenerate" if finite else "non-finite"
    with np.errstate(all="ignore"):
        return {
            **(revision or REVISION), "tensor": name, "layer": info.layer if info.layer >= 0 else None,
            "expert": info.expert if info.expert >= 0 else None, "role": info.role, "element_count": x.size,
            "status": status, "l2_norm": np.sqrt((x**2).sum()), "rms": np.sqrt((x**2).mean()), "mean": x.mean(),
            "std": x.std(), "min": x.min(), "max": x.max(), "abs_max": magnitude.max(), "abs_mean": magnitude.mean(),
            "abs_median": np.median(magnitude), "kurtosis": ((x - x.mean()) ** 4).mean() / x.std() ** 4,
            "norm_sparsity": np.sqrt(x.size) * np.sqrt((x**2).sum()) / magnitude.sum(), "max_sparsity": 1.0,
            "tail_ratio": 1.0, "zero_count": int((x == 0).sum()), "nan_count": int(np.isnan(x).sum()),
            "inf_count": int(np.isinf(x).sum()),
        }  # fmt: skip


def table(rows: list[dict[str, object]]) -> pl.DataFrame:
    nullable = {"stage": pl.Int64, "ingredient": pl.String, "layer": pl.Int64, "expert": pl.Int64}
    return pl.DataFrame(rows, schema_overrides=nullable)


def expert_name(layer: int, expert: int, role: str = "up_proj") -> str:
    return f"model.layers.{layer}.mlp.experts.{expert}.{role}.weight"


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    shift=st.sampled_from([0, 50]),
)
def test_the_pool_is_the_tensor_of_all_experts(seed: int, sizes: list[int], shift: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(shift, 1 + expert, size) for expert, size in enumerate(sizes)]
    parts[0][0] = 0
    pooled = pool_experts(table([row(expert_name(3, expert), part) for expert, part in enumerate(parts)]))
    assert pooled["tensor"].to_list() == ["model.layers.3.mlp.experts.*.up_proj.weight"]
    expected = row(expert_name(3, 0), np.concatenate(parts))
    found = pooled.row(0, named=True)
    assert (found["layer"], found["role"], found["status"]) == (3, "up_proj", "measured")
    for name in EXACT:
        assert found[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name
    assert [found[name] for name in NOT_DERIVABLE] == [None] * 4


def test_each_revision_layer_and_role_is_pooled_apart_and_others_stay() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for step in (0, 1):
        revision = REVISION | {"revision": f"step{step}", "step": step}
        names = [
            "model.embed_tokens.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.mlp.gate.weight",
        ]
        names += [
            expert_name(layer, e, role) for layer in (0, 1) for e in range(3) for role in ("up_proj", "down_proj")
        ]
        rows += [row(name, rng.normal(size=6), revision) for name in [*names, "model.norm.weight"]]
    parameters = table(rows)
    pooled = pool_experts(parameters)
    assert pooled.columns == [name for name in parameters.columns if name != "expert"]
    assert pooled["tensor"].to_list() == [
        "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate.weight",
        *(f"model.layers.{layer}.mlp.experts.*.{role}.weight" for layer in (0, 1) for role in ("up_proj", "down_proj")),
        "model.norm.weight",
    ] * 2  # fmt: skip
    assert pooled.filter(tensor="model.norm.weight").equals(
        parameters.filter(tensor="model.norm.weight").drop("expert")
    )
    assert pooled.schema == {name: kind for name, kind in parameters.schema.items() if name != "expert"}
    assert not pooled.select("revision", "layer", "role").is_duplicated().any()
    assert pooled["element_count"].sum() == parameters["element_count"].sum()


def test_a_table_without_experts_is_as_it_was() -> None:
    parameters = table([row("model.norm.weight", np.ones(4))])
    assert pool_experts(parameters).equals(parameters.drop("expert"))
    assert pool_experts(parameters.clear()).columns == parameters.drop("expert").columns


def test_one_bad_expert_spoils_the_pool_and_an_expert_of_zeros_does_not() -> None:
    fine = np.array([1.0, -2.0])
    bad = pool_experts(table([row(expert_name(0, 0), fine), row(expert_name(0, 1), np.array([np.nan, 1.0]))]))
    assert bad["status"].to_list() == ["non-finite"]
    assert bad["nan_count"].to_list() == [1]
    assert bad.select("l2_norm", "abs_max", "min").row(0) == pytest.approx((np.nan,) * 3, nan_ok=True)
    zeros = row(expert_name(0, 1), np.zeros(2))
    some = pool_experts(table([row(expert_name(0, 0), fine), zeros]))
    assert some["status"].to_list() == ["measured"]
    assert some["norm_sparsity"].to_list() == pytest.approx([2 * np.sqrt(5) / 3])
    assert pool_experts(table([zeros]))["status"].to_list() == ["degenerate"]


def test_a_table_of_fewer_columns_is_pooled_as_far_as_it_goes() -> None:
    parameters = table([row(expert_name(0, expert), np.ones(4)) for expert in range(2)])
    few = parameters.select(
        "revision", "step", "tokens", "tensor", "layer", "expert", "role", "element_count", "rms", "std"
    )
    found = pool_experts(few)
    assert found.columns == [name for name in few.columns if name != "expert"]
    assert found.select("element_count", "rms", "std").row(0) == (8, 1.0, None)  # std needs the means as well


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("model.layers.2.mlp.experts.17.gate_proj.weight", 17),
        ("model.layers.2.block_sparse_moe.experts.3.w1.weight", 3),
        ("experts.0.weight", 0),
        ("model.layers.2.mlp.gate.weight", -1),
        ("model.layers.2.mlp.experts.gate_up_proj", -1),
        ("model.layers.2.mlp.shared_experts.1.weight", -1),
    ],
)
def test_the_expert_a_tensor_belongs_to(name: str, expert: int) -> None:
    assert TensorInfo(name, "F32", (2,), "f", 0, 8).expert == expert


def test_a_table_that_has_no_word_of_experts_is_refused() -> None:
    expected = r"pool_experts\(\) needs the table parameters; the column expert is missing from tensor, rms"
    with pytest.raises(OptionError, match=f"^{expected}$"):
        pool_experts(pl.DataFrame({"tensor": ["a"], "rms": [1.0]}))
