"""One HTML file that holds a whole report: findings, a timeline, text, pictures, and the code that draws them.

The file needs no network: Vega and its parts are written into it, and its content-security policy forbids loading
anything. Every foreign string (names of repos, revisions, tensors) is escaped, and scripts run only if their hash is in
the policy, so a name that looks like HTML stays a name. Charts share their data column by column, and each is drawn when a
reader scrolls to it.

    >>> from olmo_dynamics.plots.page import Section, page
    >>> sections = [Section("Loss", chart, captions.LOSS)]  # doctest: +SKIP
    >>> html = page("OLMo 2 1B", sections, facts={"source": "allenai/OLMo-2-0425-1B"})  # doctest: +SKIP
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby
from string import Template
from typing import Any

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.display import allowed_hash, page_libraries
from olmo_dynamics.plots.pages.figure_parts import drawing, figure
from olmo_dynamics.plots.pages.shared_columns import Columns, harmless
from olmo_dynamics.plots.theme import AnyChart

_SCRIPTS = (
    "page_rows.js",
    "page_time.js",
    "page_fit.js",
    "page_selections.js",
    "page_names.js",
    "page_save.js",
    "start.js",
)


@dataclass(frozen=True, slots=True)
class Section:
    """One picture of a report: its heading, the chart and the caption, and the chapter that holds it.

    `made` is the chart in Vega-Lite, where it was made before.
    """

    title: str
    chart: AnyChart
    caption: Caption
    chapter: str = ""
    made: dict[str, Any] | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The chart in Vega-Lite."""
        return self.chart.to_dict(validate=False) if self.made is None else self.made


@dataclass(frozen=True, slots=True)
class HeadLine:
    """A sentence at the head of a report: a remark about it, the title of the section that shows it, and a small picture.

    The picture is SVG as `small_curve` writes it.
    """

    sentence: str
    remark: str = ""
    title: str = ""
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """The first screen of a report: sentences about the run and the measurement, findings, and the timeline of the training."""

    sentences: Sequence[str] = ()
    findings: Sequence[HeadLine] = ()
    timeline: AnyChart | None = None


def page(
    title: str, sections: Sequence[Section], *, facts: Mapping[str, str], head: Head | None = None, x: str = "step"
) -> str:
    """The report as one self-contained HTML text: its head, the sections by chapter, and `facts` at its end.

    Sections of one chapter stand together, in the order in which they are given. `x` is the time axis that the charts have.

    Raises:
        OptionError: there is no section.
    """
    if not sections:
        raise OptionError("page() needs at least one section (got none); draw a chart first")
    told, template = head or Head(), Template(page_part("page.html"))
    libraries, start, columns = page_libraries(), "\n".join(map(page_part, _SCRIPTS)), Columns()
    timeline = _timeline(told.timeline, columns)
    chapters = [(name, list(held)) for name, held in groupby(enumerate(sections), key=lambda each: each[1].chapter)]
    drawn = "\n".join(_chapter(place, name, held, columns) for place, (name, held) in enumerate(chapters))
    return template.substitute(
        policy=f"default-src 'none'; script-src {allowed_hash(libraries)} {allowed_hash(start)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        title=html.escape(title),
        style=page_part("page.css"),
        sentences="\n".join(f'<p class="lede">{html.escape(each)}</p>' for each in told.sentences),
        findings=_findings(told.findings, sections),
        timeline=timeline,
        contents="\n".join(_listed(place, name, held) for place, (name, held) in enumerate(chapters)),
        steps="" if x == "tokens" else " selected",
        tokens=("" if "tokens" in columns.known else " disabled") + (" selected" if x == "tokens" else ""),
        sections=drawn,
        facts="\n".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items()),
        columns=harmless(f"[{','.join(columns.written)}]"),
        libraries=libraries,
        start=start,
    )


def _chapter(place: int, name: str, held: Sequence[tuple[int, Section]], columns: Columns) -> str:
    heading = f'<h2 id="chapter-{place}">{html.escape(name)}</h2>\n' if name else ""
    drawn = "\n".join(figure(str(number), each.title, each.spec, each.caption, columns) for number, each in held)
    named = f' aria-labelledby="chapter-{place}"' if name else ""
    return f'<section class="chapter"{named}>\n{heading}<div class="figures">\n{drawn}\n</div>\n</section>'


def _listed(place: int, name: str, held: Sequence[tuple[int, Section]]) -> str:
    """The entries of a chapter in the list of contents."""
    links = "\n".join(f'<li><a href="#section-{number}">{html.escape(each.title)}</a></li>' for number, each in held)
    return f'<li><a href="#chapter-{place}">{html.escape(name)}</a>\n<ol>\n{links}\n</ol></li>' if name else links


def _timeline(chart: AnyChart | None, columns: Columns) -> str:
    if chart is None:
        return ""
    drawn = drawing("timeline", "Timeline of the training", chart.to_dict(validate=False), columns)
    return (
        f'<section class="timeline" aria-labelledby="timeline">\n<h2 id="timeline">Timeline</h2>\n{drawn}\n</section>'
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
    known = line.title in places
    shown = f' <a href="#section-{places[line.title]}">{html.escape(line.title)}</a>' if known else ""
    return f"{line.picture}{html.escape(line.sentence)}{remark}{shown}"


@cache
def page_part(name: str) -> str:
    """A file of this package's `static` folder."""
    return files("olmo_dynamics.plots").joinpath("static", name).read_text(encoding="utf-8")
