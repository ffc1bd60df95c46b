"""Every array of every built-in group equals an independent reference, for drawn models of all families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from olmo_dynamics.model import Experts, ModelConfig, Norms
from olmo_dynamics.quantities import of_group
from olmo_dynamics.recorders.lookup import built_in_groups
from tests.conformance import of_activations, of_the_inside, of_weights
from tests.conformance.comparing import WITHOUT_REFERENCE, Row
from tests.conformance.drawn_runs import NAMES, collected, draw_run, drawn_state
from tests.conformance.of_weights import Expected
from tests.conformance.seen import Seen
from tests.model.drawing import configs, tiny_config

FORWARD = ("activations", "outliers", "logits", "loss", "tokens", "attention", "writes", "lens", "induction")

REFERENCES: dict[str, Callable[[Seen], Expected]] = {
    name: getattr(module, name)
    for module, names in {
        of_weights: ("parameters", "embeddings", "sketches", "optimizer", "spectra", "head_spectra"),
        of_activations: ("activations", "outliers", "logits", "loss", "tokens", "routing"),
        of_the_inside: ("attention", "writes", "lens", "induction", "gradients", "gradient_stream", "gradient_rows"),
    }.items()
    for name in names
}
"""The references by group."""

ELSEWHERE = {"ngram", "representations", "experts", "evaluation"}
"""Groups whose references are in the tests beside their recorders."""

TINY = {
    "olmo": tiny_config("olmo", tied_embeddings=True, heads=6, kv_heads=3, head_dim=8, layers=2),
    "olmo2": tiny_config("olmo2", kv_heads=1, vocab_size=101, layers=2),
    "olmo3": tiny_config("olmo3", tied_embeddings=True),
    "olmoe": tiny_config("olmoe", clip_qkv=0.5, layers=2),
    "llama": tiny_config("llama", layers=2, mlp_bias=True),
    "gpt_neox": tiny_config("gpt_neox", layers=2),
    "olmo_ladder": tiny_config("olmo_ladder", layers=2, clip_qkv=0.5, norms=Norms(on_queries=True)),
}


def assert_every_array(config: ModelConfig, folder: Path, *, seed: int = 0, positions: int = 20) -> None:
    run = draw_run(folder, config, seed=seed, positions=positions)
    store = collected(run, folder / "s.zarr", revisions=NAMES[1], batch=(11, positions))
    assert ("routing" in store.groups) == (config.experts is not None)
    model = run.models[NAMES[1]]
    seen = Seen(model, store, drawn_state(model, seed + 1))
    for group in set(store.groups) - ELSEWHERE:
        expected = REFERENCES[group](seen)
        lacking = {each.name for each in of_group(group)} - {name for name, *_ in expected}
        assert lacking <= WITHOUT_REFERENCE.get(group, set()) | UNDEFINED, group
        Row(store, NAMES[1], group).assert_equal(expected)


UNDEFINED = {
    f"llmint8_{name}{end}" for name in ("layer_share", "token_share", "magnitude") for end in ("", "_without_first")
} | {"in_context_score", "unseen_rms", "router_margin", "cross_layer_co_activation"}
"""Quantities that a model without outlier features, short windows or a small vocabulary has not."""


SLOW, SLOWER = (
    pytest.mark.slow,
    ("olmo", "olmo3", "llama", "olmo_ladder"),
)  # of dense models, two are quick enough for every run


def test_every_group_has_a_reference() -> None:
    assert set(built_in_groups()) <= set(REFERENCES) | ELSEWHERE


@pytest.mark.parametrize("family", [pytest.param(name, marks=SLOW if name in SLOWER else ()) for name in TINY])
def test_every_array_is_that_of_its_reference(family: str, tmp_path: Path) -> None:
    assert_every_array(TINY[family], tmp_path, positions=64 if family == "olmo3" else 20)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=24, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(configs(), st.integers(0, 99), st.sampled_from([5, 15, 64]))
def test_every_array_of_drawn_models_is_that_of_its_reference(config: ModelConfig, seed: int, positions: int) -> None:
    with TemporaryDirectory() as folder:
        assert_every_array(config, Path(folder), seed=seed, positions=min(positions, config.max_positions))


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] if name != "olmo2" else []) for name in TINY]
)
def test_a_pass_in_bfloat16_errs_as_that_of_transformers(family: str, tmp_path: Path) -> None:
    config = TINY[family]
    if (
        config.experts is not None
    ):  # every token goes to all of them, since a choice is no continuous function of the logits
        config = tiny_config("olmoe", experts=Experts(count=3, per_token=3))
    run = draw_run(tmp_path, config)
    options = {"record": FORWARD, "dtype": "bfloat16", "sketch_size": None, "batch": (11, 20), "revisions": NAMES[1]}
    store = collected(run, tmp_path / "s.zarr", **options)
    exact, rounded = (Seen(run.models[NAMES[1]], store, None, dtype) for dtype in (torch.float32, torch.bfloat16))
    for group in FORWARD:
        Row(store, NAMES[1], group).assert_rounded(REFERENCES[group](exact), REFERENCES[group](rounded))
