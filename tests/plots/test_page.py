"""The report page, read as text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import captions, loss_by_domain
from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.page import Head, HeadLine, Section, page
from olmo_dynamics.plots.theme import WORDS
from olmo_dynamics.quantities import find
from tests.plots import synthetic

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\""
STEPS = np.array([0, 10, 100])


class Elements(HTMLParser):
    """The page's elements, as a browser's parser meets them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self._inside: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self.addresses += [str(named[name]) for name in ("src", "href") if name in named]
        assert not [name for name in named if name.startswith("on")]
        self._inside = named if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.words.append(data)
        else:
            self.scripts.append((self._inside, data))


def data_of(text: str) -> tuple[list[Any], list[dict[str, Any]]]:
    """A page's shared columns, and the spec of each chart."""
    documents = {named["id"]: json.loads(part) for named, part in Elements(text).scripts if "type" in named}
    documents.pop("spec-timeline", None)
    return documents.pop("columns"), list(documents.values())


def rows_of(text: str, index: int) -> list[list[dict[str, Any]]]:
    """The rows of one chart's tables, as the page's script makes them of columns."""
    columns, specs = data_of(text)
    values = [[each["of"][at] for at in columns[each["at"]]] if isinstance(each, dict) else each for each in columns]
    return [
        [{name: values[column][row] for name, column in table["columns"].items()} for row in range(table["rows"])]
        for table in specs[index]["datasets"].values()
    ]


@pytest.fixture(scope="module")
def evil_page() -> str:
    table = synthetic.loss(STEPS).with_columns(
        domain=pl.lit(EVIL) + pl.col("domain"), revision=pl.lit(EVIL) + pl.col("revision")
    )
    section = Section(EVIL, loss_by_domain(table), Caption(EVIL, (EVIL, "Paloma, arXiv:2312.10523")))
    return page(EVIL, [section], facts={"source": EVIL, EVIL: "1"})


def test_names_that_look_like_html_stay_names(evil_page: str) -> None:
    elements = Elements(evil_page)
    assert elements.tags.count("script") == 4  # one spec, the columns, the libraries, the start
    assert "img" not in elements.tags
    assert "".join(elements.words).count(EVIL) >= 6
    curves, labels = rows_of(evil_page, 0)
    assert curves[0]["domain"] == labels[0]["domain"] == EVIL + "code"


def test_charts_share_their_columns_and_keep_every_row() -> None:
    chart = loss_by_domain(synthetic.loss(STEPS))
    sections = [Section("Loss", chart, captions.LOSS), Section("Loss again", chart, captions.LOSS)]
    once = page("A run", sections[:1], facts={})
    twice = page("A run", sections, facts={})
    assert rows_of(twice, 0) == rows_of(twice, 1) == rows_of(once, 0) == list(chart.to_dict()["datasets"].values())
    assert data_of(twice)[0] == data_of(once)[0]


def test_nothing_is_loaded_and_links_lead_to_the_sources_or_within(evil_page: str) -> None:
    assert set(Elements(evil_page).addresses) == {
        "#section-0",
        "#figures",
        "#facts",
        "https://arxiv.org/abs/2312.10523",
    }


def test_only_the_pages_own_scripts_may_run(evil_page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', evil_page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy[1]
    code = [text for attributes, text in Elements(evil_page).scripts if "type" not in attributes]
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code}
    assert hashes == set(re.findall(r"'sha256-([^']*)'", policy[1]))


def test_the_page_has_a_head_a_list_of_contents_and_a_section_for_each_chart() -> None:
    chart = loss_by_domain(synthetic.loss(STEPS))
    sections = [Section("Loss", chart, captions.LOSS), Section("Loss again", chart, captions.LOSS)]
    text = page("A run", sections, facts={"source": "org/model", "dtype": "float32"})
    elements = Elements(text)
    for tag, count in {"h1": 1, "main": 1, "nav": 1, "h3": 2, "article": 2, "figure": 2, "dt": 2, "dd": 2}.items():
        assert elements.tags.count(tag) == count, tag
    assert "<dt>dtype</dt><dd>float32</dd>" in text
    assert captions.LOSS.text in text
    assert text.startswith("<!DOCTYPE html>")


