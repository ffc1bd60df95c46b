"""The figures of a page as HTML: heading, sentence, chart, and the details below it.

>>> from olmo_dynamics.plots.captions import LOSS
>>> about(LOSS, Words()).startswith('<details class="about">')
True
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.pages.formula_markup import typeset
from olmo_dynamics.plots.pages.shared_columns import Columns, harmless
from olmo_dynamics.plots.theme import AXES, WORDS

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_MANY_PANELS = 4  # more of them take the whole width of a page


@dataclass(frozen=True, slots=True)
class Words:
    """The words that a chart carries about itself: formulas, the lines of its subtitle, the titles of shared axes, and a sentence
    with its numbers."""

    formulas: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    axes: str = ""
    said: str = ""

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Words:
        """The words in a chart's spec."""
        held = (spec.get("usermeta") or {}).get(WORDS) or {}
        return cls(
            tuple(held.get("formulas", ())), tuple(held.get("lines", ())), held.get(AXES, ""), held.get("said", "")
        )


def figure(number: str, title: str, spec: dict[str, Any], caption: Caption, columns: Columns) -> str:
    """One figure: its heading names it, so the chart's own title is left out; its formulas stand below it, typeset."""
    words = Words.of(spec)
    said = f'\n<p class="said">{html.escape(words.said)}</p>' if words.said else ""
    return f"""<article class="{shape(spec)}" id="section-{number}" aria-labelledby="heading-{number}">
<h3 id="heading-{number}">{html.escape(title)}</h3>{said}
{drawing(number, title, spec, columns)}
{about(caption, words)}
</article>"""


def drawing(number: str, title: str, spec: dict[str, Any], columns: Columns) -> str:
    """The place of a chart, and its spec for the script that draws it there."""
    return f"""<figure><div class="chart" id="chart-{number}" role="group" aria-label="{html.escape(title)}"></div></figure>
<script type="application/json" id="spec-{number}">{_json(spec, columns)}</script>"""


def about(caption: Caption, words: Words) -> str:
    """The formulas, the lines about the data, how to read the figure, and its sources."""
    formulas = "".join(f"<p>{typeset(formula)}</p>" for formula in words.formulas)
    lines = "".join(f"<p>{html.escape(_told(line))}</p>" for line in words.lines if line)
    read = f"<p>{html.escape(caption.text)}</p>" if caption.text else ""
    sources = f"<p>Sources: {'; '.join(map(_linked, caption.sources))}.</p>" if caption.sources else ""
    return (
        f'<div class="formulas">{formulas}{lines}</div>\n' if formulas or lines else ""
    ) + f'<details class="about"><summary>How to read it</summary>{read}{sources}</details>'


def _told(line: str) -> str:
    """A line with the capital and the stop of a sentence; one that begins with a symbol keeps its letter."""
    first = line.split(maxsplit=1)[0]
    capital = line[:1].upper() if len(first) > 1 and first.isalpha() else line[:1]
    return capital + line[1:] + ("" if line.rstrip().endswith((".", "!", "?")) else ".")


def shape(spec: Mapping[str, Any]) -> str:
    """The class that says how much of a page's width a figure takes."""
    if "facet" in spec:
        split = spec["facet"]
        panels = len(split.get("sort") or ()) if "field" in split else _MANY_PANELS + 1
        return "figure whole" if panels > _MANY_PANELS else "figure double" if panels > 1 else "figure"
    if "vconcat" in spec and any("facet" in part for part in spec["vconcat"]):
        return "figure whole"
    if isinstance(spec.get("mark"), dict) and spec["mark"].get("type") == "text":  # the reason why there is no chart
        return "figure double"
    beside = len(spec.get("concat") or spec.get("hconcat") or ())
    return "figure double" if beside > 1 else "figure"


def _json(spec: dict[str, Any], columns: Columns) -> str:
    """The chart's spec without its title, its data left to the page's columns."""
    bare = {name: part for name, part in spec.items() if name not in ("title", "description")}
    axes = Words.of(spec).axes
    if axes:  # panels without titles of their own
        bare["title"] = {"text": axes, "anchor": "start", "fontSize": 12, "fontWeight": "normal", "offset": 16}
    bare["usermeta"] = {name: part for name, part in spec.get("usermeta", {}).items() if name != WORDS}
    bare["datasets"] = {name: columns.add(rows) for name, rows in spec.get("datasets", {}).items()}
    return harmless(json.dumps(bare, separators=(",", ":"), allow_nan=False))


def _linked(source: str) -> str:
    """A source's text, escaped, with its arXiv number as a link."""
    return _ARXIV.sub(r'<a href="https://arxiv.org/abs/\1" rel="noreferrer">arXiv:\1</a>', html.escape(source))
