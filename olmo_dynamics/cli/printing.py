"""Printing of results on stdout: a table for readers, CSV or JSON lines for programs.

>>> print_rows(({"step": 1}, {"step": 2}), "json")
{"step": 1}
{"step": 2}
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from olmo_dynamics.quantities.amounts import at_least, human_bytes, human_seconds

__all__ = [
    "at_least",
    "format_option",
    "human_bytes",
    "human_seconds",
    "print_facts",
    "print_rows",
    "progress_listener",
    "quiet_option",
    "remark",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def format_option(*formats: str) -> Callable[[_Command], _Command]:
    """The option `--format` with the given choices; the first is the default."""
    return click.option(
        "--format",
        "style",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="The format of the results.",
    )


quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print no progress and no remarks on stderr.")


def print_rows(rows: Iterable[Mapping[str, Any]], style: str) -> None:
    """Print rows with the same keys as `table`, `csv` or `json` (one object per line)."""
    rows = list(rows)
    if style == "json":
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    elif style == "csv":
        writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _without_formula(cell) for name, cell in row.items()} for row in rows)
    else:
        _print_table(rows)


def print_facts(facts: Mapping[str, Any], style: str) -> None:
    """Print facts, one per line or as one JSON object."""
    if style == "json":
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        click.echo(f"{key:<{width}}  {value}")


def _without_formula(cell: Any) -> Any:
    """The cell; text that a spreadsheet would take for a formula gets an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _print_table(rows: list[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a pipe has no width, so lines are not wrapped
        console = Console(highlight=False, markup=False, width=10_000)
    console.print(table)


def progress_listener(quiet: bool) -> Any:
    """A progress bar on stderr, or no progress if quiet."""
    from olmo_dynamics.progress import Progress, ProgressBar

    return Progress() if quiet else ProgressBar()


def remark(text: str, quiet: bool) -> None:
    """Print a message on stderr, unless quiet."""
    if not quiet:
        click.echo(text, err=True)
