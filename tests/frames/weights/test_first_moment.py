"""Cosines of the first moment with displacements, from sketches: exact where they are, within their error elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.model import ModelConfig, build_model, init_weights

CONFIG = ModelConfig(
    hidden_size=16, layers=1, heads=2, kv_heads=2, head_dim=8, intermediate_size=32, vocab_size=96, max_positions=16,
    norm_eps=1e-6, rope_theta=5e5,
)  # fmt: skip
STEPS = (0, 1, 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecordedStore, list[dict[str, list[np.ndarray]]]]:
    """Three revisions in a store, and their weights and first moments."""
    path = tmp_path_factory.mktemp("first") / "s.zarr"
    model = build_model(CONFIG, device="cpu")
    init_weights(model, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    kept: list[dict[str, list[np.ndarray]]] = []
    generator = torch.Generator().manual_seed(2)
    for step in STEPS:
        if step:
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        groups = ["sketches", "optimizer"] if step else ["sketches"]
        store = od.record(model, path, step=step, record=groups, optimizer=optimizer, sketch_size=256)
        kept.append(
            {
                name: [
                    each.detach().numpy().copy(),
                    optimizer.state[each].get("exp_avg", torch.zeros(1)).numpy().copy(),
                ]
                for name, each in model.named_parameters()
            }
        )
    return store, kept


@pytest.mark.parametrize(
    ("reference", "pairs"),
    [("previous", {1: (0, 1), 2: (1, 2)}), ("next", {1: (1, 2)}), ("first", {1: (0, 1), 2: (0, 2)}), ("step1", {2: (1, 2)})],
)  # fmt: skip
def test_equal_those_of_whole_tensors_within_their_error(trained, reference, pairs) -> None:
    store, kept = trained
    found = od.moment_cosine(store, reference)
    assert set(found["step"]) == set(pairs) and found.height == len(pairs) * len(kept[0])
    for row in found.iter_rows(named=True):
        start, end = pairs[row["step"]]
        moment = kept[row["step"]][row["tensor"]][1].ravel().astype(np.float64)
        moved = (kept[end][row["tensor"]][0].astype(np.float64) - kept[start][row["tensor"]][0]).ravel()
        exact = moment @ moved / np.linalg.norm(moment) / np.linalg.norm(moved)
        small = moment.size <= 256
        assert (row["cosine_se"] == 0) == small
        assert row["cosine"] == pytest.approx(exact, abs=1e-5 if small else 4 * row["cosine_se"] + 1e-5)
        assert row["status"] == "measured"
    assert set(found["reference"]) == {f"step{end if reference == 'next' else start}" for start, end in pairs.values()}
    if reference == "previous":  # the first update goes against the sign of the only gradient so far
        first = found.filter(step=1, role="norm")
        assert (first["cosine"] < -0.5).all()


def test_a_store_without_moments_is_refused(trained, tmp_path: Path) -> None:
    store, _ = trained
    with pytest.raises(OptionError) as caught:
        od.moment_cosine(store, "step9")
    assert str(caught.value).startswith(
        f"reference must be previous, next, first, or a revision of {store.path} with sketches (got step9)"
    )
    model = build_model(CONFIG, device="cpu")
    init_weights(model, seed=1)
    plain = od.record(model, tmp_path / "plain.zarr", step=0, record="sketches")
    with pytest.raises(OptionError) as lacking:
        od.moment_cosine(plain)
    assert str(lacking.value) == f"{plain.path} must have the group optimizer; collect it with --record optimizer"
