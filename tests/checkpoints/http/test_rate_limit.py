"""A limit on bytes per second: kept to a few per cent, shared by all connections, and refused if it is invalid."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from olmo_dynamics.checkpoints import FolderSource, MemorySource, Source
from olmo_dynamics.checkpoints.http.rate_limit import RateLimit
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.checkpoints.web import WebSource
from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Revision
from tests.checkpoints.conftest import REPO, noise, pack
from tests.hub import LocalHub

FILES = {"config.json": b"{}", "model.safetensors": pack({"w": noise(0, 1 << 19)})}  # 2 MiB


class TestSources:
    @pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf"), True, "5"])
    def test_refuse_a_rate_that_means_nothing(self, tmp_path: Path, rate: float) -> None:
        sources: list[Source] = [
            MemorySource({}),
            FolderSource(tmp_path),
            HubSource(REPO),
            WebSource("http://x.example/a"),
        ]
        for source in sources:
            with pytest.raises(OptionError) as caught:
                source.limit_rate(rate)
            assert str(caught.value) == (
                f"a rate must be a positive number of bytes per second, or None (got {rate!r})"
            )

    def test_keep_to_the_rate_over_all_checkpoints(self, hub: LocalHub, tmp_path: Path) -> None:
        hub.add_repo(REPO, {"step1": FILES, "step2": FILES})
        source = HubSource(REPO, endpoint=hub.endpoint, cache=tmp_path, token=False)
        opened = [source.open(Revision(name)) for name in ("step1", "step2")]
        tensors = [checkpoint.tensors["w"] for checkpoint in opened]
        source.limit_rate(8e6)
        began = time.monotonic()
        threads = [
            threading.Thread(target=checkpoint.read, args=(tensor,))
            for checkpoint, tensor in zip(opened, tensors, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = 2 * (2 << 20) / 8e6
        assert 0.75 * expected < time.monotonic() - began < 2 * expected + 1  # what comes first is let through
        source.limit_rate(None)
        began = time.monotonic()
        opened[0].read(tensors[0])
        assert time.monotonic() - began < 0.9 * (2 << 20) / 8e6
        for checkpoint in opened:
            checkpoint.close()


class TestRateLimit:
    def test_spreads_bytes_evenly(self) -> None:
        rate_limit, stop = RateLimit(), threading.Event()
        rate_limit.set(1e6)
        began = time.monotonic()
        for _ in range(100):
            rate_limit.wait_for(5000, stop)
        assert 0.35 < time.monotonic() - began < 0.8

    def test_ends_a_wait_where_all_is_stopped(self) -> None:
        rate_limit, stop = RateLimit(), threading.Event()
        rate_limit.set(1.0)
        threading.Timer(0.05, stop.set).start()
        began = time.monotonic()
        rate_limit.wait_for(1000, stop)
        assert time.monotonic() - began < 5
