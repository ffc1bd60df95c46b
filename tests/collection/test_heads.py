"""Collections of models whose head is not what the config says, or is not a language model's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from olmo_dynamics.collecting import collect, plan
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore
from tests.listening import Notes
from tests.runs import edit_config, write_revision

NAME = "step100"


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_revision(tmp_path_factory.mktemp("heads") / "run" / NAME, 2).parent


@pytest.fixture(scope="module")
def reference(language_model: Path) -> RecordedStore:
    return collected(language_model)[0]


def collected(run: Path, **options: object) -> tuple[RecordedStore, list[str]]:
    listener = Notes()
    store = collect(run, out=run.parent / "store.zarr", batch="2x16", progress=listener, **options)
    return store, listener.notes


def copied(run: Path, folder: Path, **tensors: np.ndarray | None) -> Path:
    """A copy of a run whose weights are changed; None drops one."""
    copy = Path(shutil.copytree(run, folder / "run"))
    file = copy / NAME / "model.safetensors"
    weights = load_file(file) | {f"{name}.weight": each for name, each in tensors.items()}
    save_file({name: each for name, each in weights.items() if each is not None}, file, metadata={"format": "pt"})
    return copy


def same(one: RecordedStore, other: RecordedStore, group: str, chosen: pl.Expr | None = None) -> bool:
    rows = [store.table(group) if chosen is None else store.table(group).filter(chosen) for store in (one, other)]
    return bool(rows[0].equals(rows[1]))


@pytest.mark.parametrize(
    ("changes", "architecture", "head"),
    [
        (
            {"score": np.full((1, 32), 2, np.float32)},
            "Olmo2ForSequenceClassification",
            "score.weight in place of lm_head.weight",
        ),
        ({}, "Olmo2Model", "no lm_head.weight"),
    ],
)
def test_a_trunk_is_measured_up_to_its_final_norm(
    changes: dict[str, np.ndarray],
    architecture: str,
    head: str,
    language_model: Path,
    reference: RecordedStore,
    tmp_path: Path,
) -> None:
    run = copied(language_model, tmp_path, lm_head=None, **changes)
    edit_config(run / NAME, architectures=[architecture])
    note = (
        f"{NAME} has no language-model head ({architecture}: {head}): activations are recorded up to the final norm; logits "
        "and losses are not recorded"
    )
    assert note in plan(run, batch="2x16").notes
    store, notes = collected(run)
    assert notes == [note]
    assert set(reference.groups) - set(store.groups) == {"logits", "loss", "tokens"}
    for group in ("activations", "outliers"):
        assert same(store, reference, group), group
    tensors = set(store.table("parameters")["tensor"])
    assert tensors == set(reference.table("parameters")["tensor"]) - {"lm_head.weight"} | {
        f"{each}.weight" for each in changes
    }
    with pytest.raises(OptionError) as caught:
        plan(run, record=["loss"])
    assert str(caught.value) == (
        "nothing to record: loss is not recorded: the checkpoint has no language-model head; name other groups with record"
    )


@pytest.mark.parametrize("differs", [True, False])
def test_the_head_in_the_file_is_used_where_the_config_says_tied(
    differs: bool, language_model: Path, reference: RecordedStore, tmp_path: Path
) -> None:
    embedding = load_file(language_model / NAME / "model.safetensors")["model.embed_tokens.weight"]
    equal = {} if differs else {"lm_head": embedding.copy()}
    run = copied(language_model, tmp_path, **equal)
    edit_config(run / NAME, tie_word_embeddings=True)
    store, notes = collected(run)
    assert notes == (
        [
            f"{NAME}: config.json ties lm_head.weight to the embedding, but the file holds a head of other values; the file's "
            "head is used, as in transformers"
        ]
        if differs
        else []
    )
    assert same(store, reference, "loss") == differs
    if not differs:
        tied = copied(language_model, tmp_path / "tied", lm_head=None)
        edit_config(tied / NAME, tie_word_embeddings=True)
        assert same(store, collected(tied)[0], "loss")
