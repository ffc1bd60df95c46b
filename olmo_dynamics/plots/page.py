"""One HTML file that holds a whole report: text, pictures, and the code that draws them.

The file needs no network: Vega and its parts are written into it, and its content-security policy forbids loading
anything. Every foreign string (names of repos, revisions, tensors) is escaped, and scripts run only if their hash is in
the policy, so a name that looks like HTML stays a name.

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

import altair as alt

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.theme import AnyChart

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


@dataclass(frozen=True, slots=True)
class Section:
    """One picture of a report: its heading, the chart and the caption."""

    title: str
    chart: AnyChart
    caption: Caption


def page(title: str, sections: Sequence[Section], *, facts: Mapping[str, str]) -> str:
    """The report as one self-contained HTML text, with `facts` in their order at its top.

    Raises:
        OptionError: there is no section.
    """
    if not sections:
        raise OptionError("page() needs at least one section (got none); draw a chart first")
    template = Template(_part("page.html"))
    libraries, start = _libraries(), _part("start.js")
    return template.substitute(
        policy=f"default-src 'none'; script-src {_allowed(libraries)} {_allowed(start)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        title=html.escape(title),
        style=_part("page.css"),
        facts="\n".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items()),
        contents="\n".join(
            f'<li><a href="#section-{index}">{html.escape(section.title)}</a></li>'
            for index, section in enumerate(sections)
        ),
        sections="\n".join(_section(index, section) for index, section in enumerate(sections)),
        libraries=libraries,
        start=start,
    )


def _section(index: int, section: Section) -> str:
    sources = f"Sources: {'; '.join(map(_linked, section.caption.sources))}." if section.caption.sources else ""
    return f"""<section id="section-{index}" aria-labelledby="heading-{index}">
<h2 id="heading-{index}">{html.escape(section.title)}</h2>
<p>{html.escape(section.caption.text)}</p>
<figure><div class="chart" id="chart-{index}"></div></figure>
<script type="application/json" id="spec-{index}">{_json(section.chart)}</script>
<p class="sources">{sources}</p>
</section>"""


def _json(chart: AnyChart) -> str:
    """The chart's spec with no character that could end a script element."""
    text = json.dumps(chart.to_dict(), separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _linked(source: str) -> str:
    """A source's text, escaped, with its arXiv number as a link."""
    return _ARXIV.sub(r'<a href="https://arxiv.org/abs/\1" rel="noreferrer">arXiv:\1</a>', html.escape(source))


def _allowed(script: str) -> str:
    """The hash by which the policy allows one script to run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _libraries() -> str:
    """Vega, Vega-Lite and vega-embed as one script, in the versions that altair writes for."""
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version)
    return f"(()=>{{{bundle}}})();".replace("</script", "<\\/script")


@cache
def _part(name: str) -> str:
    """A file of this package's `static` folder."""
    return files("olmo_dynamics.plots").joinpath("static", name).read_text(encoding="utf-8")
