"""`olmo-dyn report`: a page of linked plots."""

from pathlib import Path
from typing import Any

import click

from olmo_dynamics.cli.printing import format_option, print_facts, quiet_option
from olmo_dynamics.cli.sharing.storage import allow_http_option
from olmo_dynamics.errors import StoreError
from olmo_dynamics.files import is_address


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(), metavar="STORE...")
@click.option("--out", default="report.html", show_default=True, type=click.Path(), metavar="FILE", help="The page.")
@click.option(
    "--fork", "forks", multiple=True, type=click.Path(), metavar="DIR", help="A fork of the run, drawn beside it."
)
@click.option(
    "--revisions", default="", metavar="EXPR", help="Revisions of the store to draw, as for collect; by default all."
)
@click.option("--tensors", default="", metavar="GLOBS", help="Tensors to draw: comma-separated globs or roles.")
@click.option("--x", default="step", show_default=True, type=click.Choice(["step", "tokens"]), help="The time axis.")
@click.option(
    "--logs", multiple=True, type=click.Path(), metavar="FILE", help="Logs of the training, searched for spikes."
)
@allow_http_option
@format_option("table", "json")
@quiet_option
def report(
    stores: tuple[str, ...],
    out: str,
    tensors: str,
    style: str,
    quiet: bool,
    **drawn: Any,
) -> None:
    """Write one self-contained HTML page of linked plots of STORE; it opens with no network.

    The page draws whole trainings: stage 2 continues stage 1, and its ingredients branch from there. A plot that cannot be
    drawn says why in its place. Groups of your own recorders are drawn from what the store declares of them. For a run
    made by olmo-dyn fork, the page names its parent; with --fork, a run and its forks are drawn from the step where they
    part. Of several stores, or of a folder of runs, it draws each training's mean over seeds with a band.

    \b
    Examples:
      olmo-dyn report olmo2-1b.zarr
      olmo-dyn report olmo2-1b.zarr --out anneal.html --revisions 'stage1:last5,stage2'
      olmo-dyn report olmo2-1b.zarr --tensors 'q_norm,k_norm' --x tokens
      olmo-dyn report demo/store.zarr --fork demo/fork
      olmo-dyn report c4.zarr dclm.zarr --out recipes.html
    """
    for store in stores:
        if not (
            is_address(store) or Path(store).exists()
        ):  # told at once, before the libraries that read a store are loaded
            raise StoreError(f"there is no store at {store}; make one with olmo-dyn collect SOURCE --out {store}")
    from olmo_dynamics.frames import join, open_store
    from olmo_dynamics.reporting import lineage, write_report

    opened = open_store(stores[0]) if len(stores) == 1 else join(stores)
    globs = tuple(glob.strip() for glob in tensors.split(",") if glob.strip())
    written = write_report(opened, out, tensors=globs, **drawn)
    print_facts({"report": str(written)} | lineage(opened), style)
