"""Known runs against the published lists of checkpoints."""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from olmo_dynamics.checkpoints.catalog.known_runs import KnownRun, known_run, known_runs, parse_runs
from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision
from olmo_dynamics.checkpoints.catalog.selection import select
from olmo_dynamics.errors import SelectionError
from olmo_dynamics.names import Revision

LISTS = Path(__file__).resolve().parents[3].parent / "shared" / "reference" / "revisions"

WITHOUT_STEP = ("nitro", "fp32", "load-balancing", "non-annealed")
"""Faulty branches whose names have no step."""

CUMULATIVE = ("Olmo-3-1025-7B", "Olmo-3-1125-32B", "Olmo-Hybrid-7B")
"""Lists whose tokens continue through the stages; ours restart at each, so they differ by a constant per stage."""

LABEL_RULES: dict[str, Callable[[Fraction], int]] = {
    "OLMo-7B": round,
    "OLMo-1B": round,
    "OLMo-7B-0724-hf": math.floor,
    "OLMoE-1B-7B-0924": math.floor,
    "OLMo-2-1124-7B": math.ceil,
    "OLMo-2-1124-13B": math.ceil,
    "OLMo-2-0425-1B": math.ceil,
    "OLMo-2-0425-1B-early-training": math.ceil,
    "OLMo-2-0325-32B": math.ceil,
}

LABEL_EXCEPTIONS = {
    "OLMo-2-1124-7B": {f"stage2-ingredient{k}-step11931-tokens50B" for k in (1, 2, 3)},  # the rule gives 51B
}


def rows(repo: str) -> Iterator[dict[str, str]]:
    path = LISTS / f"revisions_{repo}.csv"
    if not path.is_file():
        pytest.skip(f"no list of revisions at {path}")
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def run_of(repo: str) -> KnownRun:
    run = known_run(f"allenai/{repo}")
    assert run is not None
    return run


def named(row: dict[str, str]) -> Revision:
    """The row's revision; native rows get the name that the grammar would give them."""
    return parse_revision(row["hf_revision"] or f"{listed_stage(row)}step{row['step']}")


def listed_stage(row: dict[str, str]) -> str:
    head = row["stage"].replace("stage_", "stage").replace("_", "-").split("-")[0]
    return f"{head}-" if head.startswith("stage") else ""


@pytest.mark.parametrize(
    "repo",
    [*LABEL_RULES, "OLMo-1B-hf", "OLMo-7B-0424-hf", "OLMo-7B-Twin-2T"],
)
def test_tokens_are_those_of_the_published_lists(repo: str) -> None:
    run, compared = run_of(repo), 0
    for row in rows(repo):
        if row["tokens"]:
            assert run.tokens_at(named(row)) == int(row["tokens"]), row
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("repo", CUMULATIVE)
def test_tokens_restart_at_each_stage(repo: str) -> None:
    run, starts = run_of(repo), defaultdict(set)
    for row in rows(repo):
        if not row["tokens"] or row["stage"].endswith("souped"):
            continue  # an average of checkpoints: its step does not say how many tokens it saw
        ours = run.tokens_at(named(row))
        assert ours is not None, row
        starts[row["stage"]].add(int(row["tokens"]) - ours)
    assert all(len(start) == 1 for start in starts.values()), starts
    assert next(iter(starts.values())) == {0}
    assert len(starts) >= 3


@pytest.mark.parametrize("repo", LABEL_RULES)
def test_labels_follow_from_tokens_by_the_repos_own_rule(repo: str) -> None:
    run, wrong, compared = run_of(repo), set(), 0
    for row in rows(repo):
        revision = parse_revision(row["hf_revision"])
        tokens = run.tokens_at(revision)
        if tokens is not None and revision.token_label is not None:
            compared += 1
            if revision.token_label != f"{LABEL_RULES[repo](Fraction(tokens, 10**9))}B":
                wrong.add(revision.name)
    assert wrong == LABEL_EXCEPTIONS.get(repo, set())
    assert compared > 30


