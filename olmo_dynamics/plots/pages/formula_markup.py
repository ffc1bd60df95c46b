"""Declared formulas as MathML: the plain text of a quantity's `formula`, typeset.

Words of a formula stay words, so a long one is wrapped like any sentence; what is mathematics becomes `<math>` elements
between them. A text that cannot be read as a formula stays as it is.

    >>> typeset("sqrt(sum(x**2) / n)").count("<msqrt>")
    1
    >>> typeset("a count")
    'a count'
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import cache

_TOKEN = re.compile(
    r"\s+|\*\*|\|\||<=|>=|!=|\.\.\.|\d[\d,]*(?:\.\d+)?|[A-Za-z]+(?:-(?:[A-Za-z]{3,}|th\b))+|[^\W\d_][\w\u0302]*'?|.",
    re.DOTALL,
)
_FUNCTIONS = ("sqrt", "exp", "ln", "log", "min", "max", "argmax", "cos", "arccos", "quantile", "median", "mean", "std", "count",
              "cov", "var", "norm", "head", "softmax", "RMS", "KL", "sum", "isnan", "isinf")  # fmt: skip
_BIG = {"sum": "∑"}
_OPERATORS = {"*": "·", "-": "−", "<=": "≤", ">=": "≥", "!=": "≠", "||": "‖", ".": "·", "...": "…"}
_OPEN, _CLOSE = "([", ")]"
_HATS = {"hat": "^"}
_WORDS = {"l2_norm": "l2 norm"}


@cache
def typeset(formula: str) -> str:
    """A formula as HTML: plain words, and its mathematics as MathML.

    The result is escaped. The letters, digits and signs of the formula stand in their order.
    """
    return "".join(_islands(_TOKEN.findall(formula)))


def _islands(tokens: list[str]) -> Iterator[str]:
    """Runs of words as text, and everything between them as one `<math>` each."""
    run: list[str] = []
    depth = 0
    for place, token in enumerate(tokens):
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth <= 0 and _is_word(token, tokens[place + 1 : place + 2]):
            yield from _math(run)
            run = []
            yield html.escape(token)
        else:
            run.append(token)
    yield from _math(run)


def _math(run: list[str]) -> Iterator[str]:
    """One island, with the spaces and commas around it left to the text."""
    text = "".join(run)
    inner = text.strip(" ,.;:")
    if not inner:
        yield html.escape(text)
        return
    start = text.index(inner)
    if not re.search(r"[\w‖|]", inner):
        yield html.escape(text)
        return
    yield html.escape(text[:start])
    yield f"<math>{_row(_TOKEN.findall(inner))}</math>"
    yield html.escape(text[start + len(inner) :])


def _is_word(token: str, after: list[str]) -> bool:
    """True for a word of English: of two letters or more, without index, and no function's name before a bracket."""
    if not re.fullmatch(r"[A-Za-z][a-z']+|a|[A-Za-z]+(?:-[A-Za-z]+)+", token):
        return False
    return not (token in _FUNCTIONS and after and after[0] in ("(", "_"))


def _row(tokens: list[str]) -> str:
    """A row of MathML; one fraction where a row is one quotient."""
    parts = _split(tokens, "/")
    if len(parts) == 2 and all(parts) and not any(_has_sum(part) or part.count("|") % 2 for part in parts):
        return f"<mfrac>{_grouped(_bare(parts[0]))}{_grouped(_bare(parts[1]))}</mfrac>"
    return "".join(_items(tokens))


def _grouped(tokens: list[str]) -> str:
    return f"<mrow>{_row(tokens)}</mrow>"


def _split(tokens: list[str], sign: str) -> list[list[str]]:
    """The parts of a row between signs that no bracket holds."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token in _OPEN) - (token in _CLOSE)
        if token == sign and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return [_trimmed(part) for part in parts]


def _trimmed(tokens: list[str]) -> list[str]:
    while tokens and not tokens[0].strip():
        tokens = tokens[1:]
    while tokens and not tokens[-1].strip():
        tokens = tokens[:-1]
    return tokens


def _has_sum(tokens: list[str]) -> bool:
    """True if a sign of lower rank than division stands in the row outside of brackets: then it is more than one quotient."""
    depth = 0
    for token in tokens:
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth == 0 and token in ("+", "-", "=", ",", "<", ">", "<=", ">="):
            return True
    return False


def _bare(tokens: list[str]) -> list[str]:
    """A row without the brackets around the whole of it."""
    if tokens and tokens[0] == "(" and _end(tokens, 0) == len(tokens) - 1:
        return tokens[1:-1]
    return tokens


def _end(tokens: list[str], start: int) -> int:
    """The place of the bracket that closes the one at `start`; the last place if none does."""
    depth = 0
    for place in range(start, len(tokens)):
        depth += (tokens[place] in _OPEN) - (tokens[place] in _CLOSE)
        if depth == 0:
            return place
    return len(tokens) - 1


def _items(tokens: list[str]) -> Iterator[str]:
    """The elements of a row, each with its power."""
    place = 0
    while place < len(tokens):
        item, place = _item(tokens, place)
        if place + 1 < len(tokens) and tokens[place] == "**":
            power, place = _item(tokens, place + 1)
            item = f"<msup>{item}{power}</msup>"
        yield item


def _item(tokens: list[str], place: int) -> tuple[str, int]:
    """One element, and the place behind it."""
    token = tokens[place]
    if token == "sqrt" and tokens[place + 1 : place + 2] == ["("]:
        end = _end(tokens, place + 1)
        inside = "".join(_items(tokens[place + 2 : end]))  # no fraction: not every font has a root so high
        return f"<msqrt><mrow>{inside}</mrow></msqrt>", end + 1
    if token in ("(", "["):
        end = _end(tokens, place)
        closing = tokens[end] if tokens[end] in _CLOSE and end > place else ""
        inner = tokens[place + 1 : end] if closing else tokens[place + 1 :]
        return f"<mrow>{_operator(token)}{_row(inner)}{_operator(closing) if closing else ''}</mrow>", end + 1
    return _single(token), place + 1


def _single(token: str) -> str:
    if not token.strip() or token[0].isdigit():
        return f"<mn>{html.escape(token)}</mn>" if token.strip() else "<mtext>\u00a0</mtext>"
    if not (token[0].isalpha()):
        return _operator(token)
    name, _, index = token.partition("_")
    if index and name in _BIG:
        return f"<munder><mo>{_BIG[name]}</mo><mi>{html.escape(index)}</mi></munder>"
    if index in _HATS:
        return f"<mover><mi>{html.escape(name)}</mi><mo>{_HATS[index]}</mo></mover>"
    if index and token not in _WORDS:
        return f"<msub>{_name(name)}<mi>{html.escape(index)}</mi></msub>"
    return f"<mtext>{_WORDS[token]}</mtext>" if index else _name(name)


def _name(name: str) -> str:
    if name in _BIG:
        return f"<mo>{_BIG[name]}</mo>"
    if name in _FUNCTIONS:
        return f"<mi>{html.escape(name)}</mi>"
    if len(name) > 2 and name.isascii():
        return f"<mtext>{html.escape(name)}</mtext>"
    return f"<mi>{html.escape(name)}</mi>"


def _operator(sign: str) -> str:
    fixed = ' stretchy="false"' if sign in _OPEN + _CLOSE + "|‖" else ""
    return f"<mo{fixed}>{html.escape(_OPERATORS.get(sign, sign))}</mo>"
