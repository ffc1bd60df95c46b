"""A newcomer's path in one folder, empty at first: README, start page, a report, a recorder, a figure as a PDF.

Every command and every Python block of these pages runs as written, in the order of the pages. The hub is a local one that
holds a tiny run under the name on the pages, and the demo is of the small size. The quick pass runs commands in this process, on
the demo that other tests share, and stops where the page on recorders makes a package; the slow one starts a program for each
command, makes the demo itself, and follows the pages to their end.
"""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

import olmo_dynamics as od
from olmo_dynamics.cli import main
from olmo_dynamics.experiments.demo import BRIEF, SMALL, DemoSize
from olmo_dynamics.training.checkpoint import checkpoint_name
from tests.conftest import REVISIONS, ROOT
from tests.documents.recipe import Reader, fences
from tests.hub import LocalHub

README = ROOT / "README.md"
START = ROOT / next(re.finditer(r"\]\((docs/[\w/-]*start\.md)\)", README.read_text(encoding="utf-8"))).group(1)
HOW_TO = ROOT / "docs" / "how-to"
RECORDER, FIGURE = HOW_TO / "write-a-recorder.md", HOW_TO / "make-a-paper-figure.md"
PACKAGED = "Offer it as a package"  # from here on the page needs an installed package

PREPARATIONS = {"make demo": "olmo-dyn demo --out cache/demo", "make test": "", "pip install .": ""}
"""Commands of a checkout, and what they run here: `tests/project/test_wheel.py` installs the package."""

SMALL_DEMO = """
import sys
from olmo_dynamics.experiments.demo import SMALL, run_demo
run_demo("cache/demo", size=SMALL, quiet=True)
"""


class QuickReader(Reader):
    """A reader whose programs run in this process."""

    def shell(self, command: list[str], code: int = 0) -> str:
        """Run `olmo-dyn` or a Python file here, and anything else as a program; modules of the folder are read anew."""
        words = shlex.split(command[2]) if command[:2] == ["sh", "-c"] else command
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self.folder)):
                del sys.modules[name]
        importlib.invalidate_caches()
        if words[0] == "olmo-dyn":
            return self._typed(words, code)
        if words[0] == "python" and words[1].endswith(".py"):
            with redirect_stdout(StringIO()) as printed:
                runpy.run_path(words[1], run_name="__main__")
            return printed.getvalue()
        return super().shell(command, code)

    @staticmethod
    def _typed(words: list[str], code: int) -> str:
        """The output and the errors of a command, as one text."""
        ended: object = 0
        with pytest.MonkeyPatch.context() as patch, StringIO() as printed:
            patch.setattr(sys, "argv", words)
            patch.setattr(sys, "stdout", printed)
            patch.setattr(sys, "stderr", printed)
            try:
                main()
            except SystemExit as stop:
                ended = stop.code
            text = printed.getvalue()
        assert ended == code, f"{shlex.join(words)}: {text}"
        return text


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a block of text; a line that ends with a backslash goes on in the next."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        asked = PREPARATIONS.get(shlex.join(words), line)
        assert not words or asked == "" or asked.startswith("olmo-dyn "), f"nothing runs {line!r}"
        if words and asked:
            yield shlex.split(asked, comments=True)


def small(command: list[str]) -> list[str]:
    """A command with the revision in the middle of the small demo's run in place of the standard one's."""
    return [word.replace(middle_of(BRIEF), middle_of(SMALL)) for word in command]


def middle_of(size: DemoSize) -> str:
    step = max(step for step in size.recipe.save_at if 2 * step <= size.steps)
    return checkpoint_name(step, step * size.recipe.tokens_per_step)


def follow(reader: Reader, page: Path, *, whole: bool) -> list[str]:
    """Follow a page to its end, or to where it makes a package; the names of the commands in its text."""
    ran, reader.names = [], {"__name__": "__main__"}
    for number, (kind, text) in enumerate(fences(page, until="" if whole else PACKAGED), 1):
        for command in commands(text) if kind == "text" else ():
            ran.append(command[1])
            if command[1] != "demo":
                reader.shell(small(command))
            elif whole:  # the quick pass finds what it writes
                reader.shell(["python", "-c", SMALL_DEMO])
        if kind != "text":
            reader.step(kind, text, f"{page.name}, block {number}")
    return ran


@pytest.fixture
def hub(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with the run that the pages collect, for this process and for those that it starts."""
    with LocalHub() as hub:
        hub.add_repo("allenai/OLMo-2-0425-1B", {name: tiny_run / name for name in REVISIONS})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        template = hub.endpoint + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        yield hub
    close_session()


@pytest.mark.usefixtures("hub")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "whole"])
def test_a_newcomers_path(
    whole: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if not whole:
        shutil.copytree(request.getfixturevalue("small_demo"), folder / "cache" / "demo")
    reader = Reader(folder) if whole else QuickReader(folder)

    assert follow(reader, README, whole=whole) == ["demo", "audit", "collect", "collect", "report"]
    assert follow(reader, START, whole=whole) == ["demo", "revisions", "collect", "collect", "report", "fork", "report"]
    for page in ("1b.html", "cache/demo/report.html", "report.html"):
        assert (folder / page).stat().st_size > 1_000_000, page
    assert sorted(path.name for path in (folder / "cache" / "forks").iterdir()) == ["anneal", "linear"]

    assert follow(reader, RECORDER, whole=whole) == []
    names = ("silent", "shell", "package") if whole else ("silent", "shell")
    stores = [od.open_store(f"{name}.zarr") for name in names]
    assert [len(store.done) for store in stores] == [SMALL.revisions] * len(names)
    tables = [store.table("silent").to_dicts() for store in stores]
    assert all(table == tables[0] for table in tables)
    assert (folder / "silent.html").stat().st_size > 1_000_000

    assert follow(reader, FIGURE, whole=whole) == []
    check_pdf((folder / "loss.pdf").read_bytes(), width_mm=84)


def check_pdf(pdf: bytes, *, width_mm: float) -> None:
    """A whole PDF of one page of that width, with words as text in fonts that the file holds."""
    assert pdf.startswith(b"%PDF-1.") and pdf.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type ?/Page\b(?!s)", pdf)) == 1
    box = re.search(rb"/MediaBox ?\[([^\]]*)\]", pdf)
    assert box is not None
    left, bottom, right, top = map(float, box.group(1).split())
    assert (right - left) / 72 * 25.4 == pytest.approx(width_mm, abs=0.2)
    assert 20 < (top - bottom) / 72 * 25.4 < width_mm
    fonts = len(re.findall(rb"/Type ?/FontDescriptor\b", pdf))
    assert fonts >= 1
    assert len(re.findall(rb"/FontFile[23]? ", pdf)) == fonts