def test_findings_stand_at_the_head_with_links_to_their_sections() -> None:
    chart = loss_by_domain(synthetic.loss(STEPS))
    sections = [Section(title, chart, captions.LOSS) for title in ("Norms", "Loss", "Loss")]
    lines = [HeadLine("Loss <rises>.", "at most 1 %", "Loss"), HeadLine("No plot.", "exact", "Elsewhere")]
    lines.append(HeadLine("Too few revisions."))
    text = page("A run", sections, facts={}, head=Head(findings=lines))
    assert (
        """<section class="findings" aria-label="Findings">
<h2>Findings</h2>
<ol>
<li>Loss &lt;rises&gt;. <span class="remark">(at most 1 %)</span> <a href="#section-1">Loss</a></li>
<li>No plot. <span class="remark">(exact)</span></li>
</ol>
<p>Too few revisions.</p>
</section>"""
        in text
    )


def test_a_page_without_sections_is_refused() -> None:
    message = "page() needs at least one section (got none); draw a chart first"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        page("A run", [], facts={})


def test_readings_are_short_and_name_their_sources() -> None:
    every = [value for value in vars(captions).values() if isinstance(value, Caption)]
    assert len(every) >= 8
    for each in every:
        assert each.sources
        assert 80 < len(each.text) < 500
        assert each.text.endswith(".")


def test_a_caption_takes_the_note_and_source_of_its_quantity() -> None:
    told = captions.MAP.of(find("activations/kurtosis"))
    assert told.text.endswith("3 for a Gaussian.")
    assert told.sources == captions.MAP.sources, "a standard definition names no work"
    kurtosis = find("activations/feature_kurtosis")
    assert captions.MAP.of(kurtosis).sources == (*captions.MAP.sources, kurtosis.source)
    assert captions.ACTIVATION_OUTLIERS.of(kurtosis).sources == captions.ACTIVATION_OUTLIERS.sources, "named already"
    assert captions.FAN.of(find("parameters/mean")).sources == captions.FAN.sources


def test_chapters_head_their_sections_here_and_in_the_contents() -> None:
    chart = loss_by_domain(synthetic.loss(STEPS))
    held = (("Loss", "Loss"), ("Loss again", "Loss"), ("Norms", "Weights"))
    text = page("A run", [Section(title, chart, captions.LOSS, chapter) for title, chapter in held], facts={})
    assert re.findall(r'<h2 id="chapter-\d">([^<]*)</h2>', text) == ["Loss", "Weights"]
    contents = text[text.index("<nav") : text.index("</nav>")]
    assert re.findall(r'<a href="([^"]*)">', contents) == [
        "#chapter-0", "#section-0", "#section-1", "#chapter-1", "#section-2", "#facts",
    ]  # fmt: skip


def test_a_figure_says_its_sentence_and_typesets_its_formula_in_place_of_the_charts_title() -> None:
    chart = loss_by_domain(synthetic.loss(STEPS))
    chart.usermeta[WORDS]["said"] = "The loss falls from 3 to 2 & more."
    text = page("A run", [Section("Loss", chart, captions.LOSS)], facts={})
    assert '<p class="said">The loss falls from 3 to 2 &amp; more.</p>' in text
    assert "<p><math><mi>CE</mi>" in text
    _, [spec] = data_of(text)
    assert "title" not in spec and WORDS not in spec["usermeta"]


@pytest.mark.parametrize(("tokens", "x"), [(True, "step"), (True, "tokens"), (False, "step")])
def test_the_settings_show_the_axis_that_is_drawn(tokens: bool, x: str) -> None:
    table = synthetic.loss(STEPS)
    table = table if tokens else table.with_columns(tokens=pl.lit(None, pl.Int64))
    text = page("A run", [Section("Loss", loss_by_domain(table, x=x), captions.LOSS)], facts={}, x=x)
    chosen, offered = (" selected", "") if x == "step" else ("", " selected")
    assert f'<option value="step"{chosen}>steps</option>' in text
    assert f'<option value="tokens"{"" if tokens else " disabled"}{offered}>tokens</option>' in text
