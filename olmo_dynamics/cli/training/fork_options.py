"""Options of `fork` and `batches`, read off the declarations of a fork's options; and `SOURCE@REVISION`.

>>> split_revision("allenai/OLMo-2-0425-1B@stage1-step10000-tokens21B")
('allenai/OLMo-2-0425-1B', 'stage1-step10000-tokens21B')
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from olmo_dynamics.errors import OptionError
from olmo_dynamics.training.fork.option import REPEATED, Option
from olmo_dynamics.training.fork.options import FORK_OPTIONS, ForkOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])

IN_BATCHES = tuple(name for name, declared in FORK_OPTIONS.items() if declared.in_batches)
"""The options that decide the tokens of a step."""

AFTER_DATA = tuple(name for name in FORK_OPTIONS if name not in IN_BATCHES)


def data_options(command: _Command) -> _Command:
    """`--data`, and the options that decide the tokens of a step."""
    data = click.option(
        "--data", multiple=True, required=True, metavar="FILE[=WEIGHT]",
        help="Headerless token files or http(s) addresses of such, in the parent's order, or text (.txt, .jsonl, .jsonl.gz, "
             ".json.gz); may be repeated. Weights mix the files.",
    )  # fmt: skip
    return data(declared_options(ForkOptions, IN_BATCHES)(command))


def declared_options(owner: type, names: Collection[str]) -> Callable[[_Command], _Command]:
    """The options that fields of a dataclass declare, as one decorator; those without help are for Python only."""
    made = [_click_option(each) for each in fields(owner) if each.name in names and each.metadata["option"].help]
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(made), command)


def given_options(given: Mapping[str, Any], declared: Mapping[str, Option]) -> dict[str, Any]:
    """The options that were given, as `od.fork` takes them.

    Raises:
        OptionError: a text cannot be read as its option needs it.
    """
    return {
        name: each.parsed(f"--{name.replace('_', '-')}", given[name])
        for name, each in declared.items()
        if given.get(name) not in (None, ())
    }


def split_revision(name: str) -> tuple[str, str]:
    """Source and revision of `SOURCE@REVISION`.

    Raises:
        OptionError: one of them is missing.
    """
    source, _, revision = name.rpartition("@")
    if not source or not revision:
        raise OptionError(f"the argument must be SOURCE@REVISION, such as allenai/OLMo-2-0425-1B@main (got {name!r})")
    return source, revision


def _click_option(field: Field[Any]) -> Callable[[Any], Any]:
    declared: Option = field.metadata["option"]
    flag = "--" + field.name.replace("_", "-")
    if declared.kind is bool:
        names = flag if field.default is False else f"{flag}/--no{flag[1:]}"
        return click.option(names, is_flag=True, default=None, help=declared.help)
    shown = f" Default: {field.default}." if field.default not in (None, ()) else ""
    kind: Any = click.Path() if declared.kind is Path else declared.kind if declared.kind in (int, float) else str
    return click.option(
        flag,
        multiple=declared.kind is REPEATED,
        type=kind,
        metavar=declared.metavar,
        help=declared.help + shown,
    )
