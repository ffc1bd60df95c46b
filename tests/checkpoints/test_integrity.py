"""Shards are hashed from the tensors that are read, in any order, and a wrong one is refused with both hashes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from olmo_dynamics.checkpoints import MemorySource
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.checkpoints.integrity import ShardHashes
from olmo_dynamics.checkpoints.memory import MemoryCheckpoint
from olmo_dynamics.checkpoints.source import Checkpoint
from olmo_dynamics.errors import IntegrityError
from olmo_dynamics.names import Revision
from tests.checkpoints.conftest import REPO, RUN, SHARDS, noise, pack, sha256, sharded_files
from tests.hub import LocalHub

FILES = sharded_files()
MANY = {"model.safetensors": pack({f"model.layers.{layer}.w": noise(layer, 3, 5) for layer in range(6)})}


class Published(MemoryCheckpoint):
    """A checkpoint in memory with published hashes: those of `original`."""

    def __init__(self, contents: Mapping[str, bytes], original: Mapping[str, bytes] | None = None) -> None:
        super().__init__("run", Revision("step1"), contents)
        self._original = original or contents

    @property
    def expected_sha256(self) -> dict[str, str]:
        return {name: sha256(data) for name, data in self._original.items() if name.endswith(".safetensors")}


def feed_all(hashes: ShardHashes, checkpoint: Checkpoint) -> None:
    for name, raw in checkpoint.read_many(list(checkpoint.tensors.values())).items():
        hashes.feed(checkpoint.tensors[name], raw)


class TestExpected:
    def test_are_the_hubs_hashes_of_the_weights(self, hub: LocalHub, retry: RetryPolicy) -> None:
        hub.add_repo(REPO, {**RUN, "bin": {"config.json": b"{}", "pytorch_model.bin": b"x"}})
        source = HubSource(REPO, endpoint=hub.endpoint, token=False, retry=retry)
        with source.open(Revision("step20-tokens40960")) as checkpoint:
            assert checkpoint.expected_sha256 == {name: sha256(FILES[name]) for name in SHARDS}
        with source.open(Revision("main")) as checkpoint:
            assert checkpoint.expected_sha256 == {"model.safetensors": sha256(RUN["main"]["model.safetensors"])}
        with source.open(Revision("bin")) as checkpoint:
            assert checkpoint.expected_sha256 == {}

    def test_are_unknown_elsewhere(self) -> None:
        source = MemorySource(RUN)
        with source.open(source.find("main")) as checkpoint:
            assert checkpoint.expected_sha256 == {}
            hashes = ShardHashes(checkpoint)
            feed_all(hashes, checkpoint)
            assert (hashes.checked, hashes.unchecked) == (set(), set())


class TestShardHashes:
    def test_pass_what_is_as_published(self) -> None:
        with Published(FILES) as checkpoint:
            hashes = ShardHashes(checkpoint)
            assert hashes.unchecked == set(SHARDS)
            first, second = sorted(SHARDS)
            for info in hashes.order(first):
                hashes.feed(info, checkpoint.read(info))
            assert (hashes.checked, hashes.unchecked) == ({first}, {second})
            feed_all(hashes, checkpoint)  # what passed already is passed over
            assert (hashes.checked, hashes.unchecked) == (set(SHARDS), set())

    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.permutations(range(12)))
    def test_take_halves_of_tensors_in_any_order(self, order: list[int]) -> None:
        with Published(MANY) as checkpoint:
            hashes, pieces = ShardHashes(checkpoint), []
            for info in checkpoint.tensors.values():
                raw = checkpoint.read(info)
                pieces += [(info, raw[:28]), (replace(info, start=info.start + 28), raw[28:])]
            for count, at in enumerate(order, 1):
                assert not hashes.checked
                hashes.feed(*pieces[at])
                assert bool(hashes.checked) == (count == len(order))

    def test_take_pieces_from_many_threads(self) -> None:
        files = {"model.safetensors": pack({f"w{at}": noise(at, 1 << 16) for at in range(40)})}
        with Published(files) as checkpoint, ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                hashes, start = ShardHashes(checkpoint), threading.Barrier(4)

                def feed(quarter: int, hashes: ShardHashes = hashes, start: threading.Barrier = start) -> None:
                    start.wait()
                    for info in list(checkpoint.tensors.values())[quarter::4]:
                        hashes.feed(info, checkpoint.read(info))

                list(pool.map(feed, range(4)))
                assert hashes.unchecked == set()

    @pytest.mark.parametrize("at", [0, -1], ids=["header", "last byte"])
    def test_refuse_a_file_that_differs_in_a_byte(self, at: int) -> None:
        damaged = bytearray(MANY["model.safetensors"])
        if at == 0:  # the blank that fills the header up: it means the same
            at = 7 + int.from_bytes(damaged[:8], "little")
            assert damaged[at] == ord(" ")
        damaged[at] ^= ord(" ") ^ ord("\n")
        expected, found = sha256(MANY["model.safetensors"]), sha256(bytes(damaged))
        with Published({"model.safetensors": bytes(damaged)}, MANY) as checkpoint:
            hashes = ShardHashes(checkpoint)
            with pytest.raises(IntegrityError) as caught:
                feed_all(hashes, checkpoint)
        assert hashes.checked == set()
        assert str(caught.value) == (
            f"run@step1: model.safetensors should have sha256 {expected}, the bytes received have {found}; nothing "
            "measured of this revision can be trusted: collect it again, and if it fails again, report it to the repo's owner"
        )

    def test_read_nothing_over_the_network(self, hub: LocalHub, retry: RetryPolicy, tmp_path: Path) -> None:
        hub.add_repo(REPO, RUN)
        source = HubSource(REPO, endpoint=hub.endpoint, cache=tmp_path, token=False, retry=retry)
        with source.open(Revision("step20-tokens40960")) as checkpoint:
            raws = checkpoint.read_many(list(checkpoint.tensors.values()))
            asked, moved = len(hub.requests), checkpoint.bytes_moved
            hashes = ShardHashes(checkpoint)
            for name, raw in raws.items():
                hashes.feed(checkpoint.tensors[name], np.array(raw))
            assert hashes.unchecked == set()
            assert (len(hub.requests), checkpoint.bytes_moved) == (asked, moved)
