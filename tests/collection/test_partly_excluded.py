"""A revision with a shard of another: its sound tensors are measured, the others are NaN with a status that says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import close_session, constants
from safetensors.numpy import load_file, save

from olmo_dynamics.auditing import audit
from olmo_dynamics.auditing.quarantine import Quarantine, QuarantineEntry, save_quarantine
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect, plan
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.reporting import render_report
from tests.conformance.drawn_runs import NAMES, draw_run
from tests.conftest import REVISIONS
from tests.hub import LocalHub
from tests.listening import Notes
from tests.model.drawing import tiny_config

REPO = "tiny-org/shards"
FILES = tuple(f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3))
OPTIONS = {"record": ("parameters", "embeddings", "loss"), "batch": "2x16"}
FIRST, WRONG, LAST, MAIN = REVISIONS
NOTE = (
    f"1 revision measured in part ({WRONG}), without forward pass: the published bytes of {FILES[0]} are not theirs; "
    "--include-quarantined measures them whole"
)


def in_shards(folder: Path) -> dict[str, bytes]:
    """The files of a revision, its weights in three shards: the embedding and first block, the second block, and the rest."""
    weights = load_file(folder / "model.safetensors")
    homes = {
        name: FILES[0 if "embed" in name or "layers.0." in name else 1 if "layers.1." in name else 2]
        for name in weights
    }
    shards = {file: save({name: weights[name] for name in weights if homes[name] == file}) for file in FILES}
    others = {name: (folder / name).read_bytes() for name in ("config.json", "tokenizer.json")}
    return {**others, **shards, "model.safetensors.index.json": json.dumps({"weight_map": homes}).encode()}


@pytest.fixture(scope="module")
def source(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubSource]:
    """A hub's repo whose last step is `main`, and whose second step has the first shard of `main`."""
    run = {name: in_shards(tiny_run / name) for name in REVISIONS}
    run[LAST] = run[MAIN]
    run[WRONG] = run[WRONG] | {FILES[0]: run[MAIN][FILES[0]]}
    with pytest.MonkeyPatch.context() as patch, LocalHub() as hub:
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hf")))
        hub.add_repo(REPO, run)
        yield HubSource(REPO, endpoint=hub.endpoint, token=False, retry=RetryPolicy(tries=2, timeout=10.0))
    close_session()


@pytest.fixture(scope="module")
def collected(source: HubSource, tmp_path_factory: pytest.TempPathFactory) -> tuple[RecordedStore, list[str]]:
    folder = tmp_path_factory.mktemp("partly")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLMO_DYNAMICS_CACHE", str(folder))
        file = audit(source).quarantine.path
        listener = Notes()
        store = collect(source, out=folder / "s.zarr", quarantine=file, progress=listener, **OPTIONS)
    return open_store(store.path), listener.notes


def test_sound_tensors_are_measured_and_the_others_have_a_status(
    collected: tuple[RecordedStore, list[str]], tiny_run: Path
) -> None:
    store, notes = collected
    assert notes == [NOTE] and store.done == set(REVISIONS) and store.lacking("loss") == (WRONG,)
    for name in REVISIONS:
        weights = load_file(tiny_run / (MAIN if name == LAST else name) / "model.safetensors")
        row, tensors = store.row("parameters", name), store.axis("tensor").labels.tolist()
        for place, tensor in enumerate(tensors):
            wrong = name == WRONG and ("embed" in tensor or "layers.0." in tensor)
            expected = np.nan if wrong else np.linalg.norm(weights[tensor].astype(np.float64))
            assert row["l2_norm"][place] == pytest.approx(expected, rel=1e-12, nan_ok=True)
            assert row["element_count"][place] == (-1 if wrong else weights[tensor].size)
            assert row["status"][place] == (Status.EXCLUDED if wrong else Status.MEASURED)
    assert store.row("embeddings", WRONG)["status"].tolist() == [Status.EXCLUDED, Status.MEASURED]
    excluded = tuple(name for name in tensors if "embed" in name or "layers.0." in name)
    assert store.excluded() == {WRONG: excluded}


def test_tables_and_the_report_say_so(collected: tuple[RecordedStore, list[str]]) -> None:
    store, _ = collected
    rows = store.table("parameters").filter(status="excluded")
    assert set(rows["revision"]) == {WRONG} and rows["rms"].is_nan().all()
    assert set(store.table("loss")["revision"]) == {FIRST, LAST, MAIN}
    page = render_report(store, tensors=("q_proj",))
    count = len(store.excluded()[WRONG])
    assert f"{count} tensors of {WRONG}, whose published bytes are not theirs" in page
    assert "1 value excluded, not of these revisions" in page and "This chart could not be drawn" not in page


def test_a_collection_goes_on_without_them_unless_it_is_asked_to_measure_all(
    collected: tuple[RecordedStore, list[str]], source: HubSource
) -> None:
    store, _ = collected
    again = Notes()
    collect(source, out=store.path, include_quarantined=True, progress=again, **OPTIONS)
    assert again.notes == [
        f"{WRONG} stays without forward pass and some tensors, as {store.path} holds it; collect it into another store"
    ]
    assert open_store(store.path).lacking("loss") == (WRONG,)
    found = plan(source, include_quarantined=True, **OPTIONS)
    assert found.notes == () and found.to_do == REVISIONS


def test_the_state_of_an_excluded_tensor_is_not_measured(tmp_path: Path) -> None:
    run = draw_run(tmp_path, tiny_config(layers=1))
    name = "model.layers.0.mlp.up_proj.weight"
    entry = QuarantineEntry(("the bytes of another step",), tensors=(name,))
    file = save_quarantine(Quarantine(str(run.folder), {NAMES[1]: entry}), tmp_path / "quarantine.json")
    store = collect(run.folder, out=tmp_path / "s.zarr", record="optimizer", quarantine=file, progress=Notes())
    for revision in NAMES:
        row, tensors = store.row("optimizer", revision), store.axis("tensor").labels.tolist()
        excluded = [tensor for tensor, status in zip(tensors, row["status"], strict=True) if status == Status.EXCLUDED]
        assert excluded == ([name] if revision == NAMES[1] else [])
        assert np.isnan(row["exp_avg_rms"]).sum() == len(excluded)
