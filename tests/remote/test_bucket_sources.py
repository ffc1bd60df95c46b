"""Checkpoints in a bucket are the revisions of a folder, and a collection of them into a bucket is that of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import olmo_dynamics as od
from olmo_dynamics.checkpoints import open_source
from olmo_dynamics.cli import cli
from olmo_dynamics.errors import UnknownSourceError
from tests.hub import Fault
from tests.remote.conftest import upload
from tests.remote.faulty import FaultyServer


@pytest.fixture
def run(bucket: str, tiny_run: Path) -> str:
    """The tiny run, uploaded."""
    return upload(tiny_run, f"{bucket}/runs/tiny")


def test_revisions_are_those_of_the_folder(run: str, tiny_run: Path) -> None:
    found, expected = open_source(run), open_source(tiny_run)
    assert found.kind == "bucket" and found.name == run
    assert found.revisions() == expected.revisions()
    revision = expected.revisions()[1]
    with found.open(revision) as there, expected.open(revision) as here:
        assert there.files == here.files and there.config == here.config and there.tensors == here.tensors
        infos = list(here.tensors.values())
        for name, raw in there.read_many(infos).items():
            np.testing.assert_array_equal(raw, here.read(here.tensors[name]))
        assert there.weights_sha256() == here.weights_sha256()
        assert there.bytes_moved >= there.nbytes
    with pytest.raises(UnknownSourceError, match="is not a folder; check the path"):
        open_source(f"{run}-2").revisions()
    with pytest.raises(UnknownSourceError, match=r"^there is no bucket s3://bucket-unknown; "):
        open_source("s3://bucket-unknown/run").revisions()


def test_a_collection_of_a_bucket_into_a_bucket(
    run: str, tiny_run: Path, faulty: FaultyServer, bucket: str, tmp_path: Path
) -> None:
    options = ["--record", "parameters", "--quiet"]
    faulty.add_fault(Fault("503", probability=0.1, seed=1, times=None))
    done = CliRunner().invoke(cli, ["collect", run, "--out", f"{bucket}/s.zarr", *options], catch_exceptions=False)
    assert done.exit_code == 0 and f"{bucket}/s.zarr" in done.stdout
    here = od.collect(tiny_run, out=tmp_path / "s.zarr", record=["parameters"])
    there = od.open_store(f"{bucket}/s.zarr")
    assert there.is_compact and there.done == here.done
    measured = here.table("parameters")
    assert there.table("parameters").equals(measured)
    assert there.attributes["source"] == run
    for part in ("1/2", "2/2"):
        shard = ["collect", run, "--out", f"{bucket}/parts.zarr", "--shard", part, *options]
        assert CliRunner().invoke(cli, shard, catch_exceptions=False).exit_code == 0
    assert od.open_store(f"{bucket}/parts.zarr").table("parameters").equals(measured)
    again = CliRunner().invoke(cli, ["collect", run, "--out", f"{bucket}/s.zarr", *options], catch_exceptions=False)
    assert again.exit_code == 0 and "4" in again.stdout
