"""Requests to a hub that are answered in JSON, and the errors that its refusals mean.

Addresses, tokens, proxies and the connection pool are huggingface_hub's. The requests are sent here rather than through
`HfApi`, whose calls wait for ever on a silent host, and either never retry or sleep where nothing can wake them.

    >>> repo = Repo("allenai/OLMo-2-0425-1B", "https://huggingface.co")
    >>> repo.api_address("revision", "stage2-ingredient1+2-step23842")
    'https://huggingface.co/api/models/allenai/OLMo-2-0425-1B/revision/stage2-ingredient1%2B2-step23842'
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urljoin

import httpx2
from huggingface_hub import get_token, hf_hub_url
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, get_session, parse_ratelimit_headers

from olmo_dynamics.checkpoints.http.retry import RetryPolicy, TransientError, UnreachableError
from olmo_dynamics.errors import (
    AccessError,
    CheckpointError,
    NetworkError,
    OlmoDynamicsError,
    SourceError,
    UnknownRevisionError,
    UnknownSourceError,
)

Parsed = TypeVar("Parsed")

_MISSING = (
    UnknownSourceError,
    "{repo} does not exist on {host}, or is private; check the spelling, or run `hf auth login` or set HF_TOKEN",
)

_REFUSALS: dict[str, tuple[type[OlmoDynamicsError], str]] = {
    "GatedRepo": (
        AccessError,
        "{repo} is gated: accept its terms at {endpoint}/{repo}, then run `hf auth login` or set HF_TOKEN",
    ),
    "RepoNotFound": _MISSING,
    "RevisionNotFound": (UnknownRevisionError, "{repo} has no such revision on {host}; list its revisions"),
    "EntryNotFound": (CheckpointError, "{repo} lists a file that {host} does not have; list the revision anew"),
    "Invalid credentials in Authorization header": (
        AccessError,
        "{host} refuses the token that was sent; run `hf auth login` again, or correct or unset HF_TOKEN",
    ),
    "Access to this resource is disabled.": (AccessError, "{repo} was disabled on {host}; choose another repo"),
    "401": _MISSING,  # the hub's answer to anonymous requests, which does not reveal what exists
    "403": (AccessError, "{host} forbids reading {repo}; run `hf auth login` or set HF_TOKEN to a token that may"),
}
"""The error and message of each refusal, by the hub's error code, else its message, else its status."""


@dataclass(frozen=True, slots=True)
class Repo:
    """A model repo on a hub, and the token to show there (None for the one logged in with, False for none)."""

    name: str
    endpoint: str
    token: str | bool | None = None

    @property
    def host(self) -> str:
        """The hub's host name."""
        return self.endpoint.split("://", 1)[-1].split("/", 1)[0]

    @property
    def shown_token(self) -> str:
        """The token that requests show, empty without one."""
        if self.token is False:
            return ""
        return self.token if isinstance(self.token, str) else get_token() or ""

    def __reduce__(self) -> tuple[type[Repo], tuple[str, str, bool | None]]:
        """Pickled without its token, which must not lie in files or logs."""
        return Repo, (self.name, self.endpoint, None if isinstance(self.token, str) else self.token)

    def headers(self) -> dict[str, str]:
        """Request headers: the token and the user agent."""
        return build_hf_headers(token=self.token, user_agent="olmo_dynamics")

    def api_address(self, *words: str) -> str:
        """An address of the JSON API; revisions hold `+` and `/`, so every word is quoted."""
        return "/".join([f"{self.endpoint}/api/models/{self.name}", *(quote(word, safe="") for word in words)])

    def file_address(self, file: str, commit: str) -> str:
        """The address of a file, which redirects to where its bytes are."""
        return hf_hub_url(self.name, file, revision=commit, endpoint=self.endpoint)


