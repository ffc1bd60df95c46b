"""Objects as HTML for notebooks: facts, tables and timelines in which all text is escaped.

Names of repos, revisions and tensors come from files, so every word passes through `html.escape`. Nothing is loaded from
elsewhere, there are no scripts, and each element carries its style.

>>> "&lt;b&gt;" in shown("A run", {"source": "<b>"})
True
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


class Html(str):
    """Text that is HTML already, with its words escaped."""

    __slots__ = ()


Cell = str | int | tuple[str, str]
"""A cell of a table: text, HTML as `Html`, or text and the words that appear when it is pointed at."""

_QUIET = "opacity:0.7"
_LEFT = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"
_WIDTH, _HEIGHT, _EDGE = 360, 14, 3
"""Width and height of a timeline in pixels, and the space at its ends."""


def shown(title: str, facts: Mapping[str, object], *parts: Html) -> Html:
    """A title, facts one per line, and further parts."""
    inside = [Html(f'<div style="font-weight:600;margin-bottom:4px">{escape(title)}</div>'), _facts(facts), *parts]
    return Html(f'<div class="olmo-dynamics">{"".join(inside)}</div>')


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Html:
    """A table, with a header if there is one; nothing if there are no rows."""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    if not body:
        return Html()
    names = "".join(f'<th style="{_LEFT};{_QUIET};font-weight:normal">{escape(name)}</th>' for name in header)
    head = f"<thead><tr>{names}</tr></thead>" if names else ""
    return Html(f'<table style="margin-top:6px">{head}<tbody>{body}</tbody></table>')


def hovers(words: Mapping[str, str]) -> Html:
    """Names in a line, each with the words that appear when it is pointed at."""
    each = (
        f'<span title="{escape(told)}" style="border-bottom:1px dotted">{escape(name)}</span>'
        for name, told in words.items()
    )
    return Html(", ".join(each))


def strip(places: Iterable[float], label: str) -> Html:
    """A timeline: a line from 0 to 1 with a tick at each place, named `label` for readers who do not see it."""
    width, middle = _WIDTH - 2 * _EDGE, _HEIGHT // 2
    across = (f"{_EDGE + width * place:.1f}" for place in places)
    ticks = "".join(f'<line x1="{x}" x2="{x}" y1="1" y2="{_HEIGHT - 1}"/>' for x in across)
    return Html(
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{escape(label)}" stroke="currentColor">'
        f'<line x1="{_EDGE}" x2="{_WIDTH - _EDGE}" y1="{middle}" y2="{middle}" opacity="0.3"/>{ticks}</svg>'
    )


def as_text(title: str, facts: Mapping[str, object]) -> str:
    """The same for a terminal: the title, then facts one per line."""
    width = max(map(len, facts), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in facts.items())])


def _facts(facts: Mapping[str, object]) -> Html:
    rows = "".join(
        f'<tr><td style="{_LEFT};{_QUIET}">{escape(name)}</td><td style="{_LEFT}">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return Html(f"<table><tbody>{rows}</tbody></table>" if rows else "")


def _cell(cell: Cell) -> str:
    if isinstance(cell, tuple):
        text, words = cell
        inside = f'<span title="{escape(words)}">{escape(text)}</span>'
    else:
        inside = cell if isinstance(cell, Html) else escape(str(cell))
    return f'<td style="{_LEFT}">{inside}</td>'
