"""The live page: one HTML text that holds all its code, and asks its own server for the state alone.

Its content-security policy lets it run these scripts and connect to its own server, and nothing else.
"""

from __future__ import annotations

import html
from functools import cache
from importlib.resources import files
from string import Template

from olmo_dynamics.plots.display import allowed_hash, page_libraries
from olmo_dynamics.plots.page import page_part


def live_page(title: str) -> str:
    """The page of a store or run by that name."""
    shared = (page_part(name) for name in ("page_selections.js", "page_names.js"))
    start = "\n".join(('"use strict";', *shared, _part("live.js")))
    libraries = page_libraries()
    policy = (
        f"default-src 'none'; script-src {allowed_hash(libraries)} {allowed_hash(start)}; style-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return Template(_part("live.html")).substitute(
        policy=policy, title=html.escape(title), style=_part("live.css"), libraries=libraries, start=start
    )


@cache
def _part(name: str) -> str:
    """A file of this package's `static` folder."""
    return files("olmo_dynamics.reporting.watching").joinpath("static", name).read_text(encoding="utf-8")
