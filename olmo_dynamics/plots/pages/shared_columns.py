"""The data of a page's charts, column by column.

>>> columns = Columns()
>>> columns.add([{"step": 0, "role": "norm"}, {"step": 10, "role": "norm"}, {"step": 20, "role": "norm"}])
{'rows': 3, 'columns': {'step': 0, 'role': 1}}
>>> columns.written
['[0,10,20]', '{"of":["norm"],"at":[0,0,0]}']
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


class Columns:
    """The distinct columns of a page's charts, each written once however many charts share it.

    Charts of one table have most columns in common, and a column of names has few distinct values, so a page of many charts
    stays small. The page's script turns columns back into rows. `known` are the names of columns that hold some value.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.known: set[str] = set()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Take the columns of a chart's rows; returns the number of rows, and of each column by its name.

        A value that a row lacks is null.
        """
        found = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row.get(name) for row in rows]
            if name not in self.known and any(value is not None for value in values):
                self.known.add(name)
            found[name] = self._numbers.setdefault(_written(values), len(self._numbers))
        return {"rows": len(rows), "columns": found}

    @property
    def written(self) -> list[str]:
        """The columns' JSON texts."""
        return list(self._numbers)


def harmless(text: str) -> str:
    """JSON text with no character that could end a script element."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _written(values: list[Any]) -> str:
    """A column: its values, or its distinct values and the place of each row's among them if they are few."""
    distinct: dict[tuple[type, Any], int] = {}
    places = [distinct.setdefault((type(value), value), len(distinct)) for value in values]
    of = [value for _, value in distinct]
    column = {"of": of, "at": places} if 2 * len(of) <= len(values) else values
    return json.dumps(column, separators=(",", ":"), allow_nan=False)
