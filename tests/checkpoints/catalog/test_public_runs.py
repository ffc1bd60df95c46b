"""Pythia, PolyPythias and DataDecide: facts against the configs and lists that their authors publish."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from olmo_dynamics.checkpoints import known_run, known_runs, parse_revision, select
from olmo_dynamics.checkpoints.catalog.positions import in_training_order

SEEDS = {"6198": "default", "14": "small-aux-2", "15": "small-aux-3", "4": "large-aux-2", "5": "large-aux-3"}


def rate(step: int, config: dict) -> float:
    """The rate that GPT-NeoX's scheduler holds after `step` calls, written out from its description."""
    peak, end = config["optimizer"]["params"]["lr"], config["lr-decay-iters"]
    warmup = config["warmup"] * end
    if step <= warmup:
        return peak * step / warmup
    after = min(step, end - warmup) - warmup
    return max(peak / 2 * (math.cos(math.pi * after / end) + 1), config["min_lr"])


def test_pythia_is_as_its_configs_say(shared: Path) -> None:
    paths = sorted((shared / "data" / "pythia" / "configs").glob("*.yml"))
    assert len(paths) == 18
    steps = np.array([1, 2, 500, 1430, 1431, 1432, 50_000, 110_000, 120_000, 143_000])
    for path in paths:
        text = path.read_text()
        config = yaml.safe_load(re.sub(r"\]\],?\n", "]],\n", text))  # one lacks this comma
        run = known_run(f"EleutherAI/{path.stem}")
        assert run is not None
        stage, schedule = run.stage(None), run.schedule(None)
        assert stage is not None and schedule is not None
        gpus = int(re.search(r"trained on ([0-9]+) gpus", text)[1]) // config["model-parallel-size"]  # type: ignore[index]
        sequences = config["train_micro_batch_size_per_gpu"] * gpus * config.get("gradient_accumulation_steps", 1)
        assert (stage.sequences, stage.positions, stage.steps) == (
            sequences,
            config["seq-length"],
            config["train-iters"],
        )
        assert schedule.rates(steps, stage.tokens_per_step) == pytest.approx([rate(step - 1, config) for step in steps])
        assert (schedule.weight_decay, schedule.beta1) == (
            config["weight-decay"],
            config["optimizer"]["params"]["betas"][0],
        )


def test_polypythias_share_the_facts_of_their_size() -> None:
    for size in ("14m", "31m", "70m", "160m", "410m"):
        base = known_run(f"EleutherAI/pythia-{size}")
        assert base is not None
        for seed in range(1, 10):
            run = known_run(f"EleutherAI/pythia-{size}-seed{seed}")
            assert run is not None and (run.stages, run.schedules) == (base.stages, base.schedules)
    assert known_run("EleutherAI/pythia-160m").tokens_at(parse_revision("step143000")) == 143_000 * 2**21  # type: ignore[union-attr]


def test_pythias_faults_name_the_revisions_of_the_report(shared: Path) -> None:
    case = json.loads((shared / "data" / "audit_cases" / "pythia_205_206.json").read_text())["pythia-2.8b"]
    listed = [parse_revision(f"step{step}") for step in (0, *(2**k for k in range(10)), *range(1000, 143_001, 1000))]
    assert len(listed) == case["branches"]
    run = known_run("EleutherAI/pythia-2.8b")
    assert run is not None
    first, second = ([each.step for each in select(listed, ",".join(fault.revisions))] for fault in run.faults)
    assert len(first) == case["identical_to_main"]["count"] and second == sorted(case["second_blob"]["steps"])
    assert not set(first) & set(second)


def test_datadecide_is_as_its_lists_say(shared: Path) -> None:
    folder = shared / "data" / "datadecide"
    repos = {f"allenai/{name}" for name in (folder / "repo_names.txt").read_text().split()}
    runs = [run for run in known_runs() if run.title.startswith("DataDecide ")]
    assert {repo for run in runs for repo in run.repos} == repos and len(repos) == 350 and len(runs) == 14
    last = defaultdict(Counter)
    with gzip.open(folder / "weka_paths.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            size, seed = row["model_name"].split("-")[-2:]
            last[size, SEEDS[seed]][max(parse_revision(name).step for name in row["revisions"])] += 1
    told = {(run.title.split()[1], each.name): each for run in runs for each in run.replicates}
    assert told.keys() == last.keys()
    for key, each in told.items():
        assert each.steps == (next(iter(last[key])) if len(last[key]) == 1 else None), key
        assert SEEDS[str(each.seed)] == each.name


def test_every_revision_of_datadecide_is_listed_and_selected(shared: Path) -> None:
    """The 31,491 names, as the hub has them, in the order of training, by repo."""
    with gzip.open(shared / "data" / "datadecide" / "weka_paths.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    listed = defaultdict(list)
    for row in rows:
        recipe, _, seed = row["model_name"].rpartition("-")
        listed[recipe] += [f"{name.split('-')[0]}-seed-{SEEDS[seed]}" for name in row["revisions"]]
    ordered = {name: in_training_order(map(parse_revision, names)) for name, names in listed.items()}
    assert (len(rows), sum(map(len, ordered.values()))) == (1103, 31_491)
    chosen = sum(len(select(each, "all")) for each in ordered.values())
    ends = sum(len(select(each, "seed*:last1")) for each in ordered.values())
    seeds = Counter(each.seed for revisions in ordered.values() for each in revisions)
    assert (chosen, ends) == (31_491, len(rows))  # one end per repo and seed
    assert seeds == Counter(SEEDS[row["model_name"].rpartition("-")[2]] for row in rows for _ in row["revisions"])
