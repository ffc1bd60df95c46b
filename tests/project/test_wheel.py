"""A wheel of the repository, installed where no checkout is near: its commands run from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT

COMMANDS = (
    ["olmo-dyn", "--version"],
    ["olmo-dyn", "demo"],
    ["olmo-dyn", "report", "cache/demo/store.zarr", "--out", "own.html"],
    ["olmo-dyn", "show", "cache/demo/store.zarr"],
    ["olmo-dyn", "lab", "--out", "lab", "--no-open"],
    ["python", "-c", "import olmo_dynamics; print(olmo_dynamics.__file__)"],
)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The wheel, built as `pip install` builds it."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "hatchling" in built.stderr:
        pytest.skip(f"the build backend cannot be fetched: {built.stderr.splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    [found] = tmp_path.glob("*.whl")
    return found


@pytest.fixture
def environment(tmp_path: Path, wheel: Path) -> Path:
    """A new environment with the wheel; the packages that it depends on are those of this environment."""
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = place / "lib" / version / "site-packages" / "borrowed.pth"
    borrowed.write_text(
        sysconfig.get_paths()["purelib"], encoding="utf-8"
    )  # an editable install's own .pth is not read
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--force-reinstall", "--no-index", str(wheel)], check=True)
    return place


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_of_a_wheel_run_from_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OLMO_DYNAMICS_CACHE")}
    shell = kept | {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    printed = ""
    for command in COMMANDS:
        ran = subprocess.run(command, cwd=study, env=shell, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{command}: {ran.stderr}"
        printed = ran.stdout
    assert Path(printed.strip()).is_relative_to(environment)
    assert (study / "own.html").stat().st_size > 1_000_000
    assert sorted(path.name for path in (study / "lab").glob("*.ipynb")) == sorted(
        path.name for path in (ROOT / "notebooks").glob("*.ipynb")
    )
