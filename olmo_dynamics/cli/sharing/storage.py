"""The options of every command that reaches stores or checkpoints in buckets.

>>> allow_http_option  # doctest: +SKIP
"""

from __future__ import annotations

import click

from olmo_dynamics.settings import allow_http


def _allow(context: click.Context, option: click.Parameter, is_given: bool) -> None:
    if is_given:
        allow_http()


allow_http_option = click.option(
    "--allow-http",
    is_flag=True,
    expose_value=False,
    callback=_allow,
    help="Let a bucket's server be reached by plain http on other machines too.",
)
