"""Sphinx settings: MyST pages, built strictly (warnings are errors)."""

from importlib.metadata import version as installed_version

project = "olmo_dynamics"
author = "The olmo_dynamics authors"
copyright = "The olmo_dynamics authors, Apache-2.0"
release = version = installed_version("olmo-dynamics")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = False
html_theme = "furo"
html_title = f"olmo_dynamics {release}"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
