"""Addresses hold no credentials, credentials are never shown, and what is missing is named in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from olmo_dynamics.errors import AccessError, NetworkError, OptionError, StoreError
from olmo_dynamics.files import as_place
from olmo_dynamics.files.addresses import parse_address
from olmo_dynamics.frames import open_store
from tests.conftest import ROOT

NO_QUERY = "an address must hold no user, password or query (got one that begins with {}://); give credentials by "
REFUSED = {
    "s3://user:hunter2@bucket/s.zarr": NO_QUERY.format("s3")
    + "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "s3://bucket/s.zarr?X-Amz-Signature=hunter2": NO_QUERY.format("s3")
    + "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs://user:hunter2@bucket/s.zarr": NO_QUERY.format("gs") + "GOOGLE_APPLICATION_CREDENTIALS",
    "ftp://host/s.zarr": "an address must begin with one of s3://, gs://, az://, hf:// (got ftp://)",
    "s3:///s.zarr": "an address must be like s3://bucket/stores/run.zarr (got 's3:///s.zarr')",
    "az://account": "an address must be like az://account/container/run.zarr (got 'az://account')",
    "s3://bucket": "an address must name a folder in the bucket or repo, as s3://bucket/run.zarr does",
    "s3://bucket/../s.zarr": "an address must not have empty parts, . or .. (got 's3://bucket/../s.zarr')",
}


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_cannot_be_used(address: str) -> None:
    with pytest.raises(OptionError) as refused:
        as_place(address)
    assert str(refused.value) == REFUSED[address]
    assert "hunter2" not in str(refused.value)


def test_parts_of_addresses() -> None:
    assert parse_address("S3://bucket/a/b/") == ("s3", "bucket", "a/b")
    assert parse_address("az://account/container/s.zarr") == ("az", "account/container", "s.zarr")
    assert parse_address("hf://owner/name@main/s.zarr") == ("hf", "owner/name@main", "s.zarr")
    assert parse_address("hf://datasets/owner/name/s.zarr") == ("hf", "datasets/owner/name", "s.zarr")


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    pytest.importorskip("obstore", reason="the extra [remote] is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_missing_credentials_are_named(nothing_set: pytest.MonkeyPatch) -> None:
    with pytest.raises(AccessError) as refused:
        open_store("s3://bucket-x/s.zarr")
    assert str(refused.value) == (
        "s3://bucket-x needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
        "AWS_SKIP_SIGNATURE=true reads a public bucket"
    )
    nothing_set.setenv("AWS_ACCESS_KEY_ID", "testing")
    with pytest.raises(AccessError, match=r"set AWS_SECRET_ACCESS_KEY too, beside AWS_ACCESS_KEY_ID$"):
        open_store("s3://bucket-x/s.zarr")
    with pytest.raises(AccessError, match=r"^gs://bucket-x needs credentials: set GOOGLE_APPLICATION_CREDENTIALS; "):
        open_store("gs://bucket-x/s.zarr")
    with pytest.raises(AccessError, match=r"^az://account/box needs credentials: set AZURE_STORAGE_ACCOUNT_KEY, or "):
        open_store("az://account/box/s.zarr")


def test_plain_http_is_for_this_machine_unless_it_is_allowed(nothing_set: pytest.MonkeyPatch) -> None:
    nothing_set.setenv("AWS_ENDPOINT_URL", "http://10.255.255.1:9000")
    with pytest.raises(OptionError) as refused:
        as_place("s3://bucket/s.zarr")
    assert str(refused.value) == (
        "AWS_ENDPOINT_URL must begin with https:// (got http://10.255.255.1:9000), since plain http shows data to the network; "
        "on a network that you trust, add --allow-http or set AWS_ALLOW_HTTP=true"
    )
    nothing_set.setenv("AWS_ACCESS_KEY_ID", "testing")
    nothing_set.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    nothing_set.setenv("AWS_ALLOW_HTTP", "true")
    assert str(as_place("s3://bucket/s.zarr")) == "s3://bucket/s.zarr"
    nothing_set.setenv("AWS_ENDPOINT_URL", "https://user:hunter2@host")
    with pytest.raises(OptionError) as refused:
        as_place("s3://bucket/s.zarr")
    assert "hunter2" not in str(refused.value) and "must hold no user or password" in str(refused.value)


def test_a_profile_gives_credentials_too(
    server: str, bucket: str, nothing_set: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text("[study]\naws_access_key_id = a\naws_secret_access_key = b\n")
    nothing_set.setenv("AWS_PROFILE", "study")
    nothing_set.setenv("AWS_ENDPOINT_URL", server)
    with pytest.raises(StoreError, match=rf"^there is no store at {bucket}/s.zarr; "):
        open_store(f"{bucket}/s.zarr")


def test_a_bucket_or_a_server_that_is_not_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"^there is no bucket s3://bucket-unknown; make it, or check the name"):
        open_store("s3://bucket-unknown/s.zarr")
    monkeypatch.setattr("olmo_dynamics.files.buckets._TRIES", {"max_retries": 0})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(NetworkError) as refused:
        open_store(f"{bucket}/s.zarr")
    assert str(refused.value) == (
        f"{bucket} could not be reached (no whole answer); what was finished is kept: run the same command again"
    )
    assert "secret-of-tests" not in repr(refused.getrepr(chain=True))


def test_without_the_extra_it_is_named() -> None:
    script = (
        "import sys; sys.modules['obstore'] = None; sys.modules['obstore.store'] = None\n"
        "sys.argv = ['olmo-dyn', 'show', 's3://bucket/s.zarr']\n"
        "from olmo_dynamics.cli import start\nstart()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == 'olmo-dyn: s3://bucket needs obstore; pip install "olmo-dynamics[remote]"\n'
