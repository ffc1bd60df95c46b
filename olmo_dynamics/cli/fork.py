"""`olmo-dyn fork`: train on from any published step."""

from dataclasses import asdict
from typing import Any

import click

from olmo_dynamics.cli.data import data_options, parse_batch, split_revision
from olmo_dynamics.cli.printing import format_option, print_facts, print_rows, quiet_option, remark
from olmo_dynamics.errors import OptionError


@click.command()
@click.argument("source", metavar="SOURCE@REVISION")
@data_options
@click.option("--out", required=True, type=click.Path(), metavar="DIR", help="Folder of the fork's checkpoints.")
@click.option("--steps", required=True, type=int, metavar="N", help="Updates to make after the revision's step.")
@click.option("--moments", metavar="HOW", help="parent, zero, or warm (zero, and the rate climbs from 0). Bare weights have "
              "none: choose.")  # fmt: skip
@click.option("--lr", type=float, help="The learning rate at the fork. Default: the parent's.")
@click.option("--schedule", metavar="NAME", help="parent, constant, linear (to 0 at the end) or cosine (to a tenth).")
@click.option("--warmup", type=int, metavar="STEPS", help="Steps in which the rate climbs from 0 after the fork.")
@click.option("--z-loss", type=float, help="Weight of the z-loss.")
@click.option("--weight-decay", type=float, help="On the parameters that the parent decays.")
@click.option("--clip", type=float, help="Largest norm of the gradient.")
@click.option("--freeze", default="", metavar="GLOBS", help="Parameters not to train, comma-separated.")
@click.option("--save", metavar="STEPS", help="Steps after the fork to save at, comma-separated. Default: log-spaced.")
@click.option("--workers", type=int, help="Threads that share a batch. Default: as many as the parent's, or 1.")
@click.option(
    "--parent-loss", type=float, help="What the parent logged for its next step, to hold the first loss against."
)
@click.option("--accept-loss-jump", is_flag=True, help="Go on although the first loss is far off.")
@click.option("--keep", type=int, metavar="N", help="Keep the first checkpoint and the latest N only. Default: all.")
@click.option("--record", default="", metavar="NAMES", help="Groups to record while training: parameters,activations,…")
@click.option("--every", default=10, show_default=True, metavar="STEPS", help="Steps between two recordings.")
@click.option("--store", type=click.Path(), metavar="STORE", help="Where to record. Default: store.zarr in --out.")
@click.option("--tensorboard", type=click.Path(), metavar="DIR", help="Write TensorBoard's event files there, too.")
@click.option("--wandb", metavar="PROJECT", help="Log to a project of Weights & Biases, too.")
@click.option("--dry-run", is_flag=True, help="Print the plan; read no weights, write nothing.")
@format_option("table", "json")
@quiet_option
def fork(source: str, *, data: tuple[str, ...], out: str, steps: int, style: str, quiet: bool, **given: Any) -> None:
    """Train on from a revision, on the CPU in float32. With no further option it does what the parent did next.

    Weights, AdamW's moments and steps, schedule and the place in the data are restored where the parent published them
    (native OLMo, OLMo-core, folders of ours); the table says what was restored, replaced, assumed or is missing. Run
    again, it continues.

    \b
    Examples:
      olmo-dyn fork native/tiny-olmo2@step40-unsharded --data train.npy --out forks/same --steps 40
      olmo-dyn fork native/tiny-olmo2@step40-unsharded --data train.npy --out forks/anneal --steps 40 --schedule linear
      olmo-dyn fork allenai/OLMo-2-0425-1B@stage1-step10000-tokens21B --data part-0.npy --out forks/a --steps 100 \\
          --moments warm --lr 4e-4 --batch 8x1024 --order sequential --dry-run
    """
    from olmo_dynamics.branching import fork as fork_run
    from olmo_dynamics.progress import Silent

    name, revision = split_revision(source)
    changes = {key: value for key, value in given.items() if value is not None}
    changes["batch"] = parse_batch(given["batch"])
    changes["freeze"] = tuple(glob.strip() for glob in given["freeze"].split(",") if glob.strip())
    changes["save"] = _steps(given["save"])
    if quiet:
        changes["progress"] = Silent()
    made = fork_run(name, revision, data=data, out=out, steps=steps, **changes)
    if style == "table":
        print_rows((asdict(field) for field in made.fields), style)
        click.echo()
    print_facts(_facts(made, style), style)
    remark(
        "nothing was written" if given["dry_run"] else "run again, it continues; collect and report read the folder",
        quiet,
    )


def _facts(made: Any, style: str) -> dict[str, Any]:
    recipe = made.plan.recipe
    facts: dict[str, Any] = {"out": str(made.out), "steps": recipe.steps, "tokens_per_step": recipe.tokens_per_step}
    facts |= {"saved_at": list(recipe.save_at), "last": str(made.folder) if made.folder else None}
    if made.expected_from and made.expected_from != "resumed":
        facts |= {"first_loss": made.first_loss, "expected": made.expected_loss, "expected_from": made.expected_from}
    return {**facts, "fields": [asdict(field) for field in made.fields]} if style == "json" else facts


def _steps(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise OptionError(f"--save wants steps after the fork, such as 1,10,100; got {text!r}")
    return tuple(int(word) for word in words)
