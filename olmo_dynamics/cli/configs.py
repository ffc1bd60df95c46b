"""`--config FILE.toml`: options from a file, by their names on the command line, which overrides the file.

steps = 1000
schedule = "wsd"
decay-share = 0.2
data = ["web.npy=0.7", "code.jsonl=0.3"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from olmo_dynamics.errors import OptionError, did_you_mean

_Command = TypeVar("_Command", bound=Callable[..., Any])


def config_option(command: _Command) -> _Command:
    """`--config`, read before all other options."""
    return click.option(
        "--config", type=click.Path(), metavar="FILE.toml", is_eager=True, expose_value=False, callback=_set_defaults,
        help="Options from a TOML file, by these names; the command line overrides them.",
    )(command)  # fmt: skip


def _set_defaults(context: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is None:
        return
    known = {each.name: each for each in context.command.params if each.name not in (None, "config", "help")}
    context.default_map = {
        key: _value(key, value, known[key]) for key, value in _read(Path(name), [str(each) for each in known]).items()
    }


def _read(path: Path, known: list[str]) -> dict[str, Any]:
    """The file's keys, dashes as underscores.

    Raises:
        OptionError: the file cannot be read, or a key is not an option.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--config must be a TOML file; {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"--config must be a TOML file; {path} is not: {error}") from None
    named = {key.replace("-", "_"): value for key, value in found.items()}
    for key in named:
        if key not in known:
            unknown, names = key.replace("_", "-"), [word.replace("_", "-") for word in known]
            raise OptionError(f"{path}: unknown option {unknown!r}{did_you_mean(unknown, names, cutoff=0.7)}")
    return named


def _value(key: str, value: Any, parameter: click.Parameter) -> Any:
    """The value as the command line spells it: a list is repeated or joined by commas."""
    if isinstance(value, dict):
        raise OptionError(f"--config: {key.replace('_', '-')} must be a value or a list (got a table)")
    if parameter.multiple:
        return [str(each) for each in (value if isinstance(value, list) else [value])]
    return ",".join(map(str, value)) if isinstance(value, list) else value
