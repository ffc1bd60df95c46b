"""The restricted pickle machine: right on pickles of weights, and everything else is refused."""

from __future__ import annotations

import builtins
import functools
import os
import pickle
import pickletools
import re
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.checkpoints.formats.pickle_allowlist import METADATA, PLAIN, TENSORS, TRAINER, read_storage
from olmo_dynamics.checkpoints.formats.unpickling import read_pickle
from olmo_dynamics.errors import CheckpointError

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(value=VALUES, protocol=st.integers(2, 5))
def test_reads_plain_values_as_pickle_does(value: Any, protocol: int) -> None:
    if protocol == 2:
        value = _without_bytes(value)  # protocol 2 spells bytes as a call
    data = pickle.dumps(value, protocol)
    assert read_pickle(data, file="f", allowed=PLAIN) == value


def _without_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_bytes(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_without_bytes, value))
    return None if isinstance(value, bytes) else value


def test_shared_parts_stay_shared() -> None:
    part = [1]
    found = read_pickle(pickle.dumps({"a": part, "b": part, "c": OrderedDict(d=part)}), file="f", allowed=PLAIN)
    assert found["a"] is found["b"]
    assert found["c"] == {"d": [1]}


def outcome(data: bytes) -> str:
    """The refusal, empty if the pickle is read."""
    try:
        read_pickle(data, file="f", allowed=TRAINER, persistent=read_storage)
    except CheckpointError as problem:
        return str(problem)
    return ""


@settings(max_examples=300)
@given(data=st.binary(max_size=60))
def test_noise_is_refused_or_read_and_nothing_else(data: bytes) -> None:
    assert "\n" not in outcome(data)


@settings(max_examples=300)
@given(cut=st.integers(0, 400), byte=st.integers(0, 255), at=st.integers(0, 400))
def test_a_damaged_pickle_is_refused_or_read_and_nothing_else(cut: int, byte: int, at: int) -> None:
    data = bytearray(pickle.dumps({"step": 1, "names": ["a", ("b", 2.5)], "inner": OrderedDict(x=b"bytes")}))
    data[at % len(data)] = byte
    assert "\n" not in outcome(bytes(data[: max(cut, 1)]))


