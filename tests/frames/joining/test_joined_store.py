"""Several stores seen as one: names, labels of runs, absent tensors, and numbers that do not compare."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.checkpoints.catalog.run_labels import run_labels
from olmo_dynamics.errors import OptionError, StoreError
from olmo_dynamics.frames import JoinedStore, join, join_scores, macro_average, open_store
from olmo_dynamics.frames.joining.joined_axes import merged
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import Status
from tests.frames.joining.datadecide import RECIPES, SEEDS, STEPS, add, new_store


def test_a_row_is_that_of_its_own_store_under_its_joined_name(recipes: JoinedStore) -> None:
    table = recipes.table("loss")
    assert table.height == 3 * 3 * 6 * 2
    for run in recipes.runs:
        own = run.store.table("loss").drop("line")
        mine = table.filter(run=run.name).drop("line", "run", "recipe", "size", "family")
        assert mine.with_columns(pl.col("revision").str.split("@").list.last()).equals(own)
    first = table.row(0, named=True)
    assert {name: first[name] for name in ("revision", "run", "recipe", "size", "family", "seed", "line", "step")} == {
        "revision": "allenai/DataDecide-c4-300M@step0-seed-default",
        "run": "allenai/DataDecide-c4-300M",
        "recipe": "c4",
        "size": "300M",
        "family": "olmo",
        "seed": "default",
        "line": "allenai/DataDecide-c4-300M/seed-default",
        "step": 0,
    }
    facts = recipes.table("revisions")
    assert facts.group_by("recipe", "seed").len()["len"].to_list() == [len(STEPS)] * len(RECIPES) * len(SEEDS)
    assert macro_average(table).height == 54


def test_the_root_attributes_map_each_run_to_its_source_model_type_and_config(recipes: JoinedStore) -> None:
    runs = recipes.attributes["runs"]
    assert list(runs) == [f"allenai/DataDecide-{recipe}-300M" for recipe in RECIPES]
    assert runs["allenai/DataDecide-c4-300M"] == {
        "source": "allenai/DataDecide-c4-300M",
        "model_type": "olmo",
        "model_config": {"num_hidden_layers": 2},
        "recipe": "c4",
        "size": "300M",
        "seed": "",
        "family": "olmo",
    }
    assert recipes.attributes["probe"]["sha256"] == "cd" * 32 and recipes.left_out == {}


def test_scores_are_matched_by_the_names_of_each_run_and_shown_under_the_joined_ones(recipes: JoinedStore) -> None:
    seed = "step1250-seed-small-aux-2"
    models = [f"DataDecide-{recipe}-300M" for recipe in RECIPES]
    table = pl.DataFrame(
        {"model": [*models, "other"], "revision": seed, "task": "piqa", "metric": "acc", "value": [0.5, 0.6, 0.7, 0.8]}
    )
    found = join_scores(recipes, table)
    expected = {f"allenai/{model}@{seed}": value for model, value in zip(models, (0.5, 0.6, 0.7), strict=True)}
    assert dict(found.scores.select("revision", "value").iter_rows()) == expected
    assert found.left_out["reason"].to_list() == ["another run"]
    assert set(expected) <= set(recipes.table("loss")["revision"])


def test_tensors_and_layers_that_a_run_lacks_are_absent_there(tmp_path: Path) -> None:
    small, large = (
        new_store(tmp_path / "a.zarr", "org/a-1B", layers=1),
        new_store(tmp_path / "b.zarr", "org/b-2B", layers=2),
    )
    add(small, "step10", 1)
    add(large, "step10", 2)
    joined = join([small, large])
    labels = joined.axis("tensor").labels.tolist()
    assert labels == large.axis("tensor").labels.tolist()
    status = joined.array("parameters", "status")
    assert status.tolist() == [[1, 1, Status.ABSENT, 1], [1, 1, 1, 1]]
    assert np.isnan(joined.array("parameters", "rms")).tolist() == [[False, False, True, False], [False] * 4]
    assert joined.array("parameters", "status", at={"tensor": labels[2]}).tolist() == [0, 1]
    assert joined.row("parameters", "org/a-1B@step10")["status"].tolist() == status[0].tolist()
    assert joined.table("parameters").group_by("run", maintain_order=True).len()["len"].to_list() == [3, 4]


def test_a_joined_store_cannot_be_written(recipes: JoinedStore) -> None:
    with pytest.raises(
        StoreError, match=f'^{re.escape(str(recipes.path))} is open for reading only; open it with mode="a"'
    ):
        recipes.plan([Revision("step1")])


def test_across_tokenizers_only_bits_per_byte_compare(tmp_path: Path) -> None:
    one = new_store(tmp_path / "a.zarr", "org/a")
    other = new_store(tmp_path / "b.zarr", "org/b", tokenizer="ef" * 32, probe="ef" * 32)
    reason = "it is in nat/token of 2 tokenizers, which do not compare; bits per byte do"
    joined = join([one, other])
    assert joined.left_out == {"loss/cross_entropy": reason}
    assert [each.name for each in joined.quantities("loss")] == ["bits_per_byte", "status"]
    with pytest.raises(StoreError, match=f"^loss/cross_entropy of these runs cannot be joined: {reason}$"):
        joined.array("loss", "cross_entropy")


def test_losses_on_two_texts_do_not_compare(tmp_path: Path) -> None:
    one, other = new_store(tmp_path / "a.zarr", "org/a"), new_store(tmp_path / "b.zarr", "org/b", probe="ef" * 32)
    reason = "it was measured on 2 texts; collect it with the same --text"
    joined = join([one, other])
    assert joined.left_out == {"loss/cross_entropy": reason, "loss/bits_per_byte": reason, "loss": reason}
    assert joined.tables == ("revisions", "parameters")


def test_runs_are_named_by_their_sources_and_can_be_named_and_labelled(tmp_path: Path) -> None:
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for path, source in zip(paths, ("/data/one/run", "/data/two/run"), strict=True):
        add(new_store(path, source), "step10", 1)
    assert list(join(paths).attributes["runs"]) == ["one/run", "two/run"]
    labelled = join({"a": paths[0], "b": open_store(paths[1])}, labels={"b": {"recipe": "a", "seed": "2"}})
    assert labelled.table("revisions").select("run", "recipe", "seed").rows() == [("a", "a", None), ("b", "a", "2")]
    assert join([labelled]).table("loss").equals(labelled.table("loss").with_columns(recipe=pl.col("run"), seed=None))
    with pytest.raises(OptionError, match=r"^labels must name a run of these stores \(got 'c'\)$"):
        join(paths, labels={"c": {}})
    message = "joined stores must hold different revisions (got run@step10 twice); name their runs apart"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        join([paths[0], paths[0]])


def test_post_training_stands_behind_its_base_by_position(tmp_path: Path) -> None:
    base = new_store(tmp_path / "a.zarr", "allenai/Olmo-3-1025-7B")
    tuned = new_store(tmp_path / "b.zarr", "allenai/Olmo-3-7B-Think-SFT")
    add(base, "stage1-step2000", 1)
    add(tuned, "step1000", 2)
    table = join([tuned, base]).table("revisions")
    columns = ("run", "phase", "phase_number", "starts_from", "step", "position_step")
    assert table.select(columns).rows() == [
        ("allenai/Olmo-3-7B-Think-SFT", "SFT", 1, "allenai/Olmo-3-1025-7B", 1000, 1474419),
        ("allenai/Olmo-3-1025-7B", None, 0, None, 2000, 2000),
    ]


lists = st.lists(st.sampled_from("abcdef"), unique=True, min_size=1)


@given(lists, lists)
@settings(max_examples=30)
def test_merged_labels_are_those_of_both_in_the_order_of_the_first(first: list[str], second: list[str]) -> None:
    found = merged([first, second])
    assert sorted(found) == sorted({*first, *second})
    assert [label for label in found if label in first] == first


@pytest.mark.parametrize(
    "name", ["falcon-and-cc-qc-tulu-10p", "dclm-baseline-25p-dolma1.7-75p", "dclm-baseline-qc-7p-fw3"]
)
def test_labels_of_datadecides_repos_are_those_of_their_names(name: str) -> None:
    for size in ("4M", "90M", "1B"):
        found = run_labels(f"allenai/DataDecide-{name}-{size}")
        assert (found.recipe, found.size, found.seed) == (name, size, None)


def test_the_run_of_a_revision_is_found_without_reading_every_run(
    recipes: JoinedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = JoinedStore(recipes.runs)
    names, reads = sorted(fresh.done), list[str]()
    own = type(recipes.runs[0].store).done.fget
    assert own is not None
    monkeypatch.setattr(
        type(recipes.runs[0].store), "done", property(lambda store: (reads.append(str(store.path)), own(store))[1])
    )
    assert all(fresh.recorded(name) == {"parameters", "loss"} for name in names)
    assert len(reads) == len(fresh.runs)  # once each, for all 54 revisions
    assert fresh.recorded("no such run@step1") == frozenset()
