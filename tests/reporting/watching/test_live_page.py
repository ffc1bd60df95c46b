"""The live page in a browser that reaches no other host: it draws, answers to its menus, and follows a store that grows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, sync_playwright

from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import Revision
from tests.plots.accessibility import faults, needs_axe
from tests.plots.test_browser import CHROMIUM, FLAGS, middle
from tests.reporting.watching.test_live_server import serving
from tests.store.synthetic import REVISIONS, add, new_store

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path to open the page in"),
]

CELLS = ".mark-rect.role-mark path"


@dataclass
class Watched:
    """An opened page, the store behind it, its complaints and its requests."""

    page: Page
    store: RecordedStore
    url: str
    problems: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    path = tmp_path_factory.mktemp("watched") / "run.zarr"
    store = new_store(path, ("loss", "attention", "parameters"))
    store.plan(REVISIONS)
    add(store, REVISIONS[0], 0)
    add(store, REVISIONS[1], 1)
    blocked = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with serving(path) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, blocked])
        context = browser.new_context(viewport={"width": 1300, "height": 1200})
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        page, problems, requests = context.new_page(), [], []
        page.on("console", lambda line: problems.append(line.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(server.url)
        page.wait_for_function("() => window.drawn !== undefined")
        yield Watched(page, store, server.url, problems, requests)
        browser.close()


def choose(page: Page, menu: str, option: str) -> None:
    """Choose an option, and wait for the picture."""
    page.evaluate("() => { window.before = window.drawn }")
    page.locator(f"select[name='{menu}']").select_option(option)
    page.wait_for_function("() => window.drawn !== window.before")


def test_it_draws_and_asks_its_own_server_alone(watched: Watched) -> None:
    assert watched.problems == []
    assert [url for url in watched.requests if not url.startswith((watched.url, "data:", "blob:"))] == []
    assert watched.page.locator("#told").inner_text() == "2 revisions, 2 missing"
    choose(watched.page, "quantity", "attention/entropy")
    assert watched.page.locator(".mark-rect.role-mark path").count() > 2


def show_the_first(watched: Watched) -> None:
    """Click the map at the first revision, and wait for its profile."""
    choose(watched.page, "quantity", "attention/entropy")
    shows = "name => document.querySelector('.mark-text.role-mark text').textContent === name"
    watched.page.wait_for_function(shows, arg=REVISIONS[1].name)
    watched.page.locator(f".mark-rect path[aria-label*='{REVISIONS[0].name}']").first.click()
    watched.page.wait_for_function(shows, arg=REVISIONS[0].name)
    assert watched.page.evaluate("() => window.drawn.view.signal('picked_layer').layer.length") == 1
    assert watched.page.locator(".mark-text.role-mark text").all_text_contents() == [REVISIONS[0].name]


def test_the_code_is_copied(watched: Watched) -> None:
    choose(watched.page, "smoothing", "0.6")
    watched.page.locator("#copy").click()
    copied = watched.page.evaluate("() => navigator.clipboard.readText()")
    assert copied == watched.page.locator("#code").inner_text()
    assert copied.startswith("import olmo_dynamics as od\n") and "smoothing=0.6" in copied


def grow(watched: Watched, revision: Revision, seed: int, told: str) -> None:
    """Add a revision, and wait for the picture that has it."""
    count = watched.page.locator(CELLS).count()
    add(watched.store, revision, seed)
    drawn = (
        "([told, cells, count]) => at('told').textContent === told && document.querySelectorAll(cells).length !== count"
    )
    watched.page.wait_for_function(drawn, arg=[told, CELLS, count])


def brush_and_add(watched: Watched) -> None:
    """Brush the map, add a revision, and find the brush and the chosen revision as they were."""
    x, y = middle(watched.page.locator(CELLS).nth(1))
    watched.page.mouse.move(x, y)
    watched.page.mouse.down()
    watched.page.mouse.move(x + 40, y, steps=4)
    watched.page.mouse.up()
    brushed = "() => window.drawn.view.runAsync().then((view) => view.signal('brush').start)"
    before = watched.page.evaluate(brushed)
    between = Revision("stage1-step7-tokens1B", stage=1, step=7, tokens=28, position_step=7, position_tokens=28)
    grow(watched, between, 4, "3 revisions, 2 missing")
    assert watched.page.locator(".mark-text.role-mark text").all_text_contents() == [REVISIONS[0].name], (
        "still the chosen one"
    )
    assert watched.page.evaluate(brushed) == pytest.approx(before, rel=1e-3)


def test_what_was_chosen_stays_while_revisions_and_stages_are_added(watched: Watched) -> None:
    show_the_first(watched)
    brush_and_add(watched)
    grow(watched, REVISIONS[2], 2, "4 revisions, 1 missing")
    assert watched.problems == []


@needs_axe
def test_the_page_has_no_serious_fault_of_accessibility(watched: Watched) -> None:
    assert faults(watched.page) == []
