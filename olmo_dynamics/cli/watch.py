"""`olmo-dyn watch`: a live page of a store or a fork."""

import sys

import click

from olmo_dynamics.cli.printing import format_option, print_facts, quiet_option, remark


@click.command()
@click.argument("store", type=click.Path(), metavar="STORE|RUN")
@click.option(
    "--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="The port; 0 takes a free one."
)
@format_option("table", "json")
@quiet_option
def watch(store: str, *, port: int, style: str, quiet: bool) -> None:
    """Serve a live page of STORE, or of the folder of a fork, while a collection or a training writes it.

    The page has the menus, map, curves and profile of od.explore, and is redrawn when revisions or updates are added. It is
    served to this machine alone (127.0.0.1), at an address with a random token; the store is only read. From another
    machine, make a tunnel: ssh -L 8765:127.0.0.1:8765 HOST, with --port 8765 there. Ctrl-C ends it.

    \b
    Examples:
      olmo-dyn watch olmo2-1b.zarr
      olmo-dyn watch forks/anneal --port 8765
    """
    from olmo_dynamics.reporting.watching import LiveServer

    with LiveServer(store, port=port) as server:
        print_facts({"watching": store, "url": server.url}, style)
        sys.stdout.flush()
        remark("open the address in a browser of this machine; Ctrl-C ends", quiet)
        server.serve()
