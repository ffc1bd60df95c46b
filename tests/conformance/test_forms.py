"""Every family gives the same numbers, bit by bit, from each form of Hugging Face's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from olmo_dynamics.checkpoints.formats.written_state import WRITTEN_FILE
from tests.checkpoints.formats.writing import FORMS, write_form
from tests.conformance.drawn_runs import NAMES, collected, draw_run
from tests.conformance.test_references import TINY
from tests.conformance.test_same_numbers import in_order

QUICK = ("olmo_ladder", "gpt_neox")
"""The families whose tensors are fused; of these a few groups are compared in every run."""

FEW = ("parameters", "activations", "attention", "loss", "gradients")


def assert_same_from_every_form(family: str, folder: Path, **options: object) -> None:
    run = draw_run(folder, TINY[family], rows=3)
    plain = collected(run, folder / "safetensors.zarr", revisions=NAMES[1], **options)
    for form in FORMS[1:]:
        source = folder / form / "run"
        shutil.copytree(run.folder / NAMES[1], source / NAMES[1], ignore=shutil.ignore_patterns("model.safetensors"))
        write_form(source / NAMES[1], load_file(run.folder / NAMES[1] / "model.safetensors"), form)
        assert (source / NAMES[1] / WRITTEN_FILE).is_file()
        store = collected(run, folder / f"{form}.zarr", source=source, revisions=NAMES[1], **options)
        assert store.groups == plain.groups
        for group in plain.groups:
            for name, values in plain.arrays(group).items():
                found = in_order(store, group, name, like=plain)
                assert values.tobytes() == found.tobytes(), f"{form}: {group}/{name}"


@pytest.mark.parametrize("family", QUICK)
def test_a_few_groups_of_fused_families(family: str, tmp_path: Path) -> None:
    assert_same_from_every_form(family, tmp_path, record=FEW, sketch_size=None)


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY)
def test_every_group_of_every_family(family: str, tmp_path: Path) -> None:
    assert_same_from_every_form(family, tmp_path)
