"""A reader who follows a how-to page to the letter, in a folder of their own.

The fenced blocks of a page are followed in order:

- a block whose first line is a comment with a file name (`# silent.py`) is written to that file; where the package itself
  stays as it is, and the file holds no test, it runs as well, as it would in a cell;
- `diff`: the lines after `--- FILE` are changed in that file; they must occur in it exactly once;
- `console`: a line that begins with `$` is run, and the lines below it must appear in its output, where `…` stands for
  anything;
- `python`: runs, and shares its names with the blocks before it;
- `text`, and any other block, is only read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from markdown_it import MarkdownIt
from numba.core.caching import _CacheLocator

from olmo_dynamics.recorders.kernels import jit
from olmo_dynamics.settings import cache_dir
from tests.conftest import ROOT

_FILE_NAME = re.compile(r"# ([\w/.-]+\.(?:py|toml))\n")


def fences(page: Path, *, until: str = "") -> list[tuple[str, str]]:
    """The kind and the text of each fenced block, of those before the heading `until` if there is such a heading."""
    text = page.read_text(encoding="utf-8")
    tokens = MarkdownIt().parse(text.split(f"\n## {until}\n")[0] if until else text)
    return [(token.info, token.content) for token in tokens if token.type == "fence"]


class Reader:
    """Follows pages in `folder`; `package` is where `olmo_dynamics` is imported from, the folder itself after `copy_package`."""

    def __init__(self, folder: Path, package: Path = ROOT) -> None:
        self.folder, self.package = folder, package
        self.names: dict[str, object] = {"__name__": "__main__"}
        for name, words in (("olmo-dyn", "-m olmo_dynamics "), ("python", "")):
            program = folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n', encoding="utf-8")
            program.chmod(0o755)

    def copy_package(self) -> None:
        """Make a copy of the package and its tests, which the page may change; its kernels need not be compiled again."""
        for name in ("olmo_dynamics", "tests"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(ROOT / "pyproject.toml", self.folder)
        compiled = cache_dir() / "numba" / jit._FOLDER.name
        for kernels in ("olmo_dynamics/recorders", "olmo_dynamics/recorders/kernels"):
            of_original, of_copy = (compiled / _compiled_in(base / kernels) for base in (ROOT, self.folder))
            of_original.mkdir(parents=True, exist_ok=True)
            if not of_copy.exists():
                of_copy.symlink_to(of_original)
        self.package = self.folder

    def follow(self, page: Path) -> None:
        """Follow every block of a page."""
        for number, (kind, text) in enumerate(fences(page), 1):
            self.step(kind, text, f"{page.name}, block {number}")

    def step(self, kind: str, text: str, name: str = "block") -> None:
        """Follow one block."""
        named = _FILE_NAME.match(text)
        file = self.folder / named.group(1) if named else None
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        if kind == "diff":
            self._change(text)
        elif kind == "console":
            self._run(text)
        elif kind == "python" and (file is None or (self.package == ROOT and not file.name.startswith("test_"))):
            self._execute(text, name)

    def _change(self, diff: str) -> None:
        """Apply a diff without line numbers."""
        first, *lines = diff.splitlines()
        path = self.folder / first.removeprefix("--- ")
        before, after = ("\n".join(line[1:] for line in lines if line[:1] in (" ", sign)) for sign in "-+")
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{path.name} must hold the lines of the diff once:\n{before}"
        path.write_text(text.replace(before, after), encoding="utf-8")

    def _execute(self, code: str, name: str) -> None:
        if self.package == ROOT:
            exec(compile(code, name, "exec"), self.names)  # noqa: S102 - our own documents
        else:
            self.shell(["python", "-c", code])

    def _run(self, session: str) -> None:
        """Run the commands of a console session, and look for the lines that it shows under each."""
        for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            if command == "pip install .":
                self.install()
                continue
            refused = any(line.startswith("olmo-dyn: ") for line in lines)
            printed = self.shell(["sh", "-c", command], code=2 if refused else 0)
            for line in lines:
                pattern = ".*".join(re.escape(words) for words in line.split("…"))
                assert re.search(pattern, printed), f"{command} must print {line!r}; it printed:\n{printed}"

    def install(self) -> None:
        """Install the folder's modules and entry points as pip would, without an index."""
        project = tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        site = self.folder / "site"
        about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        lines = [
            line
            for group, points in project["entry-points"].items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
        ]
        (about / "entry_points.txt").write_text("\n".join(lines))
        for module in self.folder.glob("*.py"):
            module.rename(site / module.name)

    def shell(self, command: list[str], code: int = 0) -> str:
        """Run a program in the folder, as a reader would; its output and its errors as one text."""
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (self.package, self.folder / "site"))),
            "OMP_NUM_THREADS": "1",
        }
        found = subprocess.run(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )  # fmt: skip
        assert found.returncode == code, found.stdout
        return found.stdout


def _compiled_in(folder: Path) -> str:
    """The folder in which numba keeps what it compiled from the modules of a folder."""
    return str(_CacheLocator.get_suitable_cache_subpath(str(folder / "module.py")))
