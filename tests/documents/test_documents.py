"""Every Python block of the README and the docs runs, page by page, beside a small demo run and its store.

Recipes that `test_how_to` follows to the letter are left to it, and so is the page on buckets, which needs a server.
"""

from __future__ import annotations

import linecache
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from markdown_it import MarkdownIt

import olmo_dynamics as od
from olmo_dynamics import frames, plots
from olmo_dynamics.cli import cli
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


FOLLOWED = {
    *("add-a-model-family.md", "add-a-plot.md", "add-a-quantity.md", "make-a-paper-figure.md", "write-a-recorder.md"),
    "share-a-store.md",
}
NEWCOMER = ("README.md", "start.md")  # run by test_newcomer
RUN = [page for page in PAGES if blocks(page) and page.name not in {*FOLLOWED, *NEWCOMER}]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_folder)
    namespace: dict[str, object] = {}
    for number, block in enumerate(blocks(page), 1):
        name = f"{page.name}, block {number}"
        linecache.cache[name] = (len(block), None, block.splitlines(keepends=True), name)  # for nnsight, which reads it
        exec(compile(block, name, "exec"), namespace)  # noqa: S102 - our own documents


def test_paths_of_the_demo_are_those_that_it_writes(demo_folder: Path) -> None:
    help_pages = [ROOT / "docs" / "reference" / "cli.md", ROOT / "cache" / "README.md", ROOT / "Makefile"]
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
    table = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in od.__all__ if not name.startswith("__") and f"`od.{name}`" not in table]
    assert not missing


def test_the_reference_describes_every_function_under_its_public_name() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").rglob("*.md"))
    described = set(re.findall(r"\.\. auto(?:function|class):: olmo_dynamics\.([\w.]+)", text))
    modules = {"interventions", "plots", "OlmoDynamicsError", "__version__"}
    assert set(od.__all__) - modules - described == set()
    assert {name for name in frames.__all__ if not {name, f"frames.{name}"} & described} == set()
    assert {name for name in plots.__all__ if f"plots.{name}" not in described} == {"MAX_ROWS", "AnyChart"}


def test_the_tests_that_the_page_on_trust_names_exist() -> None:
    text = (ROOT / "docs" / "explanation" / "trust.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", text)
    assert len(named) > 15
    for file, names in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert all(re.search(rf"(?:def|class) {name}\b", source) for name in names.split("::") if name), (
            f"{file}{names}"
        )


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page, in blocks and in the text, as lists of words."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        code = [token.content] if token.type == "fence" else []
        code += [child.content for child in token.children or () if child.type == "code_inline"]
        for line in "\n".join(code).replace("\\\n", " ").splitlines():
            words = re.split(r" [&|>]", line.strip().removeprefix("$ "))[0]
            if words.startswith("olmo-dyn ") and not words.startswith("olmo-dyn -"):
                yield shlex.split(words, comments=True)[1:]


def test_commands_on_the_pages_exist_and_take_their_options() -> None:
    for page in PAGES:
        for line in commands(page):
            command: click.Command = cli
            words = line
            while isinstance(command, click.Group) and words:
                command, words = command.commands[words[0]], words[1:]
            try:
                command.make_parser(click.Context(command, resilient_parsing=True)).parse_args(words)
            except click.UsageError as error:
                pytest.fail(f"{page.name}: olmo-dyn {shlex.join(line)}: {error.format_message()}")


@pytest.mark.parametrize("part", ["tutorial", "how-to", "reference", "explanation"])
def test_the_first_page_of_a_part_links_all_its_pages(part: str) -> None:
    folder = ROOT / "docs" / part
    text = (folder / "index.md").read_text(encoding="utf-8")
    pages = sorted(path.name for path in folder.glob("*.md") if path.name != "index.md")
    assert [name for name in pages if f"({name})" not in text] == []
    assert f"({part}/index.md)" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
            for child in token.children or ():
                target = child.attrGet("href") or child.attrGet("src") if child.type in ("link_open", "image") else None
                if isinstance(target, str) and "://" not in target and not target.startswith("#"):
                    assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"
