"""Formulas as MathML."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET

import pytest

from olmo_dynamics.plots.pages.formula_markup import typeset
from olmo_dynamics.quantities import known

FORMULAS = sorted({each.formula for each in known()} | {each.symbol for each in known()} - {""})


def letters(text: str) -> list[str]:
    """Letters and digits, in any order: an index may stand before or after what it belongs to."""
    return sorted(letter for letter in text if letter.isalnum())


def bare(text: str) -> str:
    """The text without what becomes a sign: sums, roots and hats."""
    return re.sub(r"(?<![^\W_])(?:sum|sqrt|hat)(?![^\W_])", "", text)


def test_every_declared_formula_is_well_formed_and_keeps_its_letters() -> None:
    for formula in FORMULAS:
        drawn = typeset(formula)
        root = ET.fromstring(f"<p>{drawn}</p>")
        assert letters(bare("".join(root.itertext()))) == letters(bare(formula)), formula


@pytest.mark.parametrize(
    ("formula", "drawn"),
    [
        ("x**2", "<math><msup><mi>x</mi><mn>2</mn></msup></math>"),
        ("N_i / N", "<math><mfrac><mrow><msub><mi>N</mi><mi>i</mi></msub></mrow><mrow><mi>N</mi></mrow></mfrac></math>"),
        ("mean over tokens of sqrt(x)", "mean over tokens of <math><msqrt><mrow><mi>x</mi></mrow></msqrt></math>"),
        ("sqrt(x/n)", "<math><msqrt><mrow><mi>x</mi><mo>/</mo><mi>n</mi></mrow></msqrt></math>"),
        ("the k-th of them", "the k-th of them"),
        ("|of|/k", '<math><mo stretchy="false">|</mo></math>of<math><mo stretchy="false">|</mo><mo>/</mo><mi>k</mi></math>'),
        ("sum_v z_v", "<math><munder><mo>∑</mo><mi>v</mi></munder><mtext>\u00a0</mtext><msub><mi>z</mi><mi>v</mi></msub></math>"),
        ("a count", "a count"),
        ("a (half", 'a <math><mrow><mo stretchy="false">(</mo><mtext>half</mtext></mrow></math>'),
        ("x<y&z", "<math><mi>x</mi><mo>&lt;</mo><mi>y</mi><mo>&amp;</mo><mi>z</mi></math>"),
    ],
)  # fmt: skip
def test_a_formula_is_typeset(formula: str, drawn: str) -> None:
    assert typeset(formula) == drawn


def test_what_looks_like_html_stays_text() -> None:
    assert "<script" not in typeset("<script>alert(1)</script>")
    assert html.unescape(re.sub(r"<[^>]*>", "", typeset("a <b> c"))) == "a <b>\u00a0c"
