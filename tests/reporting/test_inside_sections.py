"""Sections of the inside of a model: over training, of a single revision without a step, and what keeps a chart away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import Revision
from olmo_dynamics.plots.page import Section
from olmo_dynamics.plots.theme import WORDS
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.sections import sections
from tests.store.synthetic import add, new_store

GROUPS = ("head_spectra", "attention", "writes", "lens", "induction", "logits", "tokens", "gradients", "gradient_stream",
          "gradient_rows")  # fmt: skip
OVER_TRAINING = [
    "Tokens by the trend of their loss", "Writes to the residual stream", "Shares of the logits", "Writes of heads",
    "Stable ranks of heads", "Attention entropy", "Attention sinks", "Attention logits", "Attention heads", "Induction",
    "Induction heads", "The logit lens", "Logits of the head", "Total gradient norm", "Gradient norms", "Growth along the depth",
    "Gradient noise scale", "Gradients of the residual stream", "Gradients of embedding rows",
]  # fmt: skip


def found(path: Path, revisions: Sequence[Revision]) -> tuple[RecordedStore, dict[str, Section]]:
    store = new_store(path, GROUPS)
    for seed, revision in enumerate(revisions):
        add(store, revision, seed)
    return store, {section.title: section for section in sections(Drawn(store))}


def unread(drawn: dict[str, Section]) -> dict[str, str]:
    """The reasons in the places of charts, by title."""
    datasets = {title: section.chart.to_dict().get("datasets", {}).values() for title, section in drawn.items()}
    texts = {title: str(rows[0].get("text", "")) for title, every in datasets.items() for rows in every if rows}
    return {title: text.replace("\n", " ") for title, text in texts.items() if "could not be drawn" in text}


def test_every_group_inside_a_model_has_sections_of_its_own(tmp_path: Path) -> None:
    steps = [0, 10, 20, 40, 80, 160]
    store, drawn = found(tmp_path / "s.zarr", [Revision(f"step{step}", step=step, tokens=step * 100) for step in steps])
    assert list(drawn) == OVER_TRAINING and unread(drawn) == {}
    assert {title for title, section in drawn.items() if not section.chart.usermeta[WORDS].get("said")} == set()
    shown = next(iter(drawn["Attention entropy"].chart.to_dict()["datasets"].values()))
    first = store.array("attention", "entropy")[0]
    by_layer = {row["layer"]: row["mean_entropy"] for row in shown if row["step"] == 0}
    np.testing.assert_allclose([by_layer[0], by_layer[1]], first[1:].mean(axis=1), rtol=1e-5)
    assert all(section.caption.text and section.caption.sources for section in drawn.values())


def test_a_revision_without_a_step_is_drawn_by_depth(tmp_path: Path) -> None:
    _, drawn = found(tmp_path / "s.zarr", [Revision("main")])
    assert [title for title in drawn if title not in unread(drawn)] == [
        "Writes to the residual stream by depth", "Writes of heads", "Stable ranks of heads", "Attention entropy by depth",
        "Attention heads", "Induction heads", "The logit lens by depth", "Gradient norms by depth",
        "Gradients of the residual stream",
    ]  # fmt: skip
    reason = "This chart could not be drawn: the table must hold values of "
    assert {title: text.startswith(reason) for title, text in unread(drawn).items()} == {
        "Logits of the head": True, "Gradients of embedding rows": True,
    }  # fmt: skip


def test_trends_of_tokens_are_left_out_of_a_short_training(tmp_path: Path) -> None:
    _, drawn = found(tmp_path / "s.zarr", [Revision(f"step{step}", step=step) for step in (0, 10, 20)])
    assert unread(drawn) == {}
    assert "Tokens by the trend of their loss" not in drawn
