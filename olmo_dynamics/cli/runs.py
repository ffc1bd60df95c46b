"""`olmo-dyn runs`: the known public runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from olmo_dynamics.cli.printing import format_option, print_facts, print_rows, quiet_option

if TYPE_CHECKING:
    from olmo_dynamics.checkpoints import KnownRun


@click.command()
@click.argument("name", required=False)
@format_option("table", "csv", "json")
@quiet_option
def runs(name: str | None, style: str, quiet: bool) -> None:
    """List the known public runs: repos, stages, tokens per step, native list, faults. With NAME (a repo, a title, or a
    part of either that only one run has), show all facts of one run.

    \b
    Examples:
      olmo-dyn runs
      olmo-dyn runs allenai/OLMo-2-1124-7B
      olmo-dyn runs 'olmo 3 32b' --format json
    """
    from olmo_dynamics.checkpoints import find_run, known_runs

    if name is None:
        print_rows([_row(run, style) for run in known_runs()], style)
        return
    run = find_run(name)
    if style == "csv":
        print_rows([_row(run, style)], style)
    else:
        print_facts(asdict(run) if style == "json" else _facts(run), style)


def _row(run: KnownRun, style: str) -> dict[str, Any]:
    """One run as a row: in full for a program, shortened for a terminal."""
    tokens = {stage.number: stage.tokens_per_step for stage in run.stages}
    if style != "table":
        full = {"repos": list(run.repos), "model_type": run.model_type, "tokens_per_step": tokens, "lists": list(run.lists),
                "native": [store.base for store in run.native], "faults": len(run.faults)}  # fmt: skip
        return {"title": run.title} | (
            full if style == "json" else {name: _cell(value) for name, value in full.items()}
        )
    more = f" +{len(run.repos) - 1}" if len(run.repos) > 1 else ""
    return {
        "title": run.title,
        "repos": run.repos[0] + more,
        "type": run.model_type,
        "stages": ",".join(str(number) for number in tokens if number),
        "tokens/step": ",".join(f"{count / 1e6:.1f}M" for count in dict.fromkeys(tokens.values())),
        "native list": run.lists[0] if run.lists else "",
        "faults": len(run.faults),
    }


def _cell(value: Any) -> Any:
    """A list or a mapping as the text of one cell."""
    if isinstance(value, dict):
        return " ".join(f"{key}:{each}" for key, each in value.items())
    return " ".join(value) if isinstance(value, list) else value


def _facts(run: KnownRun) -> dict[str, Any]:
    """One run in full, one line per fact; several facts of one kind are numbered."""
    facts: dict[str, Any] = {
        "title": run.title,
        "repos": ", ".join(run.repos),
        "model type": run.model_type + (f", {run.parameters:,} parameters" if run.parameters else ""),
        "tokenizer": f"{run.tokenizer}, {run.tokenizer_size} ids" if run.tokenizer else "not stated",
        "main": run.main + (f" ({run.main_revision})" if run.main_revision else "") or "not stated",
    }
    for stage in run.stages:
        begun = f", from step {stage.start} of the stage before" if stage.start is not None else ""
        ended = f", to step {stage.steps}" if stage.steps else ""
        seed = f", data seed {stage.seed}" if stage.seed is not None else ""
        title = f"stage {stage.number}" if stage.number else "training"
        facts[title] = (
            f"{stage.tokens_per_step} tokens per step ({stage.sequences} x {stage.positions}){begun}{ended}{seed}"
        )
    for each in run.ingredients:
        known = [f"seed {each.seed}" if each.seed is not None else "", f"to step {each.steps}" if each.steps else ""]
        facts[f"stage {each.stage}, ingredient {each.name}"] = ", ".join(filter(None, known))
    for copy in run.replicates:
        facts[f"replicate {copy.name}"] = f"seed {copy.seed}" + (f", to step {copy.steps}" if copy.steps else "")
    for phase in run.phases:
        facts[f"phase {phase.repo}"] = f"{phase.name}, from {phase.start} [{phase.reference}]"
    if run.rerun_of:
        facts["re-run"] = f"of the first steps of {run.rerun_of}"
    facts["labels"] = "; ".join(f"{rule.rounding} in {', '.join(rule.repos)}" for rule in run.labels) or "none known"
    for number, store in enumerate(run.native, 1):
        facts[f"native {number}"] = store.base + (
            f" in {len(store.directories)} sub-folders" if store.directories else ""
        )
    facts["lists"] = ", ".join(run.lists) or "none"
    for number, fault in enumerate(run.faults, 1):
        where = f" [{fault.reference}]" if fault.reference else ""
        facts[f"fault {number}"] = f"{fault.kind}: {', '.join(fault.revisions)}: {fault.what}{where}"
    for number, note in enumerate(run.notes, 1):
        facts[f"note {number}"] = note
    return facts
