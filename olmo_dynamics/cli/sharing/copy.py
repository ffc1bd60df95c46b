"""`olmo-dyn copy`: publish a store."""

from __future__ import annotations

import click

from olmo_dynamics.cli.printing import format_option, human_bytes, print_facts, quiet_option
from olmo_dynamics.cli.sharing.storage import allow_http_option


@click.command()
@click.argument("store", type=click.Path())
@click.argument("destination", type=click.Path(), metavar="DEST")
@allow_http_option
@format_option("table", "json")
@quiet_option
def copy(store: str, destination: str, style: str, quiet: bool) -> None:
    """Copy STORE, or a folder of runs, to DEST: a bucket (s3://, gs://, az://), a folder, or a new .zip file.

    STORE may lie in a bucket, in a .zip file or in a repo of the Hugging Face hub (hf://) as well. A copy that was stopped is
    continued by the same command, and one of an older state is brought up to date. The copy is read back, and every checksum in
    it is compared.

    \b
    Examples:
      olmo-dyn copy olmo2-1b.zarr s3://bucket/stores/olmo2-1b.zarr
      olmo-dyn copy olmo2-1b.zarr olmo2-1b.zip
      olmo-dyn copy s3://bucket/stores/olmo2-1b.zarr olmo2-1b.zarr
    """
    from olmo_dynamics.progress import CopyBar, Progress
    from olmo_dynamics.store.publishing import copy_store

    with Progress() if quiet else CopyBar() as listener:
        copied = copy_store(store, destination, progress=listener)
    nbytes = copied.nbytes if style == "json" else human_bytes(copied.nbytes)
    print_facts(
        {
            "store": copied.destination,
            "copied": copied.files,
            "bytes": nbytes,
            "already there": copied.already_there,
            "verified": copied.verified,
        },
        style,
    )
