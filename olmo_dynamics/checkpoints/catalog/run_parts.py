"""Parts of a published run besides its stages: seeds of one recipe, and phases of post-training.

>>> Phase("org/model-SFT", "SFT", "org/model@main", "its paper").origin
('org/model', 'main')
"""

from __future__ import annotations

from dataclasses import dataclass

RERUN = "re-run"
"""The phase of a repo whose run repeats the first steps of another."""


@dataclass(frozen=True, slots=True)
class Replicate:
    """One of several runs of one recipe: the seed's name in the names of its revisions, the seed, its last step."""

    name: str
    seed: int
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of post-training: its repo, its name (SFT, DPO, RLVR), the `REPO@REVISION` that it starts from, a reference."""

    repo: str
    name: str
    start: str
    reference: str

    def __post_init__(self) -> None:
        if not (self.name and self.reference and all(self.origin) and self.origin[0].count("/") == 1):
            raise ValueError(f"a phase must have a name, a reference and a start such as org/name@main (got {self})")

    @property
    def origin(self) -> tuple[str, str]:
        """The repo and the revision that it starts from."""
        repo, _, revision = self.start.partition("@")
        return repo, revision
