"""Collecting: resumable, the same from a hub as from a folder, and refusing what cannot be measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

from olmo_dynamics.checkpoints import open_source, parse_revision
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect, plan
from olmo_dynamics.errors import (
    CheckpointError,
    OlmoDynamicsError,
    OptionError,
    ProbeError,
    StoreMismatchError,
    UnknownModelError,
)
from olmo_dynamics.frames import open_store
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.progress import Progress
from olmo_dynamics.recorders.lookup import built_in_groups
from olmo_dynamics.reporting import render_report
from tests.collection import reference
from tests.conftest import REVISIONS
from tests.hub import LocalHub
from tests.listening import Notes
from tests.runs import edit_config, write_revision

DENSE_GROUPS = tuple(group for group in built_in_groups(by_default=True) if group != "routing")
SMALL = {"batch": "6x16", "progress": Progress()}
FEW = {**SMALL, "record": ("parameters", "loss")}
"""Where the numbers of all groups are not the point."""


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store, but those that hold the time of collecting."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and "collected_at" not in path.parts
    }


@pytest.fixture(scope="module")
def whole(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all four revisions, collected at once; read it, never change it."""
    out = tmp_path_factory.mktemp("whole") / "s.zarr"
    collect(tiny_run, out=out, **SMALL)
    return out


def test_a_store_is_continued_not_repeated(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "store.zarr"
    first = collect(tiny_run, revisions="stage1:first2", out=out, **SMALL)
    times = first.table("revisions")["collected_at"].to_list()
    both = collect(tiny_run, revisions="all", out=out, **SMALL)
    assert both.done == set(REVISIONS)
    assert both.table("revisions")["collected_at"].to_list()[:2] == times


def test_collecting_from_a_hub_gives_what_the_folder_gives(tiny_run: Path, whole: Path, tmp_path: Path) -> None:
    from_folder = open_store(whole)
    with LocalHub() as hub:
        hub.add_repo("allenai/tiny", {name: tiny_run / name for name in REVISIONS})
        before = sorted(path for path in tmp_path.rglob("*") if "hub.zarr" not in path.parts)
        source = HubSource("allenai/tiny", endpoint=hub.endpoint)
        from_hub = collect(source, out=tmp_path / "hub.zarr", **SMALL)
        assert sorted(path for path in tmp_path.rglob("*") if "hub.zarr" not in path.parts) == before
        payload = [each for each in hub.requests if each.host == "cdn" and each.method == "GET"]
    assert payload, "the weights came from the CDN"
    commits = from_hub.table("revisions")["commit"].to_list()
    assert all(len(commit) == 40 for commit in commits)
    for group in DENSE_GROUPS:
        ours, theirs = from_hub.arrays(group), from_folder.arrays(group)
        for name, values in theirs.items():
            assert values.tobytes() == ours[name].tobytes(), f"{group}/{name}"
    columns = ("revision", "step", "dtype", "weights_sha256")
    assert from_hub.table("revisions").select(columns).equals(from_folder.table("revisions").select(columns))


@pytest.mark.parametrize("from_hub", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["folder", "hub"])
def test_killed_half_way_and_run_again_the_store_is_the_undisturbed_one(
    from_hub: bool, tiny_run: Path, whole: Path, tmp_path: Path
) -> None:
    with LocalHub() as hub:
        hub.add_repo("allenai/tiny", {name: tiny_run / name for name in REVISIONS})
        source = "allenai/tiny" if from_hub else str(tiny_run)
        opened = HubSource(source, endpoint=hub.endpoint) if from_hub else tiny_run
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}

        def start(out: Path) -> subprocess.Popen[bytes]:
            command = [
                sys.executable,
                "-m",
                "olmo_dynamics",
                "collect",
                source,
                "--revisions",
                "all",
                "--batch",
                "6x16",
                "-q",
            ]
            return subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, env=environment)

        undisturbed = whole
        if from_hub:  # its commits are part of the store
            undisturbed = tmp_path / "undisturbed.zarr"
            collect(opened, out=undisturbed, **SMALL)
        out = tmp_path / "killed.zarr"
        killed = start(out)
        deadline = time.monotonic() + 120
        while not (out.exists() and open_store(out).done) and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert 0 < len(open_store(out).done) <= len(REVISIONS)
        collect(opened, out=out, **SMALL)
    assert contents(out) == contents(undisturbed)


