"""The quarantine file: written whole, found by itself, refused if it is another source's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from olmo_dynamics.auditing import audit, find_quarantine, recheck
from olmo_dynamics.auditing.audit_record import AuditRecord, load_record, quarantine_path, record_path, save_record
from olmo_dynamics.checkpoints import FolderSource, MemorySource
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.checkpoints.hub_cache import CacheSource
from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Revision
from tests.auditing.conftest import REPO, AuditHub, Run, audit_memory, clean_run, files, name_of
from tests.hub import LocalHub


def write_folder(folder: Path, run: Run) -> Path:
    for revision, contents in run.items():
        for name, content in contents.items():
            (folder / revision).mkdir(parents=True, exist_ok=True)
            (folder / revision / name).write_bytes(content)
    return folder


@pytest.fixture
def spoilt() -> Run:
    run = clean_run()
    run[name_of(4000)] = run[name_of(3000)]
    return run


def test_is_left_where_collect_finds_it_and_where_it_is_asked_for(spoilt: Run, tmp_path: Path) -> None:
    file = tmp_path / "study" / "leave-out.json"
    found = audit_memory(spoilt, quarantine=file)
    source = MemorySource(spoilt, REPO)
    by_itself, given = find_quarantine(source), find_quarantine(source, file)
    assert found.quarantine.path == file and by_itself.path == quarantine_path(source)
    assert by_itself.revisions == given.revisions == found.quarantine.revisions
    assert set(given.revisions) == {name_of(3000), name_of(4000)}
    assert not list(tmp_path.rglob("*.part"))
    assert audit_memory(clean_run()).quarantine.revisions == {}
    assert find_quarantine(source).revisions == {}, "a later audit that finds nothing ends it"


def test_an_entry_holds_for_the_commit_and_a_moved_branch_is_audited_again(
    hub: LocalHub, audit_hub: AuditHub, spoilt: Run
) -> None:
    twins = name_of(3000), name_of(4000)
    hub.add_repo(REPO, spoilt)
    file = audit_hub().quarantine
    source = HubSource(REPO, endpoint=hub.endpoint, token=False)
    hub.requests.clear()
    held, notes = recheck(source, file, source.revisions(refresh=True))
    assert held.revisions == file.revisions and set(held.revisions) == set(twins) and notes == ()
    assert [each.path for each in hub.requests if "/tree/" in each.path] == [], "nothing moved, so nothing is listed"
    hub.set_branch(REPO, twins[0], files(3001))
    held, notes = recheck(source, file, source.revisions(refresh=True))
    assert set(held.revisions) == {twins[1]} and held.revisions[twins[1]] == file.revisions[twins[1]]
    assert notes == (f"{twins[0]} changed since the audit that excluded it; audited again, it has no fault",)
    hub.set_branch(REPO, twins[0], {**spoilt[twins[1]], "README.md": b"again the same weights"})
    held, notes = recheck(source, file, source.revisions(refresh=True))
    assert set(held.revisions) == set(twins)
    assert held.revisions[twins[0]].state == hub.repositories[REPO].branches[twins[0]].id
    assert notes == (f"{twins[0]} changed since the audit that excluded it; audited again, it is excluded still",)


def test_an_entry_of_a_folder_holds_for_its_bytes_wherever_it_is(spoilt: Run, tmp_path: Path) -> None:
    home = write_folder(tmp_path / "run", spoilt)
    file = tmp_path / "q.json"
    audit(home, quarantine=file)
    home.rename(tmp_path / "moved")
    source = FolderSource(tmp_path / "moved")
    found = find_quarantine(source, file)
    assert recheck(source, found, source.revisions()) == (found, ())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    (tmp_path / "moved" / name_of(4000) / first).write_bytes(files(4001)[first])
    held, notes = recheck(source, found, source.revisions())
    assert held.revisions[name_of(4000)].files == (second,) and held.revisions[name_of(3000)].is_whole
    assert notes == (
        f"{name_of(4000)} changed since the audit that excluded it; audited again, it is excluded still in part",
    )
    (tmp_path / "moved" / name_of(4000) / second).write_bytes(files(4001)[second])
    held, notes = recheck(source, found, source.revisions())
    assert set(held.revisions) == {name_of(3000)}
    assert notes == (f"{name_of(4000)} changed since the audit that excluded it; audited again, it has no fault",)
    other = FolderSource(write_folder(tmp_path / "other", {name_of(3000): files(1)}))
    with pytest.raises(OptionError) as caught:
        recheck(other, find_quarantine(other, file), other.revisions())
    assert str(caught.value) == f"{file} is the quarantine of {home}, not of {tmp_path / 'other'}"


def test_an_entry_without_a_state_holds_for_the_name(spoilt: Run, tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(
        json.dumps({"source": REPO, "revisions": {name_of(0): {"reasons": ["by hand", "twice"]}}})
    )
    source = MemorySource(spoilt, REPO)
    found = find_quarantine(source, tmp_path / "q.json")
    assert recheck(source, found, source.revisions()) == (found, ())
    assert found.reason(Revision(name_of(0))) == "by hand; twice" and found.reason(Revision(name_of(1000))) == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the quarantine {path} cannot be read: No such file or directory"),
        ("[]", "{path} is not a quarantine as `olmo-dyn audit tiny-org/tiny-run` writes it; audit again"),
        ('{"source": "a/b"', "{path} is not a quarantine as `olmo-dyn audit tiny-org/tiny-run` writes it; audit again"),
        ('{"source": "a/b", "revisions": {"x": 3}}',
         "{path} is not a quarantine as `olmo-dyn audit tiny-org/tiny-run` writes it; audit again"),
        ('{"source": "a/b", "revisions": {}}', "{path} is the quarantine of a/b, not of tiny-org/tiny-run"),
    ],
)  # fmt: skip
def test_files_that_are_none(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionError, match=f"^{re.escape(message.format(path=path))}$"):
        find_quarantine(MemorySource({}, REPO), path)


def test_there_is_no_writing_where_a_folder_cannot_be(spoilt: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"^the quarantine cannot be written to .*: "):
        audit_memory(spoilt, quarantine=tmp_path / "file" / "q.json")


def test_a_cache_that_cannot_be_written_takes_nothing_from_an_audit(
    spoilt: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OLMO_DYNAMICS_CACHE", str(tmp_path / "file"))
    found = audit_memory(spoilt)
    assert set(found.quarantine.revisions) == {name_of(3000), name_of(4000)} and found.quarantine.path is None


@pytest.mark.parametrize(
    "damage", ["", "{", '{"layout": 0, "source": "x"}', '{"layout": 1, "source": "tiny-org/tiny-run"}']
)
def test_a_damaged_record_is_as_good_as_none(damage: str) -> None:
    source = MemorySource({}, REPO)
    save_record(source, AuditRecord({"main": "c"}, {"c": {"a": (1, "h")}}, {}))
    assert load_record(source) == AuditRecord({"main": "c"}, {"c": {"a": (1, "h")}}, {})
    record_path(source).write_text(damage)
    assert load_record(source) == AuditRecord()


def test_two_folders_of_one_name_have_records_of_their_own(tmp_path: Path) -> None:
    paths = {record_path(FolderSource(tmp_path / parent / "run")) for parent in "ab"}
    assert len(paths) == 2 and {path.name[:4] for path in paths} == {"run-"}


def test_lists_alone_need_lists_and_leave_no_quarantine(tmp_path: Path) -> None:
    source = MemorySource({}, REPO)
    with pytest.raises(OptionError, match=r"^--lists-only needs lists: give --lists FILE\.csv, or a folder of lists$"):
        audit(source, lists_only=True)
    (tmp_path / "a.csv").write_text("Step,Checkpoint Directory\n5,https://a.b/step6/\nx,https://a.b/step6/\n")
    found = audit(source, lists=[tmp_path / "a.csv"], lists_only=True)
    assert [each.line for each in found.findings] == [
        "list: a.csv: line 2 points to https://a.b/step6/ (expected step5)",
        "list: a.csv: Step must be a whole number (got 'x')",
    ]
    assert not quarantine_path(source).exists()


def test_a_repo_in_the_cache_keeps_to_the_audit_of_the_whole_repo_until_it_has_its_own(tmp_path: Path) -> None:
    source = CacheSource(tmp_path / "models--tiny-org--tiny-run")
    assert find_quarantine(source).path is None
    for name in ("tiny-org--tiny-run.quarantine.json", "tiny-org--tiny-run--cached.quarantine.json"):
        path = quarantine_path(source).with_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"source": REPO, "revisions": {}}))
        assert find_quarantine(source).path == path
