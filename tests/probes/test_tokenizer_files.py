"""A tokenizer from a file, a folder, a run or a repo on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from olmo_dynamics.checkpoints import hub as checkpoints_hub
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.errors import OptionError, UnknownRevisionError
from olmo_dynamics.probes.tokenizer_files import read_tokenizer
from tests.hub import LocalHub

REPO = "allenai/OLMo-2-0425-1B"


@pytest.fixture
def repo(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """A repo on a local hub whose branches have the tokenizer that is returned."""
    with LocalHub() as hub:
        monkeypatch.setattr(checkpoints_hub, "HubSource", partial(HubSource, endpoint=hub.endpoint, cache=tmp_path))
        hub.add_repo(REPO, {"main": tiny_run / "main", "step1": tiny_run / "main"})
        yield (tiny_run / "main" / "tokenizer.json").read_bytes()


@pytest.mark.enable_socket
def test_from_a_repo(repo: bytes) -> None:
    assert read_tokenizer(REPO) == read_tokenizer(f"{REPO}@step1") == repo
    with pytest.raises(UnknownRevisionError):
        read_tokenizer(f"{REPO}@none")


def test_from_a_file_a_folder_and_a_run(tiny_run: Path) -> None:
    path = tiny_run / "main" / "tokenizer.json"
    assert read_tokenizer(path) == read_tokenizer(str(path.parent)) == read_tokenizer(tiny_run) == path.read_bytes()


def test_what_has_none(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    message = rf"--tokenizer must be a tokenizer.json, a folder that holds one, or a repo \(got {re.escape(str(missing))}\): .*"
    with pytest.raises(OptionError, match=f"^{message}$"):
        read_tokenizer(missing)
    (tmp_path / "run" / "step1").mkdir(parents=True)
    (tmp_path / "run" / "step1" / "config.json").write_text("{}")
    (tmp_path / "run" / "step1" / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        OptionError, match=rf"^--tokenizer: {re.escape(str(tmp_path / 'run'))} has no tokenizer.json in step1; "
    ):
        read_tokenizer(tmp_path / "run")
