"""The real client accepts the local hub: every endpoint, redirect and span that this project uses."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx2
import numpy as np
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from safetensors.numpy import save

from tests.hub import Fault, LocalHub, Request
from tests.hub.conftest import BRANCHES, CONFIG, OTHER_WEIGHTS, REPO, WEIGHTS, Download

TOKEN = "hf_reader"


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def targets(hub: LocalHub, host: str) -> list[tuple[str, str, int]]:
    return [(request.method, request.path, request.status) for request in hub.requests if request.host == host]


# ---- listings ---------------------------------------------------------------------------------------------------------


def test_refs_list_branches_in_order_with_their_commits(hub: LocalHub, api: HfApi) -> None:
    repository = hub.repositories[REPO]
    repository.tags["v1"] = repository.pulls["7"] = repository.branches["main"]
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert [(branch.name, branch.ref) for branch in refs.branches] == [(b, f"refs/heads/{b}") for b in BRANCHES]
    assert [branch.target_commit for branch in refs.branches] == [commit.id for commit in repository.branches.values()]
    assert [tag.ref for tag in refs.tags] == ["refs/tags/v1"]
    assert [pull.ref for pull in refs.pull_requests or []] == ["refs/pr/7"]
    assert refs.converts == []
    assert api.list_repo_refs(REPO).pull_requests is None
    assert api.model_info(REPO, revision="refs/pr/7").sha == api.model_info(REPO, revision="v1").sha


def test_model_info_names_files_and_with_blobs_their_hashes(hub: LocalHub, api: HfApi) -> None:
    plain = api.model_info(REPO)
    assert (plain.id, plain.sha) == (REPO, hub.repositories[REPO].branches["main"].id)
    assert len(plain.siblings or []) == 3
    assert all((sibling.size, sibling.lfs) == (None, None) for sibling in plain.siblings or [])
    full = api.model_info(REPO, revision="stage1-step0-tokens0B", files_metadata=True)
    config, weights = full.siblings or []
    assert (config.rfilename, config.blob_id, config.size, config.lfs) == (
        "config.json",
        git_blob(CONFIG),
        len(CONFIG),
        None,
    )
    assert weights.lfs is not None
    assert (weights.lfs.sha256, weights.lfs.size) == (hashlib.sha256(OTHER_WEIGHTS).hexdigest(), len(OTHER_WEIGHTS))
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{weights.lfs.sha256}\nsize {weights.size}\n"
    assert (weights.blob_id, weights.lfs.pointer_size) == (git_blob(pointer.encode()), len(pointer))


@pytest.mark.parametrize("page_size", [1, 2, 3, 1000])
def test_tree_comes_in_pages(hub: LocalHub, api: HfApi, page_size: int) -> None:
    hub.page_size = page_size
    entries = list(api.list_repo_tree(REPO, recursive=True))
    paths = ["config.json", "model.safetensors", "training", "training/optimizer", "training/optimizer/state.json"]
    assert [entry.path for entry in entries] == paths
    assert [type(entry) for entry in entries] == [RepoFile, RepoFile, RepoFolder, RepoFolder, RepoFile]
    assert len(hub.requests) == -(-len(paths) // page_size)


def test_tree_of_one_level_and_of_a_folder(api: HfApi) -> None:
    assert [entry.path for entry in api.list_repo_tree(REPO)] == ["config.json", "model.safetensors", "training"]
    inside = list(api.list_repo_tree(REPO, "training", expand=True))
    assert [entry.path for entry in inside] == ["training/optimizer"]
    assert inside[0].last_commit is not None
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "no/such"))


def test_paths_info_omits_what_is_missing(hub: LocalHub, api: HfApi) -> None:
    found = api.get_paths_info(REPO, ["model.safetensors", "nowhere.json", "training"], expand=True)
    assert [entry.path for entry in found] == ["model.safetensors", "training"]
    assert isinstance(found[0], RepoFile)
    assert found[0].lfs is not None
    assert found[0].security is not None
    assert hub.requests[-1].headers["content-type"] == "application/x-www-form-urlencoded"


def test_a_moved_branch_has_a_history_and_keeps_its_old_commits(hub: LocalHub, api: HfApi, download: Download) -> None:
    old = api.model_info(REPO).sha or ""
    new = hub.set_branch(REPO, "main", {"config.json": b"{}"}).id
    assert [commit.commit_id for commit in api.list_repo_commits(REPO)] == [new, old]
    assert [download("config.json"), download("config.json", revision=old)] == [b"{}", CONFIG]
    assert not api.file_exists(REPO, "model.safetensors")
    assert api.file_exists(REPO, "model.safetensors", revision=old)


def test_commits_follow_from_content_and_branch() -> None:
    def commits(**changed: bytes) -> list[str]:
        with LocalHub() as hub:
            repository = hub.add_repo(REPO, {"main": {"a": b"1", **changed}, "other": {"a": b"1", **changed}})
            return [commit.id for commit in repository.branches.values()]

    assert commits() == commits()
    assert len({*commits(), *commits(b=b"2")}) == 4


def test_an_old_name_leads_to_the_new_one(hub: LocalHub, api: HfApi, download: Download) -> None:
    hub.renamed["allenai/old"] = REPO
    assert api.model_info("allenai/old").id == REPO
    assert len(api.list_repo_refs("allenai/old").branches) == 2
    assert download("config.json", repo="allenai/old") == CONFIG


# ---- files ------------------------------------------------------------------------------------------------------------


def test_metadata_of_a_large_file_is_on_the_redirect(hub: LocalHub) -> None:
    found = get_hf_file_metadata(hf_hub_url(REPO, "model.safetensors", endpoint=hub.endpoint), token=False)
    assert found.commit_hash == hub.repositories[REPO].branches["main"].id
    assert (found.etag, found.size) == (hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
    assert found.location.startswith(hub.cdn_endpoint)
    assert found.xet_file_data is None
    assert targets(hub, "hub") == [("HEAD", f"/{REPO}/resolve/main/model.safetensors", 302)]
    assert targets(hub, "cdn") == []


def test_metadata_of_a_small_file_is_behind_a_redirect_on_the_hub(hub: LocalHub) -> None:
    found = get_hf_file_metadata(hf_hub_url(REPO, "config.json", endpoint=hub.endpoint), token=False)
    assert (found.etag, found.size) == (git_blob(CONFIG), len(CONFIG))
    assert [status for _, _, status in targets(hub, "hub")] == [307, 200]
    assert found.location.startswith(f"{hub.endpoint}/api/resolve-cache/models/{REPO}/{found.commit_hash}/config.json")


def test_large_threshold_decides_what_is_in_lfs(hub: LocalHub, download: Download) -> None:
    hub.large_threshold = 100
    hub.add_repo("org/sizes", {"main": {"small.txt": bytes(99), "large.txt": bytes(100), "tiny.bin": b""}})
    files = hub.repositories["org/sizes"].branches["main"].files
    assert {name: bool(blob.sha256) for name, blob in files.items()} == {
        "small.txt": False,
        "large.txt": True,
        "tiny.bin": True,
    }
    assert download("large.txt", repo="org/sizes") == bytes(100)
    assert download("tiny.bin", repo="org/sizes") == b""


@pytest.mark.parametrize("branch", ["a+b", "refs/pr/1", "run/lr=5e-5", "50%"])
def test_branch_names_travel_percent_encoded(hub: LocalHub, api: HfApi, download: Download, branch: str) -> None:
    hub.set_branch(REPO, branch, {"config.json": b"[]", "model.safetensors": WEIGHTS})
    assert download("config.json", revision=branch) == b"[]"
    assert api.model_info(REPO, revision=branch).sha == hub.repositories[REPO].branches[branch].id
    assert len(list(api.list_repo_tree(REPO, revision=branch))) == 2
    assert len(api.get_paths_info(REPO, "config.json", revision=branch)) == 1
    assert hub.requests[-1].path.endswith(quote(branch, safe=""))


def test_snapshot_download_brings_a_revision(hub: LocalHub, tmp_path: Path) -> None:
    folder = snapshot_download(REPO, endpoint=hub.endpoint, cache_dir=tmp_path, token=False, max_workers=2)
    got = {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    assert got == BRANCHES["main"]
    assert (tmp_path / f"models--{REPO.replace('/', '--')}/refs/main").read_text() == Path(folder).name


def test_a_folder_can_be_a_branch(hub: LocalHub, download: Download, tmp_path: Path) -> None:
    (tmp_path / "made/sub").mkdir(parents=True)
    (tmp_path / "made/config.json").write_bytes(b"1")
    (tmp_path / "made/sub/model.safetensors").write_bytes(WEIGHTS)
    hub.add_repo("org/folder", {"main": tmp_path / "made"})
    assert download("sub/model.safetensors", repo="org/folder") == WEIGHTS


@dataclass
class Generated:
    """Bytes that follow from their position: byte k is k mod 251."""

    size: int
    sha256: str = "ab" * 32

    def read(self, start: int, stop: int) -> bytes:
        return (np.arange(start, stop) % 251).astype(np.uint8).tobytes()


def test_a_checkpoint_of_many_gigabytes_needs_no_disk(hub: LocalHub) -> None:
    hub.add_repo("org/huge", {"main": {"model.safetensors": Generated(60_000_000_000)}})
    url = hf_hub_url("org/huge", "model.safetensors", endpoint=hub.endpoint)
    tail = get_session().get(url, headers={"range": "bytes=59999999990-"})
    assert tail.content == Generated(0).read(59_999_999_990, 60_000_000_000)
    assert tail.headers["content-range"] == "bytes 59999999990-59999999999/60000000000"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_spans(hub: LocalHub, name: str) -> None:
    whole = BRANCHES["main"][name]
    url = hf_hub_url(REPO, name, endpoint=hub.endpoint)
    for asked, span in {"0-0": slice(0, 1), "3-9": slice(3, 10), "5-": slice(5, None), "-4": slice(-4, None)}.items():
        got = get_session().get(url, headers={"range": f"bytes={asked}"})
        start, stop, _ = span.indices(len(whole))
        assert (got.status_code, got.content) == (206, whole[span])
        assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    assert get_session().get(url, headers={"range": "bytes=0-999999"}).content == whole
    beyond = get_session().get(url, headers={"range": f"bytes={len(whole)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(whole)}")
    assert get_session().get(url, headers={"range": "bytes=0-1,4-5"}).content == whole  # several spans: all of it


def test_safetensors_header_longer_than_the_first_span(hub: LocalHub, api: HfApi) -> None:
    tensors = {f"model.layers.{layer}.norm.weight": np.zeros(1, np.float32) for layer in range(2000)}
    hub.add_repo("org/many", {"main": {"model.safetensors": save(tensors)}})
    assert len(api.get_safetensors_metadata("org/many").files_metadata["model.safetensors"].tensors) == 2000
    assert {request.range for request in hub.requests if request.range} > {(0, 100001)}


def test_storage_gets_no_token_and_refuses_one(hub: LocalHub, download: Download) -> None:
    hub.tokens.add(TOKEN)
    assert download("model.safetensors", token=TOKEN) == WEIGHTS
    stored = [request for request in hub.requests if request.host == "cdn"]
    assert [request.token for request in hub.requests if request.host == "hub"] == [TOKEN]
    assert [request.token for request in stored] == [None]
    signed = f"{hub.cdn_endpoint}{stored[0].path}?{stored[0].query}"
    assert get_session().get(signed).content == WEIGHTS
    login = {"authorization": f"Bearer {TOKEN}"}
    assert (
        get_session().get(hf_hub_url(REPO, "model.safetensors", endpoint=hub.endpoint), headers=login).content
        == WEIGHTS
    )
    assert get_session().get(signed, headers=login).status_code == 400
    assert get_session().get(signed.replace("Signature=", "Signature=0")).status_code == 403


def test_signed_addresses_expire(hub: LocalHub) -> None:
    hub.url_lifetime = -1
    got = get_session().get(hf_hub_url(REPO, "model.safetensors", endpoint=hub.endpoint))
    assert (got.status_code, got.url.port) == (403, int(hub.cdn_endpoint.rpartition(":")[2]))


def test_connections_are_kept_alive(hub: LocalHub, api: HfApi) -> None:
    for _ in range(3):
        api.list_repo_refs(REPO)
    assert len({request.peer for request in hub.requests}) == 1


def test_rate_slows_bodies_down(hub: LocalHub) -> None:
    hub.rate = 40_000
    got = get_session().get(hf_hub_url(REPO, "model.safetensors", endpoint=hub.endpoint))
    assert got.content == WEIGHTS
    assert got.elapsed.total_seconds() > 0.9 * len(WEIGHTS) / 40_000


def test_requests_are_logged(hub: LocalHub) -> None:
    get_session().get(hf_hub_url(REPO, "model.safetensors", endpoint=hub.endpoint), headers={"range": "bytes=8-15"})
    resolved, stored = hub.requests
    assert isinstance(stored, Request)
    assert [(each.method, each.host, each.range, each.status) for each in (resolved, stored)] == [
        ("GET", "hub", (8, 16), 302),
        ("GET", "cdn", (8, 16), 206),
    ]
    assert stored.bytes_sent == 8
    assert resolved.target == f"/{REPO}/resolve/main/model.safetensors"
    assert 'filename="model.safetensors"' in stored.target
    HfApi(endpoint=hub.endpoint, token=False).list_repo_refs(REPO)
    assert "hf_hub/" in hub.requests[-1].headers["user-agent"]
    hub.requests.clear()
    assert hub.requests == []


def test_a_failure_of_the_hub_itself_is_not_hidden() -> None:
    def ask_a_broken_hub() -> None:
        with LocalHub() as hub:
            hub.add_fault(Fault("hook", call=lambda: 1 // 0))
            with contextlib.suppress(httpx2.RemoteProtocolError):
                get_session().get(hub.endpoint)

    with pytest.raises(ZeroDivisionError):
        ask_a_broken_hub()
