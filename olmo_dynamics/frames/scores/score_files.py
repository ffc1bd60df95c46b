"""Files of scores, by their form: lm-evaluation-harness, OLMES, Weights & Biases, plain tables.

    >>> read_scores("results_2025-03-01.json").columns  # doctest: +SKIP

`results_*.json` of lm-evaluation-harness 0.4 names metrics `acc,none`, that of 0.3 `acc`; both name the model in `model_args` as
`pretrained=REPO,revision=NAME`; `samples_*.jsonl` beside it has one example per line. `metrics-all.jsonl` of OLMES has one task
per line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.scores.sample_files import is_samples, read_samples, results_beside
from olmo_dynamics.frames.scores.score_tables import plain, table_of

Row = dict[str, object]

_COUNTS = ("sample_len",)
"""Numbers beside the scores of a task that are none."""


def read_scores(path: str | Path) -> pl.DataFrame:
    """Read a file of scores, or every `results_*.json`, `samples_*.jsonl` and `metrics-all.jsonl` below a folder.

    Of examples the means are read; in a folder, where no results of the same time lie beside them.

    Returns:
        One row per score: model, revision, commit, step, task, setting, metric, value, stderr; unknown cells are null.

    Raises:
        OptionError: there is no such file, or it has none of the forms.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        alone = [each for each in place.rglob("samples_*.jsonl") if is_samples(each) and not results_beside(each)]
        found = sorted([*place.rglob("results*.json"), *place.rglob("metrics-all.jsonl"), *alone])
        if not found:
            raise OptionError(
                f"{path} must hold results_*.json, samples_*.jsonl or metrics-all.jsonl (got none of them)"
            )
        return pl.concat([read_scores(each) for each in found])
    if not place.is_file():
        raise OptionError(f"a file of scores must exist (got {path})")
    if place.name.endswith((".csv", ".csv.gz")):
        return plain(pl.read_csv(place, infer_schema_length=None), str(path))
    if place.suffix == ".parquet":
        return plain(pl.read_parquet(place), str(path))
    if place.suffix in (".json", ".jsonl"):
        return table_of(list(_of_json(place)))
    raise OptionError(f"a file of scores must end in .json, .jsonl, .csv, .csv.gz or .parquet (got {place.name})")


def _of_json(path: Path) -> Iterator[Row]:
    try:
        if is_samples(path):
            yield from _of_samples(path)
            return
        text = path.read_text(encoding="utf-8")
        documents = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if path.suffix == ".jsonl"
            else [json.loads(text)]
        )
        for each in documents:
            yield from _harness(each) if path.suffix == ".json" else _olmes(each)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{path} must be results (.json) or samples_*.jsonl of lm-evaluation-harness, or metrics of OLMES (.jsonl) "
            f"({type(error).__name__}: {error})"
        ) from None


def _of_samples(path: Path) -> Iterator[Row]:
    """The means of a file of examples, with the model and the shots that the results beside it name."""
    beside = results_beside(path)
    document = json.loads(beside.read_text(encoding="utf-8")) if beside else {"config": {}}
    for row in read_samples(path):
        yield _context(document, str(row["task"])) | row


def _context(document: Mapping[str, Any], task: str) -> Row:
    """The model, the revision and the setting of a task."""
    config = document["config"]
    given = model_arguments(config.get("model_args") or "")
    few = document.get("n-shot", {}).get(task, config.get("num_fewshot"))
    setting = None if few is None else f"{few}-shot"
    return {"model": given.get("pretrained"), "revision": given.get("revision"), "task": task, "setting": setting}


def _harness(document: Mapping[str, Any]) -> Iterator[Row]:
    """The scores of one run of lm-evaluation-harness, of version 0.3 or 0.4."""
    for task, found in document["results"].items():
        context = _context(document, task)
        for name, value in found.items():
            metric, _, filtered = name.partition(",")
            if (
                metric.endswith("_stderr")
                or metric in _COUNTS
                or isinstance(value, bool)
                or not isinstance(value, int | float)
            ):
                continue
            yield context | {
                "metric": metric if filtered in ("", "none") else name,
                "value": float(value),
                "stderr": _number(found.get(f"{metric}_stderr,{filtered}" if filtered else f"{metric}_stderr")),
            }


def model_arguments(given: str | Mapping[str, Any]) -> dict[str, str]:
    """The arguments of a model as the harness writes them.

    >>> model_arguments("pretrained=EleutherAI/pythia-1b,revision=step1000,dtype=float16")["revision"]
    'step1000'
    """
    pairs = (
        given.items()
        if isinstance(given, Mapping)
        else (part.split("=", 1) for part in given.split(",") if "=" in part)
    )
    return {str(name).strip(): str(value).strip() for name, value in pairs}


def _olmes(document: Mapping[str, Any]) -> Iterator[Row]:
    """The scores of one task, a line of OLMES's metrics-all.jsonl."""
    model, task = document.get("model_config") or {}, document.get("task_config") or {}
    shots = task.get("num_shots")
    for metric, value in document["metrics"].items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield {
                "model": model.get("model"),
                "revision": model.get("revision"),
                "task": document["task_name"],
                "setting": None if shots is None else f"{shots}-shot",
                "metric": metric,
                "value": float(value),
            }


def _number(value: object) -> float | None:
    """A standard error; the harness writes "N/A" where it has none."""
    return float(value) if isinstance(value, int | float) else None
