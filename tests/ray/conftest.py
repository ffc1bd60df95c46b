from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.runs import write_revision

NAMES = tuple(f"stage1-step{step}-tokens1B" for step in range(1, 9))


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight revisions, each with weights of its own."""
    folder = tmp_path_factory.mktemp("eight") / "run"
    first = write_revision(folder / NAMES[0], 0)
    weights = load_file(first / "model.safetensors")
    for number, name in enumerate(NAMES[1:], 1):
        (folder / name).mkdir()
        for file in ("config.json", "tokenizer.json"):
            (folder / name / file).write_bytes((first / file).read_bytes())
        moved = {key: tensor * (1 + number / 50) for key, tensor in weights.items()}
        save_file(moved, folder / name / "model.safetensors", metadata={"format": "pt"})
    return folder
