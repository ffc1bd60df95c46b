"""Pickles from strangers, read and never executed.

Nothing that a pickle names is ever imported or called. This module interprets the few opcodes that stored weights need; an
object of a foreign class becomes a `PickledObject` that describes it, or the value that a maker of this package returns for it.
A name outside the caller's allow-list, or an opcode outside the table below, ends the reading.

    >>> import pickle
    >>> read_pickle(pickle.dumps({"step": 40, "betas": (0.9, 0.95)}), file="train.pt", allowed={})
    {'step': 40, 'betas': (0.9, 0.95)}
"""

from __future__ import annotations

import pickletools
import reprlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from olmo_dynamics.errors import CheckpointError

MAX_KEY_ITEMS = 64
"""Most items in a tuple used as a key: hashing a tuple that holds itself many times would take for ever."""

Maker = Callable[[tuple[Any, ...]], object]
"""A function that replaces a callable of the pickle; it raises ValueError for invalid arguments."""

Allowed = Mapping[str, Maker | None]
"""Dotted names that a pickle may use; None for names that it may use but not call."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """The name of an object, without the object."""

    name: str


@dataclass(slots=True, eq=False, repr=False)
class PickledObject:
    """An object as its pickle describes it: its kind, its arguments and its state."""

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __repr__(self) -> str:
        return f"<{self.kind}>"  # its contents may hold it again


def brief(value: object) -> str:
    """A value as text of bounded length, in bounded time, however large or nested it is."""
    return _SHORT.repr(value)


def read_pickle(
    data: bytes, *, file: str, allowed: Allowed, persistent: Callable[[object], object] | None = None
) -> Any:
    """Read a pickle into plain values, `Symbol`s, and the values that the makers in `allowed` return.

    `persistent` turns persistent ids into values; without it there may be none. `file` is for messages.

    Raises:
        CheckpointError: the pickle uses a name that is not allowed, or is damaged.
    """
    try:
        return _Machine(data, file, allowed, persistent).run()
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, struct.error) as problem:
        raise CheckpointError(
            f"{file}: its pickle is damaged or hostile ({brief(problem)}); nothing was executed, fetch the file again"
        ) from None


class _Machine:
    """The pickle machine: a stack, marks on it, and a memo of built values; all bounded by the length of the data."""

    def __init__(self, data: bytes, file: str, allowed: Allowed, persistent: Callable[[object], object] | None) -> None:
        self._data, self._file, self._allowed, self._persistent = data, file, allowed, persistent
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while self._at < len(self._data):
            code = self._data[self._at]
            self._at += 1
            if code == _STOP:
                return self._pop()
            step = _STEPS.get(code)
            if step is None:
                raise CheckpointError(
                    f"{self._file}: its pickle uses {_opcode_name(code)}, which weights never need; nothing was executed, "
                    "use a copy from a source you trust"
                )
            step(self)
        raise ValueError("it ends before it is finished")

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise ValueError(f"byte {self._at} asks for {count} bytes, {len(self._data) - self._at} are left")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _number(self, form: struct.Struct) -> Any:
        (number,) = form.unpack_from(self._data, self._at)
        self._at += form.size
        return number

    def _line(self) -> str:
        end = self._data.index(b"\n", self._at)
        taken = self._take(end + 1 - self._at)
        return taken[:-1].decode("utf-8")

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("its stack is empty")
        return self._stack.pop()

    def _top(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("its stack is empty")
        return self._stack[-1]

    def _pop_marked(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _pop_one(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _push_bytes(self, length: int) -> None:
        self._push(self._take(length))

    def _push_text(self, length: int) -> None:
        self._push(self._take(length).decode("utf-8", "surrogatepass"))

    def _push_long(self) -> None:
        self._push(int.from_bytes(self._take(self._byte()), "little", signed=True))

    def _push_tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _push_dict(self) -> None:
        items = self._pop_marked()
        self._push({})
        self._set_items(items)

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise ValueError(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f"it sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                _check_key(key)
            target[key] = value

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _append_one(self) -> None:
        value = self._pop()
        self._append([value])

    def _remember(self, place: int) -> None:
        self._memo[place] = self._top()

    def _recall(self, place: int) -> None:
        self._push(self._memo[place])

    def _name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it names something that is not text")
        dotted = f"{module}.{name}"
        if dotted not in self._allowed:
            raise CheckpointError(
                f"{self._file}: its pickle uses {brief(dotted)}, which weights never need; nothing was executed, "
                "use a copy from a source you trust"
            )
        self._push(Symbol(dotted))

    def _name_line(self) -> None:
        module = self._line()
        self._name(module, self._line())

    def _name_stacked(self) -> None:
        name, module = self._pop(), self._pop()
        self._name(module, name)

    def _make(self) -> None:
        arguments, symbol = self._pop(), self._pop()
        maker = self._allowed.get(symbol.name) if isinstance(symbol, Symbol) else None
        if maker is None or not isinstance(arguments, tuple):
            raise ValueError(f"it calls {brief(symbol)}")
        self._push(maker(arguments))

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, PickledObject) and target.state is None:
            target.state = state
        elif not isinstance(
            target, dict
        ):  # attributes of an OrderedDict, such as `_metadata`, do not matter for weights
            raise ValueError(f"it sets the state of a {type(target).__name__}")

    def _resolve(self) -> None:
        if self._persistent is None:
            raise ValueError("it has a persistent id where there are none")
        self._push(self._persistent(self._pop()))


def _check_key(key: object) -> None:
    """Refuse keys whose hash costs more than their length: only flat ones are cheap."""
    if isinstance(key, tuple):
        if len(key) > MAX_KEY_ITEMS or not all(isinstance(item, _ATOMS) for item in key):
            raise ValueError("it has a key that is a nested or very long tuple")
    elif not isinstance(key, (*_ATOMS, PickledObject)):
        raise ValueError(f"it has a {type(key).__name__} as key")


def _opcode_name(code: int) -> str:
    found = next((op.name for op in pickletools.opcodes if ord(op.code) == code), None)
    return f"opcode {found}" if found else f"byte 0x{code:02x} as an opcode"


def _fail(problem: str) -> NoReturn:
    raise ValueError(problem)


def _check_protocol(machine: _Machine) -> None:
    if machine._byte() > 5:
        _fail("its protocol is above 5")


_ATOMS = (str, int, float, bool, bytes, type(None), Symbol)
_STOP = ord(".")
_COUNT2, _COUNT4, _COUNT8 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_INT4, _FLOAT8 = struct.Struct("<i"), struct.Struct(">d")

_STEPS: dict[int, Callable[[_Machine], None]] = {
    ord(code): step
    for code, step in {
        "\x80": _check_protocol,  # PROTO
        "\x95": lambda machine: machine._take(8) and None,  # FRAME
        "(": _Machine._mark,
        "0": _Machine._pop_one,
        "1": lambda machine: machine._pop_marked() and None,
        "N": lambda machine: machine._push(None),
        "\x88": lambda machine: machine._push(True),
        "\x89": lambda machine: machine._push(False),
        "J": lambda machine: machine._push(machine._number(_INT4)),
        "K": lambda machine: machine._push(machine._byte()),
        "M": lambda machine: machine._push(machine._number(_COUNT2)),
        "\x8a": _Machine._push_long,  # LONG1: up to 255 bytes
        "G": lambda machine: machine._push(machine._number(_FLOAT8)),
        "X": lambda machine: machine._push_text(machine._number(_COUNT4)),
        "\x8c": lambda machine: machine._push_text(machine._byte()),
        "\x8d": lambda machine: machine._push_text(machine._number(_COUNT8)),
        "B": lambda machine: machine._push_bytes(machine._number(_COUNT4)),
        "C": lambda machine: machine._push_bytes(machine._byte()),
        "\x8e": lambda machine: machine._push_bytes(machine._number(_COUNT8)),
        "]": lambda machine: machine._push([]),
        "}": lambda machine: machine._push({}),
        ")": lambda machine: machine._push(()),
        "l": lambda machine: machine._push(machine._pop_marked()),
        "d": _Machine._push_dict,
        "t": lambda machine: machine._push(tuple(machine._pop_marked())),
        "\x85": lambda machine: machine._push_tuple(1),
        "\x86": lambda machine: machine._push_tuple(2),
        "\x87": lambda machine: machine._push_tuple(3),
        "a": _Machine._append_one,
        "e": lambda machine: machine._append(machine._pop_marked()),
        "s": _Machine._set_item,
        "u": lambda machine: machine._set_items(machine._pop_marked()),
        "q": lambda machine: machine._remember(machine._byte()),
        "r": lambda machine: machine._remember(machine._number(_COUNT4)),
        "\x94": lambda machine: machine._remember(len(machine._memo)),
        "h": lambda machine: machine._recall(machine._byte()),
        "j": lambda machine: machine._recall(machine._number(_COUNT4)),
        "c": _Machine._name_line,
        "\x93": _Machine._name_stacked,
        "R": _Machine._make,
        "\x81": _Machine._make,  # NEWOBJ
        "b": _Machine._build,
        "Q": _Machine._resolve,
    }.items()
}  # fmt: skip

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 160