@pytest.mark.parametrize(
    ("source", "name", "tokens"),
    [
        ("allenai/OLMo-7B", "step1000-tokens4B", 1000 * 2160 * 2048),
        ("allenai/OLMo-1B-hf", "step738020-tokens3094B", 738020 * 2048 * 2048),
        ("allenai/OLMo-1B-0724-hf", "step1454000-tokens3048B", 1454000 * 2**21),
        ("allenai/OLMo-2-0425-1B", "stage1-step10000-tokens21B", 20_971_520_000),
        ("allenai/OLMo-2-0425-1B", "stage2-ingredient3-step23852-tokens51B", 23852 * 2**21),
        ("allenai/OLMo-2-1124-7B", "stage1-step928646", 928646 * 2**22),
        ("allenai/OLMo-2-1124-13B", "stage1-step596057-tokens5001B", 596057 * 2**23),
        ("allenai/OLMo-2-0325-32B", "stage1-step721901-tokens6056B", 721901 * 2**23),
        ("allenai/Olmo-3-1025-7B", "stage1-step1413814", 1413814 * 2**22),
        ("allenai/Olmo-3-1025-7B", "stage2-step47684", 47684 * 2**21),
        ("allenai/Olmo-3-1025-7B", "stage3-step11921", 11921 * 2**22),
        ("allenai/Olmo-3-1125-32B", "stage2-ingredient1-step23842", 23842 * 2**22),
        ("allenai/Olmo-3-1125-32B", "stage3-step11921", 11921 * 2**23),
        ("allenai/Olmo-Hybrid-7B", "stage3-step23842", 23842 * 2**22),
        ("allenai/OLMoE-1B-7B-0924", "step5000-tokens20B", 5000 * 2**22),
        ("allenai/OLMo-2-0425-1B", "main", None),
        ("allenai/OLMo-2-0425-1B", "stage3-step10", None),
        ("allenai/OLMoE-1B-7B-0125", "step1000-tokens4B", None),
        ("allenai/Olmo-3-1125-32B", "stage2-ingredient1+2-step23842", None),
        ("allenai/Olmo-3-1025-7B", "stage2-step47684-mix-round5-from-2T-ckpt", None),
        ("allenai/Olmo-3-7B-Think", "step_0025", None),
    ],
)
def test_tokens_at(source: str, name: str, tokens: int | None) -> None:
    run = known_run(source)
    assert run is not None
    assert run.tokens_at(parse_revision(name)) == tokens


@pytest.mark.parametrize("repo", [*LABEL_RULES, "OLMo-1B-hf", "OLMo-7B-0424-hf"])
def test_label_rules_make_the_published_labels(repo: str) -> None:
    run, broken = run_of(repo), set()
    rule = run.label_rule(f"allenai/{repo}")
    assert rule is not None
    for revision in map(named, rows(repo)):
        if revision.token_label and revision.step is not None:
            stage = run.stage(revision.stage)
            assert stage is not None
            if revision.token_label != f"{rule.billions(revision.step, stage.tokens_per_step)}B":
                broken.add(revision.name)
    assert broken == LABEL_EXCEPTIONS.get(repo, {"step477000-tokens2000B"} if repo == "OLMo-7B-0424-hf" else set())


@pytest.mark.parametrize("path", sorted(LISTS.glob("revisions_*.csv")), ids=lambda path: path.stem)
def test_native_addresses_lie_in_the_stores_of_their_run_alone(path: Path) -> None:
    run = run_of(path.stem.removeprefix("revisions_"))
    urls = [row["native_url"] for row in rows(path.stem.removeprefix("revisions_")) if row["native_url"]]
    assert all(run.owns(url) for url in urls)
    others = {known.title for known in known_runs() if known is not run and any(known.owns(url) for url in urls)}
    assert others <= {"OLMo 7B 0424 (OLMo 1.7)", "OLMo 7B 0724"}  # one training, two repos


def test_stages_start_where_the_one_before_ends_or_forked() -> None:
    for run in known_runs():
        for stage in run.stages:
            before = run.stage(stage.number - 1)
            if stage.start is not None:
                assert before is not None and (before.steps or stage.start) == stage.start
        assert all(run.stage(each.stage) for each in run.ingredients)


def test_seeds_of_the_ingredients() -> None:
    seeds = {run.title: [each.seed for each in run.ingredients] for run in known_runs() if run.ingredients}
    assert seeds == {
        "OLMoE 1B-7B 0125": [42, 43, 44],
        "OLMo 2 7B": [42, 42069, 666],
        "OLMo 2 13B": [1110, 2662, 6209, 2662],
        "OLMo 2 32B": [1110, 2662, 2662],
        "OLMo 2 1B": [42069, 666, 42],
        "Olmo 3 32B": [None, None],
        "Olmo Hybrid 7B": [1337, 683],
    }


def test_runs_are_found_by_any_of_their_repos_in_any_case() -> None:
    assert known_run("allenai/olmo-2-0425-1b") is known_run("allenai/OLMo-2-0425-1B")
    assert known_run("allenai/OLMo-1B") is known_run("allenai/OLMo-1B-hf")
    assert known_run("someone/else") is None
    assert known_run("./OLMo-1B") is None


def test_every_published_list_belongs_to_a_known_run() -> None:
    if not LISTS.is_dir():
        pytest.skip(f"no revision lists at {LISTS}")
    repos = [path.stem.removeprefix("revisions_") for path in LISTS.glob("revisions_*.csv")]
    assert len(repos) == 15
    assert [repo for repo in repos if known_run(f"allenai/{repo}") is None] == []


