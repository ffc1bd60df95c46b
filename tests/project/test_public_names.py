"""The names that a reader sees: `dir()` of every public module, and suggestions for a name that is misspelled."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

import pytest

from tests.project.package import PACKAGE, modules, parsed


def public_modules() -> list[str]:
    """The package, its direct parts that declare `__all__`, and the errors."""
    found = [
        path
        for path in modules()
        if any(
            "__all__" in [getattr(each, "id", "") for each in getattr(node, "targets", ())]
            for node in parsed(path).body
        )
    ]
    names = [".".join(("olmo_dynamics", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in found]
    direct = {name for each in names if (name := each.removesuffix(".__init__")).count(".") < 2}
    return sorted(direct | {"olmo_dynamics.errors"})


@pytest.mark.parametrize("name", public_modules())
def test_dir_shows_public_names_alone(name: str) -> None:
    module = importlib.import_module(name)
    shown = dir(module)
    expected = getattr(module, "__all__", None) or [
        each for each, value in vars(module).items() if value.__class__ is not ModuleType and
        each[0] != "_" and value.__module__ == name
    ]  # fmt: skip
    assert shown == sorted(expected)
    assert [each for each in shown if each.startswith("_") and each != "__version__"] == []
    for each in shown:
        assert getattr(module, each) is not None


@pytest.mark.parametrize(
    ("module", "name", "near"),
    [("olmo_dynamics", "colect", "collect"), ("olmo_dynamics.plots", "trajectry", "trajectory"),
     ("olmo_dynamics.frames", "co_activatoin", "co_activation"), ("olmo_dynamics.interventions", "open_modle", "open_model")],
)  # fmt: skip
def test_a_misspelled_name_is_suggested(module: str, name: str, near: str) -> None:
    expected = f"^module '{re.escape(module)}' has no attribute '{name}'; did you mean '{near}'\\?$"
    with pytest.raises(AttributeError, match=expected):
        getattr(importlib.import_module(module), name)
