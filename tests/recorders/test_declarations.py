"""Declarations of groups and quantities: axes and quantities are tuples, and every name can be stored."""

import re

import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.quantities.declaration import Group, Quantity

MEAN = Quantity("mean")


def refused(message, *given, **named):
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        Group(*given, **named)


def test_axes_may_be_any_row_of_names():
    assert Group("own", ["layer", "head"], "", [MEAN])["mean"].axes == ("layer", "head")
    assert Group("own", ("layer",), "", (Quantity("mean", axes=["head"]),))["mean"].axes == ("head",)


def test_axes_that_are_no_row_of_names_are_refused():
    how = "must be a tuple of names such as ('layer',)"
    refused(f"the axes of own {how} (got 'layer')", "own", ("layer"), "", (MEAN,))
    refused(f"the axes of own {how} (got 5)", "own", 5, "", (MEAN,))
    with pytest.raises(OptionError, match=f"^the axes of mean {re.escape(how)} \\(got 'head'\\)$"):
        Quantity("mean", axes="head")


@pytest.mark.parametrize("name", ["My Axis", "a/b", "Layer", "", 5])
def test_an_axis_that_cannot_be_stored_is_refused(name):
    must = "must be named in lower-case letters, digits and underscores"
    refused(f"an axis {must} (got {name!r})", "own", (name,), "", (MEAN,))


def test_an_axis_is_named_once():
    refused("the axes of own must be named once each (got layer 2 times)", "own", ("layer", "layer"), "", (MEAN,))


def test_quantities_are_a_row_of_declarations():
    refused(f"the quantities of own must be a tuple (got {MEAN!r} alone); write (Quantity(...),)", "own", (), "", MEAN)
    refused("the quantities of own must be declared by Quantity(...) (got 'mean')", "own", (), "", ("mean",))
