"""`olmo-dyn fork`: train on from any published step."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import click

from olmo_dynamics.cli.configs import config_option
from olmo_dynamics.cli.data import data_changes, data_options, split_revision
from olmo_dynamics.cli.printing import (
    format_option,
    human_bytes,
    human_seconds,
    print_facts,
    print_rows,
    quiet_option,
    remark,
)
from olmo_dynamics.errors import OptionError
from olmo_dynamics.settings import launched

_GLOBS = ("freeze", "decay", "no_decay")
_DATA = ("batch", "batch_warmup")


def _with(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Several options as one decorator."""
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@click.command()
@click.argument("source", metavar="SOURCE@REVISION")
@data_options
@click.option("--out", required=True, type=click.Path(), metavar="DIR", help="Folder of the fork's checkpoints.")
@click.option("--steps", required=True, type=int, metavar="N", help="Updates to make after the revision's step.")
@config_option
@click.option("--moments", metavar="HOW", help="parent, zero, or warm (zero, and the rate climbs from 0). Bare weights have "
              "none: choose.")  # fmt: skip
@_with((
    click.option("--lr", type=float, help="The learning rate at the fork. Default: the parent's."),
    click.option("--peak-lr", type=float, help="The rate that the warm-up climbs to, or at which the parent's curve peaks."),
    click.option("--schedule", metavar="NAME", help="parent, constant, linear (to 0 at the end), cosine (to a tenth) or wsd "
                 "(stable, then down to 0)."),
    click.option("--warmup", type=int, metavar="STEPS", help="Steps in which the rate climbs after the fork, from 0 or from "
                 "--lr to --peak-lr."),
    click.option("--decay-steps", type=int, metavar="N", help="How long wsd comes down. Default: a tenth of the run."),
    click.option("--decay-share", type=float, metavar="F", help="The same as a share of the run."),
    click.option("--decay-shape", metavar="NAME", help="How wsd comes down: linear, or sqrt (1 - the root of the share done)."),
    click.option("--batch-lr", metavar="HOW", help="sqrt: the rate grows with the root of the batch. Default: keep."),
))  # fmt: skip
@_with((
    click.option("--betas", metavar="B1,B2", help="AdamW's betas."),
    click.option("--eps", type=float, help="AdamW's epsilon."),
    click.option("--weight-decay", type=float, help="On the parameters that the parent decays."),
    click.option("--decay", metavar="GLOBS", help="All parameters with weight decay, comma-separated."),
    click.option("--no-decay", metavar="GLOBS", help="All parameters without, comma-separated."),
    click.option("--clip", type=float, help="Largest norm of the gradient."),
    click.option("--z-loss", type=float, help="Weight of the z-loss."),
    click.option("--balance-loss", type=float, help="Weight of the experts' balance."),
    click.option("--router-z-loss", type=float, help="Weight of the z-loss of the router."),
    click.option("--skip-spikes/--no-skip-spikes", default=None, help="Make no update whose loss or gradient stands out."),
))  # fmt: skip
@_with((
    click.option("--freeze", metavar="GLOBS", help="Parameters not to train, comma-separated."),
    click.option("--scale", multiple=True, metavar="GLOB[ROW]=F", help="Multiply weights at the fork, or rows of them."),
    click.option("--zero", multiple=True, metavar="GLOB[ROW]", help="Set weights to zero at the fork."),
    click.option("--zero-feature", metavar="I,…", help="Zero residual features in all that writes or reads them."),
))  # fmt: skip
@_with((
    click.option("--dtype", metavar="DTYPE", help="float32 or bfloat16 of the computation; masters are float32."),
    click.option("--micro-batch", type=int, metavar="B", help="Sequences that a worker runs at once."),
    click.option("--activation-checkpointing/--no-activation-checkpointing", default=None, help="Less memory, more work."),
    click.option("--compile/--no-compile", default=None, help="torch.compile. Default: where it saves more than it costs."),
    click.option("--device", metavar="D", help="cpu or cuda. Default: cpu; under torchrun a GPU a process where there are any."),
    click.option("--workers", type=int, help="Threads that share a batch. Default: as many as the parent's, or 1."),
))  # fmt: skip
@click.option("--eval", multiple=True, metavar="FILE", help="Held-out tokens or text whose loss is measured meanwhile.")
@click.option("--eval-every", type=int, metavar="N", help="Steps between such measurements. Default: 100.")
@click.option("--save", metavar="STEPS", help="Steps after the fork to save at, comma-separated. Default: log-spaced.")
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
    """Train on from a revision. With no further option it does what the parent did next.

    Weights, AdamW's moments and steps, schedule and the place in the data are restored where the parent published them
    (native OLMo, OLMo-core, folders of ours); the table says what was restored, replaced, assumed or is missing. Run
    again, it continues.

    \b
    Examples:
      olmo-dyn fork native/tiny-olmo2@step40-unsharded --data train.npy --out forks/same --steps 40
      olmo-dyn fork native/tiny-olmo2@step40-unsharded --data train.npy --out forks/anneal --steps 40 --schedule linear
      olmo-dyn fork allenai/OLMo-2-0425-1B@stage1-step10000-tokens21B --data part-0.npy --out forks/a --steps 100 \\
          --moments warm --lr 4e-4 --batch 8x1024 --order sequential --dry-run
      torchrun --nproc-per-node 2 -m olmo_dynamics fork native/tiny-olmo2@step40-unsharded --data train.npy \\
          --out forks/same --steps 40
    """
    from olmo_dynamics.branching import fork as fork_run
    from olmo_dynamics.progress import Silent

    name, revision = split_revision(source)
    changes = {key: value for key, value in given.items() if value is not None and key not in _DATA}
    changes |= data_changes(given) | {key: _words(given[key]) for key in _GLOBS if given[key] is not None}
    changes |= {key: tuple(given[key]) for key in ("scale", "zero", "eval")}
    changes |= {key: _numbers(key, given[key]) for key in ("save", "zero_feature") if given[key] is not None}
    if given["betas"] is not None:
        changes["betas"] = _betas(given["betas"])
    if quiet:
        changes["progress"] = Silent()
    made = fork_run(name, revision, data=data, out=out, steps=steps, **changes)
    if launched().rank:
        return
    if style == "table":
        print_rows((asdict(field) for field in made.fields), style)
        click.echo()
    print_facts({**_facts(made, style), **(_estimate(made) if given["dry_run"] else {})}, style)
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


def _estimate(made: Any) -> dict[str, Any]:
    """What the fork will take, in words that say how that is known."""
    from olmo_dynamics.training.estimates import FORMULA, estimate_fork

    steps = made.plan.recipe.steps - made.plan.begin
    tokens = made.plan.recipe.sizes.before(steps) * made.plan.recipe.sequence_length
    found = estimate_fork(made.plan, tokens=tokens)
    seconds = human_seconds(found.seconds)
    return {
        "updates": steps,
        "tokens": tokens,
        "memory": f"{human_bytes(found.state_bytes)} + {human_bytes(found.activation_bytes)} of activations: {FORMULA}",
        "time": f"at least {seconds}: 6·N·tokens = {found.flops:.3g} FLOP at the {found.flops_per_second:.3g}/s of a matrix "
        "product, measured now",
    }


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(name: str, text: str) -> tuple[int, ...]:
    words = _words(text)
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise OptionError(f"--{name.replace('_', '-')} wants whole numbers, such as 1,10,100; got {text!r}")
    return tuple(int(word) for word in words)


def _betas(text: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.split(","))
    except ValueError:
        raise OptionError(f"--betas wants two numbers, such as 0.9,0.95; got {text!r}") from None
    return first, second
