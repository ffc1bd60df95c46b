"""Plain English: docstrings open with a noun or a verb, errors say what must hold, users' pages use users' words."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from tests.project.package import PARTS, Place, docstrings, listed, messages, modules

RELATIVE = re.compile(r"(What|Which|How|Where|Who|Whether)\b")
MOST_RELATIVE = 20  # a relative clause as a noun makes a reader wait for the verb; a few read best so
WANT = re.compile(r"\bwant(s|ed)?\b", re.IGNORECASE)  # an error says what must hold, not what somebody wishes
INTERNAL = re.compile(  # words of the builders
    r"\b(rooms|room(?! for\b| left\b)|doors?|houses?|conductors?)\b|\bP[1-9]\b", re.IGNORECASE
)
INLINE_RAISES = re.compile(
    r"\bRaises\b(?!:\n)|\braises\s+(an?\s+)?`?\w*Error"
)  # one form everywhere: a block of its own
BUILDERS_PAGES = ("rooms.md", "architecture.md", "contributing.md")


def relative_openings(part: str | None = None) -> list[Place]:
    return [each for path in modules(part) for each in docstrings(path) if RELATIVE.match(each.text)]


@pytest.mark.parametrize("part", PARTS)
def test_docstrings_of_a_part_open_with_a_noun_or_a_verb(part: str) -> None:
    found = relative_openings(part)
    assert len(found) <= MOST_RELATIVE, listed(found)


def test_docstrings_open_with_a_noun_or_a_verb() -> None:
    found = relative_openings()
    assert len(found) <= MOST_RELATIVE, listed(found)


@pytest.mark.parametrize("part", PARTS)
def test_messages_say_what_must_hold(part: str) -> None:
    found = [each for path in modules(part) for each in messages(path) if WANT.search(each.text)]
    assert not found, listed(found)


@pytest.mark.parametrize("part", PARTS)
def test_docstrings_list_errors_in_a_block(part: str) -> None:
    found = [
        Place(path, text.line + text.text[: match.start()].count("\n"), text.text[match.start() :])
        for path in modules(part)
        for text in docstrings(path)
        for match in INLINE_RAISES.finditer(text.text)
    ]
    assert not found, listed(found)


def users_pages() -> list[str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        str(page.relative_to(ROOT)) for page in pages if page.name not in BUILDERS_PAGES and "_build" not in page.parts
    ]


@pytest.mark.parametrize("page", users_pages())
def test_users_pages_use_the_words_of_users(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found = [Place(ROOT / page, number, line) for number, line in enumerate(lines, 1) for _ in INTERNAL.findall(line)]
    assert not found, listed(found)
