"""Every docstring example runs; one that is skipped (it needs a network, a GPU or a reader's files) names what exists."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.project.package import Place, described, listed, modules, parsed

WITH_EXAMPLES = [str(path.relative_to(ROOT)) for path in modules() if ">>> " in path.read_text(encoding="utf-8")]
SLOW = ["olmo_dynamics/experiments/demo.py"]  # it pretrains for a minute
DEFINED = {"Path", "closing"} | {
    node.name for path in modules() for node in parsed(path).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
}
"""Every class and function of the package, and what a reader knows: an example may leave their imports out."""


def examples(path: Path) -> list[doctest.DocTest]:
    """The examples of each docstring, among the names of their module, as `doctest` and pytest run them."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    names = vars(importlib.import_module(module))
    read = doctest.DocTestParser().get_doctest
    found = [read(each.value, dict(names), module, str(path), each.lineno - 1) for each in described(path)]
    return [each for each in found if each.examples]


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=[pytest.mark.slow] if file in SLOW else []) for file in WITH_EXAMPLES]
)
def test_examples_run(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "olmo_dynamics"  # by the name that it has where nobody moves it
    cache.symlink_to(os.environ["OLMO_DYNAMICS_CACHE"])
    monkeypatch.setenv("OLMO_DYNAMICS_CACHE", str(cache))
    failures: list[str] = []
    for each in examples(ROOT / file):
        doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(each, out=failures.append)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("file", WITH_EXAMPLES)
def test_skipped_examples_name_what_exists(file: str) -> None:
    drifted = [
        Place(ROOT / file, test.lineno + example.lineno + 1, f"{fault}: {example.source}")
        for test in examples(ROOT / file)
        if any(doctest.SKIP in example.options for example in test.examples)
        for example, fault in faults(test)
    ]
    assert not drifted, listed(dict.fromkeys(drifted))


def faults(test: doctest.DocTest) -> Iterator[tuple[doctest.Example, str]]:
    """Names of ours that a docstring's examples import, read or call and that are not there, or take no such option."""
    trees = [ast.parse(example.source) for example in test.examples]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    known = {name: value for name, value in (vars(builtins) | test.globs).items() if name not in made}
    imports = ast.Module([node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)], [])
    exec(compile(imports, test.name, "exec"), known)  # noqa: S102 - our own docstrings
    for example, tree in zip(test.examples, trees, strict=True):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute | ast.Call):
                try:
                    check(node, known, unknown=made | DEFINED)
                except (AttributeError, TypeError) as error:
                    yield example, str(error)


def check(node: ast.Attribute | ast.Call, known: dict[str, Any], *, unknown: set[str]) -> None:
    """Raise AttributeError for a name that is not there, TypeError for an option that is not taken."""
    called = node.func if isinstance(node, ast.Call) else node
    if isinstance(called, ast.Name) and called.id not in known.keys() | unknown:
        raise AttributeError(f"nothing is named {called.id}")
    try:
        found = resolved(called, known)
    except LookupError:
        return  # only running it would tell
    if isinstance(node, ast.Call):
        inspect.signature(found).bind_partial(**{each.arg: None for each in node.keywords if each.arg})


def resolved(node: ast.expr, known: dict[str, Any]) -> Any:
    """The object of ours that a dotted name means, or else LookupError."""
    if isinstance(node, ast.Name):
        found = known[node.id]
    elif isinstance(node, ast.Attribute):
        found = getattr(resolved(node.value, known), node.attr)
    else:
        raise LookupError
    home = found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", None)
    if not str(home).startswith("olmo_dynamics"):
        raise LookupError
    return found
