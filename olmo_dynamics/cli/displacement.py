"""`olmo-dyn displacement`: how far weights have gone, from sketches or from the weights themselves."""

from typing import Any

import click

from olmo_dynamics.cli.printing import format_option, print_rows, quiet_option, remark
from olmo_dynamics.cli.sharing.storage import allow_http_option
from olmo_dynamics.errors import OptionError, counted
from olmo_dynamics.files import as_place, is_bucket

_SHOWN = ("revision", "tensor", "layer", "role", "distance", "distance_se", "relative", "relative_se", "angle", "angle_se",
          "relative_floor", "left_out")  # fmt: skip


@click.command()
@click.argument("weights", metavar="STORE|SOURCE")
@click.option("--reference", default="first", show_default=True, metavar="first|previous|NAME|OTHER@NAME", help="The weights "
              "to measure from: the first chosen revision of each line of training, the one before, a revision by its name, or "
              "that of another store or source.")  # fmt: skip
@click.option("--exact", is_flag=True, help="Read the weights of both revisions instead of sketches: no error bar.")
@click.option("--by", type=click.Choice(("tensor", "layer", "role", "all")), default="tensor", show_default=True,
              help="The tensors that are one vector.")  # fmt: skip
@click.option("--revisions", default="all", show_default=True, metavar="EXPR", help="The revisions to measure.")
@click.option("--tensors", default="", metavar="GLOBS", help="Names or roles, separated by commas; all unless given.")
@click.option("--out", type=click.Path(), metavar="FILE", help="Write FILE.parquet or FILE.csv instead of printing.")
@allow_http_option
@format_option("table", "csv", "json")
@quiet_option
def displacement(weights: str, *, reference: str, exact: bool, out: str | None, style: str, quiet: bool,
                 **chosen: Any) -> None:  # fmt: skip
    """Print how far the weights of each revision are from a reference: distance, relative distance, cosine, angle.

    STORE needs the group sketches (collect --record sketches). With --exact, weights are read: those of SOURCE, or of the
    source that STORE was made from. Angles are in radians; relative_floor is the relative distance that rounding to the
    published dtype makes by itself.

    \b
    Examples:
      olmo-dyn displacement sketched.zarr
      olmo-dyn displacement sketched.zarr --reference previous --by layer
      olmo-dyn displacement fork.zarr --reference parent.zarr@step1000-tokens4B
      olmo-dyn displacement cache/demo/run --exact --tensors q_proj --out moved.parquet
    """
    from pathlib import Path

    from olmo_dynamics.frames import displacement as measure
    from olmo_dynamics.frames.recorded import require_table_file, write_table

    if out is not None:
        require_table_file(out)
    chosen["tensors"] = tuple(filter(None, chosen["tensors"].split(",")))
    found = measure(_opened(weights, exact), _reference(reference, exact), exact=exact, **chosen)
    if out is not None:
        write_table(found, out)
        remark(f"{counted(found.height, 'row')} in {Path(out)}", quiet)
        return
    shown = found.select(name for name in _SHOWN if name in found.columns) if style == "table" else found
    print_rows(map(_short, shown.iter_rows(named=True)) if style == "table" else shown.iter_rows(named=True), style)
    few = int(found["concentrated"].sum())
    if few:
        remark(f"{counted(few, 'row')} concentrated: their errors are too small; add --exact", quiet)


def _opened(name: str, exact: bool) -> Any:
    """A store, or the name of a source whose weights are read."""
    from pathlib import Path

    place = as_place(name) if is_bucket(name) else Path(name).expanduser()
    if (place / "zarr.json").is_file():
        from olmo_dynamics.frames import open_store

        return open_store(place)
    if exact:
        return name
    raise OptionError(f"{name} must be a store with sketches; add --exact to read the weights of a source")


def _reference(word: str, exact: bool) -> Any:
    other, at, revision = word.rpartition("@")
    if at and not (other and revision):
        raise OptionError(f"--reference must name a store or source before @ and a revision after it (got {word})")
    return (_opened(other, exact), revision) if at else word


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}
