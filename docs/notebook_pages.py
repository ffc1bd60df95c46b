"""Notebooks as pages of the tutorial: the text and code of `notebooks/`, with the outputs of the copy that was executed last.

    python docs/notebook_pages.py      # names the notebooks that were not executed yet; ends with 1 if there are any

Executed copies lie in `cache/notebooks`, where the tests that execute the notebooks leave them: `make notebooks` for the quick
size, `make tutorial` for the full one. A copy counts while its code is that of the notebook. A page without one shows text
and code alone, and says so.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbconvert import MarkdownExporter
from nbformat import NotebookNode
from traitlets.config import Config

from olmo_dynamics.files import write_atomic

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent
NOTEBOOKS = DOCS.parent / "notebooks"
EXECUTED = DOCS.parent / "cache" / "notebooks"
ABSENT = "This notebook was not executed yet, so it has no outputs here; `make notebooks` executes all of them."
QUICK = (
    "The outputs below are of the quick size (`quick = True`), whose runs are short and show little; `make tutorial` "
    "draws the full ones. Menus and sliders are in the notebook itself: `olmo-dyn lab`."
)
FULL = "To change this notebook, and to use its menus and sliders, open it with `olmo-dyn lab`."


def read(path: Path) -> NotebookNode:
    """A notebook of this repository, or an executed copy."""
    return nbformat.read(path, as_version=4)


def code_digest(notebook: NotebookNode) -> str:
    """A hash of the code, whatever the text around it."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def keep(path: Path, executed: NotebookNode, *, quick: bool, note: str = "", folder: Path = EXECUTED) -> None:
    """Keep the executed copy of the notebook at `path`; a full one is not replaced by a quick one of the same code."""
    kept = _copy_of(path, folder)
    if quick and kept is not None and not kept.metadata.olmo_dynamics.quick:
        return
    executed.metadata["olmo_dynamics"] = {"code": code_digest(read(path)), "quick": quick, "note": note}
    text = nbformat.writes(executed)
    write_atomic(folder / path.name, text.encode(), partial=folder / f".{path.name}.partial")


def _copy_of(path: Path, folder: Path) -> NotebookNode | None:
    """The executed copy, if its code is still that of the notebook."""
    if not (folder / path.name).is_file():
        return None
    kept = read(folder / path.name)
    return kept if kept.metadata.olmo_dynamics.code == code_digest(read(path)) else None


def page(path: Path, pictures: str, *, folder: Path = EXECUTED) -> tuple[str, dict[str, bytes]]:
    """A notebook as a MyST page, and its pictures by their names, which the page expects in the folder `pictures`."""
    notebook, kept = read(path), _copy_of(path, folder)
    note = ABSENT
    if kept is not None:
        about = kept.metadata.olmo_dynamics
        note = f"{QUICK if about.quick else FULL} {about.note}".strip()
        outputs = iter([cell.outputs for cell in kept.cells if cell.cell_type == "code"])
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = next(outputs)
    text, resources = _exporter().from_notebook_node(notebook, {"unique_key": path.stem, "pictures": pictures})
    title, _, rest = text.strip().partition("\n")
    rest = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](\1.md)", rest)
    return f"{title}\n\n:::{{note}}\n{note}\n:::\n{rest}\n", dict(resources["outputs"])


@cache
def _exporter() -> MarkdownExporter:
    """nbconvert's exporter with a template that writes MyST: pictures before HTML, HTML before text."""
    order = ["image/png", "text/html", "text/markdown", "text/plain"]
    config = Config({"NbConvertBase": {"display_data_priority": order}})
    return MarkdownExporter(config=config, extra_template_basedirs=[str(DOCS)], template_name="notebook_page")


def show(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the notebook in the place of its page's source."""
    path = NOTEBOOKS / f"{Path(name).name}.ipynb"
    if not name.startswith("tutorial/") or not path.exists():
        return
    folder = Path(app.doctreedir, "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    source[0], pictures = page(path, f"/{Path(os.path.relpath(folder, app.srcdir)).as_posix()}")
    for file, data in pictures.items():
        (folder / file).write_bytes(data)
    for each in (path, EXECUTED / path.name):
        app.env.note_dependency(str(each))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("source-read", show)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def main() -> int:
    """Name the notebooks that have no executed copy."""
    absent = [path.name for path in sorted(NOTEBOOKS.glob("*.ipynb")) if _copy_of(path, EXECUTED) is None]
    if absent:
        print(f"not executed yet: {', '.join(absent)}")
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
