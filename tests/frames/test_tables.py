from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore, open_store, table
from olmo_dynamics.frames.grid import LEADING
from olmo_dynamics.quantities import GROUPS, find
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.store.appending import write_document
from olmo_dynamics.store.checksums import seal_document
from tests.store.silent import add_silent, new_silent_store, silent_values
from tests.store.synthetic import PROBE, REVISIONS, TENSORS, axes, new_store, records, values
from tests.store.test_layout import message

SHOWN = (0, 1, 3)  # seeds of the complete revisions in the order of tables: stage 1 by step, then main


def cells(key: str) -> list[float]:
    """The measured numbers of a quantity, revision by revision, in the arrays' order."""
    rows = np.concatenate([values(seed)[key].ravel() for seed in SHOWN])
    return rows[~np.isnan(rows) if rows.dtype.kind == "f" else rows != -1].tolist()


def test_rows_are_sorted_by_line_and_position(filled: RecordedStore) -> None:
    revisions = filled.table("revisions")
    assert revisions["revision"].to_list() == [REVISIONS[seed].name for seed in SHOWN]
    assert revisions["stage"].to_list() == [1, 1, None]
    assert revisions["step"].to_list() == [0, 10, None]
    assert revisions["tokens"].to_list() == [0, 40, None]
    assert revisions["ingredient"].to_list() == [None, None, None]
    assert revisions["seed"].to_list() == [None, None, None]
    assert revisions["line"].to_list() == ["stage1", "stage1", "run"]
    assert revisions["position_step"].to_list() == [0, 10, None]
    assert revisions["position_tokens"].to_list() == [0, 40, None]
    assert revisions["commit"].to_list() == ["c0", "c1", "c3"]


def test_an_ingredient_is_text_and_its_stage_comes_after(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("logits",))
    for seed, revision in enumerate(REVISIONS[::-1]):
        store.append(revision, records(seed, store.groups), dtype="BF16", weights_sha256="")
    logits = store.table("logits")
    assert logits["revision"].to_list() == [each.name for each in REVISIONS]
    assert logits["ingredient"].to_list() == [None, None, "1", None]
    assert logits["line"].to_list() == ["stage1", "stage1", "stage2/ingredient1", "run"]
    assert logits["position_step"].to_list() == [0, 10, 15, None]
    assert logits["entropy"].to_list() == [float(values(seed)["logits/entropy"]) for seed in (3, 2, 1, 0)]


def test_parameters(filled: RecordedStore) -> None:
    frame = filled.table("parameters")
    assert frame.columns[:14] == [*LEADING, "tensor", "layer", "expert", "role", "status"]
    assert frame["tensor"].to_list() == [*TENSORS] * 3
    assert frame["layer"].to_list() == [None, 0, 1] * 3
    assert frame["expert"].null_count() == len(frame)
    assert frame["role"].to_list() == ["embed_tokens", "q_proj", "down_proj"] * 3
    assert frame["status"].unique().to_list() == ["measured"]
    for name in ("rms", "kurtosis", "element_count", "zero_count"):
        assert frame[name].to_list() == cells(f"parameters/{name}")
    assert frame["zero_count"].dtype == pl.Int64
    assert "element_quantile" not in frame.columns


def test_activations_have_a_row_where_a_site_exists(filled: RecordedStore) -> None:
    frame = filled.table("activations")
    places = [("embedding", None), ("q", 0), ("q", 1), ("residual_out", 0), ("residual_out", 1)]
    assert list(zip(frame["site"], frame["layer"], strict=True)) == places * 3
    assert frame["kurtosis_without_first"].to_list() == cells("activations/kurtosis_without_first")


