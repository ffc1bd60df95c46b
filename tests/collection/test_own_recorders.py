"""Recorders of a user's own: from a class, by name and by entry point; resumed, drawn and exported without them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError, StoreMismatchError
from olmo_dynamics.quantities.declaration import Record
from tests.cli.conftest import called
from tests.conftest import REVISIONS
from tests.listening import Notes

OPTIONS = {"batch": "6x16"}


class SilentFeatures(od.Recorder):
    """Features of the stream whose RMS stays below a tenth of the median feature's."""

    group = od.Group(
        "silent",
        ("layer",),
        "Features of the residual stream that stay near zero.",
        (
            od.Quantity(
                "silent_share",
                long_name="share of silent features",
                formula="mean(feature_rms < 0.1 * median(feature_rms))",
                source="this test",
                valid=(0.0, 1.0),
            ),
            od.Quantity("stream_rms", axes=("layer", "feature"), long_name="feature RMS", formula="sqrt(mean(x**2))"),
        ),
    )
    sites = frozenset({od.Site.RESIDUAL_OUT})

    def __init__(self, below: float = 0.1) -> None:
        self.below = below
        self.squares: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(()))
        self.tokens: Counter[int] = Counter()

    def attributes(self) -> dict[str, float]:
        return {"below": self.below}

    def observe(self, seen: od.Observation) -> None:
        self.squares[seen.layer] = self.squares[seen.layer] + seen.real.double().square().sum(0).numpy()
        self.tokens[seen.layer] += len(seen.real)

    def merge(self, other: SilentFeatures) -> None:
        for layer, squares in other.squares.items():
            self.squares[layer] = self.squares[layer] + squares
        self.tokens += other.tokens

    def finish_layer(self, layer: int) -> Iterator[Record]:
        rms = np.sqrt(self.squares.pop(layer) / self.tokens.pop(layer))
        yield self.record("silent_share", (rms < self.below * np.median(rms)).mean(), layer=layer)
        yield self.record("stream_rms", rms, layer=layer)