def test_tokenizers_are_smaller_than_the_embeddings_they_feed() -> None:
    assert {(run.tokenizer_size, run.tokenizer.split("/")[1]) for run in known_runs() if run.tokenizer} == {
        (50280, "gpt-neox-olmo-dolma-v1_5"),
        (100278, "dolma2-tokenizer"),
    }


@pytest.mark.parametrize("run", known_runs(), ids=lambda run: run.title)
def test_faults_are_names_or_terms_that_select_can_read(run: KnownRun) -> None:
    for term in (term for fault in run.faults for term in fault.revisions):
        if any(mark in term for mark in (":", "..", "*")) or re.fullmatch("stage[0-9]", term):
            with pytest.raises(SelectionError, match=rf"^{re.escape(repr(term))} matches no revision; "):
                select([Revision("another")], term)
        else:
            assert parse_revision(term).step is not None or term in WITHOUT_STEP


def test_faults_name_the_listed_revisions() -> None:
    run = run_of("OLMo-2-1124-7B")
    listed = [parse_revision(row["hf_revision"]) for row in rows("OLMo-2-1124-7B") if row["hf_revision"]]
    found = {
        fault.kind: [revision.name for revision in select(listed, ",".join(fault.revisions))]
        for fault in run.faults
        if fault.kind in ("duplicate", "label", "name")
    }
    assert [name.split("-")[1] for name in found["duplicate"]] == ["step101000", "step175000", "step300000"]
    assert set(found["label"]) == LABEL_EXCEPTIONS["OLMo-2-1124-7B"]
    assert {parse_revision(name).step for name in found["name"]} >= {150, 600, 700, 850, 900, 2150}


def test_corrected_uploads_are_the_ones_the_list_notes() -> None:
    (fault,) = [fault for fault in run_of("OLMo-7B-0424-hf").faults if fault.kind == "rewritten"]
    listed = list(rows("OLMo-7B-0424-hf"))
    noted = {row["hf_revision"] for row in listed if "corrected later" in row["note"]}
    chosen = select([parse_revision(row["hf_revision"]) for row in listed if row["hf_revision"]], fault.revisions[0])
    assert {revision.name for revision in chosen} == noted
    assert len(noted) == 52


GOOD = """
[[run]]
title = "A"
repos = ["org/a"]
model_type = "olmo2"
parameters = 1
tokenizer = "org/t"
tokenizer_size = 10
"""


def test_a_declared_run_is_read() -> None:
    (run,) = parse_runs(
        GOOD + 'batch = { 1 = [2, 8] }\n[[run.fault]]\nkind = "label"\nwhat = "w"\nrevisions = ["step1"]\n'
    )
    assert run.tokens_at(Revision("stage1-step3", stage=1, step=3)) == 48
    assert run.faults[0].repos == ("org/a",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace('"org/a"', '"a"'), "a run must have a title and repos such as org/name (got 'A', ('a',))"),
        (GOOD.replace("parameters = 1", "parameters = 0"), "A: parameters and tokenizer_size must be positive"),
        (GOOD + "batch = { 1 = [0, 8] }", "a stage must have a number of at least 0 and a batch of "
         "at least 1x1 (got stage 1 of 0x8)"),
        (GOOD + "batch = { 1 = [2, 8], 01 = [2, 8] }", "A: a stage is declared twice"),
        (GOOD + '[[run.fault]]\nkind = "odd"\nwhat = "w"\nrevisions = ["x"]\n',
         "a fault's kind must be one of duplicate, missing, rewritten, label, name, list (got 'odd')"),
        (GOOD + '[[run.fault]]\nkind = "name"\nwhat = "w"\nrevisions = []\n',
         "a fault must have a description, revisions and repos (got Fault(kind='name', what='w', "
         "revisions=(), repos=('org/a',), reference=''))"),
        (GOOD + "batch = { 1 = [2, 8] }\nstart = { 2 = 5 }", "A: stages without a batch: 2"),
        (GOOD + '[[run.label]]\nrounding = "up"\n', "a label's rounding must be one of floor, ceil, round (got 'up')"),
        (GOOD + '[[run.native]]\nbase = "https://a.b/run"\n',
         "a native store must be an https address that ends in / (got 'https://a.b/run')"),
        (GOOD + '[[run.fault]]\nkind = "name"\nwhat = "w"\nrevisions = ["x"]\nrepos = ["org/b"]\n',
         "A: faults, labels or phases name repos that are not its own: ['org/b']"),
    ],
)  # fmt: skip
def test_contradictory_declarations_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        parse_runs(text)
