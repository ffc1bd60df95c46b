"""Headers and indices: files of the safetensors library are read the same, and invalid ones are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from olmo_dynamics.checkpoints.memory import MemoryCheckpoint
from olmo_dynamics.checkpoints.tensors import (
    HEADER_GUESS,
    MAX_INDEX_BYTES,
    Span,
    parse_header,
    read_headers,
    read_index,
    read_tensors,
    weight_files,
)
from olmo_dynamics.errors import CheckpointError, HeaderError, IndexFileError
from olmo_dynamics.names import Revision, TensorInfo
from tests.checkpoints.conftest import SHARDS, SINGLE, noise, pack, sharded_files

FILE = "model.safetensors"


class Shelf:
    """Files in memory that can be read by span, and a record of every round of reads."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.rounds: list[list[Span]] = []

    def __call__(self, spans: Sequence[Span]) -> list[np.ndarray]:
        if spans:
            self.rounds.append(list(spans))
        return [np.frombuffer(self.files[file], np.uint8)[start:stop] for file, start, stop in spans]

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(data) for name, data in self.files.items()}


def framed(header: object, data: int = 0) -> bytes:
    """A file with that header, JSON or bytes, and `data` zeros."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def headers_of(file: bytes) -> list[TensorInfo]:
    shelf = Shelf({FILE: file})
    return read_headers(shelf, shelf.sizes)[FILE]


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


class TestLikeTheLibrary:
    shapes = st.lists(st.integers(0, 5), max_size=3)
    kinds = st.sampled_from(["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
    arrays = st.builds(lambda kind, shape: np.zeros(shape, kind), kinds, shapes)
    names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
        lambda name: name != "__metadata__"
    )

    @given(
        st.dictionaries(names, arrays, min_size=1, max_size=6),
        st.none() | st.dictionaries(names, st.text(max_size=5), max_size=2),
    )
    def test_reads_what_it_wrote(self, arrays: dict[str, np.ndarray], notes: dict[str, str] | None) -> None:
        file = save(arrays, notes)
        theirs = {
            name: (found["dtype"], tuple(found["shape"]), bytes(found["data"])) for name, found in deserialize(file)
        }
        ours = {
            tensor.name: (tensor.dtype, tensor.shape, file[tensor.start : tensor.stop]) for tensor in headers_of(file)
        }
        assert ours == theirs

    def test_takes_two_rounds_of_reads_for_any_number_of_shards(self) -> None:
        many = {f"model.layers.{index}.self_attn.q_proj.weight.{'x' * 80}": noise(index, 1) for index in range(600)}
        shelf = Shelf({"long.safetensors": pack(many), **{f"{index}.safetensors": pack(SINGLE) for index in range(5)}})
        found = read_headers(shelf, shelf.sizes)
        assert [len(each) for each in shelf.rounds] == [6, 1]
        assert shelf.rounds[1][0].start == HEADER_GUESS
        assert {tensor.name for tensor in found["long.safetensors"]} == set(many)

    def test_never_reads_past_a_header_by_more_than_the_guess(self) -> None:
        shelf = Shelf({FILE: pack({"w": noise(0, 1000, 1000)})})
        read_headers(shelf, shelf.sizes)
        assert shelf.rounds == [[Span(FILE, 0, HEADER_GUESS)]]


def check(tensors: list[TensorInfo], size: int) -> None:
    """Assert that tensors are in order, inside the file, and without overlap."""
    ends = [0, *(tensor.stop for tensor in tensors)]
    assert all(end <= tensor.start <= tensor.stop <= size for end, tensor in zip(ends, tensors, strict=False))
    assert all(0 <= tensor.nbytes <= size for tensor in tensors)


class TestAnyBytes:
    """Any bytes give valid tensors or a `HeaderError` of one line."""

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
    words = st.sampled_from(["F32", "BF16", "U8", "NONE"]) | json_values
    pairs = st.lists(st.integers(-2, 40), min_size=1, max_size=3) | json_values
    entries = st.fixed_dictionaries({"dtype": words, "shape": pairs, "data_offsets": pairs}) | json_values

    def refused_or_sound(self, file: bytes) -> None:
        try:
            tensors = headers_of(file)
        except HeaderError as problem:
            message = str(problem)
        else:
            return check(tensors, len(file))
        assert message.startswith(FILE)
        assert len(message.splitlines()) == 1
        return None

    @given(st.binary(max_size=200))
    def test_random_bytes(self, file: bytes) -> None:
        self.refused_or_sound(file)

    @given(st.binary(max_size=200), st.integers(0, 40))
    def test_random_headers(self, text: bytes, data: int) -> None:
        self.refused_or_sound(framed(text, data))

    @given(st.dictionaries(st.text(max_size=8), entries, max_size=4), st.integers(0, 80))
    def test_headers_of_the_right_form(self, header: dict[str, Any], data: int) -> None:
        self.refused_or_sound(framed(header, data))

    @given(st.data())
    def test_true_headers_with_bytes_changed(self, data: st.DataObject) -> None:
        file = bytearray(pack(SINGLE))
        for _ in range(data.draw(st.integers(1, 3))):
            file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
        cut = bytes(file[: data.draw(st.integers(0, len(file)))])
        self.refused_or_sound(cut)
        self.refused_or_sound(bytes(file))

    @given(st.data())
    def test_accepts_no_true_header_that_the_library_refuses(self, data: st.DataObject) -> None:
        file = bytearray(pack({"a": noise(0, 2), "b": noise(1, 3)}))
        file[data.draw(st.integers(8, len(file) - 1))] = data.draw(st.integers(32, 126))
        try:
            headers_of(bytes(file))
        except HeaderError:
            return
        try:
            deserialize(bytes(file))
        except SafetensorError as problem:
            pytest.fail(f"accepted what the library refuses: {problem}")


LENGTH = len(json.dumps({"w": entry()}))
BEGIN = 8 + LENGTH


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", ": a safetensors file must have at least 8 bytes (got 0); fetch it again"),
        (b"1234567", ": a safetensors file must have at least 8 bytes (got 7); fetch it again"),
        (
            (100_000_001).to_bytes(8, "little"),
            ": a header must have at most 100000000 bytes (its length field says 100000001); "
            "the file is damaged or is not safetensors",
        ),
        (
            (9).to_bytes(8, "little") + b"{}",
            ": its header should have 9 bytes, but only 2 are left; the file is cut off, fetch it again",
        ),
        (framed(b"[]"), " must be a JSON object (got []); fetch the file again"),
        (
            framed(b"\xff{}"),
            r" must be JSON (got b'\xff{}': 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte); "
            "fetch the file again",
        ),
        (
            framed(b'{"w": 1, "w": 1}'),
            " must be JSON (got b'{\"w\": 1, \"w\": 1}': key 'w' appears 2 times); fetch the file again",
        ),
        (framed({"__metadata__": {"a": 1}}), ": __metadata__ must map text to text (got {'a': 1})"),
        (framed({"w": 3}), ": tensor 'w' must have dtype, shape and data_offsets (got 3)"),
        (
            framed({"w": {"dtype": "F32"}}),
            ": tensor 'w' must have dtype, shape and data_offsets (got {'dtype': 'F32'})",
        ),
        (framed(b'{"\\ud800": 3}'), r": tensor '\ud800' has a name that is not Unicode text"),
        (framed({"w": entry(shape=[-1])}), ": tensor 'w' must have a shape of at most 64 whole numbers (got [-1])"),
        (framed({"w": entry(shape=[True])}), ": tensor 'w' must have a shape of at most 64 whole numbers (got [True])"),
        (
            framed({"w": entry(shape=[1] * 65)}),
            ": tensor 'w' must have a shape of at most 64 whole numbers (got [1, 1, 1, 1, 1, 1, ...])",
        ),
        (framed({"w": entry(offsets=[0])}), ": tensor 'w' must have two whole numbers as data_offsets (got [0])"),
        (
            framed({"w": entry(offsets=[0, -1])}),
            ": tensor 'w' must have two whole numbers as data_offsets (got [0, -1])",
        ),
        (framed({"w": entry(shape=[3])}), ": tensor 'w' of dtype F32 and shape [3] takes 12 bytes, but its span has 8"),
        (
            framed({"w": entry(offsets=[8, 0])}, 8),
            ": tensor 'w' of dtype F32 and shape [2] takes 8 bytes, but its span has -8",
        ),
        (
            framed({"w": entry()}, 7),
            f": its tensors end at byte {BEGIN + 8}, but the file has {BEGIN + 7} bytes; it is cut off, fetch it again",
        ),
        (
            framed({"w": entry()}, 9),
            f": its tensors end at byte {BEGIN + 8}, but the file has {BEGIN + 9} bytes; the rest belongs to no tensor",
        ),
    ],
)
def test_refusals_say_what_must_hold_and_what_was_found(file: bytes, message: str) -> None:
    with pytest.raises(HeaderError) as caught:
        headers_of(file)
    assert str(caught.value) == f"{FILE}{message}"


def test_unknown_dtypes_are_named() -> None:
    with pytest.raises(
        HeaderError, match=r"^model\.safetensors: tensor 'w' has dtype 'F5'; known dtypes: F64, F32, BF16, "
    ):
        headers_of(framed({"w": entry(dtype="F5")}))
    with pytest.raises(HeaderError, match="has dtype None"):
        headers_of(framed({"w": entry(dtype=None)}))


@pytest.mark.parametrize(
    ("second", "what"), [((4, 12), "overlaps the tensor before it"), ((12, 20), "leaves a gap before it")]
)
def test_overlaps_and_gaps_are_placed(second: tuple[int, int], what: str) -> None:
    header = {"b": entry(offsets=second), "a": entry()}
    begin = 8 + len(json.dumps(header))
    with pytest.raises(HeaderError) as caught:
        headers_of(framed(header, 20))
    assert (
        str(caught.value) == f"{FILE}: tensor 'b' {what}: it must start at byte {begin + 8} (got {begin + second[0]})"
    )


def test_deep_nesting_and_long_numbers_are_refused() -> None:
    for text in (b"[" * 100_000, b'{"a":' * 100_000, b'{"w": ' + b"9" * 10_000 + b"}"):
        with pytest.raises(HeaderError, match=r"^model\.safetensors must be JSON \(got "):
            headers_of(framed(text))


def test_a_header_alone_can_be_parsed() -> None:
    text = json.dumps({"w": entry("BF16", [2, 2])}).encode()
    assert parse_header("x", 8 + len(text) + 8, text) == [
        TensorInfo("w", "BF16", (2, 2), "x", 8 + len(text), 16 + len(text))
    ]


class TestIndex:
    def test_places_every_tensor(self) -> None:
        shelf = Shelf(sharded_files())
        found = read_tensors(shelf, shelf.sizes)
        assert {name: tensor.file for name, tensor in found.items()} == {
            name: file for file, tensors in SHARDS.items() for name in tensors
        }

    def test_names_the_weight_files_without_reading_headers(self) -> None:
        shelf = Shelf({**sharded_files(), "other.safetensors": b""})
        assert weight_files(shelf, shelf.sizes) == sorted(SHARDS)
        assert [[span.file for span in each] for each in shelf.rounds] == [["model.safetensors.index.json"]]

    def test_of_absurd_size_is_not_read(self) -> None:
        shelf = Shelf({})
        with pytest.raises(IndexFileError) as caught:
            read_index(shelf, {"model.safetensors.index.json": MAX_INDEX_BYTES + 1})
        assert (
            str(caught.value)
            == "model.safetensors.index.json: an index must have at most 67108864 bytes (got 67108865)"
        )
        assert shelf.rounds == []

    @pytest.mark.parametrize(
        "file", [r"..\x.safetensors", "C:x.safetensors", "a/../../x.safetensors", "/x.safetensors"]
    )
    def test_leads_nowhere_else(self, file: str) -> None:
        index = json.dumps({"weight_map": {"w": file}}).encode()
        shelf = Shelf({"model.safetensors.index.json": index, file: b""})
        with pytest.raises(IndexFileError, match=r"'w' should be in '.*', which lies outside the checkpoint$"):
            read_index(shelf, shelf.sizes)

    @given(
        st.binary(max_size=60) | TestAnyBytes.json_values.map(lambda value: json.dumps({"weight_map": value}).encode())
    )
    def test_of_any_bytes_is_refused_in_one_line(self, index: bytes) -> None:
        shelf = Shelf({"model.safetensors.index.json": index})
        with pytest.raises(IndexFileError) as caught:
            read_index(shelf, shelf.sizes)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [("F4", [3, 2], 3), ("F6_E2M3", [4], 3), ("F6_E3M2", [8], 6), ("F8_E8M0", [5], 5), ("F8_E4M3FNUZ", [5], 5),
     ("F8_E5M2FNUZ", [5], 5), ("C64", [2], 16), ("F4", [0, 3], 0)],
)  # fmt: skip
def test_newer_dtypes_leave_the_rest_readable(dtype: str, shape: list[int], nbytes: int) -> None:
    begin, after = (0, nbytes), (nbytes, nbytes + 8)
    header = {"a": entry(dtype=dtype, shape=shape, offsets=begin), "w": entry(offsets=after)}
    found = {info.name: info for info in headers_of(framed(header, nbytes + 8))}
    assert (found["a"].dtype, found["a"].nbytes, found["w"].nbytes) == (dtype, nbytes, 8)


def test_packed_elements_fill_whole_bytes() -> None:
    with pytest.raises(HeaderError) as caught:
        headers_of(framed({"w": entry(dtype="F4", shape=[3], offsets=(0, 2))}, 2))
    assert str(caught.value) == (
        f"{FILE}: tensor 'w' of dtype F4 and shape [3] takes 12 bits, which must fill whole bytes"
    )


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 2967438280\n"


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("model.safetensors", {"model.safetensors": POINTER}),
        ("model.safetensors.index.json", {"model.safetensors.index.json": POINTER}),
        ("pytorch_model.bin", {"pytorch_model.bin": POINTER}),
        ("model.pt", {"config.yaml": b"model: {}", "model.pt": POINTER}),
        ("model_and_optim/.metadata", {"model_and_optim/.metadata": POINTER, "config.json": b"{}"}),
    ],
)
def test_a_git_lfs_pointer_is_named_as_one(name: str, files: dict[str, bytes]) -> None:
    with (
        MemoryCheckpoint("run", Revision("step1"), {"config.json": b"{}", **files}) as checkpoint,
        pytest.raises(CheckpointError) as caught,
    ):
        _ = checkpoint.tensors
    assert str(caught.value) == (
        f"run@step1: {name} is a Git LFS pointer, which stands in place of the file itself; run `git lfs pull` in its "
        "repository"
    )


def test_other_files_may_be_git_lfs_pointers_too() -> None:
    message = "run@step1: %s is a Git LFS pointer, which stands in place of the file itself; run `git lfs pull` in its repository"
    with MemoryCheckpoint("run", Revision("step1"), {"tokenizer.json": POINTER, "config.json": POINTER}) as checkpoint:
        with pytest.raises(CheckpointError) as caught:
            checkpoint.read_file("tokenizer.json")
        assert str(caught.value) == message % "tokenizer.json"
        with pytest.raises(CheckpointError) as caught:
            _ = checkpoint.config
        assert str(caught.value) == message % "config.json"
