"""`olmo-dyn fork`: train on from any published step."""

from dataclasses import asdict
from typing import Any

import click

from olmo_dynamics.cli.configs import config_option
from olmo_dynamics.cli.help_sections import SectionedCommand
from olmo_dynamics.cli.printing import (
    at_least,
    format_option,
    human_bytes,
    print_facts,
    print_rows,
    quiet_option,
    remark,
)
from olmo_dynamics.cli.training.fork_options import (
    AFTER_DATA,
    IN_BATCHES,
    data_options,
    declared_options,
    given_options,
    split_revision,
)
from olmo_dynamics.forks import MONITORING_OPTIONS, ForkMonitoring
from olmo_dynamics.settings import launched
from olmo_dynamics.training.fork.options import FORK_OPTIONS, ForkOptions

SECTIONS = {
    "Data": ("data", *IN_BATCHES),
    "Schedule": (
        "moments",
        "lr",
        "peak_lr",
        "schedule",
        "warmup",
        "decay_steps",
        "decay_share",
        "decay_shape",
        "batch_lr",
    ),
    "Optimiser and loss": (
        *("betas", "eps", "weight_decay", "decay", "no_decay", "clip", "z_loss", "balance_loss", "router_z_loss"),
        *("skip_spikes", "freeze"),
    ),
    "Changes of the weights": ("scale", "zero", "zero_feature"),
    "Machine": ("device", "dtype", "micro_batch", "workers", "activation_checkpointing", "compile"),
    "Checkpoints and measurements": (
        *("out", "steps", "save", "keep", "eval", "eval_every", "parent_loss", "accept_loss_jump"),
        *MONITORING_OPTIONS,
    ),
}


@click.command(cls=SectionedCommand, sections=SECTIONS)
@click.argument("source", metavar="SOURCE@REVISION")
@data_options
@click.option("--out", required=True, type=click.Path(), metavar="DIR", help="Folder of the fork's checkpoints.")
@click.option("--steps", required=True, type=int, metavar="N", help="Updates to make after the revision's step.")
@config_option
@declared_options(ForkOptions, AFTER_DATA)
@declared_options(ForkMonitoring, MONITORING_OPTIONS)
@click.option("--dry-run", is_flag=True, help="Print the plan; read no weights, write nothing.")
@format_option("table", "json")
@quiet_option
def fork(source: str, *, data: tuple[str, ...], out: str, steps: int, style: str, quiet: bool, **given: Any) -> None:
    """Train on from a revision. Without further options it does what the parent did next.

    Weights, AdamW's moments and steps, the schedule and the data position are restored if the parent published them
    (native OLMo, OLMo-core, transformers' Trainer, folders written by fork); the table shows which were restored,
    replaced, assumed or are missing. Run the same command again to resume.

    \b
    Examples:
      olmo-dyn fork native/tiny-olmo2@step40-unsharded --data train.npy --out forks/same --steps 40
      olmo-dyn fork native/tiny-olmo2@step40-unsharded --data train.npy --out forks/anneal --steps 40 --schedule linear
      olmo-dyn fork allenai/OLMo-2-0425-1B@stage1-step10000-tokens21B --data part-0.npy --out forks/a --steps 100 \\
          --moments warm --lr 4e-4 --batch 8x1024 --order sequential --dry-run
      torchrun --nproc-per-node 2 -m olmo_dynamics fork native/tiny-olmo2@step40-unsharded --data train.npy \\
          --out forks/same --steps 40
    """
    from olmo_dynamics.forks import fork as fork_run
    from olmo_dynamics.progress import Progress

    name, revision = split_revision(source)
    changes = given_options(given, {**FORK_OPTIONS, **MONITORING_OPTIONS})
    if quiet:
        changes["progress"] = Progress()
    made = fork_run(name, revision, data=data, out=out, steps=steps, dry_run=given["dry_run"], **changes)
    if launched().rank:
        return
    if style == "table":
        print_rows((asdict(field) for field in made.fields), style)
        click.echo()
    print_facts({**_facts(made, style), **(_estimate(made) if given["dry_run"] else {})}, style)
    remark(
        "nothing was written"
        if given["dry_run"]
        else "run the same command again to resume; collect and report read the folder",
        quiet,
    )


def _facts(made: Any, style: str) -> dict[str, Any]:
    recipe = made.plan.recipe
    facts: dict[str, Any] = {"out": str(made.out), "steps": recipe.steps, "tokens_per_step": recipe.tokens_per_step}
    facts |= {"saved_at": list(recipe.save_at), "last": str(made.folder) if made.folder else None}
    if made.expected_from and made.expected_from != "resumed":
        facts |= {"first_loss": made.first_loss, "expected": made.expected_loss, "expected_from": made.expected_from}
    return {**facts, "fields": [asdict(field) for field in made.fields]} if style == "json" else facts


def _estimate(made: Any) -> dict[str, Any]:
    """The cost of the fork, with the origin of each number."""
    from olmo_dynamics.training.fork.estimate import FORMULA, estimate_fork

    steps = made.plan.recipe.steps - made.plan.begin
    tokens = made.plan.recipe.sizes.before(steps) * made.plan.recipe.sequence_length
    found = estimate_fork(made.plan, tokens=tokens)
    return {
        "updates": steps,
        "tokens": tokens,
        "memory": f"{human_bytes(found.state_bytes)} + {human_bytes(found.activation_bytes)} of activations: {FORMULA}",
        "time": f"{at_least(found.seconds)}: 6·N·tokens = {found.flops:.3g} FLOP at the {found.flops_per_second:.3g}/s of a "
        "matrix product, measured now",
    }
