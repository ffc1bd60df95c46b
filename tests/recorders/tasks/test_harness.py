"""lm-evaluation-harness itself, offline: every example of the shipped tasks, and the files that it writes."""

import json
import logging
import math
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import olmo_dynamics as od
from olmo_dynamics.frames.scores.score_files import read_scores
from olmo_dynamics.probes.tasks import SHIPPED, read_tasks
from olmo_dynamics.progress import Progress
from olmo_dynamics.recorders.tasks.answer_scores import of_items
from olmo_dynamics.recorders.tasks.task_scores import TaskRecorder
from olmo_dynamics.recorders.tasks.task_source import TaskSource
from tests.runs import tiny_tokenizer, write_family_run

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install olmo-dynamics[eval]")
NAME = "step10-tokens1B"


class Kept(TaskRecorder):
    """Keeps the log-likelihood of each answer for the test."""

    found: ClassVar[list[np.ndarray]] = []

    def finish(self):
        self.found.append(self.log_likelihoods())
        return super().finish()


def as_harness_tasks(folder):
    """The shipped tasks as tasks of the harness, one for each delimiter, with the items that each holds."""
    configs, items = [], {}
    for task in read_tasks(SHIPPED):
        for delimiter in sorted({item.delimiter for item in task.items}):
            name = f"{task.name}{'' if delimiter else '_glued'}"
            items[name] = [(task.name, item) for item in task.items if item.delimiter == delimiter]
            rows = [
                {"context": item.context, "choices": list(item.choices), "gold": item.gold} for _, item in items[name]
            ]
            file = folder / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            configs.append({
                "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
                "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "context",
                "doc_to_choice": "choices", "doc_to_target": "gold", "target_delimiter": delimiter,
                "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
            })  # fmt: skip
    return configs, items


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness")
    write_family_run(folder / "run", ("step0-tokens0", NAME), "olmo2")
    return folder


@pytest.fixture(scope="module")
def harness(place):
    """The results of the harness, its examples, and the folder of the files that it wrote."""
    patched = pytest.MonkeyPatch()
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        patched.setenv(name, "1")
    patched.setenv("HF_HOME", str(place / "hf"))
    patched.setenv("HF_DATASETS_CACHE", str(place / "datasets"))
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tiny_tokenizer()), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    model = AutoModelForCausalLM.from_pretrained(place / "run" / NAME)
    configs, items = as_harness_tasks(place)
    tracker = EvaluationTracker(output_path=str(place / "written"))
    source = str(place / "run")
    found = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64, device="cpu"),
        model_args=f"pretrained={source},revision={NAME}", tasks=configs, evaluation_tracker=tracker, bootstrap_iters=2,
    )  # fmt: skip
    examples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=examples)
    kept = {name: sorted(some, key=lambda each: each["doc_id"]) for name, some in examples.items()}
    likelihoods = {
        name: [[float(each[0]) for each in one["filtered_resps"]] for one in some] for name, some in kept.items()
    }
    for name, some in examples.items():
        tracker.save_results_samples(name, some)
    yield kept, likelihoods, items, place / "written"
    patched.undo()


def test_every_example_of_the_shipped_tasks_agrees(place, harness):
    examples, likelihoods, items, _ = harness
    tasks = read_tasks(SHIPPED)
    recorder = Kept(TaskSource(tasks))
    log_likelihoods, requests = forward(place, recorder, tiny_tokenizer().encode())
    scores = of_items(requests, log_likelihoods)
    order = [(task.name, item) for task in tasks for item in task.items]
    compared = 0
    for name, some in examples.items():
        for example, theirs, key in zip(some, likelihoods[name], items[name], strict=True):
            number = order.index(key)
            np.testing.assert_allclose(log_likelihoods[requests.item == number], theirs, rtol=1e-5, atol=1e-4)
            assert (scores["accuracy"][number], scores["accuracy_normalised"][number]) == (
                example["acc"],
                example["acc_norm"],
            )
            bits = -theirs[requests.gold[number]] / math.log(2)
            right = np.flatnonzero(requests.item == number)[requests.gold[number]]
            np.testing.assert_allclose(
                scores["bits_per_byte"][number], bits / requests.text_bytes[right], rtol=1e-5, atol=1e-5
            )
            compared += 1
    assert compared == len(order) == 128


def forward(place, recorder, tokenizer_json):
    """The log-likelihoods of one pass of our own, and the requests."""
    import torch

    from olmo_dynamics.checkpoints import open_source
    from olmo_dynamics.collection.recorded_pass import RecordedPass, pass_context
    from olmo_dynamics.model import resolve_config, to_tensor
    from olmo_dynamics.probes.tokenizer import ProbeTokenizer

    source = open_source(str(place / "run"))
    with source.open(source.find(NAME)) as checkpoint, torch.no_grad():
        config = resolve_config(checkpoint.config, checkpoint.tensors)
        tokenizer = ProbeTokenizer(tokenizer_json)
        passed = RecordedPass(config, None, [recorder], tokenizer=tokenizer)
        for stage in passed.stages:
            infos = [checkpoint.tensors[name] for name in stage.tensors]
            read = checkpoint.read_many(infos)
            passed.run(stage, {info.name: to_tensor(read[info.name], info) for info in infos})
    return recorder.found[-1], recorder.start(pass_context(config, None, None, tokenizer)).probe()


def test_the_files_that_it_writes_join_the_store_that_scores_the_same_tasks(place, harness):
    *_, written = harness
    store = od.collect(place / "run", out=place / "s.zarr", record="evaluation", tasks=SHIPPED, progress=Progress())
    joined = od.join_scores(store, written)
    assert joined.left_out.is_empty() and set(joined.scores["revision"]) == {NAME}
    ours = store.table("evaluation").filter(revision=NAME)
    for row in joined.scores.filter(pl.col("task").is_in(["arithmetic", "agreement", "stereotypes"])).iter_rows(
        named=True
    ):
        name = {"acc": "accuracy", "acc_norm": "accuracy_normalised"}[row["metric"]]
        [mine] = ours.filter(task=row["task"]).iter_rows(named=True)
        np.testing.assert_allclose((row["value"], row["stderr"]), (mine[name], mine[f"{name}_se"]), rtol=1e-9)
    [samples] = written.rglob("samples_code_glued_*.jsonl")
    of_examples, of_results = read_scores(samples), read_scores(written).filter(task="code_glued")
    assert of_examples.drop("value", "stderr").equals(of_results.drop("value", "stderr"))
    for column in ("value", "stderr"):
        np.testing.assert_allclose(of_examples[column].to_numpy(), of_results[column].to_numpy(), rtol=1e-9)
    next(written.rglob("results_*.json")).unlink()
    assert set(read_scores(written)["task"]) == {"arithmetic", "agreement", "stereotypes", "code", "code_glued"}
    assert set(od.join_scores(store, written).left_out["reason"]) == {"no revision, commit or step is named"}
