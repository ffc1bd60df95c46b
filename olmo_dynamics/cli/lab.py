"""`olmo-dyn lab`: the notebooks, in JupyterLab."""

import click

from olmo_dynamics.cli.printing import quiet_option, remark


@click.command()
@click.option(
    "--out",
    default="olmo-lab",
    show_default=True,
    type=click.Path(),
    metavar="DIR",
    help="The folder for the notebooks.",
)
@click.option("--no-open", is_flag=True, help="Only copy the notebooks.")
@quiet_option
def lab(out: str, no_open: bool, quiet: bool) -> None:
    """Copy the notebooks to DIR and open JupyterLab on them. Notebooks already there are kept with your changes.

    \b
    Examples:
      olmo-dyn lab
      olmo-dyn lab --out study --no-open
    """
    from olmo_dynamics.experiments.lab import open_lab, place_notebooks

    placed = place_notebooks(out)
    remark(f"{len(placed)} notebooks copied to {out}" if placed else f"{out} has all the notebooks already", quiet)
    for path in placed:
        click.echo(str(path))
    if not no_open:
        open_lab(out)
