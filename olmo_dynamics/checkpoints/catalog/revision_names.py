"""Parsing revision names into stage, ingredient, seed, step and token label.

Publishers name a checkpoint after its place in training, each project a little differently. `parse_revision` reads these
words wherever they stand in a name; a name without any is still a revision, known by its name alone (`main`, `nitro`).

    stage1 · ingredient2 · seed3, seed-small-aux-2 · 5e-5, lr1e-4 · tokens21B, 21B-tokens
    step1000, step_0025, step-20k, global_step123, iter_0000500, ba1000, checkpoint-500, ckpt-700

Case, leading zeros and separators (`-`, `_`, `=`, `.`, `/`) do not matter. All other words are kept as the suffix, and are not
guessed at; nor is anything after the word `from`, which names another checkpoint.

    >>> parse_revision("stage2-ingredient3-step23852-tokens51B").step
    23852
    >>> parse_revision("step_0025").step, parse_revision("checkpoint-500").step, parse_revision("main").step
    (25, 500, None)
    >>> parse_revision("step69369-seed-small-aux-2-unsharded").seed
    'small-aux-2'
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from olmo_dynamics.names import FORMAT_WORDS, WITHIN_LINE, Revision

PULL_REQUEST = re.compile(r"refs/pr/[0-9]{1,9}")
"""The name of a pull request's state on the hub, which lists none of them."""

_BREAK = r"[-_=./\s]"
# 18 digits: every step fits an int64, and int() never meets its length limit.
_COUNT = r"[-_=]?(?P<{}>[0-9]{{1,12}}[KM]|[0-9]{{1,18}})"
_DECIMAL = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
_FIELDS = (
    r"stage[-_=]?(?P<stage>[0-9]{1,18})",
    r"ingredient(?!s\b)(?:(?P<ingredient>[0-9A-Z+]{1,64})|[-_=](?P<numbered>[0-9]{1,18}(?:\+[0-9]{1,18})*))",
    r"seed[-_=]?(?P<seed>[0-9]{1,18})",
    rf"(?P<lr>lr[-_=]?)?(?P<prefix>{_DECIMAL}e[+-]?[0-9]{{1,3}})",
    rf"(?:global[-_]?)?steps?{_COUNT.format('step')}",
    rf"(?:iters?|iterations?|ba){_COUNT.format('iteration')}",
    rf"(?:checkpoint|ckpt){_COUNT.format('checkpoint')}",
    rf"tokens?[-_=]?(?P<tokens>{_DECIMAL}[A-Z]?)",
    rf"(?P<tokens_before>{_DECIMAL}[KMBT])[-_]?tokens?",
)
_FIELD = re.compile(rf"(?:{'|'.join(_FIELDS)})(?=$|[-_=/\s]|\.(?![0-9]))", re.IGNORECASE | re.ASCII)
_TEXT_SEED = re.compile(r"seed[-_=](?=[A-Z])", re.IGNORECASE | re.ASCII)
_WORD = re.compile(rf"(?:(?!{_BREAK}).)+|{_BREAK}+", re.DOTALL | re.ASCII)
_EDGES = re.compile(rf"^{_BREAK}+|{_BREAK}+\Z", re.ASCII)
_STEPS = ("step", "iteration", "checkpoint")  # of several in one name, the first of these is its step
_UNITS = {"K": 10**3, "M": 10**6}

