"""`olmo-dyn compact`: write a store's log as series, from which one number over all revisions is one small read."""

import click

from olmo_dynamics.cli.printing import format_option, human_bytes, print_facts, quiet_option
from olmo_dynamics.cli.sharing.storage import allow_http_option


@click.command()
@click.argument("store", type=click.Path())
@allow_http_option
@format_option("table", "json")
@quiet_option
def compact(store: str, style: str, quiet: bool) -> None:
    """Write the append log of STORE as series, so that one number over all revisions is one small read.

    A finished collection does this by itself. The log stays, since the next append continues it. A store of layout version 2
    is written as version 3, which has checksums.

    \b
    Examples:
      olmo-dyn compact olmo2-1b.zarr
    """
    from olmo_dynamics.frames import open_store

    found = open_store(store, mode="a")
    before = sum(found.sizes().values())
    found.compact()
    after = sum(found.sizes().values())
    sizes = (before, after) if style == "json" else (human_bytes(before), human_bytes(after))
    print_facts({"store": str(found.path), "before": sizes[0], "after": sizes[1]}, style)
