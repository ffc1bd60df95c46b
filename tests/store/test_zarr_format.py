"""What we write, zarr reads; what zarr writes in our format, we read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs import ZstdCodec

from olmo_dynamics.store.appending import write_document
from olmo_dynamics.store.log import RowWriter, read_rows
from olmo_dynamics.store.zarr_format import ArraySpec, array_document, array_spec, chunk_path, decode, encode


def write_rows(store: Path, spec: ArraySpec, start: int, rows: np.ndarray) -> None:
    writer = RowWriter(store)
    if spec.in_rows:
        writer.make_files(spec, start + len(rows))
    writer.add(spec, start, rows)
    writer.flush()


KINDS = {
    "float64": st.floats(width=64),
    "float32": st.floats(width=32),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint8": st.integers(0, 255),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"])),
}


@st.composite
def growing_arrays(draw: st.DrawFn) -> tuple[ArraySpec, np.ndarray, list[int]]:
    """An array along revision, its rows, and where its writing is broken off and taken up again."""
    dtype = draw(st.sampled_from(sorted(KINDS)))
    row = () if dtype == "string" else draw(st.sampled_from([(), (3,), (2, 3)]))
    rows = draw(st.integers(1, 7))
    values = draw(
        hnp.arrays(object if dtype == "string" else dtype, (rows, *row), elements=KINDS[dtype], fill=st.nothing())
    )
    spec = ArraySpec(
        "group/array", ("revision", "b", "c")[: 1 + len(row)], values.shape, (draw(st.integers(1, 4)), *row), dtype, {},
        is_checked=draw(st.booleans()),
    )  # fmt: skip
    cuts = sorted(draw(st.sets(st.integers(1, rows), max_size=3)))
    return spec, values, cuts


@settings(max_examples=60, deadline=None)
@given(growing_arrays())
def test_rows_written_piece_by_piece_are_read_by_zarr(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[ArraySpec, np.ndarray, list[int]]
) -> None:
    spec, values, cuts = drawn
    store = tmp_path_factory.mktemp("zarr") / "store"
    write_document(store, spec.path, array_document(spec))
    for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        write_rows(store, spec, start, values[start:stop])
    read = zarr.open_array(store, path=spec.path, mode="r")[...]
    needed = np.arange(len(values)) >= (cuts[0] if cuts else 0)
    ours = read_rows(store, spec, needed)
    np.testing.assert_array_equal(ours[needed], values[needed], strict=True)
    np.testing.assert_array_equal(np.array(read.tolist(), dtype=values.dtype), values)
    assert not (store.parent / "store.partial").exists()


@pytest.mark.parametrize("dtype", sorted(KINDS))
def test_a_document_is_the_one_zarr_writes(tmp_path: Path, dtype: str) -> None:
    fill = {"float64": np.nan, "float32": np.nan, "int64": -1, "uint8": 0, "bool": False, "string": ""}[dtype]
    theirs = zarr.create_array(
        tmp_path / "theirs", shape=(5, 3), chunks=(2, 3), dtype=dtype, fill_value=fill,
        compressors=ZstdCodec(level=-1) if dtype == "string" else None,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=("revision", "tensor"), attributes={"units": "1"},
    )  # fmt: skip
    written = json.loads((tmp_path / "theirs" / "zarr.json").read_bytes())
    del written["storage_transformers"]
    spec = ArraySpec("theirs", ("revision", "tensor"), (5, 3), (2, 3), dtype, {"units": "1"})
    assert array_document(spec) == written
    assert array_spec("theirs", written) == spec
    assert theirs.shape == spec.shape


@pytest.mark.parametrize("dtype", ["float32", "int64", "string"])
def test_a_chunk_is_the_one_zarr_writes(tmp_path: Path, dtype: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(object if dtype == "string" else dtype)
    values = np.vectorize(str, otypes=[object])(values) if dtype == "string" else values
    spec = ArraySpec("array", ("revision", "tensor"), (2, 3), (2, 3), dtype, {})
    write_document(tmp_path, "array", array_document(spec))
    zarr.open_array(tmp_path, path="array", mode="r+")[...] = values
    data = chunk_path(tmp_path / "array", spec, 0).read_bytes()
    assert data == encode(values, spec)
    np.testing.assert_array_equal(decode(data, spec), values)


def test_in_layout_2_a_chunk_of_fill_has_no_file(tmp_path: Path) -> None:
    spec = ArraySpec("array", ("revision",), (2,), (2,), "float64", {})
    write_rows(tmp_path, spec, 0, np.array([np.nan]))
    assert not chunk_path(tmp_path / "array", spec, 0).exists()
    write_rows(tmp_path, spec, 0, np.array([1.0]))
    assert chunk_path(tmp_path / "array", spec, 0).stat().st_size == 16
    write_rows(tmp_path, spec, 0, np.array([np.nan, np.nan]))
    assert not chunk_path(tmp_path / "array", spec, 0).exists()
