"""Official lists of native checkpoints: CSV files of steps and the directories that hold them.

Published lists have three forms, and each has its mistakes: repeated rows, rows that point to another step, labels spelt in
several ways. Rows are read strictly, and a row that cannot be read is kept as a `ListFault` with its line, so that a mistake
is neither fatal nor hidden.

    >>> listed = parse_list("Step,Checkpoint Directory\\n1000,https://olmo.example/run/step1000-unsharded/\\n", "a.csv")
    >>> listed.rows[0].step, listed.rows[0].format
    (1000, 'olmo')
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from olmo_dynamics.checkpoints.catalog.known_runs import KnownRun
from olmo_dynamics.errors import SourceError

SOUP = "soup"
"""The ingredient of a row whose weights are an average of runs that the row does not name."""

FORMS = {
    ("Step", "Checkpoint Directory"): "one step per row",
    ("Ingredient", "Step", "Checkpoint Directory"): "one step of an ingredient of stage 2 per row",
    ("Stage", "Step", "Tokens Seen", "Checkpoint Directory"): "one step of a stage per row, with the tokens seen",
}
"""The headers of published lists."""

_STAGE = re.compile(r"stage_?([0-9]+)(?:_[a-z]+)??(?:_ingredient([0-9]+)|_(souped))?", re.IGNORECASE)
_URL = re.compile(r"https?://[^/\s]+/\S+")
_STEP = re.compile(r"(?:^|-)step([0-9]{1,18})(?![0-9])")
_PARTS = re.compile(r"ingredient([0-9]+(?:\+[0-9]+)*)")
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class ListedRow:
    """One row: the checkpoint it names, and the directory that should hold it.

    `label` is the stage as the list spells it; `stage` is None if the list has no such column. `tokens` is the list's own
    count, which continues through the stages.
    """

    line: int
    step: int
    url: str
    label: str = ""
    stage: int | None = None
    ingredient: str | None = None
    tokens: int | None = None

    @property
    def key(self) -> tuple[int, str | None, int]:
        """Stage, ingredient and step; names without a stage belong to stage 1."""
        return self.stage or 1, self.ingredient, self.step

    @property
    def directory(self) -> str:
        """The last part of the address."""
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def directory_step(self) -> int | None:
        """The step in the directory's own name."""
        found = _STEP.search(self.directory)
        return int(found[1]) if found else None

    @property
    def directory_ingredient(self) -> str | None:
        """The ingredient in the address, None if there is none."""
        found = _PARTS.search(self.url)
        return found[1] if found else None

    @property
    def run_directory(self) -> str:
        """The address without its last part: one restart of the run, or one of its stages."""
        return self.url.rstrip("/").rpartition("/")[0] + "/"

    @property
    def merged(self) -> bool:
        """True if the weights are an average of several checkpoints."""
        return self.ingredient is not None and (self.ingredient == SOUP or "+" in self.ingredient)

    @property
    def format(self) -> str:
        """The format of the directory, by its name: `olmo` (one file of weights) or `olmo-core` (distributed files)."""
        return "olmo" if "-unsharded" in self.directory else "olmo-core"

    @property
    def name(self) -> str:
        """The revision name of the row, by the grammar of `parse_revision`."""
        stage = f"stage{self.stage}-" if self.stage else ""
        ingredient = f"ingredient{self.ingredient}-" if self.ingredient else ""
        return f"{stage}{ingredient}step{self.step}"

    @property
    def matches_its_directory(self) -> bool:
        """True if the directory is that of the row's own step and ingredient, as far as its address tells."""
        parts = self.directory_ingredient
        same_part = parts is None or self.ingredient is None or parts == self.ingredient
        return self.directory_step == self.step and same_part


@dataclass(frozen=True, slots=True)
class ListFault:
    """A row that cannot be read: its line in the file, and the reason."""

    line: int
    what: str


@dataclass(frozen=True, slots=True)
class OfficialList:
    """One list: its file's name, the readable rows, and the faults of the others."""

    name: str
    rows: tuple[ListedRow, ...]
    faults: tuple[ListFault, ...] = field(default=())

    def share_of(self, run: KnownRun) -> float:
        """The share of rows that point into a run's own store, 0 to 1."""
        return sum(run.owns(row.url) for row in self.rows) / len(self.rows) if self.rows else 0.0