@pytest.mark.parametrize(
    ("name", "labels", "quantity"),
    [
        ("embeddings", {"embedding": [TENSORS[0]]}, "row_rms"),
        ("outliers", {}, "llmint8_count"),
        ("logits", {}, "lse_mean"),
        ("loss", {"domain": ["prose", "code"]}, "bits_per_byte"),
        ("routing", {"layer": [0, 1]}, "load_imbalance"),
    ],
)
def test_other_groups(filled: RecordedStore, name: str, labels: dict[str, list[str]], quantity: str) -> None:
    frame = filled.table(name)
    for label, expected in labels.items():
        assert frame[label].to_list() == expected * 3
    assert frame[quantity].to_list() == cells(f"{name}/{quantity}")
    assert frame["status"].to_list() == ["measured"] * len(frame)


def test_tokens_have_a_row_where_they_are_scored(filled: RecordedStore) -> None:
    frame = filled.table("tokens")
    scored = PROBE["mask"].copy()
    scored[:, 0] = False
    sequences, positions = np.nonzero(scored)
    assert frame["sequence"].to_list() == sequences.tolist() * 3
    assert frame["position"].to_list() == positions.tolist() * 3
    assert frame["token_id"].to_list() == PROBE["token_id"][scored].tolist() * 3
    assert frame["domain"].to_list() == [("prose", "prose", "code")[sequence] for sequence in sequences] * 3
    losses = np.concatenate([values(seed)["tokens/token_cross_entropy"][scored] for seed in SHOWN])
    assert frame["token_cross_entropy"].to_list() == losses.tolist()


@pytest.mark.parametrize(
    "name",
    [
        "parameters.element_quantile", "parameters.residual_feature_l2", "embeddings.row_l2", "embeddings.decile_rms",
        "activations.feature_rms", "outliers.feature_fraction_above", "outliers.massive_median", "outliers.massive_position",
        "loss.position_cross_entropy", "routing.domain_specialisation", "routing.co_activation", "routing.chosen_experts",
    ],
)  # fmt: skip
def test_further_quantities_are_long(filled: RecordedStore, name: str) -> None:
    frame = filled.table(name)
    key = name.replace(".", "/")
    assert frame["value"].to_list() == cells(key)
    row = values(SHOWN[-1])[key]
    last = frame.row(-1, named=True)
    for axis, size in zip(find(key).axes, row.shape, strict=True):
        assert last[axis] == axes()[axis].labels.tolist()[size - 1]


def test_labels_of_a_long_table_fit_their_values(filled: RecordedStore) -> None:
    frame = filled.table("outliers.feature_fraction_above")
    where = {"revision": REVISIONS[1].name, "input": "mlp_input", "layer": 1, "threshold": 6.0, "feature": 5}
    found = frame.filter(**where)["value"].to_list()
    assert found == [values(1)["outliers/feature_fraction_above"][1, 2, 4, 5]]


def test_massive_activations_with_their_coordinates(filled: RecordedStore) -> None:
    frame = filled.table("outliers.massive")
    assert frame.columns[len(LEADING) :] == ["layer", "rank", "value", "sequence", "position", "token_id", "feature"]
    assert len(frame) == 3 * 2 * 8
    for name in ("value", "sequence", "position", "token_id", "feature"):
        assert frame[name].to_list() == cells(f"outliers/massive_{name}")


def test_a_true_nan_is_kept_and_what_was_not_measured_is_not(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("parameters",))
    status = np.array([Status.NONFINITE, Status.DEGENERATE, Status.NOT_MEASURED], dtype=np.uint8)
    rms = np.array([np.nan, 0.5, np.nan])
    kurtosis = np.array([np.nan, np.nan, np.nan])
    quantiles = np.full((3, 9), np.nan)
    quantiles[1] = 0.25
    measured = {"status": status, "rms": rms, "kurtosis": kurtosis, "element_quantile": quantiles}
    found = [Record(find(f"parameters/{name}"), array) for name, array in measured.items()]
    store.append(REVISIONS[0], found, dtype="BF16", weights_sha256="")
    frame = store.table("parameters")
    assert frame["tensor"].to_list() == [*TENSORS[:2]]
    assert frame["status"].to_list() == ["non-finite", "degenerate"]
    assert frame["rms"].is_nan().to_list() == [True, False]
    assert frame["kurtosis"].is_nan().to_list() == [True, True]
    assert frame["zero_count"].to_list() == [None, None]
    long = store.table("parameters.element_quantile")
    assert long["tensor"].to_list() == [TENSORS[0]] * 9 + [TENSORS[1]] * 9
    assert store.table("revisions")["nonfinite_tensors"].to_list() == [1]


