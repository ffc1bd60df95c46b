"""Sphinx settings: MyST pages, built strictly (warnings are errors); notebooks and summaries of search results are added here."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.addnodes import desc_content
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

project = "olmo_dynamics"
author = "The olmo_dynamics authors"
copyright = "The olmo_dynamics authors, Apache-2.0"
release = version = installed_version("olmo-dynamics")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "notebook_pages", "search_summaries"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = False
html_theme = "furo"
html_title = f"olmo_dynamics {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True


def keep_bars(app: Sphinx, kind: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Let |x| in a docstring stand for a magnitude, not for a substitution."""
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else line.replace("|", "\\|") for line in lines]


def leave_out_of_contents(app: Sphinx, domain: str, kind: str, content: desc_content) -> None:
    """Name each plot once in the contents of its page, where it has a heading."""
    if app.env.docname.startswith("reference/plots/"):
        content.parent["no-contents-entry"] = True


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.connect("autodoc-process-docstring", keep_bars)
    app.connect("object-description-transform", leave_out_of_contents)
