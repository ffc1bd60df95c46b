"""The package's layout: folders that can be overseen, and names that mean one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable

import pytest

from tests.conftest import SHAPED
from tests.project.package import PACKAGE, Place, listed, modules, parsed

MOST_MODULES = 20  # in one folder, beside its __init__: a list that is still read at a glance
MOST_CLASSES_TWICE = 2  # a class name that means two things is looked up every time
MOST_MODULES_TWICE = 12  # a module's name tells its subject only where no other folder has it too


def shared(names: Iterable[tuple[str, Place]]) -> dict[str, list[Place]]:
    """The names that are found in more than one place."""
    found = defaultdict(list)
    for name, place in names:
        found[name].append(place)
    return {name: places for name, places in found.items() if len(places) > 1}


def spelled_out(names: dict[str, list[Place]]) -> str:
    return listed(place for places in names.values() for place in places)


@pytest.mark.parametrize("folder", sorted({str(path.parent.relative_to(PACKAGE)) for path in modules()}))
def test_folders_can_be_overseen(folder: str) -> None:
    inside = sorted(path.name for path in (PACKAGE / folder).glob("*.py") if path.name != "__init__.py")
    assert len(inside) <= MOST_MODULES, f"{len(inside)} modules: {', '.join(inside)}"


def test_public_classes_have_names_of_their_own() -> None:
    classes = (
        (node.name, Place(path, node.lineno, f"class {node.name}"))
        for path in modules()
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    found = shared(classes)
    assert len(found) <= MOST_CLASSES_TWICE, spelled_out(found)


def test_modules_have_names_of_their_own() -> None:
    found = shared((path.stem, Place(path, 1, path.stem)) for path in modules() if not path.stem.startswith("__"))
    assert len(found) <= MOST_MODULES_TWICE, spelled_out(found)


def test_modules_keep_to_their_size() -> None:
    for path in modules():
        assert path.read_text(encoding="utf-8").count("\n") <= 320, path


def test_every_module_whose_shapes_are_checked_exists() -> None:
    named = [f"{part}.{name}" for part, names in SHAPED.items() for name in names]
    absent = [name for name in named if not PACKAGE.joinpath(*name.split(".")).with_suffix(".py").exists()]
    assert not absent, f"tests/conftest.py checks the shapes of modules that do not exist: {absent}"