class Call:
    """An object whose pickle calls something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def hostile_objects(canary: Path) -> dict[str, Any]:
    """Objects that would write a file, or call something that does, if their pickles were executed."""
    return {
        f"{os.system.__module__}.system": Call(os.system, f"touch {canary}"),
        "builtins.eval": Call(eval, f"open({str(canary)!r}, 'w')"),
        "builtins.exec": Call(exec, f"open({str(canary)!r}, 'w')"),
        "builtins.getattr": Call(getattr, Call(getattr, "", "join"), "__class__"),
        "builtins.__import__": Call(builtins.__import__, "this"),
        "io.open": Call(open, str(canary), "w"),
        "functools.partial": Call(functools.partial, print),
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "allowed", [PLAIN, TENSORS, TRAINER, METADATA], ids=["plain", "tensors", "trainer", "metadata"]
)
def test_hostile_names_are_refused_by_name(allowed: Any, protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    for name, harm in hostile_objects(canary).items():
        spelled = name.replace("builtins.", "__builtin__.") if protocol == 2 else name
        with pytest.raises(CheckpointError) as caught:
            read_pickle(pickle.dumps({"x": [harm]}, protocol), file="model.pt", allowed=allowed)
        assert str(caught.value) == (
            f"model.pt: its pickle uses {spelled!r}, which weights never need; nothing was executed, "
            "use a copy from a source you trust"
        )
    assert not canary.exists()


@pytest.mark.parametrize(
    ("data", "opcode"),
    [
        (b"(cos\nsystem\nS'touch x'\no.", "pickle uses 'os.system'"),
        (b"(S'touch x'\nios\nsystem\n.", "opcode STRING"),
        (b"(ios\nsystem\n.", "opcode INST"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"Pstorage\n.", "opcode PERSID"),
        (b"\x97.", "opcode NEXT_BUFFER"),
        (b"\xff", "byte 0xff as an opcode"),
        (b"g0\n.", "opcode GET"),
    ],
)
def test_opcodes_that_weights_never_need_are_refused(data: bytes, opcode: str) -> None:
    with pytest.raises(CheckpointError, match=opcode):
        read_pickle(data, file="f", allowed=TENSORS, persistent=read_storage)


def test_every_opcode_of_the_table_is_known_to_python() -> None:
    from olmo_dynamics.checkpoints.formats.unpickling import _STEPS

    assert set(_STEPS) < {ord(opcode.code) for opcode in pickletools.opcodes}


def _torch(*body: bytes) -> bytes:
    return b"\x80\x02" + b"".join(body) + b"."


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"


def _rebuild(storage: bytes, offset: int, shape: bytes, strides: bytes) -> bytes:
    return _torch(
        b"ctorch._utils\n_rebuild_tensor_v2\n(", storage, b"J", struct.pack("<i", offset), shape, strides, b"\x89}tR"
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (_rebuild(STORAGE, 0, b"J\xff\xff\xff\x7f\x85", b"K\x01\x85"), "takes 2,147,483,647 elements of a storage of 6"),
        (_rebuild(STORAGE, 0, b"J\xff\xff\xff\x7f\x85", b"K\x00\x85"), "takes 2,147,483,647 elements of a storage of 6"),
        (_rebuild(STORAGE, 5, b"K\x02\x85", b"K\x01\x85"), "takes 7 elements of a storage of 6"),
        (_rebuild(STORAGE, -1, b"K\x02\x85", b"K\x01\x85"), "without a storage"),
        (_rebuild(STORAGE, 0, b"J\xff\xff\xff\xff\x85", b"K\x01\x85"), "not whole numbers"),
        (_rebuild(STORAGE, 0, b"K\x02K\x03\x86", b"K\x01\x85"), "fewer strides than axes"),
        (_rebuild(STORAGE, 0, b"\x88\x85", b"K\x01\x85"), "not whole numbers"),
        (_rebuild(b"N", 0, b"K\x02\x85", b"K\x01\x85"), "without a storage"),
        (_torch(b"(X\x07\0\0\0storage" + STORAGE + b"X\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"), "without a known dtype"),
        (_torch(STORAGE + b"Q"), "persistent id that is not a storage"),
        (_torch(b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x05\0\0\0../xxX\x03\0\0\0cpuK\x06tQ"), "number and a length"),
        (_torch(b"ctorch\nFloatStorage\n)R"), "it calls"),
        (_torch(b"ctorch\nFloatStorage\n}b"), "sets the state of a Symbol"),
        (_torch(b"X\x01\0\0\0a)R"), "it calls 'a'"),
        (_torch(b"ccollections\nOrderedDict\n(K\x01tR"), "OrderedDict with arguments"),
        (_torch(b"}]K\x01s"), "a list as key"),
        (_torch(b"}" + b"K\x01\x85\x85" + b"K\x01s"), "nested or very long tuple"),
        (_torch(b"a"), "stack is empty"),
        (_torch(b"h\x05"), "KeyError"),
        (_torch(b"X\xff\xff\xff\xff"), "asks for 4294967295 bytes"),
        (b"\x80\x09.", "protocol is above 5"),
        (b"K\x01", "before it is finished"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(problem)) as caught:
        read_pickle(data, file="model.pt", allowed=TENSORS, persistent=read_storage)
    assert str(caught.value).startswith("model.pt: its pickle is damaged or hostile")


def test_a_bomb_of_shared_tuples_takes_no_time() -> None:
    bomb = b"K\x01\x85q\x000" + b"".join(b"h\x00h\x00\x86q\x000" for _ in range(2000)) + b"h\x00"
    with pytest.raises(CheckpointError, match="nested or very long tuple"):
        read_pickle(_torch(b"}" + bomb + b"Ns"), file="f", allowed=PLAIN)
    assert len(read_pickle(_torch(bomb), file="f", allowed=PLAIN)) == 2
