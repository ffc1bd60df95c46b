"""Words come from the declared quantities."""

from __future__ import annotations

import pytest

from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of
from olmo_dynamics.quantities import ALL, find
from tests.plots import synthetic


@pytest.mark.parametrize(
    ("key", "title", "short"),
    [
        ("parameters/rms", "root mean square (weight unit)", "RMS(W) (weight unit)"),
        ("activations/feature_kurtosis", "feature kurtosis (dimensionless)", "Kurt(h) (dimensionless)"),
        ("loss/cross_entropy", "cross-entropy (nat/token)", "CE (nat/token)"),
        ("loss/scored_tokens", "scored tokens (tokens)", "scored tokens (tokens)"),
    ],
)
def test_axis_titles_carry_the_unit(key: str, title: str, short: str) -> None:
    assert axis_title(find(key)) == title
    assert axis_title(find(key), short=True) == short


def test_every_quantity_has_a_title_with_a_unit() -> None:
    assert all(axis_title(quantity).endswith(")") for quantity in ALL)


def test_the_table_decides_whose_rms_it_is() -> None:
    assert quantity_of(synthetic.parameters(), "rms").key == "parameters/rms"
    assert quantity_of(synthetic.activations(), "rms").key == "activations/rms"
    assert quantity_of(synthetic.loss(), "cross_entropy").key == "loss/cross_entropy"
    assert quantity_of(synthetic.logits(), "lse_mean").key == "logits/lse_mean"


def test_a_column_of_the_users_own_is_named_after_itself() -> None:
    own = quantity_of(synthetic.logits(), "relative_change")
    assert axis_title(own) == "relative change"
    assert definition(own) == ""


def test_headings_say_what_is_measured_of_what() -> None:
    table = synthetic.parameters().filter(role="q_proj")
    assert heading(table, find("parameters/rms"), " by layer") == "Root mean square of weights (q_proj) by layer"
    assert definition(find("parameters/rms")) == "RMS(W) = sqrt(sum(x**2) / n)."
