"""Selecting revisions with an expression such as `stage1:log24,stage2:ingredient3:every5,main`.

An expression is a comma-separated union of terms. A term is filters joined by `:` and then at most one thinning.

    filters    an exact name (always wins) · a glob · stage1 · ingredient2 · seed3 · seed-default · seed* ·
               step1000..90000 · tokens10B..1T · main · all
    thinning   log24 (24, evenly spaced in log step, both ends kept) · every10 · first5 · last5

    >>> revisions = [Revision(f"stage1-step{step}", stage=1, step=step) for step in range(0, 9000, 1000)] + [Revision("main")]
    >>> [revision.name for revision in select(revisions, "stage1:step..5000:last2,main")]
    ['stage1-step4000', 'stage1-step5000', 'main']

A thinning thins each line of training (`Revision.line`: stage, ingredient, seed, side branch) by itself: of three seeds,
`log24` keeps 24 each, and `last1` the last revision of each. A filter such as `seed-default:log24` keeps one of them.

    >>> revisions = [Revision(f"step{step}-seed-{seed}", step=step, seed=seed) for step in (0, 1, 2) for seed in ("a", "b")]
    >>> [revision.name for revision in select(revisions, "last1")], [each.name for each in select(revisions, "seed-a:last1")]
    (['step2-seed-a', 'step2-seed-b'], ['step2-seed-a'])

Ranges include both ends, and either end may be left out; `step1000` alone is that one step. A thinning with no filter
before it thins all revisions. `seed*` and other globs of seeds match the seed as well as the name. From stage 2 on, steps and
tokens count from the start of their stage.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from olmo_dynamics.checkpoints.catalog.revision_names import sort_key
from olmo_dynamics.errors import SelectionError, did_you_mean
from olmo_dynamics.names import Revision

GRAMMAR = (
    "a term is an exact name, a glob, stage1, ingredient2, seed3, seed*, step1000..90000, tokens10B..1T, main or all, "
    "joined by ':', then at most one of log24, every10, first5, last5"
)

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_NUMBER = r"(?:([0-9]+(?:\.[0-9]+)?)([KMBT]?))?"
_STAGE = re.compile(r"stage([0-9]{1,18})")
_INGREDIENT = re.compile(r"ingredient([0-9A-Za-z+]+)")
_SEED = re.compile(r"seed(?:[-_]?([0-9]{1,18})|[-_]([A-Za-z][^*?\[]*))")
_RANGE = re.compile(rf"(step|tokens){_NUMBER}(?:(\.\.){_NUMBER})?", re.IGNORECASE)
_THINNING = re.compile(r"(log|every|first|last)([0-9]{1,18})")

Filter = Callable[[Revision], bool]


def select(revisions: Sequence[Revision], expression: str) -> list[Revision]:
    """The revisions that an expression names, each once, in natural order (stage, ingredient, seed, step; `main` last).

    Raises:
        SelectionError: a term is invalid or matches nothing; the message shows the existing revisions.
    """
    ordered = sorted({revision.name: revision for revision in revisions}.values(), key=sort_key)
    names = {revision.name for revision in ordered}
    terms = [expression] if expression in names else expression.split(",")
    chosen = {revision.name for term in terms for revision in _term(ordered, term.strip())}
    return [revision for revision in ordered if revision.name in chosen]


def _term(revisions: list[Revision], term: str) -> list[Revision]:
    names = [revision.name for revision in revisions]
    pieces = [term] if term in names else term.split(":")
    thinning = None if pieces[-1] in names else _THINNING.fullmatch(pieces[-1])
    filters = pieces[:-1] if thinning else pieces
    matched = revisions
    for piece in filters:
        keep = _filter(piece, term, names)
        matched = [revision for revision in matched if keep(revision)]
    if not matched:
        raise SelectionError(f"{term!r} matches no revision; {_inventory(revisions)}")
    return _thin_lines(matched, thinning[1], int(thinning[2]), term) if thinning else matched


def _filter(piece: str, term: str, names: list[str]) -> Filter:
    """The test that one filter stands for; an exact name is tried before every other reading."""
    if piece in names:
        return lambda revision: revision.name == piece
    if piece in ("all", "main"):  # a source without the name `main` has no such revision
        return lambda revision: piece == "all"
    if part := _part(piece):
        name, value = part
        return lambda revision: getattr(revision, name) == value
    if found := _RANGE.fullmatch(piece):
        return _range(found, piece)
    if any(letter in piece for letter in "*?["):
        return lambda revision: fnmatchcase(revision.name, piece) or _has_seed_like(revision, piece)
    raise SelectionError(_unreadable(piece, term, names))


def _part(piece: str) -> tuple[str, int | str] | None:
    """The field that a filter such as `stage1`, `ingredient2` or `seed-default` names, and its value."""
    if found := _STAGE.fullmatch(piece):
        return "stage", int(found[1])
    if found := _INGREDIENT.fullmatch(piece):
        return "ingredient", found[1]
    if found := _SEED.fullmatch(piece):
        return "seed", str(int(found[1])) if found[1] else found[2]
    return None


def _has_seed_like(revision: Revision, glob: str) -> bool:
    """True if a glob such as `seed*` or `seed-small-*` matches the seed; other globs match names alone."""
    return bool(revision.seed) and glob.startswith("seed") and fnmatchcase(revision.seed_name, glob)


def _range(found: re.Match[str], piece: str) -> Filter:
    """`step1000..90000` or `tokens10B..1T`, both ends included; without dots the range is one value."""
    what, start, start_unit, dots, stop, stop_unit = found.groups()
    if not (start or dots):
        raise SelectionError(f"{piece!r} has no range: write step1000..90000 or tokens10B..1T; one end may be left out")
    low = _number(start, start_unit) if start else 0.0
    high = _number(stop, stop_unit) if stop else math.inf if dots else low
    if low > high:
        raise SelectionError(f"{piece!r} runs backwards: write the smaller end first")

    def keep(revision: Revision) -> bool:
        value = revision.step if what.lower() == "step" else revision.tokens
        return value is not None and low <= value <= high

    return keep


def _number(digits: str, unit: str) -> float:
    return float(digits) * _UNITS[unit.upper()]


def _thin_lines(matched: list[Revision], kind: str, count: int, term: str) -> list[Revision]:
    """Every line of training thinned by itself, in natural order."""
    if count < 1:
        raise SelectionError(f"{term!r} keeps nothing: the number after {kind} must be at least 1 (got {count})")
    if kind == "log" and all(revision.step is None for revision in matched):
        names = ", ".join(revision.name for revision in matched[:3])
        raise SelectionError(
            f"{term!r} spaces by step, but no revision that it matches has a step ({names}); use every, first or last"
        )
    lines: dict[str, list[Revision]] = {}
    for revision in matched:
        lines.setdefault(revision.line, []).append(revision)
    return [revision for line in lines.values() for revision in _thin(line, kind, count)]


def _thin(line: list[Revision], kind: str, count: int) -> list[Revision]:
    if kind == "first":
        return line[:count]
    if kind == "last":
        return line[-count:]
    if kind == "every":
        return line[::count]
    return _evenly_in_log_step([revision for revision in line if revision.step is not None], count)


def _evenly_in_log_step(revisions: list[Revision], count: int) -> list[Revision]:
    """`count` of the revisions, or all if there are fewer; both ends kept, step 0 (which has no log) as the first.

    Each of `count` targets, evenly spaced in log step, takes the nearest revision. Where saved steps are coarser than the
    targets, which happens at small steps, several would take the same one; they move up, so that the number is kept.
    """
    ordered = sorted(revisions, key=lambda revision: revision.step or 0)
    if len(ordered) <= count:
        return ordered
    if count == 1:
        return ordered[-1:]
    logs = [math.log(revision.step) for revision in ordered if revision.step]
    zeros = len(ordered) - len(logs)
    if zeros:
        first = max(1, count - len(logs))
        return ordered[:first] + _evenly_in_log_step(ordered[zeros:], count - first)
    return [ordered[place] for place in _spread(logs, count)]


def _spread(logs: list[float], count: int) -> list[int]:
    """`count` different places in sorted logs, the first and the last among them; needs 2 <= count <= len(logs)."""
    low, high = logs[0], logs[-1]
    places = [_nearest(logs, low + (high - low) * target / (count - 1)) for target in range(count)]
    for target in range(1, count):
        places[target] = max(places[target], places[target - 1] + 1)
    places[-1] = len(logs) - 1
    for target in range(count - 2, -1, -1):
        places[target] = min(places[target], places[target + 1] - 1)
    return places


def _nearest(logs: list[float], target: float) -> int:
    """The place of the value nearest to the target; the smaller of two that are equally near."""
    right = min(bisect_left(logs, target), len(logs) - 1)
    if right > 0 and target - logs[right - 1] <= logs[right] - target:
        return right - 1
    return right


def _unreadable(piece: str, term: str, names: list[str]) -> str:
    where = f" in {term!r}" if piece != term else ""
    if not piece:
        return f"an empty filter{where or ' (or an empty term)'} selects nothing; {GRAMMAR}"
    if _THINNING.fullmatch(piece):
        return f"{piece!r}{where} must come last, once and after the filters, such as stage1:{piece}"
    if near := did_you_mean(piece, names):
        return f"no revision or filter is called {piece!r}{where}{near}"
    return f"cannot read {piece!r}{where}: {GRAMMAR}"


def _inventory(revisions: list[Revision]) -> str:
    """The existing revisions in one phrase: counts by stage, ingredient and seed, the range of steps, a few names."""
    if not revisions:
        return "the source has no revisions"
    groups = Counter(_group(revision) for revision in revisions)
    steps = [revision.step for revision in revisions if revision.step is not None]
    names = list(dict.fromkeys([revisions[0].name, revisions[len(revisions) // 2].name, revisions[-1].name]))
    counted = ", ".join(f"{count} {group}" for group, count in groups.items())
    span = f"; steps {min(steps)} to {max(steps)}" if steps else ""
    tokens = "" if any(revision.tokens is not None for revision in revisions) else "; no token counts are known"
    return f"there are {counted}{span}{tokens}; for example {', '.join(names)}"


def _group(revision: Revision) -> str:
    stage = f"stage {revision.stage}" if revision.stage is not None else ""
    ingredient = f"ingredient {revision.ingredient}" if revision.ingredient else ""
    unstaged = "without a stage" if revision.step is not None else "named only"
    seed = f"seed {revision.seed}" if revision.seed else ""
    return f"in {' '.join(filter(None, (stage, ingredient, seed)))}" if stage or ingredient or seed else unstaged
