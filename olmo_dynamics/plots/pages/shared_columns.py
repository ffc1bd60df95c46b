"""The data of a page's charts, column by column.

>>> columns = Columns()
>>> columns.add([{"step": 0, "role": "norm"}, {"step": 10, "role": "norm"}, {"step": 20, "role": "norm"}])
{'rows': 3, 'columns': {'step': 0, 'role': 2}}
>>> columns.written
['[0,10,20]', '[0,0,0]', '{"of":["norm"],"at":1}']
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


class Columns:
    """The distinct columns of a page's charts, each written once however many charts share it.

    Charts of one table have most columns in common, and a column of names has few distinct values, so a page of many charts
    stays small: such a column is its distinct values, and the number of the list that holds each row's place among them, which
    columns that change together share. The page's script turns columns back into rows. `known` are the names of columns that
    hold some value.
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
            found[name] = self._number(self._written(values))
        return {"rows": len(rows), "columns": found}

    def _number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def _written(self, values: list[Any]) -> str:
        """A column: its values, or its distinct values and the list of each row's place among them if they are few."""
        distinct: dict[tuple[type, Any], int] = {}
        places = [distinct.setdefault((type(value), value), len(distinct)) for value in values]
        if 2 * len(distinct) > len(values):
            return _json(values)
        return _json({"of": [value for _, value in distinct], "at": self._number(_json(places))})

    @property
    def written(self) -> list[str]:
        """The columns' JSON texts."""
        return list(self._numbers)


def harmless(text: str) -> str:
    """JSON text with no character that could end a script element."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
