"""`olmo-dyn batches`: the batch of a step, as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olmo_dynamics.cli.printing import format_option, print_rows, quiet_option, remark
from olmo_dynamics.cli.training.fork_options import data_options, given_options, split_revision
from olmo_dynamics.errors import OptionError
from olmo_dynamics.training.fork.options import FORK_OPTIONS

if TYPE_CHECKING:
    import numpy as np


@click.command()
@click.argument("source", metavar="SOURCE@REVISION")
@data_options
@click.option("--step", type=click.IntRange(1), metavar="N", help="The first step to show, which may be past. Default: the "
              "next one.")  # fmt: skip
@click.option("--count", default=1, show_default=True, type=click.IntRange(1), help="Number of steps to show.")
@click.option("--width", default=200, show_default=True, type=click.IntRange(1), help="Characters shown per sequence; "
              "json has all of them.")  # fmt: skip
@click.option("--out", type=click.Path(), metavar="FILE.npy", help="Also write the token ids to this file, [sequences, tokens], "
              "for collect --tokens.")  # fmt: skip
@format_option("table", "json")
@quiet_option
def batches(
    source: str, *, data: tuple[str, ...], style: str, quiet: bool, width: int, out: str | None, **given: Any
) -> None:
    """Print the batch of the step after a revision, or of step N: one line per sequence, decoded with its tokenizer, or ids.

    \b
    Examples:
      olmo-dyn batches native/tiny-olmo2@step40-unsharded --data train.npy --tokenizer tok.json
      olmo-dyn batches native/tiny-olmo2@step40-unsharded --data train.npy --step 12 --format json
      olmo-dyn batches native/tiny-olmo2@step40-unsharded --data train.npy --step 12 --out step12.npy
    """
    from olmo_dynamics.probes.tokenizer import ProbeTokenizer
    from olmo_dynamics.training.fork.run import next_batches, open_checkpoint, read_tokenizer

    if out is not None and Path(out).suffix != ".npy":
        raise OptionError(f"--out must be a .npy file (got {out})")
    name, revision = split_revision(source)
    found_step, found = next_batches(
        name, revision, data=data, step=given["step"], count=given["count"], **given_options(given, FORK_OPTIONS)
    )
    if out is not None:
        _write(Path(out), [batch.token_ids.numpy() for batch in found])
    with open_checkpoint(name, revision) as checkpoint:
        tokenizer_json = read_tokenizer(checkpoint, given["tokenizer"])
    tokenizer = ProbeTokenizer(tokenizer_json) if tokenizer_json else None
    if tokenizer is None:
        remark("the revision has no tokenizer.json: showing ids; give --tokenizer FILE for text", quiet)
    rows: list[dict[str, Any]] = [
        {
            "step": found_step + number,
            "sequence": index,
            "counts": batch.loss_mask is None or bool(batch.loss_mask[index].any()),
            "text": tokenizer.decode(ids) if tokenizer else " ".join(map(str, ids)),
        }
        for number, batch in enumerate(found)
        for index, ids in enumerate(batch.token_ids.tolist())
    ]
    if style == "table":
        rows = [{**row, "text": repr(row["text"][:width])} for row in rows]
    print_rows(rows, style)


def _write(path: Path, batches: list[np.ndarray]) -> None:
    """Write the ids of some batches as one array [sequences, tokens], whole or not at all."""
    import io

    import numpy as np

    from olmo_dynamics.files import write_atomic

    file = io.BytesIO()
    np.save(file, np.concatenate(batches).astype(np.uint32))
    write_atomic(path, file.getvalue(), partial=path.with_name(f".{path.name}.partial"))
