"""Published counts and outputs of OLMoE's routing analysis, against the published numbers and the scripts' arithmetic."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics import frames
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import Choices
from olmo_dynamics.frames.experts.choices import VOCABULARIES
from olmo_dynamics.frames.grid import LEADING
from tests.recorders.test_routing import GOLDEN

STEPS = ("step5000-tokens20B", "step120000-tokens503B", "step245000-tokens1027B", "step490000-tokens2055B", "main")
LAST_STEP = 1_223_842  # of OLMoE's pretraining
K, EXPERTS, LAYERS, IDS = 3, 7, 2, 6


@pytest.fixture(scope="module")
def published(request: pytest.FixtureRequest) -> pl.DataFrame:
    file = Path(__file__).parents[4] / "shared" / "data" / "olmoe_routing" / "expert_counts.json"
    if not file.exists():
        pytest.skip("the published expert counts of OLMoE are not there")
    return frames.expert_counts(json.loads(file.read_text()), layers=(0, 7, 15))


def test_the_published_counts_give_the_published_specialisation(published: pl.DataFrame) -> None:
    found = frames.domain_specialisation(published, per_token=8)
    assert set(found["baseline"]) == {0.125}
    assert set(published.group_by("domain", "layer").agg(pl.col("count").sum())["count"]) == {8 * 208_896}
    for domain, layers in GOLDEN.items():
        for layer, (expert, percent) in layers.items():
            shares = found.filter(domain=domain, layer=layer)
            assert len(shares) == 64 and shares["value"].sum() == pytest.approx(8)
            highest = shares.sort("value").row(-1, named=True)
            assert 100 * highest["value"] == pytest.approx(percent, abs=0.05)
            assert expert in (None, highest["expert"])


def test_the_published_counts_give_balance_by_layer(published: pl.DataFrame) -> None:
    together = frames.expert_balance(published)
    by_domain = frames.expert_balance(published, by_domain=True)
    assert (len(together), len(by_domain)) == (3, 15)
    counts = published.filter(domain="arxiv", layer=15).sort("expert")["count"].to_numpy()
    load = counts / counts.sum()
    found = by_domain.filter(domain="arxiv", layer=15).row(0, named=True)
    assert found["load_imbalance"] == pytest.approx(64 * load.max())
    assert found["load_entropy"] == pytest.approx(-(load * np.log(load)).sum() / np.log(64))
    assert found["dead_experts"] == (load < 0.1 / 64).sum()
    assert (together["load_imbalance"] < by_domain.group_by("layer", maintain_order=True).agg(
        pl.col("load_imbalance").max())["load_imbalance"]).all()  # fmt: skip


def outputs(
    seed: int, revisions: tuple[str, ...] = STEPS, *, lines: int = 2, tokens: int = 40
) -> dict[str, list[dict[str, Any]]]:
    """Outputs in the form of the released script's `c4_results.jsonl`."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, IDS, (lines, tokens))
    return {
        name: [
            {"input_ids": row.tolist(), "predicted_token_ids": rng.integers(0, IDS, tokens).tolist(),
             "exp_ids": np.argsort(rng.random((tokens, EXPERTS, LAYERS)), axis=1)[:, :K].tolist()}
            for row in ids
        ]
        for name in revisions
    }  # fmt: skip


def test_saturation_is_that_of_the_released_script_at_the_true_share_of_training() -> None:
    given = outputs(0)
    found = frames.saturation(Choices.of_outputs(given, experts=EXPERTS), last_step=LAST_STEP)
    shares = found.unique("revision", maintain_order=True)["share_of_training"].to_list()
    assert shares == pytest.approx([0.00408549469, 0.0980518727, 0.20018924011, 0.40037848022, None], abs=1e-9)
    for row in found.iter_rows(named=True):
        ratios = [
            len(set(now) & set(final)) / K
            for one, last in zip(given[row["revision"]], given["main"], strict=True)
            for now, final in zip(
                *(np.array(e["exp_ids"])[:, :, row["layer"]].tolist() for e in (one, last)), strict=True
            )
        ]
        assert row["saturation"] == pytest.approx(np.mean(ratios))


