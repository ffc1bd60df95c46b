"""Unigram and bigram statistics in a collection: counts from files, another file refused, the probe refused."""

import re
import shutil

import numpy as np
import pytest

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError, StoreMismatchError
from olmo_dynamics.probes.counting import TokenCounts
from olmo_dynamics.progress import Progress
from tests.runs import write_family_run

NAMES = ("step0-tokens0", "step10-tokens1B")
NEEDS = "ngram needs counts of tokens: give --counts FILE.npz, or a file of token ids that is not the probe"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, the tokens of a probe, and other tokens to count, as ids and as counts."""
    folder = tmp_path_factory.mktemp("ngram")
    write_family_run(folder / "run", NAMES, "olmo2")
    drawn = np.random.default_rng(0)
    np.save(folder / "probe.npy", drawn.integers(1, 284, (4, 33)))
    ids = drawn.integers(0, 284, 5000)
    np.save(folder / "train.npy", ids)
    counts = TokenCounts.of_ids(ids, 284)
    np.savez(folder / "counts.npz", unigram=counts.unigram, pair=counts.pairs, count=counts.pair_counts)
    return folder


def collected(place, name, **options):
    options = {"record": "ngram", "counts": place / "train.npy", "tokens": place / "probe.npy"} | options
    return od.collect(place / "run", out=place / name, progress=Progress(), **options)


def test_counts_from_tokens_and_from_a_file_of_counts_give_the_same(place):
    stores = [collected(place, f"{name}.zarr", counts=place / name) for name in ("train.npy", "counts.npz")]
    facts = [dict(store.group("ngram").attributes) for store in stores]
    assert [each.pop("counts_file") for each in facts] == ["train.npy", "counts.npz"]
    assert facts[0] == facts[1]
    assert {name: value for name, value in facts[0].items() if name != "counts_sha256"} == {
        "counted_tokens": 5000, "counted_pairs": 4858, "delta": 1 / 284, "seed": 0, "sample_windows": 8, "sample_positions": 128,
    }  # fmt: skip
    table = stores[0].table("ngram")
    assert table["order"].to_list() == [1, 2, 1, 2]
    assert table.select("kl", "js", "cross_entropy", "sample_entropy").to_numpy().min() > 0
    for name in NAMES:
        for one, other in zip(*(store.row("ngram", name).values() for store in stores), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_store_is_continued_with_the_same_counts_only(place):
    store = collected(place, "part.zarr", revisions=NAMES[0])
    np.save(place / "other.npy", np.arange(5000) % 284)
    with pytest.raises(
        StoreMismatchError, match=r"attribute counts_sha256 of group ngram is [0-9a-f]{64}, not [0-9a-f]{64}"
    ):
        collected(place, "part.zarr", counts=place / "other.npy")
    shutil.copy(place / "train.npy", place / "renamed.npy")
    store = collected(place, "part.zarr", counts=place / "renamed.npy")
    assert (store.done, store.group("ngram").attributes["counts_file"]) == (set(NAMES), "train.npy")


def refused(place, message, **options):
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        collected(place, "none.zarr", **options)


def test_counts_are_needed_where_the_group_is_asked_for(place):
    refused(place, NEEDS, counts=None)
    refused(place, "counts needs the group ngram; record it too, or leave counts out", record="loss")
    plain = collected(place, "loss.zarr", record="loss", counts=None)
    added = collected(place, "loss.zarr", record="loss,ngram")
    assert (plain.groups, added.groups) == (("loss",), ("loss", "ngram"))
    plan = od.plan(place / "run", record="all", tokens=place / "probe.npy", out=place / "new.zarr")
    assert len(plan.to_do) == 2


@pytest.mark.parametrize("kind", ["ids", "one row", "counts"])
def test_the_probe_alone_is_refused(place, kind):
    ids = np.load(place / "probe.npy")
    path = place / f"probe {kind}"
    if kind == "counts":
        path, counts = path.with_suffix(".npz"), TokenCounts.of_ids(ids, 284)
        np.savez(path, unigram=counts.unigram, pair=counts.pairs, count=counts.pair_counts)
    else:
        path = path.with_suffix(".npy")
        np.save(path, ids if kind == "ids" else ids.ravel())
    message = (
        f"--counts must be of other tokens than the probe (all 132 tokens of {path} are the probe's), since so few give no "
        "bigram model; count tokens of the pretraining data"
    )
    refused(place, message, counts=path)
