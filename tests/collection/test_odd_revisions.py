"""One revision that differs, or that cannot be read, never ends the others: it is measured, or left out by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import olmo_dynamics as od
from olmo_dynamics.checkpoints import open_source
from olmo_dynamics.collecting import collect
from olmo_dynamics.collection.setup.typical import SAMPLE, TypicalRevision, _ends_first
from olmo_dynamics.errors import CheckpointError, ConfigError
from olmo_dynamics.frames import open_store
from olmo_dynamics.model import MODEL_TYPES
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress
from tests.listening import Notes
from tests.runs import TINY, edit_config, tiny_tokenizer, write_revision

NAMES = ("step0", "step100", "step200", "step300")
OPTIONS = {"batch": "2x16", "progress": Progress()}
FORWARD = ("parameters", "loss")


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alike")
    for seed, name in enumerate(NAMES):
        write_revision(folder / name, seed)
    return folder


@pytest.fixture
def run(alike: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(alike, tmp_path / "run"))


def rewrite(revision: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    file = revision / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def resize(revision: Path, rows: int = 352) -> None:
    """Give a revision another vocabulary, as chat formats do."""

    def change(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            weights[name] = np.resize(weights[name], (rows, TINY["hidden_size"]))
        return weights

    rewrite(revision, change)
    edit_config(revision, vocab_size=rows)


def drop_a_layer(revision: Path) -> None:
    rewrite(revision, lambda weights: {name: each for name, each in weights.items() if ".layers.1." not in name})
    edit_config(revision, num_hidden_layers=1, layer_types=["full_attention"])


def lose_a_tensor(revision: Path) -> None:
    rewrite(revision, lambda weights: {name: each for name, each in weights.items() if name != "lm_head.weight"})


def damage_the_header(revision: Path) -> None:
    file = revision / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200] + b"\x00\xff" + file.read_bytes()[202:])


def retokenize(revision: Path) -> None:
    tokenizer = json.loads(tiny_tokenizer())
    tokenizer["model"]["merges"] = []
    (revision / "tokenizer.json").write_text(json.dumps(tokenizer))


ODD: dict[str, tuple[Callable[[Path], object], str]] = {  # and the reason, where it is told of that revision
    "another number of layers": (
        drop_a_layer,
        "{name} lacks model.layers.1.mlp.down_proj.weight, unlike the other revisions of this store "
        "(11 tensors differ); collect it into a store of its own",
    ),
    "a tensor missing": (
        lose_a_tensor,
        "{name} lacks lm_head.weight, unlike the other revisions of this store (1 tensors differ); "
        "collect it into a store of its own",
    ),
    "a small vocabulary": (
        lambda revision: resize(revision, 96),
        "{name} must have a vocabulary for the probe's token id 266 (got 96 ids); collect it into a store of its own",
    ),
    "few positions": (
        lambda revision: edit_config(revision, max_position_embeddings=8),
        "{name} must have positions for the probe's windows of 16 tokens (got 8); give shorter windows with --batch, or "
        "collect it into a store of its own",
    ),
    "a config of another model": (
        lambda revision: edit_config(revision, model_type="qwen3"),
        "{name}: model_type must be one of " + ", ".join(MODEL_TYPES) + " to run a forward pass (got 'qwen3'); "
        "record parameters only, which needs no forward pass",
    ),
    "a hostile config": (
        lambda revision: edit_config(revision, num_hidden_layers=2**32),
        "{name}: num_hidden_layers must be at most 10000 (got 4294967296); correct the config",
    ),
    "other heads": (
        lambda revision: edit_config(revision, num_attention_heads=8, num_key_value_heads=4),
        "",
    ),
    "a damaged header": (damage_the_header, "{run}@{name}: model.safetensors must be JSON"),
    "no weights": (lambda revision: (revision / "model.safetensors").unlink(), "{run}@{name}: there must be "),
    "another tokenizer": (retokenize, "{name}'s tokenizer turns the probe text into other tokens"),
}


@pytest.mark.parametrize(("kind", "place"), [*((kind, 0) for kind in ODD), ("a tensor missing", 3), ("no weights", 1)])
def test_the_others_are_measured(kind: str, place: int, run: Path, tmp_path: Path) -> None:
    change, because = ODD[kind]
    name = NAMES[place]
    change(run / name)
    if kind == "other heads":  # no group that is recorded has a place for each head
        assert collect(run, out=tmp_path / "s.zarr", record=FORWARD, **OPTIONS).done == set(NAMES)
        return
    begins = (
        f"1 of 4 revisions cannot be measured ({name}), the others are in {tmp_path / 's.zarr'}; last reason: "
        f"{because.format(name=name, run=run)}"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(begins)}"):
        collect(run, out=tmp_path / "s.zarr", record=FORWARD, **OPTIONS)
    store = open_store(tmp_path / "s.zarr")
    assert store.done == set(NAMES) - {name} and store.missing == (name,)
    with pytest.raises(CheckpointError, match=re.escape(f"1 of 1 revision cannot be measured ({name})")):
        collect(run, out=tmp_path / "s.zarr", record=FORWARD, **OPTIONS)


def test_a_resized_vocabulary_is_measured_where_it_has_a_place(run: Path, tmp_path: Path) -> None:
    resize(run / NAMES[1])
    listener = Notes()
    reason = (
        "step100 must have the shapes of the store's other revisions for embeddings (token has 320 labels, not 352); "
        "--record parameters,loss measures it too"
    )
    with pytest.raises(CheckpointError) as caught:
        collect(run, out=tmp_path / "s.zarr", record="parameters,embeddings,loss", batch="2x16", progress=listener)
    assert str(caught.value) == (
        f"1 of 4 revisions cannot be measured (step100), the others are in {tmp_path / 's.zarr'}; last reason: {reason}"
    )
    assert listener.notes == [f"step100 is left out: {reason}"]
    store = collect(run, out=tmp_path / "t.zarr", record="parameters,loss", **OPTIONS)
    assert store.done == set(NAMES)
    table = store.table("parameters")
    for row in table.filter(tensor="lm_head.weight").to_dicts():
        weights = load_file(run / row["revision"] / "model.safetensors")["lm_head.weight"].astype(np.float64)
        assert row["element_count"] == weights.size
        assert row["l2_norm"] == pytest.approx(np.linalg.norm(weights), rel=1e-12)
    assert table.filter(tensor="lm_head.weight")["element_count"].unique().sort().to_list() == [320 * 32, 352 * 32]
    alone = collect(run, out=tmp_path / "u.zarr", revisions="step100", record="loss", **OPTIONS).table("loss")
    assert store.table("loss").filter(revision="step100").equals(alone)


def test_a_revision_without_a_tokenizer_reads_the_tokens_of_the_others(run: Path, tmp_path: Path) -> None:
    whole = collect(run, out=tmp_path / "whole.zarr", record="loss", **OPTIONS).table("loss")
    (run / NAMES[0] / "tokenizer.json").unlink()
    assert collect(run, out=tmp_path / "s.zarr", record="loss", **OPTIONS).table("loss").equals(whole)


def test_weights_alone_need_no_valid_config(run: Path, tmp_path: Path) -> None:
    whole = collect(run, out=tmp_path / "whole.zarr", record="parameters", **OPTIONS).table("parameters")
    (run / NAMES[0] / "config.json").unlink()
    edit_config(run / NAMES[1], hidden_size=10**400, rope_scaling=[[["a"]]], note="\ud800", big=float("nan"))
    edit_config(run / NAMES[2], num_hidden_layers=2**32)
    edit_config(run / NAMES[3], model_type=["olmo2"])
    for name in ("all", *NAMES):
        out = tmp_path / f"{name}.zarr"
        found = collect(run, out=out, revisions=name, record="parameters", **OPTIONS).table("parameters")
        assert found.equals(whole if name == "all" else whole.filter(revision=name))
        text = (out / "zarr.json").read_text(encoding="utf-8")
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    with pytest.raises(ConfigError, match=r"^step200: num_hidden_layers must be at most 10000 \(got 4294967296\)"):
        collect(run, out=tmp_path / "default.zarr", revisions="step200", **OPTIONS)


class Fails(od.Recorder):
    """A recorder that some weights break."""

    group = od.Group("fails", ("tensor",), "Nothing of use.", (od.Quantity("largest"),))
    reads = od.Reads.WEIGHTS
    broken: tuple[float, ...] = ()

    def __init__(self, *broken: float) -> None:
        self.broken, self.found = broken, {}

    def observe(self, seen: od.Observation) -> None:
        assert seen.tensor is not None
        largest = float(seen.values.max())
        if largest in self.broken:
            raise KeyError(largest)
        self.found[seen.tensor.name] = largest

    def finish(self) -> list[object]:
        return [self.record("largest", largest, tensor=name) for name, largest in self.found.items()]


def gains(run: Path) -> list[float]:
    """The largest gain of one norm, by which a revision is known."""
    files = (load_file(run / name / "model.safetensors") for name in NAMES)
    return [float(file["model.layers.0.post_feedforward_layernorm.weight"].max()) for file in files]


@pytest.mark.parametrize(("broken", "done"), [((1,), (0, 2, 3)), ((0, 2), (1, 3)), ((0, 1, 2), ()), ((1, 2, 3), (0,))])
def test_an_unexpected_error_is_raised_when_the_others_are_measured(
    broken: tuple[int, ...], done: tuple[int, ...], run: Path, tmp_path: Path
) -> None:
    listener = Notes()
    recorder = Fails(*(gains(run)[place] for place in broken))
    with pytest.raises(KeyError) as caught:
        collect(run, out=tmp_path / "s.zarr", record=["parameters", recorder], progress=listener)
    assert f"while {NAMES[broken[0]]} was measured" in caught.value.__notes__
    assert open_store(tmp_path / "s.zarr").done == {NAMES[place] for place in done}
    assert listener.notes[0] == f"{NAMES[broken[0]]} is left out: KeyError: {gains(run)[broken[0]]}"


def test_the_sample_begins_at_the_ends() -> None:
    revisions = [Revision(f"step{step}") for step in range(6)]
    assert [each.name for each in _ends_first(revisions)] == ["step0", "step5", "step3", "step1", "step2", "step4"]
    assert list(_ends_first([])) == []


def test_a_store_is_laid_out_for_most_revisions_and_else_for_the_first(run: Path, tmp_path: Path) -> None:
    def typical(revisions: str = "all") -> tuple[str, set[str]]:
        source = open_source(run)
        search = TypicalRevision(source, od.collection.CollectOptions(record=("parameters", "embeddings")), None)
        chosen = source.revisions() if revisions == "all" else [source.find(each) for each in revisions.split(",")]
        name, _ = search.find(chosen)
        for checkpoint in search.opened.values():
            checkpoint.close()
        return name, set(search.opened)

    assert typical() == ("step0", {"step0", "step300"})
    resize(run / "step0")
    assert typical() == ("step200", {"step0", "step200", "step300"})
    assert typical("step0,step300") == ("step0", {"step0", "step300"})
    resize(run / "step300", 336)
    assert typical() == ("step100", set(NAMES))
    assert len(NAMES) < SAMPLE


@pytest.mark.parametrize("config", [None, b"{"])
def test_of_two_revisions_the_one_whose_model_is_known_decides(config: bytes | None, run: Path, tmp_path: Path) -> None:
    path = run / "step0" / "config.json"
    path.unlink() if config is None else path.write_bytes(config)
    with pytest.raises(CheckpointError, match=r"^1 of 2 revisions cannot be measured \(step0\)"):
        collect(run, out=tmp_path / "s.zarr", revisions="step0,step100", **OPTIONS)
    assert set(open_store(tmp_path / "s.zarr").table("loss")["revision"]) == {"step100"}
