"""Behaviour of the real client when the hub fails: its retries, its errors, and the faults that it does not notice."""

from __future__ import annotations

from pathlib import Path

import httpx2
import numpy as np
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError

from tests.hub import Fault, LocalHub, Request
from tests.hub.conftest import BRANCHES, CONFIG, OTHER_WEIGHTS, REPO, WEIGHTS, Download

CHUNK = 10 << 20  # the client commits a body to disk in pieces of 10 MiB


def left_behind(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.is_file() and "blobs" in path.parts]


# ---- listings ---------------------------------------------------------------------------------------------------------


def test_refs_and_info_raise_at_once_on_429(hub: LocalHub, api: HfApi) -> None:
    hub.add_fault(Fault("429", times=None, wait=55))
    for call in (api.list_repo_refs, api.model_info):
        with pytest.raises(HfHubHTTPError) as caught:
            call(REPO)
        assert "you have reached your 'api' rate limit.\nRetry after 55 seconds (0/500 requests" in str(caught.value)
    assert len(hub.requests) == 2


@pytest.mark.parametrize(
    "fault",
    [Fault("429", wait=0), Fault("503", retry_after="0"), Fault("502"), Fault("hang_up")],
    ids=lambda fault: fault.kind,
)
def test_listing_a_tree_is_tried_again(hub: LocalHub, api: HfApi, fault: Fault) -> None:
    hub.add_fault(fault)
    assert len(list(api.list_repo_tree(REPO))) == 3
    assert len(hub.requests) == 2
    assert fault.struck == 1


@pytest.mark.parametrize("kind", ["500", "502", "503", "504"])
def test_refs_raise_at_once_on_server_errors(hub: LocalHub, api: HfApi, kind: str) -> None:
    hub.add_fault(Fault(kind, "/refs"))
    with pytest.raises(HfHubHTTPError) as caught:
        api.list_repo_refs(REPO)
    assert caught.value.response.status_code == int(kind)
    assert len(api.list_repo_refs(REPO).branches) == 2


def test_a_hang_up_is_a_protocol_error(hub: LocalHub, api: HfApi) -> None:
    hub.add_fault(Fault("hang_up"))
    with pytest.raises(httpx2.RemoteProtocolError):
        api.list_repo_refs(REPO)
    assert hub.requests[0].status == 0


def test_quota_headers_come_with_every_answer(hub: LocalHub) -> None:
    assert get_session().get(f"{hub.endpoint}/api/models/{REPO}").headers["ratelimit"] == '"api";r=499;t=300'


def test_slow_answers_time_out(hub: LocalHub) -> None:
    hub.add_fault(Fault("slow", seconds=5))
    with pytest.raises(httpx2.ReadTimeout):
        get_session().get(f"{hub.endpoint}/api/models/{REPO}", timeout=0.1)


# ---- files ------------------------------------------------------------------------------------------------------------


def test_metadata_is_asked_twice_before_giving_up(hub: LocalHub, download: Download) -> None:
    hub.add_fault(Fault("503", method="HEAD"))
    assert download("model.safetensors") == WEIGHTS
    assert [request.status for request in hub.requests] == [503, 302, 200]


def test_headers_that_only_a_hub_sends_are_required(hub: LocalHub, download: Download) -> None:
    hub.add_fault(Fault("missing_headers", times=None))
    with pytest.raises(LocalEntryNotFoundError) as caught:
        download("model.safetensors")
    assert isinstance(caught.value.__cause__, FileMetadataError)


def test_storage_errors_are_not_tried_again(hub: LocalHub, download: Download) -> None:
    for kind in ("503", "expired"):
        hub.add_fault(Fault(kind, host="cdn"))
        with pytest.raises(HfHubHTTPError):
            download("model.safetensors")
    assert [request.status for request in hub.requests if request.host == "cdn"] == [503, 403]


