"""The project as a whole: importing it is cheap, generated pages are fresh, the docs build, no file names a machine."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import olmo_dynamics as od
from olmo_dynamics import quantities
from olmo_dynamics.quantities.declaration import Quantity
from tests.documents.docs_modules import docs_module

ROOT = Path(__file__).resolve().parents[2]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).exists()]


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_the_package_is_cheap() -> None:
    python(
        "import sys, olmo_dynamics\n"
        "heavy = {'torch', 'numpy', 'zarr', 'altair', 'polars', 'numba', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


@pytest.mark.parametrize("package", ["frames", "plots", "store", "checkpoints", "auditing", "lazy_weights"])
def test_stores_tables_and_plots_need_no_torch(package: str) -> None:
    python(f"import sys; sys.modules['torch'] = None; import olmo_dynamics.{package}")


def test_every_public_name_opens_and_is_described() -> None:
    for name in od.__all__:
        opened = getattr(od, name)
        assert name == "__version__" or opened.__doc__, name
    with pytest.raises(AttributeError, match="module 'olmo_dynamics' has no attribute 'nothing'"):
        _ = od.nothing


def test_generated_pages_are_fresh() -> None:
    for page, write in docs_module("generate").PAGES.items():
        assert (ROOT / "docs" / page).read_text(encoding="utf-8") == write(), f"docs/{page} is stale: run make docs"


def test_quantities_are_wholly_described() -> None:
    for quantity in (*quantities.ALL, *quantities.TRAINING.quantities):
        assert isinstance(quantity, Quantity)
        assert all((quantity.long_name, quantity.formula, quantity.source, quantity.unit)), quantity.key
        assert quantity.valid[0] < quantity.valid[1]


def test_the_lock_satisfies_every_declared_dependency() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["notebooks"], *extras["dev"]]
    locked = dict(
        line.split("==") for line in (ROOT / "requirements" / "lock.txt").read_text().splitlines() if "==" in line
    )
    locked = {name.lower().replace("_", "-"): version for name, version in locked.items()}
    for requirement in map(Requirement, declared):
        name = requirement.name.lower().replace("_", "-")
        if name != "olmo-dynamics":
            assert requirement.specifier.contains(locked[name]), requirement


def test_no_file_names_a_machine_or_a_registry() -> None:
    # Spelled in pieces so that this file does not find itself.
    forbidden = re.compile(
        "|".join(["/" + "root/", "/" + "work/", "/" + "opt/pypi", "pypi" + r"\.org", "pythonhosted" + r"\."])
    )
    for path in tracked_files():
        if path.suffix in (".png", ".ipynb", ".gz", ".npy"):
            continue
        found = forbidden.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not found, f"{path.relative_to(ROOT)}: {found and found.group()}"


def test_the_changelog_has_this_version() -> None:
    assert f"## {od.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_docs_build_strictly(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--quiet",
        "--define",
        "html_theme=basic",  # a third faster; test_search builds with the docs' own theme
        "--builder",
        "html",
        "docs",
        str(tmp_path),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    texts = (tmp_path / "page_texts.js").read_text(encoding="utf-8")  # for summaries of search results
    for page in ("reference/glossary.html", "tutorial/00_the_story.html", "explanation/precision.html"):
        assert (tmp_path / page).exists()
        assert f'"{page}": "<div role' in texts
