"""The room's door: lazy, and plain about what is missing."""

import subprocess
import sys

import pytest


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_opens_without_nnsight():
    python(
        "import sys; sys.modules['nnsight'] = None; import olmo_dynamics as od\n"
        "try: od.interventions\n"
        "except od.OlmoDynamicsError as error: said = f'{type(error).__name__}: {error}'\n"
        'assert said == "OptionError: interventions need nnsight; this Python has no nnsight: '
        "pip install 'olmo-dynamics[notebooks]'\", said"
    )


@pytest.mark.parametrize("room", ["plots", "loading", "collection"])
def test_no_other_room_imports_nnsight(room):
    python(f"import sys, olmo_dynamics.{room}; assert 'nnsight' not in sys.modules")
