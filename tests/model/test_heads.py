"""The head that a checkpoint has, by its config and its weights, as transformers reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import olmo_dynamics as od
from olmo_dynamics.errors import CheckpointError, OptionError, ShapeError
from olmo_dynamics.model import (
    build_model,
    check_shapes,
    load_model_weights,
    missing_head,
    parse_config,
    resolve_config,
    stages,
    taps,
)
from olmo_dynamics.names import NO_LAYER, Site
from tests.runs import TINY, edit_config, write_family_run, write_revision

IDS = torch.arange(24).reshape(2, 12) * 5 % 320


@pytest.fixture
def revision(tmp_path: Path) -> Path:
    """One OLMo 2 with a head of its own."""
    return write_revision(tmp_path / "run" / "step1", 3)


def rewrite(revision: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors, or drop those given as None; `lm_head` stands for `lm_head.weight`."""
    file = revision / "model.safetensors"
    weights: dict[str, Any] = load_file(file) | {f"{name}.weight": each for name, each in changes.items()}
    save_file({name: each for name, each in weights.items() if each is not None}, file, metadata={"format": "pt"})


def logits(revision: Path) -> torch.Tensor:
    model = od.load_model(revision.parent, revision.name)
    with torch.no_grad():
        return model(IDS)


def theirs(revision: Path) -> torch.Tensor:
    transformers.logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(revision, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("head", ["other", "equal", "absent", "alone"])
def test_tied_weights_are_read_as_transformers_reads_them(head: str, revision: Path) -> None:
    edit_config(revision, tie_word_embeddings=True)
    embedding = load_file(revision / "model.safetensors")["model.embed_tokens.weight"]
    if head == "equal":
        rewrite(revision, lm_head=embedding.clone())
    elif head == "absent":
        rewrite(revision, lm_head=None)
    elif head == "alone":
        rewrite(revision, lm_head=embedding.clone(), **{"model.embed_tokens": None})
    torch.testing.assert_close(logits(revision), theirs(revision), rtol=1e-5, atol=1e-5)
    assert od.load_model(revision.parent, "step1").config.tied_embeddings == (head != "other")


@pytest.mark.parametrize("family", ["olmo", "olmo2", "olmoe"])
def test_the_trunk_of_a_reward_model_is_transformers(family: str, tmp_path: Path) -> None:
    revision = write_family_run(tmp_path / "run", ("step1",), family) / "step1"
    rewrite(revision, lm_head=None, score=torch.ones(1, 32))
    edit_config(revision, architectures=["ForSequenceClassification"], num_labels=1)
    words, weights = json.loads((revision / "config.json").read_text()), load_file(revision / "model.safetensors")
    config = resolve_config(words, weights)
    assert (config.has_head, config.tied_embeddings) == (False, False)
    assert missing_head(words, weights) == "ForSequenceClassification: score.weight in place of lm_head.weight"
    check_shapes(config, weights)
    model = build_model(config)
    load_model_weights(model, weights)
    assert stages(config)[-1].tensors == (() if family == "olmo" else ("model.norm.weight",))
    if family == "olmoe":
        pytest.skip("transformers has no OLMoE with another head")
    trunk = AutoModelForSequenceClassification.from_config(
        transformers.AutoConfig.for_model(**words | {"pad_token_id": 0})
    )
    trunk.load_state_dict(weights, strict=True)
    with torch.no_grad():
        expected = trunk.eval().model(IDS).last_hidden_state
        torch.testing.assert_close(model.hidden(IDS), expected, rtol=1e-5, atol=1e-5)
        with pytest.raises(OptionError) as caught:
            model(IDS)
    assert str(caught.value) == (
        "logits must come from a language-model head, which this model lacks; call model.hidden"
    )


@pytest.mark.parametrize(
    ("architectures", "others", "tied", "missing"),
    [
        (["Olmo2ForCausalLM"], [], False, ""),  # a fault: the head is missing
        (None, [], False, ""),
        ([3], [], False, ""),
        (["Olmo2Model"], [], False, "Olmo2Model: no lm_head.weight"),
        (["Olmo2Model"], [], True, ""),  # the embedding is the head
        (["Olmo2ForCausalLM"], ["score.weight"], False, "Olmo2ForCausalLM: score.weight in place of lm_head.weight"),
        (None, ["v_head.summary.weight"], True, "v_head.summary.weight in place of lm_head.weight"),
        (["Olmo2ForCausalLM"], ["lm_head.weight", "v_head.summary.weight"], False, ""),
    ],
)
def test_a_head_is_missing_if_the_config_or_another_head_says_so(
    architectures: Any, others: list[str], tied: bool, missing: str
) -> None:
    words = {"architectures": architectures, "tie_word_embeddings": tied}
    assert missing_head(words, ["model.embed_tokens.weight", "model.norm.weight", *others]) == missing


def test_a_trunk_is_not_loaded_as_a_model(revision: Path) -> None:
    rewrite(revision, lm_head=None, score=torch.ones(1, 32))
    with pytest.raises(CheckpointError) as caught:
        od.load_model(revision.parent, "step1")
    assert str(caught.value) == (
        f"{revision.parent}@step1 must have a language-model head to be loaded as a model (Olmo2ForCausalLM: score.weight "
        "in place of lm_head.weight); collect its activations up to the final norm"
    )


def test_a_language_model_without_its_head_is_refused(revision: Path) -> None:
    rewrite(revision, lm_head=None)
    with pytest.raises(ShapeError, match=r"\(got 1 missing: lm_head\.weight \[320, 32\]\); "):
        od.load_model(revision.parent, "step1")


def test_tensors_beside_the_model_are_accepted(revision: Path) -> None:
    before = logits(revision)
    rewrite(revision, **{"score": torch.ones(1, 32), "v_head.summary": torch.ones(1, 32)})
    file = revision / "model.safetensors"
    save_file(load_file(file) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, file)
    assert torch.equal(logits(revision), before)
    save_file(load_file(file) | {"lm_head.bias": torch.ones(320)}, file)
    with pytest.raises(ShapeError, match=r"\(got 1 unexpected: lm_head\.bias \[320\]\); "):
        logits(revision)


def test_a_model_without_head_lacks_the_site_of_logits() -> None:
    config = replace(parse_config(TINY | {"model_type": "olmo2"}), has_head=False)
    found = [(tap.site, tap.layer) for tap in taps(build_model(config))]
    assert (Site.FINAL_NORM, NO_LAYER) in found
    assert (Site.LOGITS, NO_LAYER) not in found
