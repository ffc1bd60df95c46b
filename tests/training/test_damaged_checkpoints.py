"""Checkpoints whose bytes changed after they were written: refused in one line, or read as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.checkpoints import FolderSource
from olmo_dynamics.errors import CheckpointError, IntegrityError, TrainingError
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.checkpoint import write_checkpoint
from olmo_dynamics.training.checkpoint_reader import read_checkpoint, read_newest, verify_large_files
from olmo_dynamics.training.parent.parent import read_parent
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from tests.runs import tiny_tokenizer

NAME = "step0-tokens0"
FILES = (
    "config.json",
    "generation_config.json",
    "lineage.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_state/SHA256SUMS",
    "training_state/optimizer.safetensors",
    "training_state/state.json",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint; its files are damaged and mended."""
    config = ModelConfig(hidden_size=8, layers=1, heads=2, kv_heads=2, head_dim=4, intermediate_size=16, vocab_size=320,
                         max_positions=16, norm_eps=1e-6, rope_theta=5e5, eos_token_id=0)  # fmt: skip
    recipe, folder = Recipe(steps=10), tmp_path_factory.mktemp("run")
    state = new_state(config, recipe)
    for parameter in state.model.parameters():
        parameter.grad = parameter.detach().clone()
    state.optimizer.step()
    write_checkpoint(folder, state, recipe=recipe, tokenizer_json=tiny_tokenizer().encode(), lineage={"parent": None})
    return folder


@contextmanager
def changed(run: Path, name: str, contents: bytes | None) -> Iterator[None]:
    """Other contents of a file, or none, for a while; the file is another one, as after a copy."""
    path = run / NAME / name
    kept = path.read_bytes()
    path.unlink()
    if contents is not None:
        path.write_bytes(contents)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(kept)


def read_as_parent(run: Path) -> None:
    source = FolderSource(run)
    with source.open(source.find(NAME)) as checkpoint:
        assert read_parent(checkpoint).form == "ours"
        verify_large_files(checkpoint)


@settings(deadline=None)
@given(file=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused(run: Path, file: str, place: float, flip: int) -> None:
    raw = bytearray((run / NAME / file).read_bytes())
    raw[int(place * len(raw))] ^= flip
    with changed(run, file, bytes(raw)):
        for read in (read_newest, lambda _: read_checkpoint(run / NAME)):
            with pytest.raises(CheckpointError) as caught:
                read(run)
            assert f"{run}@{NAME}: " in str(caught.value) and "\n" not in str(caught.value)
        # in the list, another name of a file that a fork never reads changes nothing
        with suppress(IntegrityError) if file.endswith("SUMS") else pytest.raises(IntegrityError):
            read_as_parent(run)


@pytest.mark.parametrize("file", FILES)
def test_files_that_are_gone_empty_or_cut_are_named(run: Path, file: str) -> None:
    raw = (run / NAME / file).read_bytes()
    for contents in (None, b"", raw[: len(raw) // 2], raw[:-1]):
        with changed(run, file, contents):
            for read in (read_as_parent, lambda _: read_checkpoint(run / NAME)):
                if read is read_as_parent and contents is None and file.startswith(("tokenizer", "generation")):
                    read(run)  # a fork needs none of these
                    continue
                with pytest.raises(IntegrityError) as caught:
                    read(run)
                assert str(caught.value).startswith(f"{run}@{NAME}: {file} is ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be JSON (got b'': Expecting value: line 1 column 1 (char 0)); fetch the file again"),
        ("[]", "must be a JSON object (got []); fetch the file again"),
        ("{}", "is damaged ('state_version' is missing){again}"),
        ('{"step": -1}', "is damaged (step must be a whole number of at least 0){again}"),
        ('{"loss": "low"}', "is damaged (could not convert string to float: 'low'){again}"),
        ('{"recipe": {"steps": 0}}', "is damaged (recipe: steps must be at least 1 (got 0)){again}"),
    ],
)
def test_a_state_without_hashes_is_checked_by_its_fields(run: Path, text: str, problem: str) -> None:
    state = json.loads((run / NAME / "training_state/state.json").read_bytes())
    if len(text) > 2:
        text = json.dumps({**state, "state_version": 1, **json.loads(text)})
    with changed(run, "training_state/SHA256SUMS", None), changed(run, "training_state/state.json", text.encode()):
        for read in (read_as_parent, lambda _: read_checkpoint(run / NAME)):
            with pytest.raises(CheckpointError) as caught:
                read(run)
            problem = problem.replace("{again}", ": choose another checkpoint, or copy this one again")
            assert str(caught.value) == f"{run}@{NAME}: training_state/state.json {problem}"


def test_a_state_of_a_later_version_is_never_replaced(run: Path) -> None:
    state = json.loads((run / NAME / "training_state/state.json").read_bytes())
    later = json.dumps({**state, "state_version": 3}).encode()
    with (
        changed(run, "training_state/SHA256SUMS", None),
        changed(run, "training_state/state.json", later),
        pytest.raises(TrainingError) as caught,
    ):
        read_newest(run)
    assert str(caught.value) == (
        f"{run}@{NAME}: training_state/state.json must have a state_version of at most 2 (got 3): update olmo-dynamics"
    )


def test_a_run_without_checkpoints_has_none_to_resume_from(tmp_path: Path) -> None:
    (tmp_path / "step-tokens").mkdir()
    (tmp_path / "step5-tokens9").mkdir()  # something else's
    (tmp_path / "step5-tokens9" / "config.json").write_text("{}")
    assert read_newest(tmp_path) is None


def test_collections_compare_the_weights_with_their_hash(run: Path) -> None:
    source = FolderSource(run)
    with source.open(source.find(NAME)) as checkpoint:
        assert checkpoint.expected_sha256 == {"model.safetensors": checkpoint.file_sha256("model.safetensors")}
    with changed(run, "training_state/SHA256SUMS", None), source.open(source.find(NAME)) as checkpoint:
        assert checkpoint.expected_sha256 == {}
