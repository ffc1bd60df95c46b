from __future__ import annotations

import csv
import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from olmo_dynamics.errors import DiskFullError, OptionError, StoreError
from olmo_dynamics.files import atomic_writer
from olmo_dynamics.frames import RecordedStore, export, macro_average, open_store, table_files
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities import GROUPS, of_group
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.store import Axis, Layout
from tests.store.synthetic import ATTRIBUTES, axes, values
from tests.store.test_layout import message


def test_a_store_says_what_it_is_in_one_line(filled: RecordedStore) -> None:
    assert repr(open_store(str(filled.path))) == (
        f"RecordedStore('{filled.path}': 3 revisions, 1 missing; {', '.join(GROUPS)})"
    )


def test_an_exported_table_is_the_table(filled: RecordedStore, tmp_path: Path) -> None:
    frame = filled.table("parameters")
    parquet = export(filled, "parameters", tmp_path / "deep" / "parameters.parquet")
    assert_frame_equal(pl.read_parquet(parquet), frame)
    csv = export(filled, "parameters", str(tmp_path / "parameters.csv"))
    assert_frame_equal(pl.read_csv(csv, schema=frame.schema), frame)
    assert sorted(each.name for each in tmp_path.rglob("*.*")) == ["parameters.csv", "parameters.parquet"]


def test_other_files_are_refused(filled: RecordedStore, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message("a table is written to a .parquet or .csv file (got loss.xlsx)")):
        export(filled, "loss", tmp_path / "loss.xlsx")
    with pytest.raises(OptionError, match="has no table losses"):
        export(filled, "losses", tmp_path / "loss.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["notes/loss.csv", "notes/deep/loss.csv", "folder.csv"])
def test_a_table_cannot_be_written_below_a_file_or_over_a_folder(
    filled: RecordedStore, tmp_path: Path, place: str
) -> None:
    (tmp_path / "notes").touch()
    (tmp_path / "folder.csv").mkdir()
    named = re.escape(str(tmp_path / place))
    with pytest.raises(StoreError, match=rf"^{named} cannot be written \(.*\); choose another path$"):
        export(filled, "loss", tmp_path / place)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["folder.csv", "notes"]


@pytest.mark.parametrize("name", ["loss.csv", "loss.parquet"])
def test_a_full_disk_leaves_the_old_file(
    filled: RecordedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_text("old", encoding="utf-8")

    @contextmanager
    def full(path: Path, *, partial: Path) -> Iterator[Full]:
        with atomic_writer(path, partial=partial):
            yield Full()

    monkeypatch.setattr(table_files, "atomic_writer", full)
    with pytest.raises(
        DiskFullError, match=f"no room left on the disk of {re.escape(str(tmp_path / name))}; what was finish"
    ):
        export(filled, "loss", tmp_path / name)
    assert [(each.name, each.read_text(encoding="utf-8")) for each in tmp_path.iterdir()] == [(name, "old")]


class Full:
    """A file on a full disk."""

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@given(text=st.text(max_size=5), number=st.floats(allow_nan=False))
def test_no_cell_of_a_csv_file_is_a_formula(tmp_path_factory: pytest.TempPathFactory, text: str, number: float) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    schema = {"text": pl.String, "kind": pl.Categorical, "number": pl.Float64}
    table_files.write_frame(
        pl.DataFrame({"text": [text, "="], "kind": ["-x", "x"], "number": [number, -1.0]}, schema), path
    )
    with path.open(encoding="utf-8", newline="") as file:
        [_, (first, *others), last] = csv.reader(file)
    guarded = text[:1] in tuple("=+-@\t\r") and text != ""
    assert first == (f"'{text}" if guarded else text)
    assert others[0] == "'-x" and float(others[1]) == number and last == ["'=", "x", "-1.0"]


def test_a_macro_average_counts_domains_alike(filled: RecordedStore) -> None:
    loss = filled.table("loss")
    averaged = macro_average(loss)
    expected = [values(seed)["loss/cross_entropy"].mean() for seed in (0, 1, 3)]
    np.testing.assert_allclose(averaged["cross_entropy"], expected, rtol=1e-14)
    assert averaged["domain"].unique().to_list() == ["macro average"]
    assert averaged["revision"].to_list() == loss["revision"].unique(maintain_order=True).to_list()
    assert pl.concat([loss, averaged], how="diagonal")["domain"].n_unique() == 3


def test_a_macro_average_over_other_domains_is_none(filled: RecordedStore) -> None:
    loss = filled.table("loss")[1:]
    assert macro_average(loss)["bits_per_byte"].is_null().to_list() == [True, False, False]


def test_tables_do_not_import_torch(filled: RecordedStore) -> None:
    script = (
        "import sys; from olmo_dynamics.frames import open_store; "
        f"open_store({str(filled.path)!r}).table('parameters'); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_small_rows_share_files_so_that_long_tables_are_read_fast(tmp_path: Path) -> None:
    """500 revisions of 200 tensors are planned for 200 ms a table; a file a revision and array took seconds."""
    tensors = Axis("tensor", np.array([f"model.layers.{index}.mlp.up_proj.weight" for index in range(200)]))
    layout = Layout({**axes(), "tensor": tensors}, (GROUPS["parameters"],))
    store = RecordedStore.create(tmp_path / "s.zarr", layout=layout, attributes=ATTRIBUTES, probe_arrays={})
    revisions = [Revision(f"step{step}", step=step) for step in range(500)]
    store.plan(revisions)
    chosen = (quantity for quantity in of_group("parameters") if quantity.axes == ("tensor",))
    found = [Record(quantity, np.ones(layout.shape(quantity), dtype=quantity.dtype)) for quantity in chosen]
    with store.lock():
        for revision in revisions[::20]:
            store.append(revision, found, dtype="BF16", weights_sha256="")
    chunks = list((store.path / "parameters" / "rms").glob("*.0"))
    assert len(chunks) == 32
    started = time.perf_counter()
    assert len(store.table("parameters")) == 25 * 200
    assert time.perf_counter() - started < 2
