"""Tables of the inside of a model, against computations of their own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import linregress, t

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import (
    RecordedStore,
    per_revision,
    row_gradients,
    token_classes,
    uniform_attention,
    uniform_prefix_matching,
)
from olmo_dynamics.frames.inside.token_classes import TRENDS, _critical, classify
from tests.store.synthetic import filled_store, values


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RecordedStore:
    groups = ("gradients", "gradient_rows", "induction", "tokens", "loss")
    return filled_store(tmp_path_factory.mktemp("inside") / "s.zarr", groups)


def of_windows(*lengths: int, **config: Any) -> Any:
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return SimpleNamespace(path="s.zarr", probe=lambda: {"mask": mask}, attributes={"model_config": config})


def test_uniform_attention_has_its_known_values() -> None:
    [row] = uniform_attention(of_windows(64, 64, num_hidden_layers=1)).rows(named=True)
    assert row["entropy"] == pytest.approx(3.2057531, abs=5e-8)
    assert row["sink_mass"] == row["previous_token_mass"] == pytest.approx(0.0594268, abs=5e-8)
    assert row["window"] is None and row["mean_distance"] == pytest.approx(63 / 4)


def test_uniform_attention_in_sliding_windows_equals_whole_matrices() -> None:
    lengths, window = (9, 5), 4
    found = uniform_attention(of_windows(*lengths, num_hidden_layers=4, sliding_window=window))
    assert found["window"].to_list() == [4, 4, 4, None]
    rows = []
    for length in lengths:
        gap = np.arange(length)[:, None] - np.arange(length)
        visible = (gap >= 0) & (gap < window)
        attended = visible / visible.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.where(visible, attended * np.log(attended), 0).sum(axis=1)
        previous = np.r_[np.nan, attended[np.arange(1, length), np.arange(length - 1)]]
        first = np.r_[np.nan, attended[1:, 0]]
        rows.append(np.stack([entropy, first, previous, (attended * gap).sum(axis=1)]))
    wanted = np.nanmean(np.concatenate(rows, axis=1), axis=1)
    names = ("entropy", "sink_mass", "previous_token_mass", "mean_distance")
    np.testing.assert_allclose([found[name][0] for name in names], wanted, rtol=1e-12)
    assert uniform_prefix_matching(3) == pytest.approx((1 / 4 + 1 / 5 + 1 / 6) / 3)


def test_numbers_per_revision_are_the_columns_of_one_table(store: RecordedStore) -> None:
    found = per_revision(store, "induction")
    assert found.columns[-3:] == ["first_half_loss", "second_half_loss", "in_context_score"]
    kept = dict(zip(found["revision"], found["second_half_loss"], strict=True))
    assert kept == {"stage1-step0-tokens0B": values(0)["induction/second_half_loss"],
                    "stage1-step10-tokens1B": values(1)["induction/second_half_loss"],
                    "main": values(3)["induction/second_half_loss"]}  # fmt: skip
    with pytest.raises(OptionError) as caught:
        per_revision(store, "loss")
    assert str(caught.value) == "loss has no quantity with one number per revision"
    with pytest.raises(OptionError, match="has no group lens; it has "):
        per_revision(store, "lens")


def test_row_gradients_are_quantiles_of_the_rows_that_have_one(store: RecordedStore) -> None:
    norms = np.asarray(values(1)["gradient_rows/row_l2"][0], dtype=np.float64)
    found = row_gradients(store).filter(step=10)
    assert found["quantile"].to_list() == [0.05, 0.25, 0.5, 0.75, 0.95]
    np.testing.assert_allclose(found["value"], np.quantile(norms[norms > 0], found["quantile"]), rtol=1e-12)


def test_trends_equal_regressions_of_single_tokens() -> None:
    rng = np.random.default_rng(0)
    place = np.log(np.geomspace(1e3, 1e6, 9))
    slopes = np.linspace(-0.4, 0.4, 40)
    losses = 5 + slopes * (place - place[0])[:, None] + rng.choice([0.05, 0.3, 1.5], 40) * rng.standard_normal((9, 40))
    found = classify(losses, place)
    for until in (5, 9):
        for token in range(40):
            fit = linregress(place[:until], losses[:until, token])
            residual = losses[:until, token] - fit.intercept - fit.slope * place[:until]
            change, scatter = fit.slope * (place[until - 1] - place[0]), np.sqrt((residual**2).sum() / (until - 2))
            moved = "learned" if change < -0.2 else "unlearned" if change > 0.2 else ""
            still = "high variance" if scatter > 0.5 else "stagnated"
            wanted = moved if fit.pvalue < 0.05 and moved else still
            assert TRENDS[found[until - 1, token]] == wanted, (until, token)
    freedom = np.arange(3, 200)
    np.testing.assert_allclose(_critical(freedom.astype(float)), t.ppf(0.975, freedom), rtol=1e-9)


def test_classes_of_tokens_share_out_the_probe() -> None:
    place = np.array([0, 10, 20, 40, 80, 160, 320])
    mask = np.array([[True] * 4])
    losses = np.full((7, 1, 4), 8.0, dtype=np.float32)
    losses[:, 0, 0] = np.nan  # the first token is not scored
    losses[1:, 0, 1] = [8, 7, 6, 5, 4, 3]
    losses[1:, 0, 2] = [3, 4, 5, 6, 7, 8]
    found = token_classes(_Tokens(place, losses, mask))  # type: ignore[arg-type]
    last = found.filter(step=320)
    assert dict(zip(last["trend"], last["share"], strict=True)) == pytest.approx(
        {"learned": 1 / 3, "stagnated": 1 / 3, "high variance": 0.0, "unlearned": 1 / 3}
    )
    assert found["step"].unique().sort().to_list() == [160, 320]  # from the fifth after step 0 on
    assert last["forgotten"].unique().to_list() == pytest.approx([1 / 3]) and last["classified"].unique().to_list() == [
        3
    ]
    with pytest.raises(OptionError) as caught:
        token_classes(_Tokens(place[:4], losses[:4], mask))  # type: ignore[arg-type]
    assert str(caught.value) == "classes of tokens need at least 5 revisions after step 0 in one line of training"


def test_stores_without_the_groups_are_refused_in_one_line(tmp_path: Path) -> None:
    bare = filled_store(tmp_path / "s.zarr", ("loss",))
    for call, group in ((token_classes, "tokens"), (row_gradients, "gradient_rows")):
        with pytest.raises(OptionError) as caught:
            call(bare)
        assert str(caught.value) == f"{bare.path} must hold the group {group}; collect it with --record {group}"


class _Tokens:
    """A store of the losses of tokens alone."""

    groups, path = ("tokens",), "s.zarr"

    def __init__(self, steps: np.ndarray, losses: np.ndarray, mask: np.ndarray) -> None:
        self._losses, self._mask = losses, mask
        texts, none = [f"step{step}" for step in steps], np.array([""] * len(steps))
        places = {"step": steps, "tokens": steps * 100, "position_step": steps, "position_tokens": steps * 100}
        self._revisions = {"revision": np.array(texts), "stage": np.full(len(steps), -1), "ingredient": none, "seed": none,
                           "line": np.array(["stage1"] * len(steps)), **places}  # fmt: skip

    def arrays(self, group: str) -> dict[str, np.ndarray]:
        return self._revisions

    def revisions(self) -> list[Any]:
        from olmo_dynamics.names import Revision

        return [Revision(f"step{step}", step=int(step)) for step in self._revisions["step"]]

    def array(self, group: str, name: str, at: Any = None) -> np.ndarray:
        return self._losses
