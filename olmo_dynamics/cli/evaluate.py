"""`olmo-dyn evaluate`: score tasks on every revision."""

from typing import Any

import click

from olmo_dynamics.cli.collect import collect, run_collect
from olmo_dynamics.names import SHIPPED_TASKS

_SHARED = (
    "sources", "revisions", "out", "tokenizer", "device", "dtype", "lists", "quarantine", "include_quarantined", "max_memory",
    "max_rate", "threads", "engine", "address", "shard", "dry_run", "rate", "allow_http", "style", "quiet",
)  # fmt: skip
"""The options of `collect` that hold for its group evaluation alone."""


@click.command(params=[each for each in collect.params if each.name in _SHARED])
@click.option("--tasks", required=True, multiple=True, metavar="FILE|NAME", help="A file of JSON lines, or one of "
              f"{', '.join(SHIPPED_TASKS)}; may be repeated.")  # fmt: skip
def evaluate(sources: tuple[str, ...], **given: Any) -> None:
    """Score multiple-choice and minimal-pair tasks on the selected revisions of SOURCE, by log-likelihood.

    The scores are the group evaluation of STORE, which may hold other groups already; the same as collect --record
    evaluation --tasks. Run again, it continues. A line of a file is one item:

    \b
      {"context": "Question: 7 + 5 =\\nAnswer:", "choices": ["12", "13"], "gold": 0}
      {"good": "The keys are here.", "bad": "The keys is here."}

    \b
    Examples:
      olmo-dyn evaluate cache/demo/run --tasks arithmetic --tasks agreement --out scores.zarr
      olmo-dyn evaluate allenai/OLMo-2-0425-1B --revisions stage1:log24 --tasks questions.jsonl --out olmo2-1b.zarr
      olmo-dyn evaluate allenai/OLMo-2-0425-1B --tasks code --out olmo2-1b.zarr --dry-run
    """
    run_collect(sources, record="evaluation", **given)
