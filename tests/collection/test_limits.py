"""What a collection may take: threads, memory, the link; and the part of the work that is its own, beside others'."""

from __future__ import annotations

import os

import pytest

from olmo_dynamics.collection.limits import Limits


def test_threads_are_those_asked_for_else_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5}, raising=False)
    assert (Limits(threads=7).thread_count, Limits().thread_count) == (7, 3)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert (Limits(threads=7).thread_count, Limits().thread_count) == (7, 6)
