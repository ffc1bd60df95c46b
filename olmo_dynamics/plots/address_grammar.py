"""altair, imported without a grammar that takes seconds to build and that no chart needs.

altair imports jsonschema, and jsonschema imports `rfc3987_syntax` where that package is installed, as JupyterLab installs it.
It builds its whole grammar of internationalised addresses at once. Here the grammar waits until an address is checked.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

GRAMMAR = "rfc3987_syntax"


class LateGrammar(ModuleType):
    """Stands for the package of the grammar while jsonschema is imported."""

    @staticmethod
    def is_valid_syntax(rule: str, text: str) -> bool:
        """True if the text is of the grammar's rule; imports the package."""
        return bool(import_module(GRAMMAR).is_valid_syntax(rule, text))


def import_altair() -> None:
    """Import altair; afterwards the package of the grammar can be imported as ever."""
    if "jsonschema" in sys.modules or GRAMMAR in sys.modules or find_spec(GRAMMAR) is None:
        return
    sys.modules[GRAMMAR] = LateGrammar(GRAMMAR)
    try:
        import_module("altair")
    finally:
        del sys.modules[GRAMMAR]


import_altair()
