from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from olmo_dynamics.errors import StoreError
from olmo_dynamics.quantities import GROUPS, find
from olmo_dynamics.store import Axis, Layout
from tests.store.synthetic import LAYERS, axes, layout

ROW = "must be a row of at least one entry, as many as labels"


def message(text: str) -> str:
    return f"^{re.escape(text)}$"


def test_a_shape_is_that_of_one_revisions_row() -> None:
    assert layout().shape(find("parameters/element_quantile")) == (3, 9)
    assert layout().shape(find("activations/feature_rms")) == (3, LAYERS + 1, 8)
    assert layout().shape(find("logits/entropy")) == ()


def test_a_position_is_found_by_label_of_any_kind() -> None:
    found = layout()
    assert found.position("layer", -1) == 0
    assert found.position("threshold", 6) == 4
    assert found.position("site", "residual_out") == 2


def test_an_unknown_label_is_answered_with_those_there_are() -> None:
    with pytest.raises(StoreError, match=message("axis layer has no 7; it has -1, 0, 1")):
        layout().position("layer", 7)
    with pytest.raises(StoreError, match=message("axis token has no 'a'; it has 0, 1, 2, 3, … 39")):
        layout().position("token", "a")


@pytest.mark.parametrize(
    ("labels", "coordinates", "expected"),
    [
        ([], {}, f"labels of axis tensor {ROW} (got the shape (0,))"),
        ([[1, 2]], {}, f"labels of axis tensor {ROW} (got the shape (1, 2))"),
        ([1, 2], {"role": [1]}, f"role of axis tensor {ROW} (got the shape (1,))"),
        ([1, 2, 1], {}, "labels of axis tensor must be unique (got 1 twice)"),
    ],
)
def test_an_axis_that_cannot_label_is_refused(labels: list, coordinates: dict, expected: str) -> None:
    with pytest.raises(StoreError, match=message(expected)):
        Axis("tensor", np.array(labels), {name: np.array(values) for name, values in coordinates.items()})


def test_a_group_without_its_axes_is_refused() -> None:
    with pytest.raises(
        StoreError, match=message("group loss lies on the axis domain, which the layout does not have; add it")
    ):
        Layout({"position": axes()["position"]}, (GROUPS["loss"],))


def test_equal_layouts_do_not_differ_whatever_axes_lie_unused() -> None:
    assert layout(("loss",)) == Layout({name: axes()[name] for name in ("domain", "position")}, (GROUPS["loss"],))
    assert layout(("loss",)) != layout(("loss", "logits"))


def changed(name: str, axis: Axis) -> Layout:
    return Layout({**axes(), name: axis}, GROUPS)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (changed("domain", Axis("domain", np.array(["prose"]))), "domain has 2 labels, not 1"),
        (changed("domain", Axis("domain", np.array(["prose", "maths"]))), "domain 1 is 'code', not 'maths'"),
        (
            changed("tensor", replace(axes()["tensor"], coordinates={})),
            "the layer along tensor differs",
        ),
        (layout(("loss", "logits")), f"it records {', '.join(GROUPS)}, not loss, logits"),
    ],
)
def test_a_difference_is_told_in_words(other: Layout, expected: str) -> None:
    assert layout().difference(other) == expected
