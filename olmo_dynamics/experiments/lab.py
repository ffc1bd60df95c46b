"""The notebooks of the package, copied into a folder where they can be changed.

>>> [path.name for path in place_notebooks("study")][:2]  # doctest: +SKIP
['00_the_story.ipynb', '01_collect_from_the_hub.ipynb']
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import olmo_dynamics
from olmo_dynamics.errors import OptionError

_PACKAGE = Path(olmo_dynamics.__file__).parent


def notebook_folder() -> Path:
    """The folder of the notebooks: in the installed package, or next to it in a checkout."""
    shipped = _PACKAGE / "_notebooks"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "notebooks"


def place_notebooks(out: str | Path) -> list[Path]:
    """Copy the notebooks into `out`, except those already there, and return the new ones.

    Raises:
        OptionError: `out` is a file.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--out must be a folder; {folder} is a file; give another")
    folder.mkdir(parents=True, exist_ok=True)
    placed = []
    for notebook in sorted(notebook_folder().glob("*.ipynb")):
        target = folder / notebook.name
        if not target.exists():
            shutil.copyfile(notebook, target)
            placed.append(target)
    return placed


def open_lab(folder: str | Path) -> None:
    """Start JupyterLab on a folder and wait until it is closed.

    Raises:
        OptionError: JupyterLab is not installed.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise OptionError("JupyterLab is not installed; pip install 'olmo-dynamics[notebooks]'")
    subprocess.run([sys.executable, "-m", "jupyterlab", str(folder)], check=True)
