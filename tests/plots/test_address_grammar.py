"""The grammar of addresses, which altair would load and no chart needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

GRAMMAR = """
print("loaded")


def is_valid_syntax(rule, text):
    return (rule, text) == ("iri", "http://a.example/")
"""

PROGRAM = """
import olmo_dynamics.plots
from jsonschema import FormatChecker

print("drawn")
print([FormatChecker().conforms(text, "iri") for text in ("http://a.example/", "no address")])
import rfc3987_syntax
print(rfc3987_syntax.is_valid_syntax("iri", "other"))
"""


def test_the_grammar_is_loaded_when_an_address_is_checked(tmp_path: Path) -> None:
    (tmp_path / "rfc3987_syntax.py").write_text(GRAMMAR)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n") == ["drawn", "loaded", "[True, False]", "False", ""]