def test_a_body_cut_early_starts_again_from_nothing(hub: LocalHub, download: Download) -> None:
    hub.add_fault(Fault("short", 'filename="model.safetensors"', host="cdn"))
    assert download("model.safetensors") == WEIGHTS
    assert [(each.range, each.bytes_sent) for each in hub.requests if each.host == "cdn"] == [
        (None, len(WEIGHTS) // 2),
        (None, len(WEIGHTS)),
    ]


@pytest.fixture(scope="module")
def long_body() -> bytes:
    return np.random.default_rng(0).bytes(CHUNK + (1 << 20))


def test_a_body_cut_late_goes_on_from_where_it_was(hub: LocalHub, download: Download, long_body: bytes) -> None:
    hub.add_repo("org/long", {"main": {"model.safetensors": long_body}})
    hub.add_fault(Fault("short", host="cdn", keep=CHUNK + 1000))
    assert download("model.safetensors", repo="org/long") == long_body
    assert [(each.range, each.status) for each in hub.requests if each.host == "cdn"] == [
        (None, 200),
        ((CHUNK, None), 206),
    ]


def test_a_range_answered_with_the_whole_is_rewound(hub: LocalHub, download: Download, long_body: bytes) -> None:
    hub.add_repo("org/long", {"main": {"model.safetensors": long_body}})
    hub.add_fault(Fault("short", host="cdn", keep=CHUNK + 1000))
    hub.add_fault(Fault("ignore_range", host="cdn"))
    assert download("model.safetensors", repo="org/long") == long_body
    assert [(each.range, each.status) for each in hub.requests if each.host == "cdn"] == [
        (None, 200),
        ((CHUNK, None), 200),
    ]


def test_a_reset_is_not_tried_again_and_leaves_nothing(hub: LocalHub, download: Download) -> None:
    hub.add_fault(Fault("reset", host="cdn"))
    with pytest.raises(httpx2.ReadError):
        download("model.safetensors")
    assert [request.host for request in hub.requests] == ["hub", "cdn"]
    assert left_behind(download.cache) == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_wrong_size_is_noticed(hub: LocalHub, download: Download, method: str) -> None:
    hub.add_fault(Fault("wrong_size", method=method))
    with pytest.raises(OSError, match="Consistency check failed: file should be of size"):
        download("model.safetensors")
    assert left_behind(download.cache) == []


@pytest.mark.parametrize("payload", [None, OTHER_WEIGHTS], ids=["flipped", "another branch"])
def test_a_wrong_payload_of_the_right_size_is_not_noticed(
    hub: LocalHub, download: Download, payload: bytes | None
) -> None:
    hub.add_fault(Fault("wrong_payload", host="cdn", payload=payload))
    expected = payload or bytes(byte ^ 0xFF for byte in WEIGHTS)
    assert download("model.safetensors") == expected != WEIGHTS


def test_a_branch_that_moves_between_two_requests(hub: LocalHub, download: Download) -> None:
    moved = {"config.json": CONFIG, "model.safetensors": OTHER_WEIGHTS}
    hook = hub.add_fault(Fault("hook", "/resolve/main/", after=1, call=lambda: hub.set_branch(REPO, "main", moved)))
    assert download("config.json") == CONFIG
    assert download("model.safetensors") == OTHER_WEIGHTS
    assert hook.struck == 1
    assert len({path.name for path in download.cache.glob("models--*/snapshots/*")}) == 2


def test_metadata_pins_the_bytes_of_a_branch_that_moves_before_the_download(hub: LocalHub, download: Download) -> None:
    moved = {"model.safetensors": OTHER_WEIGHTS}
    hub.add_fault(Fault("hook", host="cdn", call=lambda: hub.set_branch(REPO, "main", moved)))
    assert download("model.safetensors") == WEIGHTS


def test_gzip_spoils_spans_but_not_whole_files(hub: LocalHub, download: Download) -> None:
    hub.add_fault(Fault("gzip", times=2))
    assert download("config.json") == CONFIG
    url = hf_hub_url(REPO, "config.json", endpoint=hub.endpoint)
    span = get_session().get(url, headers={"range": "bytes=0-3"})
    assert (span.status_code, span.content) == (200, CONFIG)
    plain = get_session().get(url, headers={"range": "bytes=0-3", "accept-encoding": "identity"})
    assert (plain.status_code, plain.content) == (206, CONFIG[:4])


def test_a_stalled_body_times_out_or_ends_well(hub: LocalHub) -> None:
    hub.add_fault(Fault("stall", host="cdn", seconds=0.3, times=2))
    url = hf_hub_url(REPO, "model.safetensors", endpoint=hub.endpoint)
    assert get_session().get(url).content == WEIGHTS
    with pytest.raises(httpx2.ReadTimeout):
        get_session().get(url, timeout=0.1)


# ---- which requests a fault strikes -----------------------------------------------------------------------------------


def test_times_and_after_count_matching_requests() -> None:
    fault = Fault("500", "refs", times=2, after=1)
    paths = ["/refs", "/tree", "/refs", "/refs", "/refs"]
    assert [fault.strikes(Request("GET", "hub", path, {})) for path in paths] == [False, False, True, True, False]


def test_a_predicate_sees_the_request(hub: LocalHub) -> None:
    hub.add_fault(Fault("500", lambda request: request.range == (0, 8), times=None))
    url = hf_hub_url(REPO, "config.json", endpoint=hub.endpoint)
    statuses = [get_session().get(url, headers={"range": asked}).status_code for asked in ("bytes=0-7", "bytes=0-8")]
    assert statuses == [500, 206]


def test_chance_is_seeded() -> None:
    def struck(seed: int) -> list[bool]:
        fault = Fault("500", probability=0.3, seed=seed, times=None)
        return [fault.strikes(Request("GET", "hub", "/", {})) for _ in range(200)]

    assert struck(1) == struck(1) != struck(2)
    assert 30 < sum(struck(1)) < 90


def test_a_fault_can_be_switched_off(hub: LocalHub, api: HfApi) -> None:
    fault = hub.add_fault(Fault("500", times=None))
    fault.active = False
    assert len(api.list_repo_refs(REPO).branches) == len(BRANCHES)
    fault.active = True
    hub.faults.remove(fault)
    assert len(api.list_repo_refs(REPO).branches) == len(BRANCHES)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"^fault kind must be one of 400, .*, missing_headers; got 'flood'$"):
        Fault("flood")


def test_get_hf_file_metadata_meets_the_same_faults(hub: LocalHub) -> None:
    hub.add_fault(Fault("429", "/resolve/", wait=3))
    with pytest.raises(HfHubHTTPError, match="Retry after 3 seconds"):
        get_hf_file_metadata(hf_hub_url(REPO, "config.json", endpoint=hub.endpoint), token=False)
