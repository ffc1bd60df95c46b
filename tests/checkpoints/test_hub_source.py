"""A hub as a source: lists of revisions, pins, refusals, the two caches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils.tqdm import disable_progress_bars

from olmo_dynamics.checkpoints.catalog.refs_cache import CachedRefs, load_refs, refs_path, save_refs
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.errors import (
    AccessError,
    CheckpointError,
    NetworkError,
    SourceError,
    UnknownRevisionError,
    UnknownSourceError,
)
from olmo_dynamics.names import Revision
from tests.checkpoints.conftest import REPO, RUN, SINGLE, noise, sha256, single_files
from tests.hub import Fault, LocalHub

OTHER = single_files({"model.norm.weight": noise(9, 4)})


class Hub:
    """The tiny run on a hub, and new sources of it, as separate processes would make them."""

    def __init__(self, hub: LocalHub, cache: Path, retry: RetryPolicy) -> None:
        hub.add_repo(REPO, RUN)
        self.server, self.cache, self.retry = hub, cache, retry

    def source(self, name: str = REPO, token: str | bool = False) -> HubSource:
        return HubSource(name, endpoint=self.server.endpoint, cache=self.cache, token=token, retry=self.retry)

    @property
    def host(self) -> str:
        return self.server.endpoint.removeprefix("http://")

    def asked(self, noun: str) -> int:
        """The number of requests with that text in their address."""
        return sum(noun in request.path for request in self.server.requests)

    def commit(self, branch: str) -> str:
        return self.server.repositories[REPO].branches[branch].id

    def age_catalogue(self, seconds: float) -> None:
        kept = load_refs(REPO, self.server.endpoint, self.cache)
        assert kept is not None
        save_refs(replace(kept, fetched_at=kept.fetched_at - seconds), self.cache)


@pytest.fixture
def run(hub: LocalHub, tmp_path: Path, retry: RetryPolicy) -> Hub:
    return Hub(hub, tmp_path / "catalogues", retry)


def message_of(kind: type[Exception], attempt: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        attempt()
    assert caught.type is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestRevisions:
    def test_are_branches_and_tags_with_their_commits(self, run: Hub) -> None:
        repository = run.server.repositories[REPO]
        repository.tags["step99-tokens5B"] = repository.branches["main"]
        repository.tags["step3-tokens6144"] = repository.branches["main"]  # a tag named like a branch
        repository.pulls["1"] = repository.branches["main"]
        found = {revision.name: revision.commit for revision in run.source().revisions()}
        assert found == {name: run.commit(name) for name in RUN} | {"step99-tokens5B": run.commit("main")}

    def test_of_a_known_run_have_their_tokens(self, run: Hub) -> None:
        name = "allenai/OLMo-2-0425-1B"
        run.server.add_repo(name, {"stage1-step10000-tokens21B": {"config.json": b"{}"}})
        [revision] = run.source(name).revisions()
        assert (revision.stage, revision.step, revision.tokens) == (1, 10000, 20_971_520_000)

    def test_are_listed_once_an_hour(self, run: Hub) -> None:
        first = run.source().revisions()
        assert run.source().revisions() == first
        assert run.asked("/refs") == 1
        run.age_catalogue(3601)
        run.source().revisions()
        assert run.asked("/refs") == 2

    @pytest.mark.parametrize("count", [12, pytest.param(350, marks=pytest.mark.slow)])
    def test_of_many_repos_cost_one_request_each_and_then_none(self, run: Hub, count: int) -> None:
        names = [f"tiny-org/recipe-{number}-4M" for number in range(count)]
        branches = {
            f"step{step}-seed-{seed}": {"config.json": b"{}"}
            for step in (0, 1250)
            for seed in ("default", "small-aux-2")
        }
        for name in names:
            run.server.add_repo(name, branches)
        first = [run.source(name).revisions() for name in names]
        assert (run.asked("/refs"), sum(map(len, first))) == (count, 4 * count)
        assert [run.source(name).revisions() for name in names] == first and run.asked("/refs") == count

    def test_are_listed_anew_when_asked(self, run: Hub) -> None:
        source = run.source()
        source.revisions()
        run.server.set_branch(REPO, "step30", OTHER)
        assert len(source.revisions()) == 3
        assert len(source.revisions(refresh=True)) == 4

    def test_say_how_old_the_list_is(self, run: Hub) -> None:
        assert run.source().catalogue_age() is None
        source = run.source()
        source.revisions()
        age = source.catalogue_age()
        assert age is not None
        assert 0 <= age < 60
        run.age_catalogue(1000)
        age = run.source().catalogue_age()
        assert age is not None
        assert 1000 <= age < 1060

    def test_come_from_an_old_list_where_there_is_no_network(self, run: Hub) -> None:
        first = run.source().revisions()
        run.age_catalogue(10_000_000)
        run.server.add_fault(Fault("hang_up", times=None))
        source = run.source()
        assert source.revisions() == first
        assert source.revisions(refresh=True) == first
        age = source.catalogue_age()
        assert age is not None
        assert age > 9_999_999

    def test_survive_a_busy_hub(self, run: Hub, pauses: list[float]) -> None:
        run.server.add_fault(Fault("429", "/refs", wait=20))
        run.server.add_fault(Fault("503", "/refs", after=1))
        assert len(run.source().revisions()) == 3
        assert pauses == [22.0, 2.0]

    def test_are_found_though_younger_than_the_list(self, run: Hub) -> None:
        run.source().revisions()
        run.server.set_branch(REPO, "step30", OTHER)
        assert run.source().find("step30").step == 30
        assert run.asked("/refs") == 2

    def test_are_found_by_commit(self, run: Hub) -> None:
        commit = run.commit("main")
        source = run.source()
        revision = source.find(commit)
        assert revision == Revision(commit, commit=commit)
        run.server.set_branch(REPO, "main", OTHER)
        with source.open(revision) as checkpoint:
            assert checkpoint.weights_sha256() == sha256(RUN["main"]["model.safetensors"])


class TestPins:
    def test_a_list_just_fetched_is_believed(self, run: Hub) -> None:
        source = run.source()
        revision = source.find("main")
        run.server.set_branch(REPO, "main", OTHER)
        with source.open(revision) as checkpoint:
            assert checkpoint.revision == revision
            assert set(checkpoint.tensors) == set(SINGLE)
        assert run.asked("/revision/") == 0

    def test_a_list_from_disk_is_not(self, run: Hub) -> None:
        run.source().revisions()
        run.server.set_branch(REPO, "main", OTHER)
        source = run.source()
        with source.open(source.find("main")) as checkpoint:
            assert checkpoint.revision.commit == run.commit("main")
            assert set(checkpoint.tensors) == {"model.norm.weight"}

    def test_a_commit_that_was_chosen_is_kept(self, run: Hub) -> None:
        old = run.commit("main")
        run.server.set_branch(REPO, "main", OTHER)
        run.source().revisions()
        source = run.source()
        source.revisions()
        with source.open(Revision("main", commit=old)) as checkpoint:
            assert set(checkpoint.tensors) == set(SINGLE)

    def test_a_name_alone_is_pinned(self, run: Hub) -> None:
        with run.source().open(Revision("main")) as checkpoint:
            assert checkpoint.revision.commit == run.commit("main")

    def test_a_branch_that_moves_meanwhile_changes_nothing(self, run: Hub) -> None:
        source = run.source()
        with source.open(source.find("main")) as checkpoint:
            tensors = list(checkpoint.tensors.values())
            run.server.set_branch(REPO, "main", OTHER)
            raws = checkpoint.read_many(tensors)
        assert {name: raw.tobytes() for name, raw in raws.items()} == {
            name: data for name, (_, _, data) in SINGLE.items()
        }

    def test_names_may_hold_signs_that_addresses_do_not(self, run: Hub) -> None:
        run.server.set_branch(REPO, "stage2-ingredient1+2-step5", OTHER)
        run.server.set_branch(REPO, "a/b", OTHER)
        for name in ("stage2-ingredient1+2-step5", "a/b"):
            with run.source().open(Revision(name)) as checkpoint:
                assert checkpoint.dtype == "F32"

    def test_a_long_listing_is_read_to_its_end(self, run: Hub) -> None:
        run.server.page_size = 2
        files = {f"data/{index}.txt": b"x" for index in range(9)} | RUN["main"]
        run.server.set_branch(REPO, "main", files)
        with run.source().open(Revision("main")) as checkpoint:
            assert checkpoint.files == {name: len(data) for name, data in files.items()}


class TestHashes:
    def test_of_large_files_are_the_hubs(self, run: Hub) -> None:
        source = run.source()
        with source.open(source.find("main")) as checkpoint:
            assert checkpoint.weights_sha256() == sha256(RUN["main"]["model.safetensors"])
            assert checkpoint.bytes_moved == 0


class TestCaches:
    def test_a_file_in_the_hugging_face_cache_is_not_fetched(self, run: Hub) -> None:
        disable_progress_bars()
        commit, endpoint = run.commit("main"), run.server.endpoint
        path = hf_hub_download(REPO, "model.safetensors", revision=commit, endpoint=endpoint, token=False)
        assert path.startswith(constants.HF_HUB_CACHE)
        run.server.requests.clear()
        with run.source().open(Revision("main")) as checkpoint:
            raws = checkpoint.read_many(list(checkpoint.tensors.values()))
            assert checkpoint.bytes_moved == 0
            assert checkpoint.config["model_type"] == "olmo2"  # this one was not in the cache
            assert checkpoint.bytes_moved == len(RUN["main"]["config.json"])
        assert {name: raw.tobytes() for name, raw in raws.items()} == {
            name: data for name, (_, _, data) in SINGLE.items()
        }
        assert run.asked("model.safetensors") == 0

    def test_a_cached_file_of_another_size_is_fetched(self, run: Hub) -> None:
        disable_progress_bars()
        commit, endpoint = run.commit("main"), run.server.endpoint
        path = hf_hub_download(REPO, "model.safetensors", revision=commit, endpoint=endpoint, token=False)
        Path(path).resolve().write_bytes(b"cut off")
        with run.source().open(Revision("main")) as checkpoint:
            assert set(checkpoint.tensors) == set(SINGLE)
            assert checkpoint.bytes_moved > 0

    def test_only_the_list_of_revisions_is_written(self, run: Hub, tmp_path: Path) -> None:
        source = run.source()
        with source.open(source.find("main")) as checkpoint:
            checkpoint.read_many(list(checkpoint.tensors.values()))
            assert checkpoint.config
        written = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert written == [refs_path(REPO, run.server.endpoint, run.cache)]


class TestRefusals:
    def missing(self, run: Hub, name: str) -> str:
        where = f"{name} does not exist on {run.host}, or is private"
        return f"{where}; check the spelling, or run `hf auth login` or set HF_TOKEN"

    def test_a_repo_that_is_not_there(self, run: Hub) -> None:
        source = run.source("tiny-org/gone")
        assert message_of(UnknownSourceError, source.revisions) == self.missing(run, "tiny-org/gone")
        assert message_of(UnknownSourceError, lambda: source.open(Revision("main"))) == self.missing(
            run, "tiny-org/gone"
        )

    def test_a_private_repo(self, run: Hub) -> None:
        run.server.add_repo("tiny-org/private", RUN, private=True, token="hf_right")
        source = run.source("tiny-org/private")
        assert message_of(UnknownSourceError, source.revisions) == self.missing(run, "tiny-org/private")
        assert len(run.source("tiny-org/private", token="hf_right").revisions()) == 3

    def test_an_answer_without_a_code(self, run: Hub) -> None:
        run.server.add_fault(Fault("403", "/refs"))
        assert message_of(AccessError, run.source().revisions) == (
            f"{run.host} forbids reading {REPO}; run `hf auth login` or set HF_TOKEN to a token that may"
        )

    def test_a_wrong_token(self, run: Hub) -> None:
        assert message_of(AccessError, run.source(token="hf_wrong").revisions) == (
            f"{run.host} refuses the token that was sent; run `hf auth login` again, or correct or unset HF_TOKEN"
        )

    def test_a_gated_repo(self, run: Hub) -> None:
        run.server.add_repo("tiny-org/gated", RUN, gated="manual", token="hf_right")
        source = run.source("tiny-org/gated")
        with source.open(source.find("main")) as checkpoint:
            assert message_of(AccessError, lambda: checkpoint.config) == (
                f"tiny-org/gated is gated: accept its terms at {run.server.endpoint}/tiny-org/gated, "
                "then run `hf auth login` or set HF_TOKEN"
            )
        with run.source("tiny-org/gated", token="hf_right").open(Revision("main")) as checkpoint:
            assert checkpoint.config["model_type"] == "olmo2"

    def test_a_disabled_repo(self, run: Hub) -> None:
        run.server.repositories[REPO].disabled = True
        assert message_of(AccessError, run.source().revisions) == (
            f"{REPO} was disabled on {run.host}; choose another repo"
        )

    def test_a_revision_that_is_not_there(self, run: Hub) -> None:
        expected = f"{REPO} has no revision 'step2'; `olmo-dyn revisions {REPO}` lists all 3; did you mean 'step20-tokens40960'?"
        assert message_of(UnknownRevisionError, lambda: run.source().find("step2")) == expected
        assert message_of(UnknownRevisionError, lambda: run.source().open(Revision("step2"))) == expected

    def test_a_revision_that_was_deleted_since_it_was_listed(self, run: Hub) -> None:
        run.source().revisions()
        del run.server.repositories[REPO].branches["step20-tokens40960"]
        source = run.source()
        revision = source.find("step20-tokens40960")
        assert message_of(UnknownRevisionError, lambda: source.open(revision)) == (
            f"{REPO} has no revision 'step20-tokens40960'; `olmo-dyn revisions {REPO}` lists all 2; "
            "did you mean 'step3-tokens6144'?"
        )

    def test_a_commit_that_is_not_there(self, run: Hub) -> None:
        source = run.source()
        assert message_of(UnknownRevisionError, lambda: source.open(source.find("0" * 40))) == (
            f"{REPO} has no revision '{'0' * 40}'; `olmo-dyn revisions {REPO}` lists all 3"
        )

    def test_a_file_that_is_listed_but_gone(self, run: Hub) -> None:
        with run.source().open(Revision("main")) as checkpoint:
            repository = run.server.repositories[REPO]
            del repository.branches["main"].files["config.json"]
            assert message_of(CheckpointError, lambda: checkpoint.config) == (
                f"{REPO}@main: {REPO} lists a file that {run.host} does not have; list the revision anew"
            )

    def test_an_answer_that_makes_no_sense(self, run: Hub) -> None:
        run.server.add_fault(Fault("400", "/refs"))
        assert message_of(SourceError, run.source().revisions) == (
            f"{run.host} answered 400 when asked about {REPO}; try again later"
        )

    @pytest.mark.parametrize("payload", [b"<html>Log in to the hotel</html>", b"[]", b'{"branches": 3, "tags": []}'])
    def test_something_that_is_no_hub(self, run: Hub, payload: bytes) -> None:
        run.server.add_fault(Fault("wrong_payload", "/refs", payload=payload + b" " * 10_000))
        address = f"{run.server.endpoint}/api/models/{REPO}/refs"
        expected = f"{address} did not answer as a hub does; check HF_ENDPOINT and the proxy"
        assert message_of(NetworkError, run.source().revisions) == f"there is no folder {REPO}, and {expected}"


def test_a_page_at_another_origin_is_asked_for_without_the_token(run: Hub) -> None:
    run.server.tokens.add("hf_secret")
    run.server.page_size = 2
    source = run.source(token="hf_secret")
    with source.open(source.find("main")) as checkpoint:
        assert set(checkpoint.files) == set(RUN["main"])
    assert {each.token for each in run.server.requests if "/tree/" in each.path} == {"hf_secret"}
    run.server.requests.clear()
    elsewhere = HubSource(  # pages follow at 127.0.0.1, as the server calls itself
        REPO, endpoint=run.server.endpoint.replace("127.0.0.1", "localhost"), cache=run.cache, token="hf_secret",
        retry=run.retry,
    )  # fmt: skip
    with elsewhere.open(elsewhere.find("main")) as checkpoint:
        assert set(checkpoint.files) == set(RUN["main"])
    asked = [
        (each.headers["host"].partition(":")[0], each.token) for each in run.server.requests if "/tree/" in each.path
    ]
    assert asked == [("localhost", "hf_secret"), ("127.0.0.1", None)]


class TestNoNetwork:
    def test_nobody_answers(self, tmp_path: Path, retry: RetryPolicy, pauses: list[float]) -> None:
        retry = replace(retry, tries=6)
        source = HubSource(REPO, endpoint="http://127.0.0.1:9", cache=tmp_path, token=False, retry=retry)
        assert message_of(NetworkError, source.revisions) == (
            f"there is no folder {REPO}, and asking 127.0.0.1:9 about {REPO} failed because 127.0.0.1:9 gave ConnectError "
            "([Errno 111] Connection refused); check the connection and run it again (folders of checkpoints need no network)"
        )
        assert pauses == [], "a host to which no connection can be made is asked once"

    def test_offline_mode(self, run: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert message_of(NetworkError, run.source().revisions) == (
            f"there is no folder {REPO}, and HF_HUB_OFFLINE is set, so {run.host} is not asked for {REPO}; "
            "unset it, or give a folder of checkpoints or a repo in the Hugging Face cache, which need no network"
        )
        assert run.server.requests == []

    @pytest.mark.parametrize("endpoint", ["hub.example", "ftp://hub.example", "http://[::"])
    def test_an_endpoint_that_is_no_address(self, tmp_path: Path, retry: RetryPolicy, endpoint: str) -> None:
        source = HubSource(REPO, endpoint=endpoint, cache=tmp_path, token=False, retry=retry)
        assert message_of(NetworkError, source.revisions) == (
            f"there is no folder {REPO}, and {endpoint!r} is not the address of a hub; correct HF_ENDPOINT or endpoint="
        )


class TestCachedRefs:
    kept = CachedRefs(REPO, "https://hub.example:8080", 1000.0, {"main": "abc"})

    def test_is_read_back_as_written(self, tmp_path: Path) -> None:
        save_refs(self.kept, tmp_path)
        assert load_refs(REPO, "https://hub.example:8080", tmp_path) == self.kept
        assert [path.name for path in tmp_path.iterdir()] == ["hub.example_8080--tiny-org--tiny-run.json"]

    def test_lies_in_the_cache_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OLMO_DYNAMICS_CACHE", str(tmp_path))
        save_refs(self.kept)
        assert load_refs(REPO, "https://hub.example:8080") == self.kept
        assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["catalogues"]

    def test_of_another_hub_is_another(self, tmp_path: Path) -> None:
        save_refs(self.kept, tmp_path)
        assert load_refs(REPO, "https://hub.example", tmp_path) is None

    @pytest.mark.parametrize(
        "content",
        [b"", b"{}", b"[]", b"\xff", b'{"repo": "x"', json.dumps({"repo": REPO, "endpoint": "https://hub.example:8080",
         "fetched_at": 1.0, "commits": {"main": 3}}).encode()],
    )  # fmt: skip
    def test_that_cannot_be_read_is_as_good_as_none(self, tmp_path: Path, content: bytes) -> None:
        refs_path(REPO, "https://hub.example:8080", tmp_path).write_bytes(content)
        assert load_refs(REPO, "https://hub.example:8080", tmp_path) is None

    def test_that_cannot_be_written_is_no_failure(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        save_refs(self.kept, tmp_path / "file")
        assert load_refs(REPO, "https://hub.example:8080", tmp_path / "file") is None

    def test_ages(self) -> None:
        assert self.kept.age(now=1060.0) == 60.0
        assert self.kept.age(now=999.0) == float("inf")  # some clock was wrong
        assert self.kept.age() == pytest.approx(time.time() - 1000.0, abs=5)
