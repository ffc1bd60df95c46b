"""A run of each family, from the hub to a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import close_session

from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect
from olmo_dynamics.model import model_sites, parse_config
from olmo_dynamics.progress import Progress
from olmo_dynamics.reporting import write_report
from tests.hub import LocalHub
from tests.runs import FAMILIES, write_family_run

NAMES = ("stage1-step0-tokens0B", "stage1-step1000-tokens3B", "main")


SLOWER = ("olmo", "olmo2", "olmo3", "llama", "olmo_ladder")


@pytest.mark.parametrize(
    "family", [pytest.param(each, marks=[pytest.mark.slow] if each in SLOWER else []) for each in FAMILIES]
)
def test_from_the_hub_to_a_report(family: str, tmp_path: Path) -> None:
    run = write_family_run(tmp_path / "run", NAMES, family)
    with LocalHub() as hub:
        hub.add_repo(f"allenai/{family}-tiny", {name: run / name for name in NAMES})
        source = HubSource(f"allenai/{family}-tiny", endpoint=hub.endpoint)
        store = collect(source, out=tmp_path / "store.zarr", batch="6x24", progress=Progress())
        close_session()
    page = write_report(store, tmp_path / "report.html")
    assert store.done == set(NAMES) and store.attributes["model_type"] == family
    assert ("routing" in store.groups) == (family == "olmoe")
    config = parse_config(json.loads((run / "main" / "config.json").read_text()))
    measured = set(store.table("activations")["site"])
    assert measured == {site.value for site in model_sites(config) if site.is_measured}
    for group in store.groups:
        assert set(store.table(group)["status"]) == {"measured"}, group
    assert np.isfinite(store.table("loss")["cross_entropy"].to_numpy()).all()
    text = page.read_text()
    assert f"Training dynamics of allenai/{family}-tiny" in text
    assert ("Router saturation" in text) == (family == "olmoe")