def read_list(path: str | Path) -> OfficialList:
    """Read the list in a file.

    Raises:
        SourceError: the file cannot be read, or is not a list of checkpoints.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise SourceError(f"cannot read the list of checkpoints {path}: {problem}") from None
    return parse_list(text, Path(path).name)


def parse_list(text: str, name: str) -> OfficialList:
    """Parse the text of a list.

    Raises:
        SourceError: its header is not one of `FORMS`.
    """
    lines = csv.reader(io.StringIO(text), strict=True)
    rows: list[ListedRow] = []
    faults: list[ListFault] = []
    try:
        header = tuple(cell.strip() for cell in next(lines, []))
        if header not in FORMS:
            forms = " or ".join(",".join(form) for form in FORMS)
            raise SourceError(
                f"{name} is not a list of checkpoints: its header must be {forms} (got {','.join(header)[:80]!r})"
            )
        for cells in lines:
            if any(cell.strip() for cell in cells):
                _read_row(
                    dict(zip(header, map(str.strip, cells), strict=False)), len(cells), lines.line_num, rows, faults
                )
    except csv.Error as problem:
        faults.append(ListFault(lines.line_num, f"the rest is not CSV ({problem})"))
    return OfficialList(name, tuple(rows), tuple(faults))


def find_lists(places: Sequence[str | Path], source: str, run: KnownRun | None) -> list[OfficialList]:
    """The lists of a run: every file given, and those of the given folders whose name or contents are the run's.

    Raises:
        SourceError: a given file is not a list, or no list of a folder belongs to the run.
    """
    found: list[OfficialList] = []
    for place in map(Path, places):
        folder = place.expanduser()
        if not folder.is_dir():
            found.append(read_list(place))
            continue
        belonging = [each for each in _lists_in(folder) if run and _belongs(each, run)]
        if not belonging:
            raise SourceError(f"no list in {place} belongs to {source}; give the file itself")
        found += belonging
    return found


def _lists_in(folder: Path) -> list[OfficialList]:
    """Every CSV file of a folder that is a list; other tables are skipped."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        try:
            found.append(read_list(path))
        except SourceError:
            continue
    return found


def _belongs(listed: OfficialList, run: KnownRun) -> bool:
    named = listed.name.casefold() in (name.casefold() for name in run.lists)
    return named or listed.share_of(run) > 0.5


def _read_row(cells: dict[str, str], count: int, line: int, rows: list[ListedRow], faults: list[ListFault]) -> None:
    what = _unreadable(cells, count)
    if what:
        faults.append(ListFault(line, what))
        return
    label = cells.get("Stage", cells.get("Ingredient", ""))
    url = cells["Checkpoint Directory"]
    stage, ingredient = _part(cells, url)
    tokens = int(cells["Tokens Seen"]) if "Tokens Seen" in cells else None
    rows.append(ListedRow(line, int(cells["Step"]), url, label, stage, ingredient, tokens))


def _unreadable(cells: dict[str, str], count: int) -> str:
    """The fault of a row's cells; empty if there is none."""
    expected = next(len(form) for form in FORMS if form[0] == next(iter(cells)))
    if count != expected:
        return f"a row must have {expected} cells (got {count})"
    for column in ("Step", "Tokens Seen"):
        if column in cells and not _NUMBER.fullmatch(cells[column]):
            return f"{column} must be a whole number (got {cells[column]!r})"
    if not _URL.fullmatch(cells["Checkpoint Directory"]):
        return f"Checkpoint Directory must be an address (got {cells['Checkpoint Directory']!r})"
    if "Stage" in cells and not _STAGE.fullmatch(cells["Stage"]):
        return f"Stage must be such as stage1_pretraining (got {cells['Stage']!r})"
    if "Ingredient" in cells and not re.fullmatch(rf"[0-9]+|{SOUP}", cells["Ingredient"]):
        return f"Ingredient must be a number or {SOUP} (got {cells['Ingredient']!r})"
    return ""


def _part(cells: dict[str, str], url: str) -> tuple[int | None, str | None]:
    """A row's stage and ingredient."""
    if "Ingredient" in cells:
        return 2, cells["Ingredient"]
    found = _STAGE.fullmatch(cells.get("Stage", ""))
    if not found:
        return None, None
    if not found[3]:
        return int(found[1]), found[2]
    parts = _PARTS.search(url)
    return int(found[1]), parts[1] if parts and "+" in parts[1] else SOUP
