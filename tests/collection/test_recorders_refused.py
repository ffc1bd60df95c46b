"""Recorders of users that say or give something wrong: one clear line, and a store that stays whole."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import olmo_dynamics as od
from olmo_dynamics.errors import OlmoDynamicsError, OptionError, ProbeError, StoreError
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.recorders import PlainProbe
from tests.cli.conftest import called
from tests.conftest import REVISIONS
from tests.listening import Notes

MEAN = od.Quantity("mean")


class Told(od.Recorder):
    """A recorder that gives what it is told to."""

    group = od.Group("told", ("layer",), "Told.", (MEAN,))
    sites = frozenset({od.Site.RESIDUAL_OUT})

    def __init__(self, value: Any = 1.0, **told: Any) -> None:
        self.value, self.told = value, told

    def labels(self) -> Any:
        return self.told.get("labels", {})

    def attributes(self) -> Any:
        return self.told.get("attributes", {})

    def probe(self) -> Any:
        return self.told.get("probe")

    def kept_bytes(self) -> Any:
        return self.told.get("kept_bytes", 0)

    def observe(self, seen: od.Observation) -> None:
        pass

    def merge(self, other: Told) -> None:
        pass

    def finish_layer(self, layer: int) -> Iterator[Record]:
        yield self.record("mean", self.value, layer=layer)


class Numbers(Told):
    group = od.Group("told", ("layer",), "Told.", (od.Quantity("mean", dtype="uint8"),))


class OnAnAxis(Told):
    group = od.Group("told", ("layer", "power"), "Told.", (MEAN,))


def collect(run: Path, out: Path, *record: Any, revisions: str = "main") -> od.RecordedStore:
    return od.collect(run, revisions=revisions, out=out, record=list(record), progress=Notes(), batch="2x16")


def refused(
    kind: type[OlmoDynamicsError], message: str, run: Path, out: Path, recorder: Any, *, notes: bool = False
) -> None:
    with pytest.raises(kind) as error:
        collect(run, out, recorder)
    assert str(error.value) == message
    if notes:
        assert error.value.__notes__ == ["while main was measured"]
        assert od.open_store(out).missing == ("main",)
    else:
        assert not out.exists()


@pytest.mark.parametrize("value", [300, -1, 1.5, float("nan"), 2**70, "text", None, 1j])
def test_values_that_do_not_fit_are_refused(value: object, tiny_run: Path, tmp_path: Path) -> None:
    message = f"a record of told/mean at {{'layer': 0}} must fit uint8 (got {value})"
    refused(StoreError, message, tiny_run, tmp_path / "s.zarr", Numbers(value), notes=True)


def test_whole_numbers_of_any_dtype_fit(tiny_run: Path, tmp_path: Path) -> None:
    assert collect(tiny_run, tmp_path / "s.zarr", Numbers(7.0)).table("told")["mean"].to_list() == [7, 7]
    assert collect(tiny_run, tmp_path / "t.zarr", Told(np.float32(0.5))).table("told")["mean"].to_list() == [0.5, 0.5]


def test_a_cell_is_recorded_once(tiny_run: Path, tmp_path: Path) -> None:
    class Twice(Told):
        def finish_layer(self, layer: int) -> Iterator[Record]:
            yield from super().finish_layer(0)

    message = "told/mean at {'layer': 0} must be recorded once (got two records)"
    refused(StoreError, message, tiny_run, tmp_path / "s.zarr", Twice(), notes=True)


def test_a_label_that_is_none(tiny_run: Path, tmp_path: Path) -> None:
    class Listed(Told):
        def finish_layer(self, layer: int) -> Iterator[Record]:
            label: Any = [layer]
            yield self.record("mean", 1.0, layer=label)

    refused(StoreError, "axis layer has no [0]; it has -1, 0, 1", tiny_run, tmp_path / "s.zarr", Listed(), notes=True)


@pytest.mark.parametrize("given", [[1, "a"], "abc", 5, [None], [[1, 2]]])
def test_labels_that_are_no_row_of_labels(given: object, tiny_run: Path, tmp_path: Path) -> None:
    must = "labels of OnAnAxis must give, by axis, labels that are all text or all numbers"
    recorder = OnAnAxis(labels={"power": given})
    refused(OptionError, f"{must} (got {given!r} for power)", tiny_run, tmp_path / "s.zarr", recorder)


def test_labels_must_be_given_and_numbers(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    with pytest.raises(OptionError, match=r"^OnAnAxis must label the axis power of its group told: give labels by "
                       r"labels\(self\), or use one of tensor, quantile, feature, "):  # fmt: skip
        collect(tiny_run, out, OnAnAxis())
    must = "labels of OnAnAxis must give, by axis, labels that are all text or all numbers"
    refused(OptionError, f"{must} (got None)", tiny_run, out, OnAnAxis(labels=None))
    message = "labels of axis power must be text or numbers (got nan)"
    refused(StoreError, message, tiny_run, out, OnAnAxis(labels={"power": [float("nan"), 1.0]}))


def test_attributes_are_facts_by_name(tiny_run: Path, tmp_path: Path) -> None:
    out, must = tmp_path / "s.zarr", "attributes of Told must"
    refused(OptionError, f"{must} give facts by name (got None)", tiny_run, out, Told(attributes=None))
    message = f"{must} not name one recorder: the store keeps the class by that name; choose another"
    refused(OptionError, message, tiny_run, out, Told(attributes={"recorder": "me"}))
    message = "attributes of group told must be named by text (got 5)"
    refused(StoreError, message, tiny_run, out, Told(attributes={5: 1}))
    store = collect(tiny_run, out, Told(attributes={"seed": np.int64(3), "below": np.float32(0.5)}))
    assert store.group("told").attributes == {"seed": 3, "below": 0.5, "recorder": f"{__name__}:Told"}


@pytest.mark.parametrize("nbytes", [-1, 1.5, "1", None])
def test_memory_is_a_number_of_bytes(nbytes: object, tiny_run: Path, tmp_path: Path) -> None:
    message = f"kept_bytes of Told must give a whole number of bytes, at least 0 (got {nbytes!r})"
    refused(OptionError, message, tiny_run, tmp_path / "s.zarr", Told(kept_bytes=nbytes))


@pytest.mark.parametrize(
    ("probe", "must"),
    [
        (PlainProbe(np.full((2, 8), 320), 320), "hold token ids from 0 to 319 (got 320 to 320)"),
        (PlainProbe(np.full((2, 8), -1), 320), "hold token ids from 0 to 319 (got -1 to -1)"),
        (PlainProbe(np.zeros((2, 8)), 320), "hold whole numbers, an array [sequences, positions] that is not empty"),
        (PlainProbe(np.zeros(8, int), 320), "hold whole numbers, an array [sequences, positions] that is not empty"),
        (
            PlainProbe(np.zeros((2, 0), int), 320),
            "hold whole numbers, an array [sequences, positions] that is not empty",
        ),
        (np.zeros((2, 8), int), "be an olmo_dynamics.recorders.PlainProbe or the like (got ndarray)"),
    ],
)
def test_a_probe_is_of_tokens_that_the_model_knows(probe: Any, must: str, tiny_run: Path, tmp_path: Path) -> None:
    refused(ProbeError, f"the probe of Told must {must}", tiny_run, tmp_path / "s.zarr", Told(probe=probe))


def test_record_is_a_row_of_recorders(tiny_run: Path, tmp_path: Path) -> None:
    must = "record must be a list of groups and recorders, such as ['loss', Mine]"
    for given in (Told, None):
        named: Any = given
        with pytest.raises(OptionError, match=f"^{re.escape(f'{must}; got {given!r}')}$"):
            od.collect(tiny_run, out=tmp_path / "s.zarr", record=named, progress=Notes())
    generated: Any = (each for each in [Told])
    store = od.collect(
        tiny_run, revisions="main", out=tmp_path / "s.zarr", record=generated, progress=Notes(), batch="2x16"
    )
    assert store.groups == ("told",)


def test_a_model_without_the_sites_is_told_of_beside_all_groups_too(tiny_run: Path, tmp_path: Path) -> None:
    class Routed(Told):
        sites = frozenset({od.Site.ROUTER_LOGITS})

    listener = Notes()
    od.collect(
        tiny_run, revisions="main", out=tmp_path / "s.zarr", record=["all", Routed], progress=listener, batch="2x16"
    )
    assert listener.notes == [
        "told is not recorded: olmo2 has no router_logits",
        "gradients are computed in float32, whatever --dtype; the weights of the blocks are read twice for them",
    ]


def test_a_recorder_of_the_end_of_a_pass_that_stops_early_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    class Last(Told):
        sites = frozenset({od.Site.FINAL_NORM})

    message = "^told needs the whole forward pass, which is to end after layer 0; leave one out$"
    for record in (["activations", Last], ["all", Last]):
        with pytest.raises(OptionError, match=message):
            od.collect(tiny_run, out=tmp_path / "s.zarr", record=record, until_layer=0, progress=Notes())


FAILING = """
import olmo_dynamics as od