def test_outliers_are_as_bad_as_their_worst_layer(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("outliers",))
    status = np.array([Status.NOT_MEASURED, Status.NONFINITE, Status.MEASURED], dtype=np.uint8)
    found = [Record(find("outliers/status"), status), Record(find("outliers/llmint8_count"), np.float64(3))]
    store.append(REVISIONS[0], found, dtype="BF16", weights_sha256="")
    assert store.table("outliers").select("status", "llmint8_count").rows() == [("non-finite", 3.0)]


def test_a_store_with_no_revision_has_empty_tables(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr")
    for name in store.tables:
        assert store.table(name).is_empty()
    store.plan(REVISIONS)
    assert store.table("parameters").is_empty()
    assert store.table("parameters").schema["layer"] == pl.Int64


def test_every_table_begins_alike(filled: RecordedStore) -> None:
    assert filled.tables[: 1 + len(GROUPS)] == ("revisions", *GROUPS)
    for name in filled.tables:
        frame = filled.table(name)
        assert frame.columns[: len(LEADING)] == [*LEADING]
        assert [frame.schema[column] for column in LEADING] == [
            pl.String, pl.Int64, pl.String, pl.Int64, pl.Int64, pl.String, pl.String, pl.Int64, pl.Int64,
        ]  # fmt: skip
        assert not frame.is_empty()


def test_an_unknown_table_is_answered_with_those_there_are(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss", "logits"))
    known = "revisions, loss, logits, loss.position_cross_entropy"
    with pytest.raises(OptionError, match=message(f"{store.path} has no table parameters; it has {known}")):
        table(store, "parameters")


@pytest.fixture
def silent(tmp_path: Path) -> RecordedStore:
    """A store whose only group is a user's own."""
    store = new_silent_store(tmp_path / "s.zarr")
    for seed in (0, 1):
        add_silent(store, REVISIONS[seed], seed)
    return store


def test_a_group_that_the_code_does_not_know_is_a_table(silent: RecordedStore) -> None:
    assert silent.tables == ("revisions", "silent", "silent.silent_by_bin")
    frame = silent.table("silent")
    assert frame.columns[len(LEADING) :] == ["layer", "status", "silent_share"]
    assert frame["layer"].to_list() == [0, 1] * 2
    assert frame["silent_share"].to_list() == [
        *silent_values(0)["silent_share"][1:],
        *silent_values(1)["silent_share"][1:],
    ]
    long = silent.table("silent.silent_by_bin")
    assert long.columns[len(LEADING) :] == ["layer", "bin", "status", "value"]
    assert long["value"].to_list() == [
        *silent_values(0)["silent_by_bin"][1:].ravel(),
        *silent_values(1)["silent_by_bin"][1:].ravel(),
    ]


def test_a_group_without_a_status_has_a_row_where_it_has_a_value(silent: RecordedStore) -> None:
    expected = silent.table("silent")
    document = json.loads((silent.path / "zarr.json").read_bytes())
    del document["consolidated_metadata"]["metadata"]["silent/status"]
    write_document(silent.path, "", seal_document(document))
    without = open_store(silent.path, mode="a")
    assert "status" not in without.group("silent")
    assert_frame_equal(without.table("silent"), expected)
    assert without.table("silent.silent_by_bin").height == 2 * 2 * 3
    assert without.lacking_quantities(silent.layout) == {}
    add_silent(without, REVISIONS[2], 2)
    assert without.table("silent").height == 6