def ask(repo: Repo, address: str, parse: Callable[[Any], Parsed], retry: RetryPolicy) -> Parsed:
    """Get the JSON at an address and `parse` it.

    Raises:
        SourceError: the hub refuses (see `require_success`), or does not answer.
        NetworkError: the answer is not that of a hub.
    """
    response = _get(repo, address, retry)
    with _expecting_hub(address):
        return parse(response.json())


def ask_pages(repo: Repo, address: str, parse: Callable[[Any], Parsed], retry: RetryPolicy) -> list[Parsed]:
    """Get every item of a listing, however many pages it takes, and `parse` each; another origin's pages get no token.

    Raises:
        SourceError: as `ask`.
    """
    items: list[Parsed] = []
    following: str | None = address
    while following:
        asked = repo if _is_same_origin(following, address) else replace(repo, token=False)
        response = _get(asked, following, retry)
        with _expecting_hub(address):
            items += [parse(item) for item in response.json()]
        link = response.links.get("next", {}).get("url")
        following = urljoin(following, link) if link else None
    return items


def require_success(response: httpx2.Response, repo: Repo) -> None:
    """Pass a 2xx answer; a busy host is a `TransientError`, a refusal an error that says how to fix it.

    Raises:
        TransientError: the host is busy or failing.
        UnknownSourceError: no such repo, or a private one.
        AccessError: gated, forbidden, disabled, or a wrong token.
        UnknownRevisionError: no such branch or commit.
        SourceError: any other answer.
    """
    status, host = response.status_code, response.url.netloc.decode()
    if response.is_success:
        return
    if status in (408, 429) or status >= 500:
        raise TransientError(f"{host} answered {status}", retry_after(response.headers))
    keys = (response.headers.get("X-Error-Code"), response.headers.get("X-Error-Message"), str(status))
    known = next((_REFUSALS[key] for key in keys if key in _REFUSALS), None)
    kind, text = known or (SourceError, "{host} answered {status} when asked about {repo}; try again later")
    raise kind(text.format(repo=repo.name, host=host, endpoint=repo.endpoint, status=status))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a host asks clients to wait: the hub's RateLimit where the quota is spent, else Retry-After."""
    quota = parse_ratelimit_headers(headers)
    if quota is not None and quota.remaining == 0:
        return float(quota.reset_in_seconds)
    asked = next((value.strip() for name, value in headers.items() if name.lower() == "retry-after"), "")
    if asked.isdecimal():
        return float(asked)
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time()) if asked else None
    except ValueError:
        return None


@contextmanager
def translate_errors(repo: Repo) -> Iterator[None]:
    """Turn the HTTP client's exceptions into `TransientError`, or into errors that no retry can mend."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise NetworkError(
            f"HF_HUB_OFFLINE is set, so {repo.host} is not asked for {repo.name}; "
            "unset it, or give a folder of checkpoints or a repo in the Hugging Face cache, which need no network"
        ) from None
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        raise NetworkError(f"{repo.endpoint!r} is not the address of a hub; correct HF_ENDPOINT or endpoint=") from None
    except httpx2.RequestError as problem:
        reason = " ".join(str(problem).split()) or "no reason given"
        kind = UnreachableError if isinstance(problem, (httpx2.ConnectError, httpx2.ConnectTimeout)) else TransientError
        raise kind(f"{repo.host} gave {type(problem).__name__} ({reason})") from None


def _get(repo: Repo, address: str, retry: RetryPolicy) -> httpx2.Response:
    def attempt() -> httpx2.Response:
        with translate_errors(repo):
            response = get_session().get(address, headers=repo.headers(), timeout=retry.timeout)
        require_success(response, repo)
        return response

    return retry.call(attempt, f"asking {repo.host} about {repo.name}")


def _is_same_origin(address: str, other: str) -> bool:
    one, two = httpx2.URL(address), httpx2.URL(other)
    return (one.scheme, one.host, one.port) == (two.scheme, two.host, two.port)


@contextmanager
def _expecting_hub(address: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NetworkError(f"{address} did not answer as a hub does; check HF_ENDPOINT and the proxy") from None