@pytest.mark.parametrize("top", [1, K])
@pytest.mark.parametrize("minimum", [1, 10])
def test_vocabulary_specialisation_is_that_of_the_released_script(top: int, minimum: int) -> None:
    """The kinds are those of the script's variables; the legend of its figure by expert swaps the last two."""
    given = outputs(1, ("main",))
    choices = Choices.of_outputs(given, experts=EXPERTS)
    for kind in VOCABULARIES:
        found = frames.vocabulary_specialisation(frames.token_counts(choices, kind, top=top), minimum=minimum)
        of_experts = frames.vocabulary_specialisation(
            frames.token_counts(choices, kind, top=top), minimum=minimum, by="expert"
        )
        for layer in range(LAYERS):
            by_id: dict[int, list[int]] = defaultdict(list)
            for line in given["main"]:
                ids = {
                    "input": line["input_ids"],
                    "predicted": line["predicted_token_ids"],
                    "true": line["input_ids"][1:],
                }
                for token, chosen in zip(ids[kind], np.array(line["exp_ids"])[:, :top, layer].tolist(), strict=False):
                    by_id[token].extend(chosen)
            often = {token: Counter(sent) for token, sent in by_id.items() if len(sent) // top >= minimum}
            shares = [max(c.values()) / (c.total() // top) for c in often.values()]
            row = found.filter(layer=layer).row(0, named=True)
            assert (row["vocabulary"], row["ids"], row["top"]) == (kind, len(often), top)
            assert row["of_tokens"] == pytest.approx(np.mean(shares))
            assert row["value"] == pytest.approx(np.mean(shares) / top)
            own = of_experts.filter(layer=layer)
            assert own["ids"].sum() == len(often)
            assert (own["ids"] * own["value"]).sum() / len(often) == pytest.approx(row["value"])


def test_published_counts_of_token_ids_are_counted_as_those_of_choices() -> None:
    choices = Choices.of_outputs(outputs(2, ("main",)), experts=EXPERTS)
    counts = frames.token_counts(choices, top=K)
    eid2token = [
        {expert: dict(zip(*some["token", "count"], strict=True)) for (expert,), some in of_layer.group_by("expert")}
        for of_layer in counts.partition_by("layer", maintain_order=True)
    ]
    published = frames.token_counts(eid2token, top=K, revision="main")
    expected = frames.vocabulary_specialisation(counts)
    numbers = ["layer", "ids", "value", "of_tokens", "top"]
    assert frames.vocabulary_specialisation(published).select(numbers).equals(expected.select(numbers))
    listed, theirs = frames.expert_tokens(counts, most=2), frames.expert_tokens(published, most=2)
    assert listed.columns == [*LEADING, "vocabulary", "layer", "expert", "token", "occurrences", "of_tokens"]
    assert sorted(listed.drop(LEADING).rows()) == sorted(theirs.drop(LEADING).rows())
    assert listed.group_by("layer", "expert").len()["len"].max() <= 2 and listed["occurrences"].min() >= 10


def test_co_activation_counts_all_pairs_and_adjacent_ones_as_the_released_script() -> None:
    given = outputs(3, ("main",))
    choices = Choices.of_outputs(given, experts=EXPERTS)
    chosen = np.concatenate([np.array(line["exp_ids"]) for line in given["main"]])[:, :, 1].tolist()
    single = Counter(expert for sent in chosen for expert in sent)
    near: Counter[tuple[int, int]] = Counter()
    for sent in chosen:
        for a, b in pairwise(sent):
            near[a, b] += 1
            near[b, a] += 1
    whole = Counter((a, b) for sent in chosen for a in sent for b in sent if a != b)
    for pairs, counts in (("all", whole), ("adjacent", near)):
        for row in frames.co_activation(choices, 1, pairs=pairs).iter_rows(named=True):  # type: ignore[arg-type]
            assert row["value"] == pytest.approx(counts[row["expert"], row["partner"]] / single[row["expert"]])


def test_co_activation_across_layers_counts_all_pairs_and_those_of_equal_rank_as_the_released_script() -> None:
    given = outputs(4, ("main",))
    choices = Choices.of_outputs(given, experts=EXPERTS, layers=(0, 7))
    chosen = np.concatenate([np.array(line["exp_ids"]) for line in given["main"]])
    equal = Counter(zip(chosen[:, :, 0].ravel().tolist(), chosen[:, :, 1].ravel().tolist(), strict=True))
    every = Counter(
        (a, b) for one, other in zip(chosen[..., 0], chosen[..., 1], strict=True) for a in one for b in other
    )
    for pairs, counts in (("equal rank", equal), ("all", every)):
        ours = frames.co_activation(choices, 0, 7, pairs=pairs)  # type: ignore[arg-type]
        published = frames.co_activation(counts, 0, 7, pairs=pairs, revision="main", per_token=K, experts=EXPERTS)  # type: ignore[arg-type]
        numbers = ["layer", "later_layer", "expert", "partner", "count", "value", "baseline"]
        assert published.select(numbers).equals(ours.select(numbers))
        assert dict(zip(zip(*ours["expert", "partner"], strict=True), ours["count"], strict=True)) == {
            (i, j): counts[i, j] for i in range(EXPERTS) for j in range(EXPERTS)
        }
        sums = ours.group_by("expert").agg(pl.col("value").sum())["value"]
        assert sums.to_list() == pytest.approx([1 if pairs == "equal rank" else K] * EXPERTS)


def test_random_routing_meets_each_baseline() -> None:
    """Adjacent pairs are k / 2 times fewer than all, and pairs of equal rank k times."""
    rng = np.random.default_rng(0)
    exp_ids = np.argsort(rng.random((20_000, 64, 2)), axis=1)[:, :8].tolist()
    line = {"input_ids": [0] * 20_000, "predicted_token_ids": [0] * 20_000, "exp_ids": exp_ids}
    choices = Choices.of_outputs({"main": [line]}, experts=64)
    expected = {
        ("all", None): 7 / 63,
        ("adjacent", None): 2 * 7 / (8 * 63),
        ("all", 1): 8 / 64,
        ("equal rank", 1): 1 / 64,
    }
    for (pairs, later), baseline in expected.items():
        found = frames.co_activation(choices, 0, later, pairs=pairs)  # type: ignore[arg-type]
        assert found["baseline"].unique().to_list() == pytest.approx([baseline])
        assert found["value"].mean() == pytest.approx(baseline, rel=0.01)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_experts_are_only_names(seed: int) -> None:
    given = outputs(seed, ("step10", "main"), lines=1)
    names = np.random.default_rng(seed).permutation(EXPERTS)
    renamed = {
        name: [{**line, "exp_ids": names[np.array(line["exp_ids"])].tolist()} for line in lines]
        for name, lines in given.items()
    }
    one, other = (Choices.of_outputs(each, experts=EXPERTS) for each in (given, renamed))
    assert frames.saturation(one).equals(frames.saturation(other))
    assert frames.churn(one).equals(frames.churn(other))
    layers = [frames.vocabulary_specialisation(frames.token_counts(each), minimum=1)["value"] for each in (one, other)]
    assert layers[0].to_list() == pytest.approx(layers[1].to_list())
    back = np.argsort(names)
    assert {(back[e], back[p]): share for (e, p), share in _shares(other).items()} == _shares(one)


def _shares(choices: Choices) -> dict[tuple[int, int], float]:
    found = frames.co_activation(choices, 0, revision="main")
    return {(e, p): share for e, p, share in found.select("expert", "partner", "value").iter_rows()}


def test_the_strongest_pairs_are_chosen_as_in_the_figure() -> None:
    choices = Choices.of_outputs(outputs(5, ("main",)), experts=EXPERTS)
    found = frames.co_activation(choices, 0)
    some = frames.most_together(found, 3)
    strongest = found.sort("value", descending=True, maintain_order=True).row(0, named=True)
    assert {strongest["expert"], strongest["partner"]} <= set(some["expert"])
    assert some["expert"].n_unique() == 3 and len(some) == 6
    across = frames.most_together(frames.co_activation(choices, 0, 1), 3)
    assert across["expert"].n_unique() == across["partner"].n_unique() == 3 and len(across) == 9


def test_what_cannot_be_counted_is_refused() -> None:
    choices = Choices.of_outputs(outputs(6, ("main",)), experts=EXPERTS)
    cases = {
        "pairs of equal rank need a later_layer; give one, or count all pairs": lambda: frames.co_activation(
            choices, 0, pairs="equal rank"
        ),
        "pairs of two layers must be all or of equal rank (got 'adjacent')": lambda: frames.co_activation(
            choices, 0, 1, pairs="adjacent"
        ),
        "published counts of pairs need per_token and experts; give both": lambda: frames.co_activation({(0, 1): 2}, 0),
        "layer must be one of 0, 1 (got 7)": lambda: frames.co_activation(choices, 7),
        "kind must be input, predicted or true (got 'next')": lambda: frames.token_counts(choices, "next"),
        "top must be between 1 and 3, the experts per token (got 4)": lambda: frames.token_counts(choices, top=4),
        "a table of counts needs per_token, the number of experts that a token is sent to; give it": lambda: (
            frames.domain_specialisation(frames.expert_counts(choices))
        ),
        "layers must name the 1 layers of the counts of c4 (got 2)": lambda: frames.expert_counts(
            {"c4": [{0: 1}]}, layers=(0, 7)
        ),
        "the revisions must have read the same tokens (got different input_ids)": lambda: Choices.of_outputs(
            {"main": outputs(1)["main"], "step10": outputs(2)["main"]}, experts=EXPERTS
        ),
    }
    for message, call in cases.items():
        with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
            call()
