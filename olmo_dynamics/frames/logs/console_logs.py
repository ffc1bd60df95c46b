"""Console logs of trainers: OLMo, OLMo-core, and Open Instruct, by which OLMoE was fine-tuned.

    >>> text = "INFO [step=2/739328,epoch=0]\\n    train/Perplexity=45,773\\n    optim/total_grad_norm=1.5\\n"
    >>> list(console_rows(text.splitlines()))
    [{'step': 2, 'train/Perplexity': 45773.0, 'optim/total_grad_norm': 1.5}]
    >>> list(console_rows(["2024-08-02T21:18:46.9Z   Step: 1, LR: 7.0e-08, Loss: 810.4"]))
    [{'step': 1, 'LR': 7e-08, 'Loss': 810.4}]

Numbers are as the console shows them: OLMo rounds to four digits, and to whole numbers above 1,000.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Row = dict[str, int | float]

_NUMBER = r"[-+]?(?:[0-9][0-9,]*(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|nan|inf)"
_HEADER = re.compile(r"\[step=([0-9]+)(?:/[^,\]]*)?(?:,[^\]]*)?\]\s*$")
_METRIC = re.compile(rf"(?:\S+Z)?\s+(?P<name>[^\s=\[][^=]*?)=(?P<value>{_NUMBER})\s*$")
_ONE_LINE = re.compile(r"\bStep: ([0-9]+)(?P<rest>(?:, [^:,]+: \S+)+)\s*$")
_PAIR = re.compile(rf", (?P<name>[^:,]+): (?P<value>{_NUMBER})(?=,|\s*$)")


def console_rows(lines: Iterable[str]) -> Iterator[Row]:
    """The metrics of each step, in the order of the log; a step that is logged twice gives two rows."""
    row: Row = {}
    for line in lines:
        if header := _HEADER.search(line):
            yield from _told(row)
            row = {"step": int(header[1])}
        elif row and (metric := _METRIC.match(line)):
            row[metric["name"]] = _number(metric["value"])
        else:
            yield from _told(row)
            row = {}
            if single := _ONE_LINE.search(line):
                pairs = {pair["name"]: _number(pair["value"]) for pair in _PAIR.finditer(single["rest"])}
                yield from _told({"step": int(single[1]), **pairs})
    yield from _told(row)


def _told(row: Row) -> list[Row]:
    """The row, if it holds more than its step."""
    return [row] if len(row) > 1 else []


def _number(text: str) -> float:
    return float(text.replace(",", ""))
