"""Scores of tasks in a collection: float64 NumPy over transformers' logits, a group added to a store, and its refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from transformers import AutoModelForCausalLM

import olmo_dynamics as od
from olmo_dynamics.cli import cli
from olmo_dynamics.errors import CheckpointError, OptionError, ProbeError, StoreMismatchError
from olmo_dynamics.probes.tokenizer import ProbeTokenizer
from olmo_dynamics.progress import Progress
from tests.runs import tiny_tokenizer, write_family_run

NAMES = ("step0-tokens0", "step10-tokens1B")
QUESTIONS = (
    {"context": "the model reads ", "choices": ["tokens", "the", "then next"], "gold": 0},
    {"context": "and then" * 200, "choices": ["the next token", "é"], "gold": 1, "delimiter": ""},
    {"choices": ["the tokens", "next model the"], "gold": 1},
)
PAIRS = ({"good": "The model reads.", "bad": "The model read."},)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write_family_run(folder / "run", NAMES, "olmo2")
    for name, lines in (("questions", QUESTIONS), ("pairs", PAIRS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def store(place: Path):
    return collected(place, "whole.zarr")


def collected(place: Path, name: str, **options):
    options = {"record": "evaluation", "tasks": [place / "questions.jsonl", place / "pairs.jsonl"]} | options
    return od.collect(place / "run", out=place / name, progress=Progress(), **options)


@torch.no_grad()
def log_likelihood(model, tokenizer: ProbeTokenizer, context: str, text: str) -> float:
    """Of one answer, by itself, in float64."""
    before = tokenizer.encode(context) if context else [0]
    ids = (before if not context else []) + tokenizer.encode(context + text)
    ids, scored = ids[-257:], len(ids) - len(before)
    logits = model(torch.tensor([ids[:-1]])).logits[0].double().numpy()[-scored:]
    return float(
        (logits - scipy.special.logsumexp(logits, axis=-1, keepdims=True))[np.arange(scored), ids[-scored:]].sum()
    )


def expected(place: Path, name: str, lines) -> dict[str, float]:
    model = AutoModelForCausalLM.from_pretrained(place / "run" / name)
    tokenizer = ProbeTokenizer(tiny_tokenizer().encode())
    items: dict[str, list[float]] = {"accuracy": [], "accuracy_normalised": [], "bits_per_byte": []}
    for line in lines:
        choices = line.get("choices") or [line["good"], line["bad"]]
        gold, context = line.get("gold", 0), line.get("context", "")
        kept = context.rstrip()
        texts = [context[len(kept) :] + line.get("delimiter", " ") + choice for choice in choices]
        found = np.array([log_likelihood(model, tokenizer, kept, text) for text in texts])
        items["accuracy"].append(float(found.argmax() == gold))
        items["accuracy_normalised"].append(float((found / [len(each) for each in choices]).argmax() == gold))
        items["bits_per_byte"].append(-found[gold] / np.log(2) / len(texts[gold].encode()))
    means = {key: float(np.mean(each)) for key, each in items.items()}
    errors = {
        f"{key}_se": np.std(each, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.nan
        for key, each in items.items()
    }
    return means | errors


def test_scores_are_those_of_float64_over_the_logits_of_transformers(place, store):
    table = store.table("evaluation")
    assert table.select("revision", "task", "items").rows() == [
        (name, task, items) for name in NAMES for task, items in (("questions", 3), ("pairs", 1))
    ]
    np.testing.assert_allclose(table["chance"].to_numpy()[:2], [(1 / 3 + 1) / 3, 0.5])
    for row in table.iter_rows(named=True):
        wanted = expected(place, row["revision"], QUESTIONS if row["task"] == "questions" else PAIRS)
        np.testing.assert_allclose([row[key] for key in wanted], list(wanted.values()), rtol=1e-5)
    facts = store.group("evaluation").attributes
    assert (facts["answers"], facts["positions"], facts["cut"]) == (9, 256, 2)


def test_a_store_of_other_groups_gets_the_group_from_the_command_and_keeps_its_probe(place, run, store):
    out = place / "loss.zarr"
    collected(place, out.name, record="loss", tasks=None, batch="2x16", threads=2)
    given = ("evaluate", str(place / "run"), "--out", str(out), "--tasks", str(place / "questions.jsonl"),
             "--tasks", str(place / "pairs.jsonl"))  # fmt: skip
    planned = json.loads(run(*given, "--dry-run", "--format", "json").out)
    assert (planned["tokens"], planned["revisions"]) == ({"evaluation": 9 * 256}, list(NAMES))
    assert run(*given, "-q").code == 0
    added = od.open_store(out)
    assert (added.groups, added.attributes["probe"]["shape"]) == (("loss", "evaluation"), [2, 16])
    for name in NAMES:
        for key, values in store.row("evaluation", name).items():
            np.testing.assert_array_equal(added.row("evaluation", name)[key], values)
    both = collected(place, "both.zarr", record="loss,evaluation", batch="2x16")
    assert both.table("evaluation").equals(store.table("evaluation"))


def test_a_model_in_training_is_scored_as_its_checkpoint(place, store):
    model = AutoModelForCausalLM.from_pretrained(place / "run" / NAMES[1])
    live = od.record(
        model, place / "live.zarr", step=10, record="evaluation", tasks=place / "pairs.jsonl",
        tokenizer=place / "run" / NAMES[1] / "tokenizer.json",
    )  # fmt: skip
    [found] = live.table("evaluation")["bits_per_byte"]
    [wanted] = store.table("evaluation").filter(revision=NAMES[1], task="pairs")["bits_per_byte"]
    assert found == pytest.approx(wanted, rel=1e-6)


def test_refusals_say_what_to_give(place, store):
    def refused(error, told, **options):
        with pytest.raises(error) as caught:
            collected(place, options.pop("out", "new.zarr"), **options)
        assert str(caught.value) == told

    lacks = "evaluation needs tasks: give --tasks FILE.jsonl, or one of arithmetic, code, agreement, stereotypes"
    refused(OptionError, lacks, tasks=None)
    refused(OptionError, "tasks needs the group evaluation; record it too, or leave tasks out", record="loss")
    with pytest.raises(StoreMismatchError, match=r"task"):
        collected(place, "whole.zarr", tasks="agreement")
    bare = place / "bare"
    shutil.copytree(place / "run", bare / "run")
    for name in NAMES:
        (bare / "run" / name / "tokenizer.json").unlink()
    with pytest.raises(ProbeError) as caught:
        collected(bare, "s.zarr", tasks="agreement")
    assert str(caught.value) == (
        "step0-tokens0 has no tokenizer.json to read tasks with; give one with --tokenizer FILE|REPO"
    )
    given = place / "run" / NAMES[0] / "tokenizer.json"
    assert collected(bare, "s.zarr", tasks="agreement", tokenizer=given).done == set(NAMES)


def test_a_revision_whose_tokenizer_reads_the_tasks_otherwise_is_refused(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    file = tmp_path / "run" / NAMES[1] / "tokenizer.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    fields["model"]["merges"] = fields["model"]["merges"][:1]
    file.write_text(json.dumps(fields), encoding="utf-8")
    tasks = [place / "questions.jsonl"]
    with pytest.raises(CheckpointError) as caught:
        collected(tmp_path, "s.zarr", tasks=tasks)
    assert "tokenizer turns the text of evaluation into other tokens than the store holds" in str(caught.value)


def test_the_command_shows_its_file_format():
    text = cli.commands["evaluate"].help or ""
    assert '{"good": "The keys are here.", "bad": "The keys is here."}' in text and "Examples:" in text
