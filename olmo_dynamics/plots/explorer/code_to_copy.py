"""The three lines of code below an explored picture, with a button that copies them; it needs anywidget."""

from __future__ import annotations

from importlib.resources import files

import anywidget
import traitlets


class CodeToCopy(anywidget.AnyWidget):
    """A button, and the code that it puts on the clipboard."""

    _esm = files("olmo_dynamics.plots.explorer").joinpath("static", "code_to_copy.js").read_text(encoding="utf-8")
    code = traitlets.Unicode().tag(sync=True)
