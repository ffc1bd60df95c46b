"""Every Python block of the README and the docs runs, page by page, beside a small demo run and its store.

The recipes of `docs/how-to` are followed in `test_how_to`.
"""

from __future__ import annotations

import linecache
import re
import shutil
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import olmo_dynamics as od
from olmo_dynamics.cli.demo import demo as demo_command
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[str]:
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [token.content for token in tokens if token.type == "fence" and token.info == "python"]


@pytest.fixture(scope="module")
def demo_folder(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "cache" / "stores").mkdir(parents=True)
    shutil.copytree(small_demo, folder / "cache" / "demo")
    return folder


RUN = [page for page in PAGES if blocks(page) and page.parent.name != "how-to"]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_folder)
    namespace: dict[str, object] = {}
    for number, block in enumerate(blocks(page), 1):
        name = f"{page.name}, block {number}"
        linecache.cache[name] = (len(block), None, block.splitlines(keepends=True), name)  # for nnsight, which reads it
        exec(compile(block, name, "exec"), namespace)  # noqa: S102 - our own documents


def test_paths_of_the_demo_are_those_that_it_writes(demo_folder: Path) -> None:
    help_pages = [ROOT / "docs" / "cli.md", ROOT / "cache" / "README.md", ROOT / "Makefile"]
    named = {
        path for page in [*PAGES, *help_pages] for path in re.findall(r"cache/demo[\w./-]*\w", page.read_text("utf-8"))
    }
    assert len(named) > 4
    assert [path for path in sorted(named) if not (demo_folder / path).exists()] == []
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert any('run_demo(\\"cache/demo\\"' in text for text in texts)
    [default] = [option.default for option in demo_command.params if option.name == "out"]
    assert default == "cache/demo"


def test_every_public_name_is_in_the_table_of_names() -> None:
    table = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in od.__all__ if not name.startswith("__") and f"`od.{name}`" not in table]
    assert not missing


def test_the_tests_that_the_page_on_trust_names_exist() -> None:
    text = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", text)
    assert len(named) > 15
    for file, names in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert all(re.search(rf"(?:def|class) {name}\b", source) for name in names.split("::") if name), (
            f"{file}{names}"
        )


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
            for child in token.children or ():
                target = child.attrGet("href") or child.attrGet("src") if child.type in ("link_open", "image") else None
                if isinstance(target, str) and "://" not in target and not target.startswith("#"):
                    assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"
