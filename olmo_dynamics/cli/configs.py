"""`--config FILE.toml`: options from a file, under their names on the command line, which wins over the file.

steps = 1000
schedule = "wsd"
decay-share = 0.2
data = ["web.npy=0.7", "code.jsonl=0.3"]
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from olmo_dynamics.errors import OptionError

_Command = TypeVar("_Command", bound=Callable[..., Any])


def config_option(command: _Command) -> _Command:
    """`--config`, read before all other options."""
    return click.option(
        "--config", type=click.Path(), metavar="FILE.toml", is_eager=True, expose_value=False, callback=_take_over,
        help="Options from a TOML file, under these names; what is given here wins.",
    )(command)  # fmt: skip


def _take_over(context: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is None:
        return
    known = {each.name: each for each in context.command.params if each.name not in (None, "config", "help")}
    context.default_map = {
        key: _value(key, value, known[key]) for key, value in _read(Path(name), [str(each) for each in known]).items()
    }


def _read(path: Path, known: list[str]) -> dict[str, Any]:
    """The file's keys, dashes as underscores.

    Raises: OptionError for a file that cannot be read, and for a key that is no option.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--config wants a TOML file, {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"--config wants a TOML file; {path} is none: {error}") from None
    named = {key.replace("-", "_"): value for key, value in found.items()}
    for key in named:
        if key not in known:
            near = ", ".join(word.replace("_", "-") for word in difflib.get_close_matches(key, known, 3)) or "none"
            raise OptionError(f"{path}: {key.replace('_', '-')} is no option; near names: {near}")
    return named


def _value(key: str, value: Any, parameter: click.Parameter) -> Any:
    """As the command line would spell it: a list is repeated or joined by commas."""
    if isinstance(value, dict):
        raise OptionError(f"--config: {key.replace('_', '-')} must be a value or a list; got a table")
    if parameter.multiple:
        return [str(each) for each in (value if isinstance(value, list) else [value])]
    return ",".join(map(str, value)) if isinstance(value, list) else value
