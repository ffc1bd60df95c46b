"""The accessibility of a page in a browser, as axe-core finds it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from playwright.sync_api import Page

from olmo_dynamics.plots.page import page_part

_FOUND = find_spec("axe_playwright_python")

needs_axe = pytest.mark.skipif(_FOUND is None, reason="no axe-core: pip install axe-playwright-python")

_RUN = """() => axe.run().then(({ violations }) => violations.filter(({ impact }) => ["serious", "critical"].includes(impact))
  .flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 200)} ${failureSummary}`)))"""


def faults(page: Page) -> list[str]:
    """The serious and critical faults of a page, in both schemes of colours."""
    assert _FOUND is not None and _FOUND.origin is not None
    page.evaluate((Path(_FOUND.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
    found: list[str] = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found += [f"{scheme}: {each}" for each in page.evaluate(_RUN)]
    page.emulate_media(color_scheme="light")
    return found


def schemes() -> dict[str, dict[str, str]]:
    """The colours of a report by their names, in the light and in the dark."""
    found = []
    for block in re.findall(r":root \{([^}]*)\}", page_part("page.css"))[:2]:
        named = re.findall(r"--(\w+): #([0-9a-f]{6}|[0-9a-f]{3});", block)
        found.append(
            {name: "#" + (color if len(color) == 6 else "".join(2 * digit for digit in color)) for name, color in named}
        )
    return {"light": found[0], "dark": found[0] | found[1]}