def test_xarray_reads_the_store_with_no_code_of_ours(whole: Path) -> None:
    with xr.open_zarr(whole, group="parameters") as parameters:
        series = parameters.rms.sel(tensor="model.layers.1.mlp.down_proj.weight")
        assert series.dims == ("revision",) and np.isfinite(series.values).all()
        assert parameters.rms.attrs["units"] == "weight unit" and "sqrt" in parameters.rms.attrs["formula"]
    with xr.open_zarr(whole, group="activations") as activations:
        stream = activations.feature_rms.sel(site="residual_out", layer=1)
        assert stream.dims == ("revision", "feature") and np.isfinite(stream.values).all()
    with xr.open_datatree(whole, engine="zarr") as tree:
        assert set(DENSE_GROUPS) <= set(tree.children)


def test_nan_in_the_weights_is_recorded_and_reported(tmp_path: Path) -> None:
    write_revision(tmp_path / "run" / "step1", 0)
    from safetensors.torch import load_file, save_file

    file = tmp_path / "run" / "step1" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, file)
    heard: list[str] = []

    class Listener(Progress):
        def note(self, text: str) -> None:
            heard.append(text)

    store = collect(tmp_path / "run", out=tmp_path / "store.zarr", batch="2x8", progress=Listener())
    assert heard == ["step1: 1 tensors hold NaN or Inf, first model.layers.0.mlp.up_proj.weight"]
    row = store.table("parameters").filter(tensor="model.layers.0.mlp.up_proj.weight").row(0, named=True)
    assert (row["status"], row["nan_count"]) == ("non-finite", 1)
    assert store.table("revisions")["nonfinite_tensors"].to_list() == [1]


def test_an_unknown_model_type_still_has_parameters(tmp_path: Path) -> None:
    """A family whose forward pass is not implemented, with fused projections, under Pythia's revision names."""
    config = GPTBigCodeConfig(n_embd=16, n_layer=2, n_head=2, n_inner=32, vocab_size=64, n_positions=32)
    steps = (0, 1, 512, 143000)
    for step in steps:
        torch.manual_seed(step)
        GPTBigCodeForCausalLM(config).save_pretrained(tmp_path / "run" / f"step{step}")
    store = collect(tmp_path / "run", out=tmp_path / "store.zarr", progress=Progress())
    assert store.groups == ("parameters",)
    table = store.table("parameters")
    assert table["step"].unique().sort().to_list() == list(steps)
    fused = table.filter(role="c_attn", step=143000)
    assert fused["layer"].to_list() == [0, 1]
    weights = reference.weights(tmp_path / "run" / "step143000")
    for row in fused.iter_rows(named=True):
        assert row["l2_norm"] == pytest.approx(float(np.linalg.norm(weights[row["tensor"]])), rel=1e-12)
    with pytest.raises(UnknownModelError, match=r"olmo2.*gpt_bigcode"):
        collect(tmp_path / "run", out=tmp_path / "other.zarr", record=("activations",), progress=Progress())
    assert not (tmp_path / "other.zarr").exists()
    assert ">Weight norms over training</h3>" in render_report(store)


def test_chosen_tensors_only(tiny_run: Path, tmp_path: Path) -> None:
    store = collect(
        tiny_run,
        out=tmp_path / "s.zarr",
        record=("parameters",),
        tensors=("q_norm", "*.1.*k_norm*"),
        progress=Progress(),
    )
    names = sorted(set(store.table("parameters")["tensor"]))
    assert names == [
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.1.self_attn.k_norm.weight",
        "model.layers.1.self_attn.q_norm.weight",
    ]


def test_only_chosen_bytes_move_over_the_wire(tiny_run: Path, tmp_path: Path) -> None:
    with LocalHub() as hub:
        hub.add_repo("allenai/tiny", {"main": tiny_run / "main"})
        source = HubSource("allenai/tiny", endpoint=hub.endpoint)
        collect(source, out=tmp_path / "s.zarr", record=("parameters",), tensors=("q_norm",), progress=Progress())
        spans = {each.range for each in hub.requests if each.host == "cdn"}
    tensors = [info for info in source_tensors(tiny_run / "main") if info.role == "q_norm"]
    beyond_the_header = {span for span in spans if span and span[0] > 0}
    assert beyond_the_header == {(info.start, info.stop) for info in tensors}


