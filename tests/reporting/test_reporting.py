"""The report of a whole store, and of stores that leave little to draw."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo_dynamics.collecting import collect
from olmo_dynamics.errors import OptionError, StoreError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.progress import Progress
from olmo_dynamics.reporting import render_report, write_report
from tests.runs import write_run


def collected(folder: Path, *names: str, **options: object) -> RecordedStore:
    run = write_run(folder / "run", names)
    return collect(run, out=folder / "store.zarr", batch="6x16", progress=Progress(), **options)


@pytest.fixture(scope="module")
def store(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedStore:
    return collect(tiny_run, out=tmp_path_factory.mktemp("report") / "s.zarr", batch="6x16", progress=Progress())


def test_a_section_for_every_group(store: RecordedStore) -> None:
    text = render_report(store)
    for heading in ("Loss by domain", "Bits per byte by domain", "Weight norms, layer by layer", "Weight outliers",
                    "The distribution of weights", "Embedding rows", "The residual stream by depth",
                    "Births of outlier features", "Logits of the head"):  # fmt: skip
        assert f">{heading}</h2>" in text, heading
    assert "main (has no step)" in text


def test_parameters_alone(tiny_run: Path, tmp_path: Path) -> None:
    only = collect(tiny_run, out=tmp_path / "s.zarr", record=("parameters",), progress=Progress())
    text = render_report(only)
    assert ">Weight norms over training</h2>" in text
    assert "Loss by domain" not in text


def test_two_revisions_with_one_step_are_drawn_once(tmp_path: Path) -> None:
    text = render_report(collected(tmp_path, "step10", "step10-again", "step20"))
    assert "step10-again (has another&#x27;s step)" in text


def test_no_revision_with_a_step_is_refused(tmp_path: Path) -> None:
    store = collected(tmp_path, "main")
    with pytest.raises(StoreError) as caught:
        render_report(store)
    assert str(caught.value) == (
        f"{store.path} must hold a revision with a step to draw against (got only main); collect some that have one"
    )


def test_a_report_needs_a_folder_to_go_into(store: RecordedStore, tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "missing" / "report.html"):
        with pytest.raises(OptionError, match="--out must be a file in a folder that exists"):
            write_report(store, target)
    assert list(tmp_path.iterdir()) == []


def test_names_from_elsewhere_are_escaped(
    store: RecordedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributes = {**store.attributes, "source": "<script>alert(1)</script>"}
    monkeypatch.setattr(type(store), "attributes", property(lambda self: attributes))
    assert "<script>alert(1)" not in render_report(store)
