"""`olmo-dyn batches`: what a step sees, as text."""

from typing import Any

import click

from olmo_dynamics.cli.data import data_changes, data_options, split_revision
from olmo_dynamics.cli.printing import format_option, print_rows, quiet_option, remark


@click.command()
@click.argument("source", metavar="SOURCE@REVISION")
@data_options
@click.option("--step", type=click.IntRange(1), metavar="N", help="The first step to show, which may be past. Default: the "
              "next one.")  # fmt: skip
@click.option("--count", default=1, show_default=True, type=click.IntRange(1), help="Steps to show.")
@click.option("--width", default=200, show_default=True, type=click.IntRange(1), help="Characters shown of a sequence; "
              "json has them all.")  # fmt: skip
@format_option("table", "json")
@quiet_option
def batches(source: str, *, data: tuple[str, ...], style: str, quiet: bool, width: int, **given: Any) -> None:
    """Print what the step after a revision sees, or step N saw: a line a sequence, decoded with its tokenizer; else ids.

    \b
    Examples:
      olmo-dyn batches native/tiny-olmo2@step40-unsharded --data train.npy --tokenizer tok.json
      olmo-dyn batches native/tiny-olmo2@step40-unsharded --data train.npy --step 12 --format json
    """
    from olmo_dynamics.probes.tokenizer import ProbeTokenizer
    from olmo_dynamics.training.forking import next_batches, open_checkpoint, read_tokenizer

    name, revision = split_revision(source)
    found_step, found = next_batches(
        name, revision, data=data, step=given["step"], count=given["count"], **data_changes(given)
    )
    with open_checkpoint(name, revision) as checkpoint:
        words = read_tokenizer(checkpoint, given["tokenizer"])
    tokenizer = ProbeTokenizer(words) if words else None
    if tokenizer is None:
        remark("the revision has no tokenizer.json: ids are shown; give --tokenizer FILE for text", quiet)
    rows: list[dict[str, Any]] = [
        {
            "step": found_step + number,
            "sequence": index,
            "counts": batch.counted is None or bool(batch.counted[index].any()),
            "text": tokenizer.decode(ids) if tokenizer else " ".join(map(str, ids)),
        }
        for number, batch in enumerate(found)
        for index, ids in enumerate(batch.token_ids.tolist())
    ]
    if style == "table":
        rows = [{**row, "text": repr(row["text"][:width])} for row in rows]
    print_rows(rows, style)
