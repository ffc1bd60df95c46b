"""Importing the package: lazily, and with a plain error if nnsight is missing."""

import subprocess
import sys

import pytest


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_opens_without_nnsight():
    python(
        "import sys; sys.modules['nnsight'] = None; import olmo_dynamics as od\n"
        "try: od.interventions\n"
        "except od.OlmoDynamicsError as error: message = f'{type(error).__name__}: {error}'\n"
        'assert message == "OptionError: interventions need nnsight; this Python has no nnsight: '
        "pip install 'olmo-dynamics[notebooks]'\", message"
    )


@pytest.mark.parametrize("room", ["plots", "loading", "collection"])
def test_no_other_package_imports_nnsight(room):
    python(f"import sys, olmo_dynamics.{room}; assert 'nnsight' not in sys.modules")
