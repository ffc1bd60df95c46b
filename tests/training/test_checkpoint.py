"""Checkpoint folders: exact resumes, what transformers makes of them, and that half of one is never seen."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from olmo_dynamics.checkpoints import open_source
from olmo_dynamics.errors import DiskFullError, TrainingError, UnknownSourceError
from olmo_dynamics.model import ModelConfig, expected_shapes
from olmo_dynamics.training.checkpoint import CheckpointWriter, checkpoint_name, write_checkpoint
from olmo_dynamics.training.checkpoint_reader import read_checkpoint
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState, new_state
from olmo_dynamics.training.trainer import Event, train
from tests.runs import tiny_tokenizer

FILES = {
    "config.json",
    "generation_config.json",
    "lineage.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_state/SHA256SUMS",
    "training_state/optimizer.safetensors",
    "training_state/state.json",
}


@pytest.fixture
def tokenizer_json() -> bytes:
    return tiny_tokenizer().encode()


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def moments(state: TrainState) -> dict[str, dict[str, torch.Tensor]]:
    return {name: dict(state.optimizer.state[parameter]) for name, parameter in state.model.named_parameters()}


class Trap(Mapping[str, object]):
    """A lineage that strikes when it is read, which is after every other file was written."""

    def __init__(self, strike: BaseException | None = None) -> None:
        self.strike = strike

    def __getitem__(self, key: str) -> object:
        raise KeyError(key)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        if self.strike is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise self.strike


@pytest.mark.parametrize("cut", [0, 5])
def test_ten_steps_are_some_steps_saved_loaded_and_the_rest(
    tmp_path: Path, config: ModelConfig, recipe: Recipe, tokens: np.ndarray, tokenizer_json: bytes, cut: int
) -> None:
    recipe = replace(recipe, save_at=(cut,))
    writer = CheckpointWriter(tmp_path, recipe, tokenizer_json, {})
    whole = new_state(config, recipe)
    if cut == 0:
        writer.write(whole)
    wanted: list[Event] = []
    train(whole, recipe, tokens, callbacks=[writer, wanted.append])

    resumed, read = read_checkpoint(tmp_path / checkpoint_name(cut, cut * 64))
    assert read == recipe
    assert (resumed.step, resumed.tokens_seen, resumed.position) == (cut, cut * 64, cut)
    events: list[Event] = []
    train(resumed, recipe, tokens, callbacks=[events.append])

    assert [replace(event, state=whole) for event in events] == wanted[cut:]
    assert torch.equal(resumed.generator.get_state(), whole.generator.get_state())
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    for name, kept in moments(whole).items():
        assert kept.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(moments(resumed)[name][kind], tensor) for kind, tensor in kept.items()), name


def test_the_random_state_goes_on_where_it_was(
    tmp_path: Path, config: ModelConfig, recipe: Recipe, tokenizer_json: bytes
) -> None:
    state = new_state(config, recipe)
    torch.rand(3, generator=state.generator)
    folder = write_checkpoint(tmp_path, state, recipe=recipe, tokenizer_json=tokenizer_json, lineage={})
    resumed, _ = read_checkpoint(folder)
    assert torch.equal(torch.rand(3, generator=resumed.generator), torch.rand(3, generator=state.generator))


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_loads_the_model_and_the_tokenizer(
    tmp_path: Path, config: ModelConfig, recipe: Recipe, tokens: np.ndarray, tokenizer_json: bytes, tied: bool
) -> None:
    state = train(new_state(replace(config, tied_embeddings=tied), recipe), recipe, tokens)
    folder = write_checkpoint(tmp_path, state, recipe=recipe, tokenizer_json=tokenizer_json, lineage={"parent": None})
    assert folder == tmp_path / "step10-tokens640"
    assert files(folder).keys() == FILES

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "the model reads the tokens"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id == 0
    assert tokenizer.model_max_length == config.max_positions

    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    assert theirs.dtype == torch.float32
    assert theirs.generation_config.eos_token_id == 0
    token_ids = torch.randint(300, (3, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(state.model(token_ids), theirs(token_ids).logits, rtol=0, atol=1e-5)


def test_our_own_reader_finds_the_weights_and_nothing_else(
    tmp_path: Path, config: ModelConfig, recipe: Recipe, tokens: np.ndarray, tokenizer_json: bytes
) -> None:
    state = train(new_state(config, recipe), recipe, tokens)
    write_checkpoint(tmp_path, state, recipe=recipe, tokenizer_json=tokenizer_json, lineage={})
    source = open_source(tmp_path)
    (revision,) = source.revisions()
    assert revision.step == 10
    with source.open(revision) as checkpoint:
        assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == expected_shapes(config)
        assert checkpoint.dtype == "F32"
        norm = checkpoint.read(checkpoint.tensors["model.norm.weight"]).view(np.float32)
        np.testing.assert_array_equal(norm, state.model.model.norm.weight.detach().numpy())


def test_lineage_names_the_libraries(
    tmp_path: Path, config: ModelConfig, recipe: Recipe, tokenizer_json: bytes
) -> None:
    folder = write_checkpoint(
        tmp_path, new_state(config, recipe), recipe=recipe, tokenizer_json=tokenizer_json, lineage={"parent": None}
    )
    lineage = json.loads((folder / "lineage.json").read_bytes())
    assert lineage["parent"] is None
    assert lineage["libraries"].keys() == {"olmo-dynamics", "numpy", "safetensors", "torch"}
    assert lineage["libraries"]["numpy"] == np.__version__


def test_a_folder_that_exists_is_never_touched(
    tmp_path: Path, config: ModelConfig, recipe: Recipe, tokenizer_json: bytes
) -> None:
    state = new_state(config, recipe)
    folder = write_checkpoint(tmp_path, state, recipe=recipe, tokenizer_json=tokenizer_json, lineage={})
    before = files(folder)
    state.model.model.norm.weight.data.fill_(2)
    CheckpointWriter(tmp_path, recipe, tokenizer_json, {}).write(state)
    with pytest.raises(TrainingError) as caught:
        write_checkpoint(tmp_path, state, recipe=recipe, tokenizer_json=tokenizer_json, lineage={})
    assert str(caught.value) == (
        f"a new checkpoint needs the name step0-tokens0, but {folder} exists: move or delete it"
    )
    assert files(folder) == before


@pytest.mark.parametrize(
    ("strike", "error", "message"),
    [
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            DiskFullError,
            "no space for {folder}: free some space and run again; finished checkpoints are kept",
        ),
    ],
)
def test_a_failure_while_writing_leaves_nothing(
    tmp_path: Path,
    config: ModelConfig,
    recipe: Recipe,
    tokenizer_json: bytes,
    strike: BaseException,
    error: type[BaseException],
    message: str,
) -> None:
    state = new_state(config, recipe)
    with pytest.raises(error) as caught:
        write_checkpoint(tmp_path, state, recipe=recipe, tokenizer_json=tokenizer_json, lineage=Trap(strike))
    assert str(caught.value) == message.format(folder=tmp_path / "step0-tokens0")
    assert list(tmp_path.iterdir()) == []


KILLED = """
from pathlib import Path
from tests.runs import tiny_tokenizer
from tests.training.test_checkpoint import Trap
from olmo_dynamics.model import parse_config
from olmo_dynamics.training.checkpoint import write_checkpoint
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from tests.runs import TINY
recipe = Recipe(steps=1)
state = new_state(parse_config(TINY | {"model_type": "olmo2"}), recipe)
write_checkpoint(Path(%r), state, recipe=recipe, tokenizer_json=tiny_tokenizer().encode(), lineage=Trap())
"""


def test_a_process_killed_while_writing_leaves_no_folder_of_the_final_name(
    tmp_path: Path, config: ModelConfig, recipe: Recipe, tokenizer_json: bytes
) -> None:
    root = Path(__file__).resolve().parents[2]
    died = subprocess.run([sys.executable, "-c", KILLED % str(tmp_path)], cwd=root, check=False)
    assert died.returncode == -signal.SIGKILL
    left = tmp_path / ".partial" / "step0-tokens0"
    assert list(tmp_path.iterdir()) == [left.parent]
    assert files(left).keys() == FILES - {"lineage.json", "training_state/SHA256SUMS"}
    with pytest.raises(UnknownSourceError):
        open_source(tmp_path).revisions()

    state = new_state(config, recipe)
    folder = write_checkpoint(tmp_path, state, recipe=recipe, tokenizer_json=tokenizer_json, lineage={})
    assert list(tmp_path.iterdir()) == [folder]
    assert files(folder).keys() == FILES
    assert [revision.name for revision in open_source(tmp_path).revisions()] == ["step0-tokens0"]


def test_every_file_is_flushed_before_the_rename_and_the_name_after_it(
    tmp_path: Path, config: ModelConfig, recipe: Recipe, tokenizer_json: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(descriptor: int) -> None:
        calls.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def record_rename(source: Path, target: Path) -> None:
        calls.append(("rename", str(target)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    run = tmp_path / "run"
    folder = write_checkpoint(run, new_state(config, recipe), recipe=recipe, tokenizer_json=tokenizer_json, lineage={})
    hidden = run / ".partial" / folder.name
    before = {str(path) for path in (hidden, hidden / "training_state", tmp_path, *(hidden / name for name in FILES))}
    place = calls.index(("rename", str(folder)))
    assert {path for _, path in calls[:place]} == before
    assert calls[place + 1 :] == [("fsync", str(run))]


def test_files_have_the_permissions_that_the_user_gives_to_all(
    tmp_path: Path, config: ModelConfig, recipe: Recipe, tokenizer_json: bytes
) -> None:
    before = os.umask(0o027)
    try:
        folder = write_checkpoint(
            tmp_path, new_state(config, recipe), recipe=recipe, tokenizer_json=tokenizer_json, lineage={}
        )
    finally:
        os.umask(before)
    assert {name: oct((folder / name).stat().st_mode & 0o777) for name in FILES} == dict.fromkeys(FILES, "0o640")
