"""A probe checks itself, cannot be changed, and hashes to what it shows."""

from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.probes import Probe


def make(ids: list[list[int]], domain: list[int], domains: tuple[str, ...], lengths: list[int] | None = None) -> Probe:
    token_ids = np.array(ids, dtype=np.int64)
    count, width = token_ids.shape
    mask = np.arange(width) < np.array(lengths or [width] * count)[:, None]
    return Probe(token_ids, mask, np.array(domain, dtype=np.int64), domains, np.full_like(token_ids, -1), 50)


@pytest.fixture
def probe() -> Probe:
    return make([[1, 2, 3], [4, 5, 6], [7, 8, 0]], [0, 0, 1], ("a", "b"), [3, 3, 2])


def test_what_it_tells(probe: Probe) -> None:
    assert probe.shape == (3, 3)
    assert probe.token_count == 8
    assert probe.spans == {"a": (0, 2), "b": (2, 3)}


def test_the_hash_is_the_documented_one(probe: Probe) -> None:
    header = b'{"domains":[["a",0,2],["b",2,3]],"shape":[3,3]}\n'
    ids = b"".join(int(token).to_bytes(8, "little") for token in (1, 2, 3, 4, 5, 6, 7, 8, 0))
    assert probe.sha256 == hashlib.sha256(header + ids + bytes([1, 1, 1, 1, 1, 1, 1, 1, 0])).hexdigest()


def test_any_change_of_what_is_shown_changes_the_hash(probe: Probe) -> None:
    other_id, other_mask, other_domain = probe.token_ids.copy(), probe.mask.copy(), probe.domain.copy()
    other_id[2, 1], other_mask[2, 2], other_domain[1] = 9, True, 1
    changed = [
        replace(probe, token_ids=other_id),
        replace(probe, mask=other_mask),
        replace(probe, domain=other_domain),
        replace(probe, domains=("a", "c")),
        make(probe.token_ids.reshape(1, 9).tolist(), [0], ("a",), [8]),
    ]
    assert len({probe.sha256, *(other.sha256 for other in changed)}) == 6


def test_only_what_is_shown_is_hashed(probe: Probe) -> None:
    assert replace(probe, token_bytes=np.ones_like(probe.token_ids), tokenizer_sha256="x").sha256 == probe.sha256


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_equal_probes_have_equal_hashes_and_others_do_not(rows: int, width: int, data: st.DataObject) -> None:
    ids = st.lists(st.lists(st.integers(0, 3), min_size=width, max_size=width), min_size=rows, max_size=rows)
    one, two = data.draw(ids), data.draw(ids)
    domain = [0] * rows
    assert (make(one, domain, ("a",)).sha256 == make(two, domain, ("a",)).sha256) == (one == two)


def test_it_cannot_be_changed(probe: Probe) -> None:
    with pytest.raises(FrozenInstanceError):
        probe.__setattr__("tokenizer_size", 3)
    for array in (probe.token_ids, probe.mask, probe.domain, probe.token_bytes):
        with pytest.raises(ValueError, match=r"^assignment destination is read-only$"):
            array[0] = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": np.zeros(3, dtype=np.int64)},
         r"token_ids must be \[sequences, positions\] and not empty \(got shape \(3,\)\)"),
        ({"token_ids": np.zeros((0, 3), dtype=np.int64)},
         r"token_ids must be \[sequences, positions\] and not empty \(got shape \(0, 3\)\)"),
        ({"mask": np.ones((3, 2), dtype=np.bool_)},
         r"shapes must be {'mask': \(3, 3\), 'token_bytes': \(3, 3\), 'domain': \(3,\)} "
         r"\(got {'mask': \(3, 2\), 'token_bytes': \(3, 3\), 'domain': \(3,\)}\)"),
        ({"mask": np.array([[True] * 3, [True] * 3, [False, True, True]])},
         "padding must be on the right, and every window must hold a token"),
        ({"mask": np.array([[True] * 3, [True, False, True], [True] * 3])},
         "padding must be on the right, and every window must hold a token"),
        ({"domain": np.array([1, 0, 1])}, r"windows must be grouped by domain, 2 domains \(got \[1, 0, 1\]\)"),
        ({"domain": np.array([0, 0, 0])}, r"windows must be grouped by domain, 2 domains \(got \[0, 0, 0\]\)"),
        ({"domain": np.array([0, 1, 2])}, r"windows must be grouped by domain, 2 domains \(got \[0, 1, 2\]\)"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(probe: Probe, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(probe, **change)
