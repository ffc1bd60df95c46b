"""One model written in every format gives the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Olmo2Config, Olmo2ForCausalLM

from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect
from olmo_dynamics.errors import UnknownRevisionError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.progress import Progress
from tests.checkpoints.formats.test_one_model import TINY, WRITERS
from tests.checkpoints.formats.test_plain_names import write_safetensors
from tests.checkpoints.formats.writing import native_config, to_native
from tests.hub import LocalHub

COMPARED = ("parameters", "activations", "outliers", "loss", "logits")


def collected(source: Path | HubSource, out: Path, **options: str) -> RecordedStore:
    """A store of a run, measured on two windows of token ids."""
    ids = out.with_name("ids.npy")
    np.save(ids, np.arange(64).reshape(2, 32) % 32)
    return collect(
        source, out=out, record=COMPARED, tokens=ids, batch="2x32", dtype="float32", progress=Progress(), **options
    )


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def model(request: pytest.FixtureRequest) -> Olmo2ForCausalLM:
    torch.manual_seed(0)
    model = Olmo2ForCausalLM(Olmo2Config(**TINY))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(request.param)


@pytest.fixture(scope="module")
def single(model: Olmo2ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one revision as transformers writes it, in one file."""
    folder = tmp_path_factory.mktemp("single") / "run"
    model.save_pretrained(folder / "step7")
    return folder


@pytest.fixture(scope="module")
def state(single: Path) -> dict[str, torch.Tensor]:
    return load_file(single / "step7" / "model.safetensors")


@pytest.fixture(scope="module")
def reference(single: Path) -> RecordedStore:
    return collected(single, single.with_name("s.zarr"))


def assert_same_numbers(store: RecordedStore, reference: RecordedStore, *, named: bool = True) -> None:
    """Assert that all tables are the same, but for the columns that follow from the revision's name if it has another."""
    names = {"revision", "stage", "ingredient", "seed", "line", "step", "tokens", "position_step", "position_tokens"}
    for name in COMPARED:
        ours, theirs = (each.table(name) for each in (store, reference))
        if not named:
            ours, theirs = (each.drop(names & set(each.columns)) for each in (ours, theirs))
        order = [column for column in ("tensor", "site", "layer", "domain") if column in theirs.columns]
        assert ours.sort(order).equals(theirs.sort(order)), name


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_gives_the_same_numbers(
    writer: str, state: dict[str, torch.Tensor], reference: RecordedStore, tmp_path: Path
) -> None:
    WRITERS[writer](tmp_path / "run" / "step7", state)
    assert_same_numbers(collected(tmp_path / "run", tmp_path / "s.zarr"), reference)


def test_shards_give_the_same_numbers(model: Olmo2ForCausalLM, reference: RecordedStore, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "run" / "step7", max_shard_size="4KB")
    assert len(list((tmp_path / "run" / "step7").glob("*.safetensors"))) > 2
    assert_same_numbers(collected(tmp_path / "run", tmp_path / "s.zarr"), reference)


def test_bf16_numbers_are_the_fp32_numbers_within_rounding(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Olmo2ForCausalLM(Olmo2Config(**TINY))
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        run = tmp_path / str(dtype)[6:]
        model.to(dtype).save_pretrained(run / "step7")
        losses.append(collected(run, run.with_suffix(".zarr")).table("loss")["cross_entropy"][0])
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=2**-8)


def test_hf_olmo_safetensors_of_a_pull_request_give_the_same_numbers(
    state: dict[str, torch.Tensor], reference: RecordedStore, tmp_path: Path
) -> None:
    words = {"model_type": "hf_olmo", **native_config(TINY)}
    native = {f"model.{name}": tensor for name, tensor in to_native(state).items()}
    revision = write_safetensors(tmp_path / "run" / "step7", words, native, shards=2)
    assert_same_numbers(collected(tmp_path / "run", tmp_path / "s.zarr"), reference)
    with LocalHub() as hub:
        repository = hub.add_repo("allenai/other", {"step7": revision})
        repository.pulls["1"] = repository.branches["step7"]
        repository.branches["main"] = repository.branches.pop("step7")
        source = HubSource("allenai/other", endpoint=hub.endpoint)
        store = collected(source, tmp_path / "hub.zarr", revisions="refs/pr/1")
        with pytest.raises(UnknownRevisionError, match=r"has no revision 'refs/pr/2'; "):
            collected(source, tmp_path / "no.zarr", revisions="refs/pr/2")
    assert store.done == {"refs/pr/1"}
    assert_same_numbers(store, reference, named=False)


@pytest.mark.parametrize("writer", ["pytorch", "native", "core"])
def test_a_hub_serves_every_format_too(
    writer: str, state: dict[str, torch.Tensor], reference: RecordedStore, tmp_path: Path
) -> None:
    revision = WRITERS[writer](tmp_path / writer / "step7", state)
    with LocalHub() as hub:
        hub.add_repo("allenai/other", {"step7": revision})
        store = collected(HubSource("allenai/other", endpoint=hub.endpoint), tmp_path / "hub.zarr")
    assert_same_numbers(store, reference)
