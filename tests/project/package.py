"""The package's own source, read for the checks: its modules, docstrings and string literals, each with its place."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

PACKAGE = ROOT / "olmo_dynamics"
PARTS = sorted(path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
"""The package's direct sub-packages and modules."""


class Place(NamedTuple):
    """One line of one file, and the text found there."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.text.strip().splitlines()[0]}"


def modules(part: str | None = None) -> list[Path]:
    """The files of one part, or of the whole package."""
    first = (part, f"{part}.py")
    return sorted(path for path in PACKAGE.rglob("*.py") if part is None or path.relative_to(PACKAGE).parts[0] in first)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstrings(path: Path) -> Iterator[Place]:
    """The docstring of the module and of every class and function in it."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield Place(path, node.body[0].lineno, text)


def described(path: Path) -> Iterator[ast.Constant]:
    """Every string that stands alone as a statement: docstrings, and the descriptions beneath constants."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def messages(path: Path) -> Iterator[Place]:
    """Every other string literal, f-strings piece by piece: errors, help texts and whatever else a user can read."""
    alone = set(map(id, described(path)))
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield Place(path, node.lineno, node.value)


def listed(places: Iterable[object]) -> str:
    """One per line, for the message of a failing check."""
    return "\n" + "\n".join(map(str, places))
