"""The local hub refuses like the real one, and the real client raises the same errors."""

from __future__ import annotations

import logging

import pytest
from huggingface_hub import HfApi, get_session
from huggingface_hub.errors import (
    BadRequestError,
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging

from tests.hub import Fault, LocalHub
from tests.hub.conftest import BRANCHES, CONFIG, REPO, WEIGHTS, Download

TOKEN = "hf_reader"
Token = str | bool


def test_missing_things(hub: LocalHub, api: HfApi, download: Download) -> None:
    hub.tokens.add(TOKEN)
    statuses: dict[Token, int] = {False: 401, TOKEN: 404}
    for token, status in statuses.items():
        with pytest.raises(RepositoryNotFoundError) as caught:
            api.model_info("org/none", token=token)
        assert caught.value.response.status_code == status
    for call in (api.model_info, api.list_repo_commits, lambda *a, **k: list(api.list_repo_tree(*a, **k))):
        with pytest.raises(RevisionNotFoundError, match="Invalid rev id: nope"):
            call(REPO, revision="nope")
    with pytest.raises(RevisionNotFoundError):
        download("config.json", revision="nope")
    with pytest.raises(EntryNotFoundError):
        download("tokenizer.json")
    commit = hub.repositories[REPO].branches["main"].id
    assert [path.parent.name for path in download.cache.rglob(".no_exist/*/tokenizer.json")] == [commit]


def test_a_private_repo_does_not_exist_for_others(hub: LocalHub, api: HfApi, download: Download) -> None:
    hub.add_repo("org/secret", BRANCHES, private=True, token=TOKEN)
    hub.tokens.add("hf_other")
    statuses: dict[Token, int] = {False: 401, "hf_other": 404}
    for token, status in statuses.items():
        for call in (api.model_info, api.list_repo_refs, api.auth_check):
            with pytest.raises(RepositoryNotFoundError) as caught:
                call("org/secret", token=token)
            assert caught.value.response.status_code == status
    assert api.model_info("org/secret", token=TOKEN).private
    assert download("model.safetensors", repo="org/secret", token=TOKEN) == WEIGHTS
    assert download("config.json", repo="org/secret", token=TOKEN) == CONFIG


def test_a_gated_repo_shows_itself_and_keeps_its_files(hub: LocalHub, api: HfApi, download: Download) -> None:
    hub.add_repo("org/gated", BRANCHES, gated="manual", token=TOKEN)
    hub.tokens.add("hf_other")
    assert api.model_info("org/gated").gated == "manual"
    assert len(list(api.list_repo_tree("org/gated"))) == 3
    statuses: dict[Token, int] = {False: 401, "hf_other": 403}
    for token, status in statuses.items():
        for call in (api.auth_check, lambda repo, token: download("config.json", repo=repo, token=token)):
            with pytest.raises(GatedRepoError) as caught:
                call("org/gated", token=token)
            assert caught.value.response.status_code == status
    api.auth_check("org/gated", token=TOKEN)
    assert download("model.safetensors", repo="org/gated", token=TOKEN) == WEIGHTS


def test_a_token_nobody_knows_is_refused_even_for_public_repos(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as caught:
        api.model_info(REPO, token="hf_expired")
    assert type(caught.value) is HfHubHTTPError


def test_a_disabled_repo(hub: LocalHub, api: HfApi) -> None:
    hub.repositories[REPO].disabled = True
    with pytest.raises(DisabledRepoError):
        api.model_info(REPO)


@pytest.mark.parametrize(
    ("status", "error"), [("400", BadRequestError), ("401", HfHubHTTPError), ("403", HfHubHTTPError)]
)
def test_refusals_without_a_code(hub: LocalHub, api: HfApi, status: str, error: type[Exception]) -> None:
    hub.add_fault(Fault(status))
    with pytest.raises(error) as caught:
        api.model_info(REPO)
    assert type(caught.value) is error  # 401: only an https address would read as a missing repo


def test_an_unknown_address_is_404(hub: LocalHub) -> None:
    assert get_session().get(f"{hub.endpoint}/api/nothing").status_code == 404
    assert get_session().get(f"{hub.cdn_endpoint}/nothing").status_code == 403


def test_warnings_travel_in_a_header(hub: LocalHub, api: HfApi, caplog: pytest.LogCaptureFixture) -> None:
    hub.warning = "Moving house; the address will change"
    hub_logging.enable_propagation()
    with caplog.at_level(logging.WARNING, "huggingface_hub"):
        api.model_info(REPO)
        api.model_info(REPO)
    hub_logging.disable_propagation()
    assert [record.getMessage() for record in caplog.records] == ["the address will change"]
