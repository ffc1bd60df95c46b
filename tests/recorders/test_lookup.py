"""Recorders by name: built-in groups, `module:Class`, entry points of packages, and classes as they are."""

import re

import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Site
from olmo_dynamics.quantities import in_order
from olmo_dynamics.quantities.declaration import Group, Quantity, Reads
from olmo_dynamics.recorders import BUILT_IN, LossRecorder, ParameterRecorder, Recorder, find_recorders
from olmo_dynamics.recorders.lookup import built_in_groups, is_built_in, origin

GROUPS = (
    "parameters, embeddings, activations, outliers, logits, loss, tokens, routing, experts, sketches, spectra, head_spectra, "
    "optimizer, attention, writes, lens, induction, ngram, representations, gradients, gradient_stream, gradient_rows, "
    "evaluation"
)
WRITTEN = """
from olmo_dynamics import Group, Quantity, Reads, Recorder

class Largest(Recorder):
    group = Group("largest", ("tensor",), "Largest weights.", (Quantity("largest"),))
    reads = Reads.WEIGHTS

    def observe(self, seen):
        pass

class Outer:
    class Inner(Largest):
        pass

plain = 5
"""


class Weights(Recorder):
    group = Group("own", ("tensor",), "Of weights.", (Quantity("mean"),))
    reads = Reads.WEIGHTS

    def observe(self, seen):
        pass


class Stream(Weights):
    group = Group("stream", ("layer",), "Of the stream.", (Quantity("mean"),))
    reads = Reads.ACTIVATIONS
    sites = frozenset({Site.RESIDUAL_OUT})

    def merge(self, other):
        pass


def refused(record, message):
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        find_recorders(record)


def names(recorders):
    return [type(each).__name__ for each in recorders]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the working directory, which is not on the path."""
    (tmp_path / "my_measures.py").write_text(WRITTEN)
    monkeypatch.chdir(tmp_path)
    yield "my_measures"
    monkeypatch.delitem(__import__("sys").modules, "my_measures", raising=False)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that offers three recorders, two of which cannot be loaded."""
    (tmp_path / "some_package.py").write_text(WRITTEN)
    (tmp_path / "failing_package.py").write_text("1 / 0")
    info = tmp_path / "some_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    offers = "largest = some_package:Largest\nbroken = some_package:Missing\nfailing = failing_package:Class\n"
    (info / "entry_points.txt").write_text(f"[olmo_dynamics.recorders]\n{offers}")
    monkeypatch.syspath_prepend(tmp_path)
    yield "some_package"
    monkeypatch.delitem(__import__("sys").modules, "some_package", raising=False)


def test_built_in_groups_have_one_recorder_each():
    assert list(built_in_groups()) == GROUPS.split(", ")
    assert names(find_recorders(built_in_groups())) == names(each() for each in BUILT_IN)


def test_groups_of_one_recorder_find_it_once_and_built_in_ones_come_first():
    found = find_recorders([Weights, "tokens", "loss", "parameters"])
    assert [type(each) for each in found] == [ParameterRecorder, LossRecorder, Weights]
    assert [is_built_in(each) for each in found] == [True, True, False]


def test_an_object_is_taken_as_it_is():
    own = Weights()
    assert find_recorders([own]) == (own,)


def test_a_class_of_the_working_directory(module):
    [found] = find_recorders([f"{module}:Largest"])
    assert type(found).__module__ == module
    assert origin(found) == f"{module}:Largest"


def test_the_origin_of_a_nested_class_finds_it_again(module):
    [found] = find_recorders([f"{module}:Outer.Inner"])
    assert names(find_recorders([origin(found)])) == ["Inner"]


def test_the_path_is_left_as_it_was(module):
    import sys

    before = list(sys.path)
    find_recorders([f"{module}:Largest"])
    assert sys.path == before


def test_an_entry_point_of_a_package(package):
    [found] = find_recorders(["largest"])
    assert origin(found) == f"{package}:Largest"


def test_an_entry_point_that_cannot_be_loaded(package):
    reason = f"module '{package}' has no attribute 'Missing'"
    refused(["broken"], f"recorder broken cannot be loaded from {package}:Missing ({reason})")
    reason = "ZeroDivisionError: division by zero"
    refused(["failing"], f"recorder failing cannot be loaded from failing_package:Class ({reason})")


