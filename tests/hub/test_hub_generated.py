"""Generated checkpoints: cheap at any size, the same however they are read, and real models when cut small."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from olmo_dynamics.checkpoints import FolderSource
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.checkpoints.integrity import ShardHashes
from olmo_dynamics.model import parse_config
from olmo_dynamics.names import Revision
from tests.hub import LocalHub
from tests.hub.generated import LayerStack, Shard

CUT = LayerStack(layers=2, hidden=128, heads=4, kv_heads=2, intermediate=192, vocab=320, shard_bytes=200_000)


def whole(shard: Shard) -> bytes:
    return b"".join(shard.pieces())


def test_the_default_has_the_shape_of_a_published_32b() -> None:
    stack = LayerStack()
    shards = [content for content in stack.files().values() if isinstance(content, Shard)]
    assert stack.nbytes == 2 * 32_234_279_936
    assert sum(shard.size for shard in shards) - stack.nbytes < 200_000
    assert max(shard.size for shard in shards) < 5_000_100_000
    config = parse_config(stack.config)
    assert (config.layers, config.hidden_size, config.heads, config.kv_heads) == (64, 5120, 40, 8)
    last = shards[-1]
    assert len(last.read(last.size - 100, last.size)) == 100


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_bytes_do_not_depend_on_how_they_are_read(cuts: list[float]) -> None:
    shard = next(content for content in CUT.files().values() if isinstance(content, Shard))
    places = sorted({0, shard.size, *(int(cut * shard.size) for cut in cuts)})
    assert b"".join(shard.read(start, stop) for start, stop in pairwise(places)) == whole(shard)


def test_seeds_and_tensors_differ() -> None:
    shard, other = (next(iter(LayerStack(layers=1, seed=seed).files().values())) for seed in (0, 1))
    first, second = (LayerStack(layers=1, seed=seed).files()["model.safetensors"] for seed in (0, 1))
    assert shard == other  # the config
    assert isinstance(first, Shard)
    assert isinstance(second, Shard)
    at = first.size // 2
    pieces = {
        bytes(each.read(place, place + 64)) for each in (first, second) for place in (at, at // 2, at + (8 << 20))
    }
    assert len(pieces) == 6


@pytest.mark.parametrize("model_type", ["olmo2", "olmo3"])
def test_a_cut_is_a_model_that_transformers_loads(tmp_path: Path, model_type: str) -> None:
    stack = LayerStack(2, 128, 4, 2, 192, 320, model_type, 200_000)
    folder = stack.write(tmp_path / "step0")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.arange(40)[None]).logits
    assert logits.isfinite().all()
    assert 0.01 < logits.std() < 10
    with FolderSource(tmp_path).open(Revision("step0")) as checkpoint:
        assert {name: info.shape for name, info in checkpoint.tensors.items()} == stack.shapes
        for name, info in checkpoint.tensors.items():
            ours = (checkpoint.read(info).view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(info.shape)
            np.testing.assert_array_equal(ours, model.state_dict()[name].numpy())
            assert abs(ours.mean() - (info.role.endswith("norm"))) < 0.05
            assert 0.015 < ours.std() < 0.13


def test_files_are_as_the_library_writes_them(tmp_path: Path) -> None:
    folder = CUT.write(tmp_path)
    homes = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for file in sorted(set(homes.values())):
        with safe_open(folder / file, "np") as opened:
            assert opened.keys() == sorted(name for name, home in homes.items() if home == file)


@pytest.mark.parametrize("hashed", [False, True])
def test_a_hub_serves_them_with_or_without_hashes(hub: LocalHub, tmp_path: Path, hashed: bool) -> None:
    stack = LayerStack(2, 128, 4, 2, 192, 320, shard_bytes=200_000, hashed=hashed)
    files = stack.files()
    hub.add_repo("org/stack", {"step0": files})
    source = HubSource("org/stack", endpoint=hub.endpoint, cache=tmp_path, token=False)
    with source.open(Revision("step0")) as checkpoint:
        shards = {name: shard for name, shard in files.items() if isinstance(shard, Shard)}
        digests = {name: hashlib.sha256(whole(shard)).hexdigest() for name, shard in shards.items()}
        assert checkpoint.expected_sha256 == (digests if hashed else {})
        hashes = ShardHashes(checkpoint)
        for name, raw in checkpoint.read_many(list(checkpoint.tensors.values())).items():
            info = checkpoint.tensors[name]
            assert raw.tobytes() == shards[info.file].read(info.start, info.stop)
            hashes.feed(info, raw)
        assert hashes.checked == set(checkpoint.expected_sha256)
