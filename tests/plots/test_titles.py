"""Words come from the declared quantities."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from olmo_dynamics import quantities
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips
from olmo_dynamics.quantities import ALL, GROUPS, find, known_axes, remember
from olmo_dynamics.quantities.declaration import Group, Quantity
from tests.plots import synthetic


@pytest.mark.parametrize(
    ("key", "title", "short"),
    [
        ("parameters/rms", "root mean square", "RMS(W)"),
        ("activations/feature_kurtosis", "feature kurtosis", "Kurt(h)"),
        ("loss/cross_entropy", "cross-entropy (nat/token)", "CE (nat/token)"),
        ("loss/scored_tokens", "scored tokens (tokens)", "scored tokens (tokens)"),
    ],
)
def test_axis_titles_carry_the_unit(key: str, title: str, short: str) -> None:
    assert axis_title(find(key)) == title
    assert axis_title(find(key), short=True) == short


def test_every_unit_is_told_but_those_of_weights_activations_and_gradients() -> None:
    for each in ALL:
        own = each.unit == "1" or any(word in each.unit for word in ("weight unit", "activation unit", "gradient unit"))
        assert axis_title(each) == (each.long_name if own else f"{each.long_name} ({each.unit})")


def test_the_table_decides_whose_rms_it_is() -> None:
    assert quantity_of(synthetic.parameters(), "rms").key == "parameters/rms"
    assert quantity_of(synthetic.activations(), "rms").key == "activations/rms"
    assert quantity_of(synthetic.loss(), "cross_entropy").key == "loss/cross_entropy"
    assert quantity_of(synthetic.logits(), "lse_mean").key == "logits/lse_mean"


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that remembers nothing of what a test lets it remember."""
    monkeypatch.setattr(quantities, "_REMEMBERED", {})


@pytest.mark.usefixtures("forgetful")
def test_a_remembered_group_of_a_users_own_has_words_too() -> None:
    share = Quantity("silent_share", long_name="share of silent features", unit="features", formula="count / d")
    remember(Group("silent", ("layer", "side"), "", (share, Quantity("rms", long_name="RMS of a side"))))
    frame = synthetic.activations().drop("site").with_columns(side=pl.lit("left"), silent_share=0.5)
    assert axis_title(quantity_of(frame, "silent_share")) == "share of silent features (features)"
    assert definition(quantity_of(frame, "silent_share")) == "share of silent features = count / d."
    assert quantity_of(frame, "rms").key == "silent/rms"
    assert quantity_of(synthetic.parameters(), "rms").key == "parameters/rms"
    assert "side" in known_axes()
    assert [each.to_dict()["title"] for each in tooltips(frame, silent_share="share")][-2:] == ["side", "share"]


@pytest.mark.usefixtures("forgetful")
def test_a_quantity_without_a_long_name_is_called_by_its_name() -> None:
    remember(Group("silent", ("layer",), "", (Quantity("silent_share"),)))
    frame = synthetic.activations().drop("site").with_columns(silent_share=0.5)
    assert axis_title(quantity_of(frame, "silent_share")) == "silent share"
    assert heading(frame, quantity_of(frame, "silent_share"), " by layer") == "Silent share by layer"


@pytest.mark.usefixtures("forgetful")
def test_a_remembered_declaration_wins_over_a_built_in_of_the_same_key() -> None:
    older = replace(find("logits/lse_mean"), long_name="older words")
    remember(Group("logits", (), "", (older,)))
    assert quantity_of(synthetic.logits(), "lse_mean").long_name == "older words"
    remember(GROUPS["logits"])
    assert quantity_of(synthetic.logits(), "lse_mean") == find("logits/lse_mean")


def test_a_column_of_the_users_own_is_named_after_itself() -> None:
    own = quantity_of(synthetic.logits(), "relative_change")
    assert axis_title(own) == "relative change"
    assert definition(own) == ""


def test_headings_say_what_is_measured_of_what() -> None:
    table = synthetic.parameters().filter(role="q_proj")
    assert heading(table, find("parameters/rms"), " by layer") == "Root mean square of weights (q_proj) by layer"
    assert definition(find("parameters/rms")) == "RMS(W) = sqrt(sum(x**2) / n)."