def test_an_unknown_group_is_refused_with_near_names():
    offers = f"there are {GROUPS}, or give a recorder as package.module:Class"
    refused(["bananas"], f"no group 'bananas' to record; {offers}")
    refused(["paramters"], f"no group 'paramters' to record; {offers}; did you mean 'parameters'?")


def test_a_near_name_may_be_a_packages(package):
    offers = f"there are {GROUPS}, largest, broken, failing, or give a recorder as package.module:Class"
    refused(["largst"], f"no group 'largst' to record; {offers}; did you mean 'largest'?")


@pytest.mark.parametrize("name", ["module:", ":Class", ".module:Class", "a b:Class", "a:b:c", "module:1"])
def test_names_of_another_form_are_refused(name):
    refused([name], f"a recorder must be named as package.module:Class (got {name!r})")


def test_modules_and_classes_that_do_not_exist(module):
    how = "give it as package.module:Class"
    refused(["absent:Class"], f"recorder absent:Class cannot be imported (No module named 'absent'); {how}")
    reason = f"module '{module}' has no attribute 'Absent'"
    refused([f"{module}:Absent"], f"recorder {module}:Absent cannot be imported ({reason}); {how}")


def test_a_module_that_fails_is_named(module, tmp_path):
    (tmp_path / "failing.py").write_text("1 / 0")
    reason = "ZeroDivisionError: division by zero"
    refused(["failing:Class"], f"recorder failing:Class cannot be imported ({reason}); mend its module")


def test_other_things_than_recorders_are_refused(module):
    refused([f"{module}:plain"], "record must name groups or recorders (got 5); subclass olmo_dynamics.Recorder")
    refused([int], "record must name groups or recorders (got <class 'int'>); subclass olmo_dynamics.Recorder")


def test_a_recorder_says_what_it_lacks():
    class NoGroup(Recorder):
        pass

    class NoObserve(Recorder):
        group = Weights.group

    class NoSites(Weights):
        reads = Reads.ACTIVATIONS

    class NoMerge(NoSites):
        sites = frozenset({Site.RESIDUAL_OUT})

    class NoQuantity(Weights):
        group = Group("own", ("tensor",))

    class ReadsText(Weights):
        reads = "weights"

    class SiteAlone(Stream):
        sites = "residual_out"

    class Misspelt(Stream):
        sites = frozenset({"residual_uot"})

    class Options(Weights):
        def __init__(self, size):
            self.size = size

    refused([NoGroup], "NoGroup must declare its group; set group = olmo_dynamics.Group(...)")
    refused([NoObserve], "NoObserve must define observe(self, seen)")
    refused(
        [NoSites],
        "NoSites must name the sites that it reads; set sites = {olmo_dynamics.Site.RESIDUAL_OUT}, or another",
    )
    refused([NoMerge], "NoMerge must define merge(self, other), since threads see different sequences")
    refused([NoQuantity], "NoQuantity must declare at least one quantity in its group; add olmo_dynamics.Quantity(...)")
    refused([ReadsText], "ReadsText must read one of olmo_dynamics.Reads (got reads = 'weights')")
    refused([SiteAlone], "SiteAlone must name its sites by a set of olmo_dynamics.Site (got 'residual_out')")
    refused([Misspelt], "Misspelt must name its sites by a set of olmo_dynamics.Site (got frozenset({'residual_uot'}))")
    refused([Options], "Options needs options (missing a required argument: 'size'); give an object, Options(...)")
    assert names(find_recorders([Options(3)])) == ["Options"]


def test_two_recorders_of_one_group_are_refused():
    class Other(Weights):
        pass

    must = "must be filled by one recorder"
    how = "give one of them another group name"
    refused([Weights, Other], f"group own {must} (got Weights and Other); {how}")
    refused([Weights, Weights], f"group own {must} (got Weights and Weights); {how}")


def test_a_group_of_this_package_is_refused():
    class Loss(Stream):
        group = built_in_groups()["loss"]

    how = "record it by its name, or give your group another name"
    refused([Loss], f"group loss is one of this package's (got it from Loss); {how}")
    refused(["logits", Loss], f"group loss is one of this package's (got it from Loss); {how}")


def test_a_recorder_of_this_package_stands_for_its_groups():
    assert names(find_recorders([LossRecorder, ParameterRecorder()])) == ["ParameterRecorder", "LossRecorder"]


def test_groups_are_stored_in_the_order_of_their_declarations_then_as_they_come():
    assert in_order(["stream", "loss", "own", "parameters"]) == ("parameters", "loss", "stream", "own")
