"""One HTML file that holds a whole report: text, pictures, and the code that draws them.

The file needs no network: Vega and its parts are written into it, and its content-security policy forbids loading
anything. Every foreign string (names of repos, revisions, tensors) is escaped, and scripts run only if their hash is in
the policy, so a name that looks like HTML stays a name. Charts share their data column by column.

    >>> from olmo_dynamics.plots.page import Section, page
    >>> sections = [Section("Loss", chart, captions.LOSS)]  # doctest: +SKIP
    >>> html = page("OLMo 2 1B", sections, facts={"source": "allenai/OLMo-2-0425-1B"})  # doctest: +SKIP
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.display import vega_script
from olmo_dynamics.plots.theme import AnyChart

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


@dataclass(frozen=True, slots=True)
class Section:
    """One picture of a report: its heading, the chart and the caption."""

    title: str
    chart: AnyChart
    caption: Caption


@dataclass(frozen=True, slots=True)
class HeadLine:
    """A sentence at the head of a report: a remark about it, and the title of the section that shows it, if one does."""

    sentence: str
    remark: str = ""
    title: str = ""


class Columns:
    """The distinct columns of a page's charts, each written once however many charts share it.

    Charts of one table have most columns in common, and a column of names has few distinct values, so a page of many charts
    stays small. The page's script turns columns back into rows.

        >>> columns = Columns()
        >>> columns.add([{"step": 0, "role": "norm"}, {"step": 10, "role": "norm"}, {"step": 20, "role": "norm"}])
        {'rows': 3, 'columns': {'step': 0, 'role': 1}}
        >>> columns.written
        ['[0,10,20]', '{"of":["norm"],"at":[0,0,0]}']
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def add(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Take the columns of a chart's rows; returns the number of rows, and of each column by its name.

        A value that a row lacks is null.
        """
        names = list(dict.fromkeys(name for row in rows for name in row))
        texts = (_written([row.get(name) for row in rows]) for name in names)
        numbers = (self._numbers.setdefault(text, len(self._numbers)) for text in texts)
        return {"rows": len(rows), "columns": dict(zip(names, numbers, strict=True))}

    @property
    def written(self) -> list[str]:
        """The columns' JSON texts."""
        return list(self._numbers)


def _written(values: list[Any]) -> str:
    """A column: its values, or its distinct values and the place of each row's among them if they are few."""
    distinct: dict[tuple[type, Any], int] = {}
    places = [distinct.setdefault((type(value), value), len(distinct)) for value in values]
    of = [value for _, value in distinct]
    column = {"of": of, "at": places} if 2 * len(of) <= len(values) else values
    return json.dumps(column, separators=(",", ":"), allow_nan=False)


def page(
    title: str, sections: Sequence[Section], *, facts: Mapping[str, str], findings: Sequence[HeadLine] = ()
) -> str:
    """The report as one self-contained HTML text, with `facts` in their order and then `findings` at its top.

    Raises:
        OptionError: there is no section.
    """
    if not sections:
        raise OptionError("page() needs at least one section (got none); draw a chart first")
    template = Template(_part("page.html"))
    libraries, start, columns = _libraries(), _part("start.js"), Columns()
    drawn = "\n".join(_section(index, section, columns) for index, section in enumerate(sections))
    return template.substitute(
        policy=f"default-src 'none'; script-src {_allowed(libraries)} {_allowed(start)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        title=html.escape(title),
        style=_part("page.css"),
        facts="\n".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items()),
        findings=_findings(findings, sections),
        contents="\n".join(
            f'<li><a href="#section-{index}">{html.escape(section.title)}</a></li>'
            for index, section in enumerate(sections)
        ),
        sections=drawn,
        columns=_harmless(f"[{','.join(columns.written)}]"),
        libraries=libraries,
        start=start,
    )


def _findings(findings: Sequence[HeadLine], sections: Sequence[Section]) -> str:
    """The findings as a list, each linked to the first section of its title; then those without a remark as plain text."""
    places = {section.title: index for index, section in reversed(list(enumerate(sections)))}
    items = "\n".join(f"<li>{_head_line(each, places)}</li>" for each in findings if each.remark)
    told = [f"<ol>\n{items}\n</ol>"] if items else []
    told += [f"<p>{_head_line(each, places)}</p>" for each in findings if not each.remark]
    if not told:
        return ""
    return "\n".join(['<section class="findings" aria-label="Findings">\n<h2>Findings</h2>', *told, "</section>"])


def _head_line(line: HeadLine, places: Mapping[str, int]) -> str:
    remark = f' <span class="remark">({html.escape(line.remark)})</span>' if line.remark else ""
    plot = f' <a href="#section-{places[line.title]}">Plot</a>' if line.title in places else ""
    return f"{html.escape(line.sentence)}{remark}{plot}"


def _section(index: int, section: Section, columns: Columns) -> str:
    sources = f"Sources: {'; '.join(map(_linked, section.caption.sources))}." if section.caption.sources else ""
    return f"""<section id="section-{index}" aria-labelledby="heading-{index}">
<h2 id="heading-{index}">{html.escape(section.title)}</h2>
<p>{html.escape(section.caption.text)}</p>
<figure><div class="chart" id="chart-{index}"></div></figure>
<script type="application/json" id="spec-{index}">{_json(section.chart, columns)}</script>
<p class="sources">{sources}</p>
</section>"""


def _json(chart: AnyChart, columns: Columns) -> str:
    """The chart's spec, its data left to the page's columns."""
    spec = chart.to_dict(validate=False)  # its parts were checked when they were made
    spec["datasets"] = {name: columns.add(rows) for name, rows in spec.get("datasets", {}).items()}
    return _harmless(json.dumps(spec, separators=(",", ":"), allow_nan=False))


def _harmless(text: str) -> str:
    """JSON text with no character that could end a script element."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _linked(source: str) -> str:
    """A source's text, escaped, with its arXiv number as a link."""
    return _ARXIV.sub(r'<a href="https://arxiv.org/abs/\1" rel="noreferrer">arXiv:\1</a>', html.escape(source))


def _allowed(script: str) -> str:
    """The hash by which the policy allows one script to run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _libraries() -> str:
    return vega_script("window.vegaEmbed = vegaEmbed;")


@cache
def _part(name: str) -> str:
    """A file of this package's `static` folder."""
    return files("olmo_dynamics.plots").joinpath("static", name).read_text(encoding="utf-8")
