"""What `fork` and `batches` share: `SOURCE@REVISION`, and the options that say which tokens come.

>>> split_revision("allenai/OLMo-2-0425-1B@stage1-step10000-tokens21B")
('allenai/OLMo-2-0425-1B', 'stage1-step10000-tokens21B')
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from olmo_dynamics.errors import OptionError

_Command = TypeVar("_Command", bound=Callable[..., Any])


def data_options(command: _Command) -> _Command:
    """`--data`, `--order`, `--batch`, `--seed`, `--data-dtype` and `--tokenizer`."""
    for option in reversed((
        click.option("--data", multiple=True, required=True, type=click.Path(), metavar="FILE",
                     help="Headerless token files, in the parent's order; may be repeated."),
        click.option("--order", default="parent", show_default=True, metavar="NAME",
                     help="parent, olmo, olmo-core, sequential or shuffled."),
        click.option("--batch", metavar="BxT", help="B sequences of T tokens a step. Default: the parent's."),
        click.option("--seed", type=int, help="Another seed: the data begin anew, in another order."),
        click.option("--data-dtype", metavar="DTYPE", help="uint16 or uint32. Default: the parent's, or by vocabulary."),
        click.option("--tokenizer", type=click.Path(), metavar="FILE", help="A tokenizer.json, where the revision has none."),
    )):  # fmt: skip
        command = option(command)
    return command


def split_revision(name: str) -> tuple[str, str]:
    """Source and revision of `SOURCE@REVISION`.

    Raises: OptionError if either is missing.
    """
    source, _, revision = name.rpartition("@")
    if not source or not revision:
        raise OptionError(f"wanted SOURCE@REVISION, such as allenai/OLMo-2-0425-1B@main; got {name!r}")
    return source, revision


def parse_batch(text: str | None) -> tuple[int, int] | None:
    """`16x128` as two numbers.

    Raises: OptionError for anything else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", text, re.ASCII)
    if not found:
        raise OptionError(f"--batch wants sequences x tokens, such as 16x128; got {text!r}")
    return int(found[1]), int(found[2])
