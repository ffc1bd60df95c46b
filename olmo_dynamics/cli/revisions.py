"""`olmo-dyn revisions`: the published revisions of a run."""

import click

from olmo_dynamics.cli.printing import format_option, print_rows, quiet_option, remark
from olmo_dynamics.cli.sharing.storage import allow_http_option
from olmo_dynamics.errors import counted

_SHORT_COMMIT = 10  # as many digits as a table has room for; csv and json give all


@click.command()
@click.argument("source")
@click.option("--select", "expression", default="all", show_default=True, metavar="EXPR", help="The revisions to list.")
@click.option("--lists", multiple=True, type=click.Path(), metavar="FILE|DIR", help="Join with official lists of native "
              "checkpoints: a CSV file, or a folder, of which SOURCE's lists are used. May be repeated.")  # fmt: skip
@click.option("--refresh", is_flag=True, help="Fetch the list from the hub again instead of using the cached one.")
@allow_http_option
@format_option("table", "csv", "json")
@quiet_option
def revisions(source: str, expression: str, *, lists: tuple[str, ...], refresh: bool, style: str, quiet: bool) -> None:
    """List the revisions of SOURCE: name, stage, ingredient, step, tokens, format, commit, seed, line, position.

    EXPR is a comma-separated union of terms; a term is filters joined by ':' and then at most one thinning. Filters: an
    exact name, a glob, stage1, ingredient2, seed3, seed*, step1000..90000, tokens10B..1T, main, all. Thinning: log24
    (evenly spaced in log step, ends kept), every10, first5, last5. Each line of training (stage, ingredient, seed) is
    thinned by itself.

    With --lists, listed steps that SOURCE lacks are shown too, and the columns hub, native and native_url show the places of
    each.

    \b
    Examples:
      olmo-dyn revisions allenai/OLMo-2-0425-1B
      olmo-dyn revisions allenai/OLMo-2-0425-1B --select 'stage1:log24,stage2:ingredient3:every5,main'
      olmo-dyn revisions allenai/OLMo-2-1124-7B --lists manifests/ --select stage1:first10
      olmo-dyn revisions cache/demo/run --format csv
    """
    from olmo_dynamics.checkpoints.listed import ListedSource
    from olmo_dynamics.frames.run import Run, availability_frame, drop_repeats, revisions_frame

    found = Run(source, lists=lists)
    if refresh:
        found.source.revisions(refresh=True)
    if isinstance(found.source, ListedSource):
        chosen = availability_frame(found.source, expression)
    else:
        chosen = revisions_frame(found.select(expression))
    for note in found.source.notes:
        remark(note, quiet)
    age = found.source.catalogue_age()
    if age is not None and age > 1:
        remark(f"the list of revisions is {age / 60:.0f} min old; --refresh fetches it again", quiet)
    rows = chosen.drop("token_label")
    if style == "table":
        rows = drop_repeats(rows.with_columns(rows["commit"].str.head(_SHORT_COMMIT)))
    print_rows(rows.iter_rows(named=True), style)
    remark(counted(len(chosen), "revision"), quiet)
