"""Notebooks as pages of the tutorial: the outputs of an executed copy beside today's text and code."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.conftest import ROOT
from tests.documents.docs_modules import docs_module

PAGES = docs_module("notebook_pages")
PICTURE = base64.b64encode(b"a picture").decode()
CODE = ("quick = False\n2 + 2", "chart", "frame", "explorer")


def shown(kind: str, data: str, **more: str) -> NotebookNode:
    metadata = {"image/png": {"width": 320, "height": 200}} if "image/png" in more else {}
    return new_output("execute_result", data={kind: data, **more}, metadata=metadata, execution_count=1)


OUTPUTS = (
    [new_output("stream", name="stdout", text="read\n"), shown("text/plain", "4")],
    [shown("text/html", "<script>draw()</script>", **{"image/png": PICTURE, "text/plain": "loss\nby step"})],
    [shown("text/html", "<table>\n\n<tr></tr></table>", **{"text/plain": "shape: (1, 1)"})],
    [shown("application/vnd.jupyter.widget-view+json", "", **{"image/png": PICTURE, "text/plain": "Explorer"})],
)
PAGE = """# A title

:::{note}
NOTE
:::

Text that was edited. Next: [Lesson 2](11_lesson_induction.md).

````python
quick = False
2 + 2
````

````text
read
````

````text
4
````

````python
chart
````

```{image} /pictures/07_tiny_2_0.png
:alt: loss by step
:width: 320px
:class: notebook-picture
```

````python
frame
````

````{raw} html
<div class="notebook-output">
<table>

<tr></tr></table>
</div>
````

````python
explorer
````

```{image} /pictures/07_tiny_4_0.png
:alt: Explorer
:width: 320px
:class: notebook-picture
```
"""


def made(path: Path, folder: Path) -> tuple[str, dict[str, bytes]]:
    """The page, its blank lines squeezed, and the pictures."""
    text, pictures = PAGES.page(path, "/pictures", folder=folder)
    return re.sub(r"\n{3,}", "\n\n", text), pictures


def notebook(text: str, *, outputs: bool = False) -> NotebookNode:
    cells = [new_code_cell(source) for source in CODE]
    if outputs:
        cells = [new_code_cell(source, outputs=found) for source, found in zip(CODE, OUTPUTS, strict=True)]
    return new_notebook(cells=[new_markdown_cell(f"# A title\n\n{text}"), *cells])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    nbformat.write(
        notebook("Text that was edited. Next: [Lesson 2](11_lesson_induction.ipynb)."), tmp_path / "07_tiny.ipynb"
    )
    return tmp_path / "07_tiny.ipynb"


def test_outputs_of_the_executed_copy_are_shown(path: Path, tmp_path: Path) -> None:
    PAGES.keep(path, notebook("Old text.", outputs=True), quick=False, note="A stand-in.", folder=tmp_path / "executed")
    text, pictures = made(path, tmp_path / "executed")
    assert text == PAGE.replace("NOTE", f"{PAGES.FULL} A stand-in.")
    assert pictures == {"07_tiny_2_0.png": b"a picture", "07_tiny_4_0.png": b"a picture"}


def test_a_page_without_a_copy_of_its_code_says_so(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "executed"
    expected = PAGE.split("````text", maxsplit=1)[0].rstrip("\n").replace("NOTE", PAGES.ABSENT)
    assert made(path, folder)[0].startswith(expected)
    PAGES.keep(path, notebook("Old text.", outputs=True), quick=True, folder=folder)
    assert PAGES.QUICK in made(path, folder)[0]
    changed = nbformat.read(path, as_version=4)
    changed.cells[1].source = "2 + 3"
    nbformat.write(changed, path)
    text, pictures = made(path, folder)
    assert PAGES.ABSENT in text
    assert pictures == {}


def test_a_quick_copy_does_not_replace_a_full_one(path: Path, tmp_path: Path) -> None:
    for quick in (True, False, True):
        PAGES.keep(path, notebook("", outputs=True), quick=quick, folder=tmp_path / "executed")
    assert PAGES.FULL in made(path, tmp_path / "executed")[0]


def test_every_notebook_has_a_page_with_its_title() -> None:
    found = {path.stem: nbformat.read(path, as_version=4).cells[0].source for path in PAGES.NOTEBOOKS.glob("*.ipynb")}
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "tutorial").glob("[0-9]*.md")}
    assert {name: text.splitlines()[0] for name, text in pages.items()} == {
        name: text.splitlines()[0] for name, text in found.items()
    }
    for name, text in pages.items():
        assert f"(../../notebooks/{name}.ipynb)" in text
