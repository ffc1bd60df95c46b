"""Addresses of stores and checkpoints in buckets and repos, such as `s3://bucket/stores/run.zarr`.

An address holds no credentials: they are read from the provider's own variables or profile.

    >>> parse_address("s3://bucket/stores/run.zarr/")
    Address(scheme='s3', place='bucket', prefix='stores/run.zarr')
    >>> is_address("run.zarr"), is_address("s3://bucket/run.zarr")
    (False, True)
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from olmo_dynamics.errors import AccessError, OptionError
from olmo_dynamics.settings import is_http_allowed, variable

BUCKETS = ("s3", "gs", "az")
"""Schemes of buckets, which are read and written."""

REPOS = ("hf",)
"""Schemes of repos, which are read."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_PARTS = {"az": 2, "hf": 2}
"""The parts of an address that name the bucket or repo: an account and its container, an owner and a repo."""

_REPO_TYPES = ("datasets", "spaces", "models", "buckets")


class Address(NamedTuple):
    """An address in parts: the scheme, the bucket or repo, and the keys' common beginning."""

    scheme: str
    place: str
    prefix: str

    @property
    def root(self) -> str:
        """The address of the bucket or repo."""
        return f"{self.scheme}://{self.place}"


def is_address(path: object) -> bool:
    """True for text such as `s3://…`; not for http addresses, which name one checkpoint."""
    found = _SCHEME.fullmatch(path) if isinstance(path, str) else None
    return bool(found and found[1].lower() not in ("http", "https"))


def is_bucket(path: object) -> bool:
    """True for the address of a bucket."""
    return is_address(path) and str(path).partition("://")[0].lower() in BUCKETS


def parse_address(address: str) -> Address:
    """The parts of an address.

    Raises:
        OptionError: it names no bucket or repo, or holds credentials, which the message does not repeat.
    """
    found = _SCHEME.fullmatch(address)
    scheme = found[1].lower() if found else ""
    if found is None or scheme not in BUCKETS + REPOS:
        known = ", ".join(f"{each}://" for each in BUCKETS + REPOS)
        raise OptionError(f"an address must begin with one of {known} (got {scheme}://)")
    parts = found[2].rstrip("/").split("/")
    count = _PARTS.get(scheme, 1) + (scheme == "hf" and parts[0] in _REPO_TYPES)
    revision = "@" if scheme == "hf" else ""  # a repo's revision follows its name
    first = parts[0]
    if "@" in first or any(mark in found[2] for mark in "?#") or (not revision and "@" in "/".join(parts[:count])):
        raise OptionError(
            f"an address must hold no user, password or query (got one that begins with {scheme}://); give credentials by "
            f"{_VARIABLES[scheme]}"
        )
    if len(parts) < count or not all(_PLACE.match(part) for part in parts[:count]):
        raise OptionError(f"an address must be like {_EXAMPLES[scheme]} (got {address!r})")
    if any(part in ("", ".", "..") for part in parts):
        raise OptionError(f"an address must not have empty parts, . or .. (got {address!r})")
    return Address(scheme, "/".join(parts[:count]), "/".join(parts[count:]))


_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_KEY",
    "hf": "HF_TOKEN",
}
_EXAMPLES = {
    "s3": "s3://bucket/stores/run.zarr",
    "gs": "gs://bucket/stores/run.zarr",
    "az": "az://account/container/run.zarr",
    "hf": "hf://datasets/owner/name/run.zarr",
}


def missing_credentials(address: Address) -> AccessError:
    """The error that names the variables to set."""
    public = {
        "s3": "; AWS_SKIP_SIGNATURE=true reads a public bucket",
        "gs": "; GOOGLE_SKIP_SIGNATURE=true reads a public bucket",
    }
    return AccessError(
        f"{address.root} needs credentials: set {_VARIABLES[address.scheme]}{public.get(address.scheme, '')}"
    )


def has_credentials(scheme: str) -> bool:
    """True if the provider's variables or files tell where credentials are, as far as obstore reads them."""
    return any(map(variable, _TELLING[scheme])) or any(Path(each).expanduser().is_file() for each in _FILES[scheme])


_TELLING = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
           "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH",
           "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_SKIP_SIGNATURE"),
    "az": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID",
           "AZURE_STORAGE_TOKEN", "AZURE_USE_AZURE_CLI", "AZURE_SKIP_SIGNATURE"),
}  # fmt: skip
_FILES = {"s3": (), "gs": ("~/.config/gcloud/application_default_credentials.json",), "az": ()}


def endpoint_of(scheme: str) -> str:
    """The server that a variable names in place of the provider's own; empty if none does.

    Raises:
        OptionError: requests would go by plain http to another machine, or the address of the server holds a password.
    """
    for name in _ENDPOINTS[scheme]:
        endpoint = variable(name)
        if not endpoint:
            continue
        parts = urlsplit(endpoint)
        if "@" in parts.netloc:
            raise OptionError(f"{name} must hold no user or password; give credentials by {_VARIABLES[scheme]}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"{name} must begin with https:// and name a host (got {endpoint!r})")
        if parts.scheme == "http" and not (is_loopback(parts.hostname) or is_http_allowed()):
            raise OptionError(
                f"{name} must begin with https:// (got {endpoint}), since plain http shows data to the network; on a network "
                "that you trust, add --allow-http or set AWS_ALLOW_HTTP=true"
            )
        return endpoint
    return ""


def is_loopback(host: str) -> bool:
    """True for names and addresses of this machine.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("10.0.0.1")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
