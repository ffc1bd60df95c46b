"""Help in sections: the commands of the program, and the options of a command with many of them, by purpose.

>>> @click.command(cls=SectionedCommand, sections={"Schedule": ("lr", "warmup")})
... @click.option("--lr", help="The rate.")
... @click.option("--out", help="The folder.")
... def train(lr, out):
...     ...
>>> print(train.get_help(click.Context(train, info_name="train")))
Usage: train [OPTIONS]
<BLANKLINE>
Schedule:
  --lr TEXT  The rate.
<BLANKLINE>
Options:
  --out TEXT  The folder.
  --help      Show this message and exit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import click

Sections = Mapping[str, Collection[str]]
"""The names in each section, by the section's title."""


class SectionedCommand(click.Command):
    """A command whose help lists the options of each section under its title, and then all others."""

    def __init__(self, *arguments: Any, sections: Sections, **given: Any) -> None:
        super().__init__(*arguments, **given)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, in their sections."""
        records = {each.name: each.get_help_record(ctx) for each in self.get_params(ctx)}
        _write(
            formatter, {name: record for name, record in records.items() if name and record}, self.sections, "Options"
        )


class SectionedGroup(click.Group):
    """A group whose help lists the commands of each section under its title, each with its whole first sentence."""

    def __init__(self, *arguments: Any, sections: Sections, **given: Any) -> None:
        super().__init__(*arguments, **given)
        self.sections = sections

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, in their sections."""
        shown = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))}
        records = {
            name: (name, command.get_short_help_str(limit=200)) for name, command in shown.items() if not command.hidden
        }
        _write(formatter, records, self.sections, "Commands")


def _write(
    formatter: click.HelpFormatter, records: Mapping[str, tuple[str, str]], sections: Sections, rest: str
) -> None:
    """Write the records of each section that has any, and the remaining ones under `rest`."""
    placed = {name for names in sections.values() for name in names}
    parts: dict[str, Iterable[str]] = {**sections, rest: [name for name in records if name not in placed]}
    for title, names in parts.items():
        rows = [records[name] for name in names if name in records]
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)