def source_tensors(revision: Path) -> list[TensorInfo]:
    with open_source(revision.parent).open(parse_revision(revision.name)) as checkpoint:
        return list(checkpoint.tensors.values())


def test_the_plan_says_what_would_move(tiny_run: Path, tmp_path: Path) -> None:
    found = plan(tiny_run, revisions="stage1", rate=1e6)
    size = sum(each.stat().st_size for each in (tiny_run / "main").glob("*.safetensors"))
    assert found.to_do == REVISIONS[:3]
    config, tokenizer = ((tiny_run / "main" / name).stat().st_size for name in ("config.json", "tokenizer.json"))
    headers = 1 << 16  # the first bytes of each file of weights, which hold its header
    assert found.nbytes == pytest.approx(3 * (size + headers + config) + tokenizer, rel=0.01) and found.requests == 0
    assert (
        found.download_seconds == found.nbytes / 1e6
        and found.peak_bytes > 0
        and found.seconds >= found.download_seconds
    )
    collect(tiny_run, revisions="stage1:first1", out=tmp_path / "s.zarr", **SMALL)
    assert plan(tiny_run, revisions="stage1", out=tmp_path / "s.zarr").to_do == REVISIONS[1:3]


def test_another_probe_dtype_or_run_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "store.zarr"
    collect(tiny_run, revisions="main", out=out, **FEW)
    before = contents(out)
    (tmp_path / "text.txt").write_text("another text to read " * 30)
    for change in ({"text": (tmp_path / "text.txt",)}, {"dtype": "bfloat16"}, {"batch": "4x16"}):
        with pytest.raises(StoreMismatchError):
            collect(tiny_run, out=out, **{**FEW, **change})
    with pytest.raises(StoreMismatchError):
        collect(write_revision(tmp_path / "other" / "main", 0).parent, out=out, **FEW)
    assert contents(out) == before


@pytest.mark.parametrize("place", [0, 1], ids=["the first", "another"])
def test_a_broken_revision_is_left_out_and_the_others_are_kept(place: int, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    broken = run / REVISIONS[place] / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=rf"1 of 4 revisions cannot be measured \({REVISIONS[place]}\)"):
        collect(run, out=tmp_path / "store.zarr", **FEW)
    assert open_store(tmp_path / "store.zarr").done == set(REVISIONS) - {REVISIONS[place]}


