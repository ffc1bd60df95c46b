"""`--verify`: what agrees with transformers is recorded, what does not is refused, and where it begins is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    OlmoConfig,
    OlmoeConfig,
    OlmoeForCausalLM,
    OlmoForCausalLM,
)

from olmo_dynamics.checkpoints import FolderSource
from olmo_dynamics.collecting import collect
from olmo_dynamics.collection.verification import verify
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress
from tests.runs import TINY, edit_config, tiny_tokenizer, write_family_run

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
SLIDING = {"num_hidden_layers": 4, "sliding_window": 8}


def write(folder: Path, config: object, kind: type) -> Path:
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "step1")
    (folder / "step1" / "tokenizer.json").write_text(tiny_tokenizer(), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (OlmoConfig(**TINY), OlmoForCausalLM),
        (Olmo2Config(**TINY), Olmo2ForCausalLM),
        (Olmo3Config(**TINY | SLIDING), Olmo3ForCausalLM),
        (OlmoeConfig(**TINY | EXPERTS), OlmoeForCausalLM),
        (LlamaConfig(**TINY, attention_bias=True), LlamaForCausalLM),
        (GPTNeoXConfig(**TINY | {"num_key_value_heads": 4}), GPTNeoXForCausalLM),
    ],
    ids=["olmo", "olmo2", "olmo3", "olmoe", "llama", "gpt_neox"],
)
def test_every_family_agrees_with_transformers(config: object, kind: type, tmp_path: Path) -> None:
    run = write(tmp_path / "run", config, kind)
    store = collect(run, out=tmp_path / "s.zarr", batch="2x24", record=("loss",), verify=True, progress=Progress())
    assert store.done == {"step1"}


def test_a_difference_is_refused_with_its_size_and_place(tmp_path: Path) -> None:
    """transformers gives the sliding layers of a flat Olmo 3 config another base of rotation than the config says."""
    run = write(tmp_path / "run", Olmo3Config(**TINY | SLIDING), Olmo3ForCausalLM)
    edit_config(run / "step1", rope_theta=100.0, rope_parameters=None)
    with pytest.raises(
        CheckpointError, match=r"step1 is not recorded: our forward pass differs .* first after layer 0"
    ):
        collect(run, out=tmp_path / "s.zarr", batch="2x24", record=("loss",), verify=True, progress=Progress())


def test_nan_in_the_weights_is_a_finding_and_no_difference(tmp_path: Path) -> None:
    run = write(tmp_path / "run", Olmo2Config(**TINY), Olmo2ForCausalLM)
    file = run / "step1" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    store = collect(run, out=tmp_path / "s.zarr", batch="2x24", verify=True, progress=Progress())
    assert store.table("revisions")["nonfinite_tensors"].to_list() == [1]


def test_a_family_that_transformers_lacks_is_not_compared(tmp_path: Path) -> None:
    run = write_family_run(tmp_path / "run", ("step1",), "olmo_ladder")
    with FolderSource(run).open(Revision("step1")) as checkpoint:
        told = verify(checkpoint, torch.zeros(1, 3, dtype=torch.int64))
    assert told == "step1 is not verified: transformers has no OLMoForCausalLM"
