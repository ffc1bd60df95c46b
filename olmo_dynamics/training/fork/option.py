"""The declaration of an option: one dataclass field that Python, the command line and a fork's provenance read.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True, kw_only=True)
... class Speed:
...     lr: float | None = option("The learning rate.", float, at_least=0)
>>> declared_options(Speed)["lr"].help
'The learning rate.'
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from olmo_dynamics.errors import OptionError


@dataclass(frozen=True, slots=True)
class TextForm:
    """The text of a value on the command line: `read` takes text of this `form`, and refuses any other with a ValueError."""

    read: Callable[[str], Any]
    form: str


@dataclass(frozen=True, slots=True)
class Option:
    """Everything about an option beside its name, its type and its default.

    Attributes:
        help: its line on the command line; empty for an option that only Python has.
        kind: `str`, `int`, `float`, `bool`, `Path`, a `TextForm`, or `tuple` for one that may be repeated.
        metavar: the name of its value on the command line.
        choices: the values that it may have.
        at_least: the smallest value that it may have.
        row: the row of a fork's provenance that it replaces.
        in_recipe: True if it sets the field of the same name of the recipe.
        in_batches: True if it decides the tokens of a step, so that `next_batches` takes it as well.
    """

    help: str = ""
    kind: type | TextForm = str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    at_least: int | None = None
    row: str = ""
    in_recipe: bool = False
    in_batches: bool = False

    def check(self, name: str, value: Any) -> None:
        """Check a value; None always passes.

        Raises:
            OptionError: the value is of another kind, is not one of the choices, is too small or is not finite.
        """
        if value is None:
            return
        if self.kind in _KINDS and not _is_of(self.kind, value):
            raise OptionError(f"{name} must be {_KINDS[self.kind][1]} (got {value!r})")
        if self.choices and value not in self.choices:
            raise OptionError(f"{name} must be one of {', '.join(self.choices)} (got {value!r})")
        if self.at_least is not None and not (math.isfinite(value) and value >= self.at_least):
            raise OptionError(f"{name} must be at least {self.at_least} (got {value})")

    def parsed(self, name: str, value: Any) -> Any:
        """The value that text stands for, where the option has a form of text; any other value as it is.

        Raises:
            OptionError: the text is not of that form.
        """
        if not isinstance(self.kind, TextForm) or not isinstance(value, str):
            return value
        try:
            return self.kind.read(value)
        except ValueError:
            raise OptionError(f"{name} must be {self.kind.form} (got {value!r})") from None


_KINDS: dict[type | TextForm, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (bool, "True or False"),
}


def _is_of(kind: type | TextForm, value: Any) -> bool:
    """True if a value is of a kind; True and False are not numbers here."""
    return isinstance(value, _KINDS[kind][0]) and isinstance(value, bool) == (kind is bool)


def option(
    help: str = "", kind: type | TextForm = str, metavar: str | None = None, *, default: Any = None, **rest: Any
) -> Any:
    """A dataclass field that declares an option; the arguments are those of `Option`."""
    return field(default=default, metadata={"option": Option(help, kind, metavar, **rest)})


def declared_options(owner: type) -> dict[str, Option]:
    """The declarations of a dataclass of options, by name."""
    return {each.name: each.metadata["option"] for each in fields(owner)}


def check_options(options: Any) -> None:
    """Check each value of a dataclass of options against its declaration; read those that are given as text.

    Raises:
        OptionError: a value is of another kind, is not one of the choices, is too small or is not finite.
    """
    for name, declared in declared_options(type(options)).items():
        value = declared.parsed(name, getattr(options, name))
        object.__setattr__(options, name, value)
        declared.check(name, value)


def split_words(text: str) -> tuple[str, ...]:
    """The words of a comma-separated list."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _whole_numbers(text: str) -> tuple[int, ...]:
    words = split_words(text)
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise ValueError
    return tuple(int(word) for word in words)


def _two_numbers(text: str) -> tuple[float, float]:
    first, second = map(float, text.split(","))
    return first, second


def _batch(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", text, re.ASCII)
    if not found:
        raise ValueError
    return int(found[1]), int(found[2])


def _growth(text: str) -> tuple[tuple[int, int], ...]:
    found = [re.fullmatch(r"(\d{1,9}):(\d{1,9})", word.strip(), re.ASCII) for word in text.split(",")]
    if not all(found):
        raise ValueError
    return tuple((int(each[1]), int(each[2])) for each in found if each)


WORDS = TextForm(split_words, "names, comma-separated")
WHOLE_NUMBERS = TextForm(_whole_numbers, "whole numbers, such as 1,10,100")
TWO_NUMBERS = TextForm(_two_numbers, "two numbers, such as 0.9,0.95")
BATCH = TextForm(_batch, "sequences x tokens, such as 16x128")
GROWTH = TextForm(_growth, "step:sequences, such as 500:32,1000:64")
FILE = Path
REPEATED: type = tuple
PYTHON_ONLY = {"option": Option()}
"""The metadata of a field that the command line has no option for."""
