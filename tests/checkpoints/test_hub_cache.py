"""The Hugging Face cache as a source: by repo id, by its folders, whole and in part, with and without links."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants, snapshot_download
from huggingface_hub.utils.tqdm import disable_progress_bars

from olmo_dynamics.checkpoints import Source, open_source
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.checkpoints.hub_cache import CacheSource
from olmo_dynamics.errors import NetworkError, UnknownRevisionError, UnknownSourceError
from olmo_dynamics.names import Revision
from tests.checkpoints.conftest import REPO, RUN, noise, sha256, single_files
from tests.hub import Fault, LocalHub

FOLDER = "models--tiny-org--tiny-run"


class Cache:
    """A Hugging Face cache that was filled from the hub by huggingface_hub, with the commits of its branches."""

    def __init__(self, hub: LocalHub, root: Path) -> None:
        hub.large_threshold = 1  # every file is in LFS
        repository = hub.add_repo(REPO, {**RUN, "side/step7": single_files({"model.norm.weight": noise(7, 4)})})
        repository.tags["v1"] = repository.branches["main"]
        self.hub, self.root, self.folder = hub, root, root / FOLDER
        self.commits = {name: commit.id for name, commit in repository.branches.items()}

    def download(self, *names: str, **options: list[str]) -> None:
        disable_progress_bars()
        for name in names:
            snapshot_download(
                REPO,
                revision=name,
                cache_dir=self.root,
                endpoint=self.hub.endpoint,
                token=False,
                max_workers=1,
                **options,
            )

    def snapshot(self, name: str) -> Path:
        return self.folder / "snapshots" / self.commits[name]


@pytest.fixture
def cache(hub: LocalHub) -> Cache:
    return Cache(hub, Path(constants.HF_HUB_CACHE))


@pytest.fixture
def offline(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """All of it downloaded, then cut off."""
    cache.download(*cache.commits, "refs/tags/v1", cache.commits["main"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    cache.hub.requests.clear()
    return cache


def commits(source: Source) -> dict[str, str]:
    return {each.name: each.commit for each in source.revisions()}


def refusal(kind: type[Exception], source: Source, name: str) -> str:
    with pytest.raises(kind) as caught:
        source.open(source.find(name))
    return str(caught.value)


@pytest.mark.parametrize("name", [REPO, "{folder}", "{folder}/snapshots/", "link"])
def test_a_repo_is_read_by_its_name_and_by_its_folders_with_no_request(
    name: str, offline: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(offline.folder)
    source = open_source(name.format(folder=offline.folder))
    assert (source.name, source.kind, source.notes) == (REPO, "cache", ())
    assert commits(source) == {**offline.commits, "v1": offline.commits["main"]}
    assert [each.step for each in source.revisions() if each.step] == [3, 20, 7]
    for revision, files in RUN.items():
        with source.open(source.find(revision)) as checkpoint:
            assert {each: checkpoint.read_file(each) for each in checkpoint.files} == files
            assert checkpoint.revision.commit == offline.commits[revision]
            expected = {each: sha256(files[each]) for each in files if each.endswith(".safetensors")}
            assert checkpoint.expected_sha256 == expected and checkpoint.known_sha256() == checkpoint.weights_sha256()
            assert {each: checkpoint.file_id(each) for each in files} == {each: sha256(files[each]) for each in files}
    assert offline.hub.requests == []


def test_one_snapshot_is_named_by_the_refs_that_point_to_it(offline: Cache) -> None:
    source = open_source(offline.snapshot("main"))
    assert commits(source) == {"main": offline.commits["main"], "v1": offline.commits["main"]}
    assert source.find(offline.commits["main"]) == Revision(offline.commits["main"], commit=offline.commits["main"])
    assert refusal(UnknownRevisionError, source, "step3-tokens6144").startswith(
        f"{REPO} has no revision 'step3-tokens6144'"
    )


def test_a_snapshot_without_a_name_is_known_by_its_commit(offline: Cache) -> None:
    (offline.folder / "refs" / "side" / "step7").unlink()
    commit = offline.commits["side/step7"]
    assert commits(open_source(REPO))[commit] == commit


def test_files_may_be_copies_and_are_then_hashed(offline: Cache) -> None:
    copy = offline.root / "copy" / FOLDER
    shutil.copytree(offline.folder, copy)
    shutil.rmtree(copy / "blobs")
    with (source := CacheSource(copy)).open(source.find("main")) as checkpoint:
        assert checkpoint.expected_sha256 == {}
        assert checkpoint.weights_sha256() == sha256(RUN["main"]["model.safetensors"])
        assert checkpoint.file_id("config.json") == sha256(RUN["main"]["config.json"])


def test_parts_of_snapshots_are_left_out_by_name_with_the_reason(offline: Cache) -> None:
    shard = offline.snapshot("step20-tokens40960") / "model-00002-of-00002.safetensors"
    shard.unlink()
    (offline.snapshot("step3-tokens6144") / "config.json").unlink()
    (offline.snapshot("side/step7") / "model.safetensors").resolve().unlink()
    (offline.folder / "refs" / "gone").write_text("0" * 40 + "\n")
    source = open_source(REPO)
    assert set(commits(source)) == {"main", "v1"}
    assert source.notes == (
        f"left out, since {offline.folder} holds only a part of them: gone (its snapshot is missing), side/step7 "
        "(model.safetensors was not downloaded whole), step20-tokens40960 (model.safetensors.index.json: tensor 'lm_head.weight' "
        "should be in 'model-00002-of-00002.safetensors', which is missing), step3-tokens6144 (config.json is missing)",
    )
    expected = (
        f"{REPO}@step20-tokens40960 is only partly in the Hugging Face cache: model.safetensors.index.json: tensor "
        "'lm_head.weight' should be in 'model-00002-of-00002.safetensors', which is missing; "
        f"where there is a network, run hf download {REPO} --revision step20-tokens40960"
    )
    assert refusal(UnknownRevisionError, source, "step20-tokens40960") == expected
    with pytest.raises(UnknownRevisionError) as caught:
        source.open(Revision("step20-tokens40960", commit=offline.commits["step20-tokens40960"]))
    assert str(caught.value) == expected


def test_a_name_whose_file_holds_no_commit_is_left_out(offline: Cache) -> None:
    whole = commits(open_source(REPO))
    (offline.folder / "refs" / ".DS_Store").write_bytes(b"\x00\x87")
    (offline.folder / "refs" / "cut").write_bytes(b"")
    (offline.folder / "refs" / "torn").write_bytes(b"\xff\xfe")
    source = open_source(REPO)
    assert commits(source) == whole
    assert source.notes == (
        f"left out, since {offline.folder} holds only a part of them: cut (its snapshot is missing), "
        "torn (its snapshot is missing)",
    )


def test_without_a_whole_snapshot_the_cache_is_no_source(cache: Cache) -> None:
    cache.download("main", allow_patterns=["config.json"])
    with pytest.raises(UnknownSourceError) as caught:
        CacheSource.of_repo(REPO).revisions()
    assert str(caught.value) == (
        f"the Hugging Face cache holds no whole snapshot of {REPO} in {cache.folder}; left out, since {cache.folder} holds only "
        f"a part of them: main (there must be model.safetensors or model.safetensors.index.json); "
        f"download one where there is a network: hf download {REPO} --revision NAME"
    )
    with pytest.raises(UnknownSourceError) as caught:
        open_source(cache.root)
    assert str(caught.value) == (
        f"{cache.root} is a Hugging Face cache of 1 models; give one of them, such as {cache.folder}"
    )


class TestUnreachable:
    def source(self, cache: Cache, tmp_path: Path, retry: RetryPolicy) -> HubSource:
        return HubSource(REPO, endpoint=cache.hub.endpoint, cache=tmp_path / "lists", token=False, retry=retry)

    def test_the_cache_is_read_and_the_user_told(self, cache: Cache, tmp_path: Path, retry: RetryPolicy) -> None:
        cache.download("main", "step3-tokens6144")
        cache.hub.add_fault(Fault("hang_up", times=None))
        source = self.source(cache, tmp_path, retry)
        assert source.notes == ()
        assert set(commits(source)) == {"main", "step3-tokens6144"}
        [note] = source.notes
        assert note.startswith("asking 127.0.0.1:")
        assert note.endswith(f"); {REPO} is read from the Hugging Face cache")
        cache.hub.requests.clear()
        with source.open(source.find("main")) as checkpoint:
            assert checkpoint.weights_sha256() == sha256(RUN["main"]["model.safetensors"])
        assert cache.hub.requests == [], "the hub is not tried again for what is here"
        cache.hub.faults.clear()
        assert set(commits(source)) == {"main", "step3-tokens6144"}
        assert {each.name for each in source.revisions(refresh=True)} == {*cache.commits, "v1"} and source.notes == ()

    def test_revisions_of_a_list_that_is_still_fresh_too(
        self, cache: Cache, tmp_path: Path, retry: RetryPolicy, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.download("main")
        source = self.source(cache, tmp_path, retry)
        listed = {each.name: each for each in source.revisions()}
        cache.hub.add_fault(Fault("hang_up", times=None))
        with source.open(listed["main"]) as checkpoint:
            assert checkpoint.weights_sha256() == sha256(RUN["main"]["model.safetensors"])
        assert caplog.messages == [source.notes[0]]
        with pytest.raises(NetworkError, match="failed 3 times"):
            source.open(listed["step3-tokens6144"])
