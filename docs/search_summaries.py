"""Summaries of search results for docs that are opened from a disk.

Sphinx's search page fetches each page that it found, to show the words around a match. A browser forbids that for files. So
the texts of all pages are written into one script, from which `_static/search_summaries.js` answers instead.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SCRIPT = "page_texts.js"


def page_text(doctree: nodes.document) -> str:
    """The text of a page as plain HTML, in which each section is found by its anchor."""
    parts = []
    for section in doctree.findall(nodes.section):
        own = (child for child in section.children if not isinstance(child, nodes.section | nodes.raw))
        text = "\n".join(child.astext() for child in own)
        anchors = "".join(f'<i id="{html.escape(name)}"></i>' for name in section["ids"][1:])
        parts.append(f'<div id="{html.escape(section["ids"][0])}">{html.escape(text, quote=False)}\n</div>{anchors}')
    return f'<div role="main">{"".join(parts)}</div>'


def write_texts(app: Sphinx, error: Exception | None) -> None:
    """Write the script beside the pages."""
    if error is not None or app.builder.format != "html":
        return
    texts = {
        app.builder.get_target_uri(name): page_text(app.env.get_doctree(name)) for name in sorted(app.env.found_docs)
    }
    script = f"takePageTexts({json.dumps(texts, ensure_ascii=False)});\n"
    Path(app.outdir, SCRIPT).write_text(script, encoding="utf-8")


def add_script(app: Sphinx, page: str, *_: object) -> None:
    """Load the answering script on the search page alone."""
    if page == "search":
        app.add_js_file("search_summaries.js")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("html-page-context", add_script)
    app.connect("build-finished", write_texts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