SortKey = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a name: the field that it tells (empty for any other word and for separators), its value, and its text."""

    field: str
    value: str
    text: str


def parse_revision(name: str) -> Revision:
    """The revision that a name describes; a name that tells nothing gives a `Revision` with no other field.

    The text after `tokens` is kept as it stands (`21B`): six published rules round it, so it is a label, not a number.
    """
    pieces = split_name(name)
    told = {piece.field: piece.value for piece in pieces if piece.field}
    if not told:
        return Revision(name)
    step = next((told[each] for each in _STEPS if each in told), None)
    return Revision(
        name,
        stage=int(told["stage"]) if "stage" in told else None,
        ingredient=told.get("ingredient"),
        step=None if step is None else _count(step),
        token_label=told.get("tokens"),
        prefix=told.get("prefix"),
        suffix=_rest(pieces),
        seed=told.get("seed"),
    )


def split_name(name: str) -> list[Piece]:
    """A name in pieces whose texts make it up, each field at most once; a second step or stage is a word like any other.

    >>> [piece.text for piece in split_name("epoch_1-step500") if piece.field]
    ['step500']
    """
    pieces = _settled(list(_pieces(name)))
    seen: set[str] = set()
    found = []
    for piece in pieces:
        found.append(Piece("", "", piece.text) if piece.field in seen else piece)
        seen |= {piece.field} - {""}
    return found


def _pieces(name: str) -> Iterator[Piece]:
    place, is_stepped, is_closed = 0, False, False
    while place < len(name):
        piece = Piece("", "", name[place:]) if is_closed else _piece_at(name, place, is_stepped=is_stepped)
        is_stepped |= piece.field in _STEPS
        is_closed = piece.text.lower() == "from"
        place += len(piece.text)
        yield piece


def _piece_at(name: str, place: int, *, is_stepped: bool) -> Piece:
    """The field or word that begins at a place, which is the beginning of a word or of separators."""
    found = _FIELD.match(name, place)
    # Behind the step, a number such as 5e-5 without `lr` is a part of free text.
    if found and not (found["prefix"] and is_stepped and not found["lr"]):
        field = found.lastgroup or ""
        value = found[field]
        named = {"numbered": "ingredient", "tokens_before": "tokens"}.get(field, field)
        return Piece(named, str(int(value)) if named == "seed" else value, found[0])
    if opened := _TEXT_SEED.match(name, place):
        text = _seed_text(name, opened.end())
        if text:
            return Piece("seed", text, opened[0] + text)
    word = _WORD.match(name, place)
    return Piece("", "", word[0] if word else name[place:])


def _seed_text(name: str, start: int) -> str:
    """The words of a seed such as `small-aux-2`: up to the next field, or a word that tells a format or an epoch."""
    end = place = start
    while place < len(name) and not _FIELD.match(name, place) and not WITHIN_LINE.match(name, place):
        word = _WORD.match(name, place)
        text = word[0] if word else ""
        if text.lower() in FORMAT_WORDS or text.lower() == "from":
            break
        place += len(text)
        end = end if _EDGES.fullmatch(text) else place
    return name[start:end]


def _settled(pieces: list[Piece]) -> list[Piece]:
    """The pieces with the best word for a step alone (`ckpt_3-step1000` is step 1000), and no bare `5e-5` without a step."""
    kinds = [each for each in _STEPS if any(piece.field == each for piece in pieces)]
    words = kinds[1:] if kinds else ["prefix"]
    return [
        Piece("", "", each.text) if each.field in words and each.text[:2].lower() != "lr" else each for each in pieces
    ]


def _rest(pieces: list[Piece]) -> str | None:
    """The words that tell no field, each stretch as it stands in the name, joined by `-`."""
    stretches = [""]
    for piece in pieces:
        if piece.field:
            stretches.append("")
        else:
            stretches[-1] += piece.text
    words = [_EDGES.sub("", each) for each in stretches]
    return "-".join(word for word in words if word) or None


def _count(text: str) -> int:
    unit = _UNITS.get(text[-1].upper(), 1)
    return int(text if unit == 1 else text[:-1]) * unit


def sort_key(revision: Revision) -> SortKey:
    """A key for the natural order: stage, ingredient, seed, learning rate, side branch, step, name.

    Merged ingredients (`1+2`) follow the single ones, names without a step follow those with one, and `main` is last.
    Numbers in words count as numbers: `epoch_2` is before `epoch_10`.
    """
    group = 2 if revision.name == "main" else int(revision.step is None)
    return (
        group,
        -1 if revision.stage is None else revision.stage,
        _ingredient_key(revision.ingredient),
        natural_key(revision.seed or ""),
        float(revision.prefix) if revision.prefix else -1.0,
        natural_key(revision.branch),
        math.inf if revision.step is None else revision.step,
        natural_key(revision.suffix or ""),
        natural_key(revision.name),
        revision.name,
    )


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts the numbers in a text by size: digits by how many there are, and other text by its letters."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return tuple(
        (0, len(part.lstrip("0")), part.lstrip("0")) if part[0] in "0123456789" else (1, 0, part) for part in parts
    )


def _ingredient_key(ingredient: str | None) -> tuple[int, tuple[tuple[int, str], ...]]:
    if ingredient is None:
        return 0, ()
    parts = ingredient.split("+")
    return len(parts), tuple((int(part) if part.isdecimal() else -1, part) for part in parts)


def named_revision(name: str) -> Revision:
    """The revision that a name describes, with its exact tokens if the name gives them.

    In `step100-tokens1048576` the label has no unit: it is not rounded but the count itself, as in folders that a fork writes.
    """
    revision = parse_revision(name)
    label = revision.token_label
    return replace(revision, tokens=int(label)) if label and label.isdecimal() and len(label) < 19 else revision