class Fails(od.Recorder):
    group = od.Group("fails", ("layer",), "Fails.", (od.Quantity("mean"),))
    sites = frozenset({od.Site.RESIDUAL_OUT})
    def observe(self, seen):
        pass
    def merge(self, other):
        pass
    def finish_layer(self, layer):
        yield self.record("mean", 1 / layer if layer < 1 else 1.0, layer=layer)

class Misshapen(Fails):
    def finish_layer(self, layer):
        yield self.record("mean", [1.0, 2.0], layer=layer)
"""


def test_the_command_line_says_which_recorder_and_revision(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> tuple[int, str, str]:
        options = ["--record", f"parameters,failing:{name}", "--batch", "2x16", "-q"]
        given = ["collect", str(tiny_run), "--revisions", REVISIONS[0], "--out", f"{name}.zarr", *options]
        try:
            return called(capsys, monkeypatch, *given)
        finally:
            del sys.modules["failing"]

    with pytest.raises(ZeroDivisionError) as failed:
        run("Fails")
    assert "".join(traceback.format_exception(failed.value)).endswith(
        f"ZeroDivisionError: division by zero\nin Fails (group fails)\nwhile {REVISIONS[0]} was measured\n"
    )
    assert od.open_store(tmp_path / "Fails.zarr").missing == (REVISIONS[0],)
    assert run("Misshapen") == (
        2,
        "",
        "olmo-dyn: a record of fails/mean at {'layer': 0} must have the shape () (got (2,)); "
        f"while {REVISIONS[0]} was measured\n",
    )
