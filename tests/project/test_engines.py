"""One module imports ray, when it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys

from tests.conftest import ROOT
from tests.project.package import PACKAGE, modules, parsed


def test_one_module_imports_ray_and_none_at_its_top() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        for node in ast.walk(parsed(path))
        for name in imported(node)
        if name.partition(".")[0] == "ray"
    }
    assert found == {"collection/engines/ray_engine.py"}
    code = "import sys, olmo_dynamics.collecting, olmo_dynamics.collection.engines.ray_engine\nassert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [each.name for each in node.names]
    return [str(node.module)] if isinstance(node, ast.ImportFrom) else []