@pytest.fixture(scope="module")
def measured(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two of the four revisions, with the user's group beside built-in ones."""
    out = tmp_path_factory.mktemp("own") / "s.zarr"
    record = ["parameters", "loss", SilentFeatures]
    revisions = ",".join(REVISIONS[:2])
    od.collect(tiny_run, revisions=revisions, out=out, record=record, progress=Notes(), **OPTIONS)
    return out


def expected_rms(run: Path, revision: str, token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """By layer and feature, from transformers."""
    model = AutoModelForCausalLM.from_pretrained(run / revision).double()
    states: list[torch.Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda block, inputs, output: states.append(output))
    with torch.no_grad():
        model(torch.tensor(token_ids))
    return np.stack([np.sqrt(np.square(state.numpy()[mask]).mean(0)) for state in states])


def test_the_numbers_are_those_of_transformers(measured: Path, tiny_run: Path) -> None:
    store = od.open_store(measured)
    assert store.groups == ("parameters", "loss", "silent")
    probe = store.probe()
    for revision in REVISIONS[:2]:
        rms = expected_rms(tiny_run, revision, probe["token_id"], probe["mask"])
        row = store.row("silent", revision)
        np.testing.assert_allclose(row["stream_rms"][1:], rms, rtol=1e-5)  # layer -1 is outside the blocks
        shares = (rms < 0.1 * np.median(rms, axis=1, keepdims=True)).mean(1)
        np.testing.assert_allclose(row["silent_share"][1:], shares)
        np.testing.assert_array_equal(row["status"], [0, 1, 1])


def test_the_built_in_groups_are_the_same_beside_it(measured: Path, tiny_run: Path, tmp_path: Path) -> None:
    alone = od.collect(tiny_run, revisions=REVISIONS[1], out=tmp_path / "s.zarr", record="parameters,loss",
                       progress=Notes(), **OPTIONS)  # fmt: skip
    for group in alone.groups:
        beside = od.open_store(measured).row(group, REVISIONS[1])
        for name, values in alone.row(group, REVISIONS[1]).items():
            np.testing.assert_array_equal(values, beside[name], err_msg=f"{group}/{name}")


def test_the_store_is_its_own_dictionary(measured: Path, tmp_path: Path) -> None:
    """Opened, exported and drawn by a process that knows nothing of the class."""
    code = f"""
import sys
import olmo_dynamics as od
from olmo_dynamics.frames import export
store = od.open_store({str(measured)!r})
group = store.group("silent")
assert group.introduction == "Features of the residual stream that stay near zero.", group
assert (group["silent_share"].long_name, group["silent_share"].valid) == ("share of silent features", (0.0, 1.0))
assert [q.name for q in store.quantities("silent")] == ["silent_share", "stream_rms", "status"]
table = store.table("silent")
for chart in (od.plots.trajectory(table, "silent_share", color="layer"), od.plots.depth_profile(table, "silent_share"),
              od.plots.layer_step_map(table, "silent_share")):
    assert "hare of silent features" in chart.to_json()
export(store, "silent.stream_rms", {str(tmp_path / "rms.csv")!r})
od.write_report(store, {str(tmp_path / "report.html")!r})
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    page = (tmp_path / "report.html").read_text()
    assert "Features of the residual stream that stay near zero." in page
    exported = pl.read_csv(tmp_path / "rms.csv")
    assert len(exported) == 2 * 2 * 32


def test_others_continue_without_the_class_and_say_so(measured: Path, tiny_run: Path, tmp_path: Path) -> None:
    out = copied(measured, tmp_path)
    listener = Notes()
    store = od.collect(tiny_run, out=out, record="parameters,loss", progress=listener, **OPTIONS)
    assert store.done == set(REVISIONS)
    assert store.lacking("silent") == REVISIONS[2:]
    assert listener.notes == [
        f"silent is not continued: its recorder is {SilentFeatures.__module__}:SilentFeatures; "
        "add it to record to measure it too"
    ]

    recorder = f"{SilentFeatures.__module__}:SilentFeatures"
    message = (
        f"group silent was recorded by {recorder}, which is not part of this package; to record more of it, give the class, "
        f"or --record {recorder}"
    )
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        od.collect(tiny_run, out=out, record="loss,silent", progress=Notes(), **OPTIONS)
    filled = od.collect(tiny_run, out=out, record=[SilentFeatures()], progress=Notes(), **OPTIONS)
    assert filled.lacking("silent") == ()
    assert filled.groups == store.groups


def test_an_entry_point_may_be_called_as_its_group(
    measured: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "silent-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: silent\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[olmo_dynamics.recorders]\nsilent = {__name__}:SilentFeatures\n")
    monkeypatch.syspath_prepend(tmp_path)
    store = od.collect(tiny_run, out=copied(measured, tmp_path), record="silent", progress=Notes(), **OPTIONS)
    assert store.lacking("silent") == ()
    assert store.done == set(REVISIONS)


def test_other_settings_of_a_recorder_are_another_measurement(measured: Path, tiny_run: Path, tmp_path: Path) -> None:
    out = copied(measured, tmp_path)
    with pytest.raises(StoreMismatchError, match=r"attribute below of group silent is 0\.1, not 0\.5;"):
        od.collect(tiny_run, out=out, record=[SilentFeatures(below=0.5)], progress=Notes(), **OPTIONS)


def test_a_recorder_by_name_on_the_command_line(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    begin, end = source.index("class SilentFeatures"), source.index("@pytest.fixture")
    head = "from collections import Counter, defaultdict\nimport numpy as np\nimport olmo_dynamics as od\n"
    (tmp_path / "quiet.py").write_text(f"from __future__ import annotations\n{head}{source[begin:end]}")
    monkeypatch.chdir(tmp_path)
    command = ("collect", str(tiny_run), "--revisions", "main", "--out", "s.zarr", "--batch", "2x16", "-q", "--record")
    code, _, said = called(capsys, monkeypatch, *command, "quiet:SilentFeatures")
    del sys.modules["quiet"]
    assert (code, said) == (0, "")
    assert od.open_store(tmp_path / "s.zarr").table("silent")["silent_share"].is_between(0, 1).all()
    code, _, said = called(capsys, monkeypatch, *command, "quiet:Silent")
    del sys.modules["quiet"]
    assert code == 2
    assert re.fullmatch(
        r"olmo-dyn: recorder quiet:Silent cannot be imported \(.*\); give it as package\.module:Class\n", said
    ), said


def copied(store: Path, folder: Path) -> Path:
    return Path(shutil.copytree(store, folder / "copy.zarr"))
