"""What is in quarantine is left out of a collection, and named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from olmo_dynamics.auditing import audit
from olmo_dynamics.checkpoints import open_source
from olmo_dynamics.collecting import collect, plan
from olmo_dynamics.collection import select_revisions
from olmo_dynamics.errors import SelectionError
from olmo_dynamics.progress import Progress
from tests.conftest import REVISIONS
from tests.listening import Notes


@pytest.fixture
def twins(tiny_run: Path, tmp_path: Path) -> Path:
    """A run in which two steps hold the same bytes."""
    folder = tmp_path / "twins"
    for name in REVISIONS:
        shutil.copytree(tiny_run / name, folder / name)
    shutil.rmtree(folder / REVISIONS[2])
    shutil.copytree(folder / REVISIONS[1], folder / REVISIONS[2])
    return folder


def test_collect_obeys_the_last_audit(twins: Path, tmp_path: Path) -> None:
    options = {"record": ("parameters",), "tensors": ("norm",)}
    file = audit(twins).quarantine.path
    listener = Notes()
    store = collect(twins, out=tmp_path / "store.zarr", progress=listener, **options)
    assert store.done == {REVISIONS[0], REVISIONS[3]} and not store.missing
    assert listener.notes == [
        f"excluded, as {file} says: {REVISIONS[1]}, {REVISIONS[2]}; --include-quarantined measures them too"
    ]
    assert plan(twins, **options).left_out == REVISIONS[1:3]
    assert plan(twins, include_quarantined=True, **options).left_out == ()
    whole = collect(twins, out=tmp_path / "store.zarr", include_quarantined=True, progress=Progress(), **options)
    assert whole.done == set(REVISIONS)


def test_a_given_file_comes_before_the_one_in_the_cache(twins: Path, tmp_path: Path) -> None:
    source = open_source(twins)
    assert select_revisions(source, "all").summary == "no revision is excluded"
    audit(twins, quarantine=tmp_path / "q.json")
    content = json.loads((tmp_path / "q.json").read_text())
    entry = content["revisions"].pop(REVISIONS[1])
    content["revisions"][REVISIONS[0]] = {"reasons": entry["reasons"]}  # by hand: without a state it holds for the name
    (tmp_path / "q.json").write_text(json.dumps(content))
    assert list(select_revisions(source, "all", quarantine=tmp_path / "q.json").left_out) == [
        REVISIONS[0],
        REVISIONS[2],
    ]
    assert list(select_revisions(source, "all").left_out) == list(REVISIONS[1:3])


def test_nothing_left_to_measure(twins: Path) -> None:
    file = audit(twins).quarantine.path
    message = (
        f"everything that '{REVISIONS[1]}' selects (1 revision) is in quarantine ({file}), such as {REVISIONS[1]}; "
        "--include-quarantined measures them"
    )
    with pytest.raises(SelectionError, match=f"^{re.escape(message)}$"):
        select_revisions(open_source(twins), REVISIONS[1])


def test_a_revision_that_changed_since_the_audit_is_audited_again(twins: Path) -> None:
    audit(twins)
    (twins / REVISIONS[1] / "generation_config.json").write_text("{}")
    selected = select_revisions(open_source(twins), "all")
    assert list(selected.left_out) == [REVISIONS[1], REVISIONS[2]]
    assert selected.notes == (
        f"{REVISIONS[1]} changed since the audit that excluded it; audited again, it is excluded still",
    )
