"""A family's facts stay in its file: no other module names one."""

from __future__ import annotations

from pathlib import Path

from olmo_dynamics.model import MODEL_TYPES
from tests.project.package import PACKAGE, Place, listed, messages, modules

FAMILIES = {*MODEL_TYPES, "flex_olmo", "hf_olmo", "olmo_hybrid", "qwen3"}

OWN = ("model/families/", "model/family.py", "checkpoints/formats/families/", "checkpoints/formats/family_facts/")
"""The files of families, and the list of them."""

SOFTWARE = (
    "training/",
    "checkpoints/folder.py",
    "checkpoints/catalog/official_lists.py",
    "checkpoints/formats/native.py",
)
"""The modules in which `olmo` is not a family but Ai2's trainer: its checkpoints, and the order in which it reads data."""


def belongs(place: Place) -> bool:
    """True if a name may stand there."""
    inside = str(Path(place.path).relative_to(PACKAGE))
    return inside.startswith(OWN) or (place.text == "olmo" and inside.startswith(SOFTWARE))


def test_no_module_names_a_family_but_its_own() -> None:
    named = [place for path in modules() for place in messages(path) if place.text in FAMILIES]
    assert named, "the families' own files name them"
    stray = [place for place in named if not belongs(place)]
    assert not stray, f"facts of a family belong in its file: {listed(stray)}"
