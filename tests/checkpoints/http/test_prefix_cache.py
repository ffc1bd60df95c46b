"""The first bytes of files are requested once, by any caller."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.checkpoints.http import prefix_cache
from olmo_dynamics.checkpoints.http.prefix_cache import PrefixCache
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.checkpoints.tensors import HEADER_GUESS, Span
from olmo_dynamics.names import Revision
from tests.checkpoints.conftest import REPO, noise, pack, sharded_files
from tests.hub import LocalHub

BIG = pack({f"model.layers.{layer}.w": noise(layer, 30_000) for layer in range(4)})
LONG_HEADER = pack(
    {f"model.layers.{layer}.some_rather_long_tensor_name.weight": noise(layer, 9) for layer in range(900)}
)


class TestPrefixes:
    @given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=10))
    def test_find_only_what_was_kept(self, drawn: list[tuple[int, int]]) -> None:
        data = np.arange(50, dtype=np.uint8)
        prefixes, front = PrefixCache({"a": 50}), 0
        for start, stop in map(sorted, drawn):
            span = Span("a", start, stop)
            found = prefixes.find(span)
            np.testing.assert_array_equal(found, data[start : max(start, min(stop, front))])
            prefixes.keep(span, data[start:stop])
            front = stop if start <= front < stop else front

    def test_keep_small_files_whole_and_a_little_of_large_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prefix_cache, "KEPT_FRONT", 10)
        monkeypatch.setattr(prefix_cache, "KEPT_FILE", 20)
        prefixes, data = PrefixCache({"small": 20, "large": 21}), np.zeros(21, np.uint8)
        for span in (Span("small", 0, 20), Span("large", 0, 10), Span("large", 10, 21)):
            prefixes.keep(span, data[: span.stop - span.start])
        assert [len(prefixes.find(Span(name, 0, 99))) for name in ("small", "large")] == [20, 10]


class TestHub:
    def opened(self, hub: LocalHub, cache: Path, files: dict[str, bytes]) -> HubSource:
        hub.add_repo(REPO, {"main": {"config.json": b"{}", **files}})
        return HubSource(REPO, endpoint=hub.endpoint, cache=cache, token=False)

    @pytest.mark.parametrize("data", [BIG, LONG_HEADER], ids=["short header", "long header"])
    def test_no_byte_is_asked_for_twice(self, hub: LocalHub, tmp_path: Path, data: bytes) -> None:
        assert len(data) > HEADER_GUESS
        with self.opened(hub, tmp_path, {"model.safetensors": data}).open(Revision("main")) as checkpoint:
            raws = checkpoint.read_many(list(checkpoint.tensors.values()))
            header = checkpoint.read_spans(
                [Span("model.safetensors", 0, min(t.start for t in checkpoint.tensors.values()))]
            )
        asked = sorted((request.range or (0, 0)) for request in hub.requests if request.host == "cdn")
        assert asked[0][0] == 0
        assert asked[-1][1] == len(data)
        assert all(first[1] == second[0] for first, second in pairwise(asked))
        assert b"".join([*(raw.tobytes() for raw in header), *(raw.tobytes() for raw in raws.values())]) == data

    def test_a_small_file_is_read_once(self, hub: LocalHub, tmp_path: Path) -> None:
        files = {**sharded_files(), "tokenizer.json": b"{}" * 3_000_000}
        with self.opened(hub, tmp_path, files).open(Revision("main")) as checkpoint:
            for _ in range(3):
                assert checkpoint.tensors
                assert checkpoint.read_file("tokenizer.json") == files["tokenizer.json"]
                assert checkpoint.weights_sha256()
                assert checkpoint.file_sha256("config.json")
                del checkpoint.__dict__["tensors"]
        bodies = [request for request in hub.requests if request.range and request.status == 206]
        asked = [(request.path, request.range) for request in bodies]
        assert len(asked) == len(set(asked)) == 6  # four small files, the tokenizer in two halves
        assert sum(request.bytes_sent for request in bodies) == sum(map(len, files.values()))