def test_where_every_revision_is_broken_nothing_is_made(tiny_run: Path, tmp_path: Path) -> None:
    for name in REVISIONS[:2]:
        shutil.copytree(tiny_run / name, tmp_path / "run" / name)
        (tmp_path / "run" / name / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=REVISIONS[0]):
        collect(tmp_path / "run", out=tmp_path / "store.zarr", **SMALL)
    assert not (tmp_path / "store.zarr").exists()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"record": ("sharpness",)}, OptionError, "no group 'sharpness' to record; there are parameters, "),
        ({"batch": "8by512"}, OptionError, "batch must be BxT such as 8x512"),
        ({"dtype": "int8"}, OptionError, "dtype must be auto, float32, bfloat16, float64; got 'int8'"),
        ({"device": "abacus"}, OptionError, "device must be cpu, cuda or cuda:N; got 'abacus'"),
        ({"tensors": ("nothing",)}, OptionError, "no tensor is called nothing; give a glob of names or a role: "),
        ({"revisions": "stage9"}, OlmoDynamicsError, "stage9"),
        ({"text": ("missing.txt",)}, ProbeError, "missing.txt"),
        ({"text": "missing.txt"}, ProbeError, "missing.txt"),
        ({"text": 3}, OptionError, "text must be the path of a file, or a list of them; got 3"),
        ({"tensors": 3}, OptionError, "tensors must be globs or roles, such as ['q_norm', '*.mlp.*']; got 3"),
        ({"tensors": [3]}, OptionError, "tensors must be globs or roles, such as ['q_norm', '*.mlp.*']; got [3]"),
    ],
)
def test_options_that_mean_nothing(
    tiny_run: Path, tmp_path: Path, options: dict, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        collect(tiny_run, out=tmp_path / "store.zarr", progress=Progress(), **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "store.zarr").exists()


def test_shapes_that_contradict_the_config(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "main", tmp_path / "run" / "main")
    edit_config(tmp_path / "run" / "main", intermediate_size=64)
    with pytest.raises(CheckpointError, match="gate_proj"):
        collect(tmp_path / "run", out=tmp_path / "store.zarr", **SMALL)
    assert not (tmp_path / "store.zarr").exists()


def test_a_probe_of_token_ids(tiny_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(64).reshape(2, 32))
    store = collect(
        tiny_run,
        revisions="main",
        out=tmp_path / "s.zarr",
        tokens=tmp_path / "ids.npy",
        batch="2x32",
        progress=Progress(),
    )
    assert store.probe()["token_id"].tolist() == np.arange(64).reshape(2, 32).tolist()
    np.save(tmp_path / "bad.npy", np.array([[1, 2, 999]]))
    with pytest.raises(ProbeError, match="999"):
        collect(tiny_run, out=tmp_path / "t.zarr", tokens=tmp_path / "bad.npy", progress=Progress())


def test_the_compute_dtype_belongs_to_the_store(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_revision(run / "step1", 0, dtype=torch.bfloat16)
    shutil.copytree(run / "step1", run / "step2")
    widened = {name: tensor.float() for name, tensor in load_file(run / "step1" / "model.safetensors").items()}
    save_file(widened, run / "step2" / "model.safetensors", metadata={"format": "pt"})
    options = {"batch": "2x8", "record": "loss,activations", "progress": Progress()}
    both = collect(run, out=tmp_path / "both.zarr", **options)
    assert both.attributes["compute_dtype"] == "float32"
    assert both.table("revisions")["dtype"].to_list() == ["BF16", "F32"]
    for name in ("step1", "step2"):
        alone = collect(run, out=tmp_path / f"{name}.zarr", revisions=[name], **options)
        for group in ("loss", "activations"):
            for key, values in alone.row(group, name).items():
                for revision in ("step1", "step2"):
                    np.testing.assert_array_equal(both.row(group, revision)[key], values, err_msg=f"{group}/{key}")


def test_a_store_keeps_its_compute_dtype(tiny_run: Path, tmp_path: Path) -> None:
    options = {"batch": "2x8", "record": "loss"}
    out = tmp_path / "s.zarr"
    collect(tiny_run, revisions=REVISIONS[0], out=out, dtype="bfloat16", progress=Progress(), **options)
    assert plan(tiny_run, **options).compute_dtype == "float32"
    assert plan(tiny_run, out=out, **options).compute_dtype == "bfloat16"
    store = collect(tiny_run, revisions=REVISIONS[1], out=out, progress=Progress(), **options)
    assert store.attributes["compute_dtype"] == "bfloat16"
    with pytest.raises(StoreMismatchError) as caught:
        collect(tiny_run, out=out, dtype="float32", progress=Progress(), **options)
    assert str(caught.value) == (
        f"--dtype must be bfloat16, in which {out} was computed (got float32); leave --dtype out, or collect into another store"
    )


@pytest.fixture
def short(tiny_run: Path, tmp_path: Path) -> Path:
    """A run whose model has 24 positions."""
    shutil.copytree(tiny_run / "main", tmp_path / "short" / "main")
    edit_config(tmp_path / "short" / "main", max_position_embeddings=24)
    return tmp_path / "short"


def test_windows_are_no_longer_than_the_model_has_positions(short: Path, tmp_path: Path) -> None:
    def windows(name: str, **options: object) -> tuple[list[int], list[str]]:
        store = collect(short, out=tmp_path / name, record="loss", progress=(listener := Notes()), **options)
        return store.attributes["probe"]["shape"], listener.notes

    (tmp_path / "text.txt").write_text("the model reads the tokens and then the next token " * 3)
    (_, length), notes = windows("text.zarr", text=tmp_path / "text.txt")
    assert (length, notes) == (24, ["windows are 24 tokens, not 512, because the model has 24 positions"])
    np.save(tmp_path / "ids.npy", np.arange(100).reshape(2, 50))
    shape, notes = windows("ids.zarr", tokens=tmp_path / "ids.npy")
    assert (shape, notes) == (
        [6, 24],
        ["rows of 50 tokens are split into windows of 24, because the model has 24 positions"],
    )
    assert windows("batch.zarr", tokens=tmp_path / "ids.npy", batch="2x24") == ([2, 24], [])
    with pytest.raises(OptionError) as caught:
        windows("long.zarr", tokens=tmp_path / "ids.npy", batch=(2, 25))
    assert str(caught.value) == (
        "--batch must have windows of at most 24 tokens, because main has 24 positions (got 2x25); give 2x24"
    )


def test_a_store_keeps_the_windows_that_it_has(short: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(100).reshape(2, 50))
    edit_config(short / "main", max_position_embeddings=50)
    options = {"out": tmp_path / "s.zarr", "tokens": tmp_path / "ids.npy"}
    collect(short, record="loss", progress=Progress(), **options)
    edit_config(short / "main", max_position_embeddings=24)
    store = collect(short, record="tokens", progress=(listener := Notes()), **options)
    assert store.groups == ("loss", "tokens")
    assert listener.notes == ["windows of 50 tokens are kept, as the store has them; the model has 24 positions"]


@pytest.mark.parametrize("as_text", [True, False])
def test_lists_may_be_text_with_commas(as_text: bool, tiny_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(64).reshape(2, 32))
    given = {
        "revisions": list(REVISIONS[:2]),
        "record": ["parameters", "logits"],
        "tensors": ["q_norm", "*.k_norm.weight"],
        "tokens": [str(tmp_path / "ids.npy")],
    }
    options = {name: ",".join(words) if as_text else words for name, words in given.items()}
    store = collect(tiny_run, out=tmp_path / "s.zarr", progress=Progress(), **options)
    assert store.done == set(REVISIONS[:2]) and store.groups == ("parameters", "logits")
    assert set(store.layout.axes["tensor"].coordinates["role"].tolist()) == {"q_norm", "k_norm"}


def test_interrupting_keeps_what_is_finished(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "store.zarr"

    class Interrupting(Progress):
        def finish(self, name: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(tiny_run, out=out, **FEW | {"progress": Interrupting()})
    assert open_store(out).done == {REVISIONS[0]}
    assert collect(tiny_run, out=out, **FEW).done == set(REVISIONS)


def test_command_line_environment_reaches_the_local_hub(tiny_run: Path, tmp_path: Path) -> None:
    with LocalHub() as hub:
        hub.add_repo("allenai/tiny", {name: tiny_run / name for name in REVISIONS})
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        command = [sys.executable, "-m", "olmo_dynamics", "revisions", "allenai/tiny", "--format", "json", "-q"]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["revision"] for row in rows] == list(REVISIONS)
    assert [row["step"] for row in rows] == [0, 10, 100, None]


def test_a_tokenizer_that_reads_the_probe_otherwise_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    file = run / REVISIONS[2] / "tokenizer.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(written, indent=1), encoding="utf-8")  # other bytes, the same meaning
    assert collect(run, revisions="stage1", out=tmp_path / "same.zarr", **FEW).done == set(REVISIONS[:3])
    written["model"]["merges"] = written["model"]["merges"][:5]
    file.write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"step100-tokens1B's tokenizer turns the probe text into other tokens"):
        collect(run, revisions="stage1", out=tmp_path / "other.zarr", **FEW)
    assert open_store(tmp_path / "other.zarr").done == set(REVISIONS[:2])


def test_unknown_keys_of_a_config_are_mentioned(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "main", tmp_path / "run" / "main")
    edit_config(tmp_path / "run" / "main", a_new_word=3)
    heard: list[str] = []

    class Listener(Progress):
        def note(self, text: str) -> None:
            heard.append(text)

    collect(tmp_path / "run", out=tmp_path / "s.zarr", batch="2x8", record=("loss",), progress=Listener())
    assert heard == ["main: unknown config keys a_new_word; assumed to have no effect"]


def test_words_in_a_config_that_change_the_computation_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "main", tmp_path / "run" / "main")
    edit_config(tmp_path / "run" / "main", attention_bias=True)
    with pytest.raises(CheckpointError, match="attention_bias"):
        collect(tmp_path / "run", out=tmp_path / "s.zarr", **SMALL)
    assert not (tmp_path / "s.zarr").exists()
