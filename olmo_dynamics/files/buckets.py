"""Buckets of S3, Google Cloud and Azure by obstore, which is imported when the first address is opened.

>>> bucket = bucket_of(parse_address("s3://bucket/run.zarr"))  # doctest: +SKIP
>>> bucket.write("run.zarr/zarr.json", b"{}")  # doctest: +SKIP
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from olmo_dynamics.errors import AccessError, NetworkError, OptionError, StoreError
from olmo_dynamics.files.addresses import Address, endpoint_of, has_credentials, missing_credentials
from olmo_dynamics.files.objects import ChangedError, Entry
from olmo_dynamics.settings import variable

if TYPE_CHECKING:
    from obstore.store import ObjectStore

INSTALL = 'pip install "olmo-dynamics[remote]"'
"""The command that installs what buckets need."""

_STATUS = re.compile(r"\b([45]\d\d) ([A-Z][A-Za-z]+(?: [A-Z][A-Za-z]+)*)")
_LATE = re.compile(r"\btimed out\b|TimedOut")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)
_PATIENCE = 120.0  # seconds after which no further try is made
_Answer = TypeVar("_Answer")
_TRIES: dict[str, Any] = {
    "max_retries": 10,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}


def bucket_of(address: Address) -> Bucket:
    """The bucket that an address names, opened once for a server and an account; no request is sent yet.

    Raises:
        OptionError: obstore is not installed, or a variable names a server that may not be used.
        AccessError: there are no credentials; the message names the variables.
    """
    try:
        import obstore.store  # noqa: F401
    except ModuleNotFoundError:
        raise OptionError(f"{address.root} needs obstore; {INSTALL}") from None
    endpoint = endpoint_of(address.scheme)
    if address.scheme == "s3" and variable("AWS_ACCESS_KEY_ID") and not variable("AWS_SECRET_ACCESS_KEY"):
        raise AccessError(f"{address.root} needs credentials: set AWS_SECRET_ACCESS_KEY too, beside AWS_ACCESS_KEY_ID")
    account = tuple(map(variable, ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SKIP_SIGNATURE", "AWS_SESSION_TOKEN")))
    return _open_bucket(address._replace(prefix=""), endpoint, account)


@lru_cache(maxsize=16)
def _open_bucket(address: Address, endpoint: str, account: tuple[str, ...]) -> Bucket:
    import obstore.store

    options: dict[str, Any] = {
        "retry_config": _TRIES,
        "client_options": {"timeout": "60s", "connect_timeout": "10s", "allow_http": endpoint.startswith("http://")},
    }
    if address.scheme == "s3":
        provider = _profile(address)
        options |= {"endpoint": endpoint} if endpoint else {}
        client: Any = obstore.store.S3Store(address.place, credential_provider=provider, **options)
    elif not has_credentials(address.scheme):
        raise missing_credentials(address)
    else:
        client = obstore.store.from_url(address.root, **options)
    return Bucket(address.root, client)


def _profile(address: Address) -> Any:
    """The credentials of a profile, as boto3 reads it; None where variables that obstore reads hold them.

    Raises:
        AccessError: there are none.
    """
    if has_credentials("s3"):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:
        raise missing_credentials(address) from None
    try:
        return Boto3CredentialProvider()
    except Exception:  # of boto3's own kinds: no credentials, or no such profile
        raise missing_credentials(address) from None


class Bucket:
    """The objects of one bucket."""

    is_prompt = False

    def __init__(self, address: str, client: ObjectStore) -> None:
        self.address = address
        self.client = client

    def list(self, prefix: str) -> dict[str, Entry]:
        """All objects whose keys begin with a prefix."""
        import obstore

        found = self._ask("", lambda: [each for some in obstore.list(self.client, prefix or None) for each in some])
        return {each["path"]: _entry(each) for each in found}

    def list_level(self, prefix: str) -> Sequence[str]:
        """The keys of the objects right under a prefix, and none deeper."""
        import obstore

        found = self._ask("", lambda: obstore.list_with_delimiter(self.client, prefix or None))
        return [each["path"] for each in found["objects"]]

    def find(self, key: str) -> Entry | None:
        """One object, None where there is none."""
        import obstore

        try:
            return _entry(self._ask(key, lambda: obstore.head(self.client, key)))
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of an object from `start` to `stop`, or to its end.

        Raises:
            FileNotFoundError: there is no such object.
        """
        import obstore

        if stop is None:
            options: Any = {"range": {"offset": start}} if start else None
            return self._ask(key, lambda: bytes(obstore.get(self.client, key, options=options).bytes()))
        if stop <= start:
            return b""
        return self._ask(key, lambda: bytes(obstore.get_range(self.client, key, start=start, end=stop)))

    def read_version(self, key: str) -> tuple[bytes, str]:
        """A whole object, and the tag of its version.

        Raises:
            FileNotFoundError: there is no such object.
        """
        import obstore

        def work() -> tuple[bytes, str]:
            found = obstore.get(self.client, key)
            return bytes(found.bytes()), found.meta["e_tag"] or ""

        return self._ask(key, work)

    def write(self, key: str, data: bytes) -> Entry:
        """Write a whole object."""
        return self._put(key, data, "overwrite")

    def create(self, key: str, data: bytes) -> Entry:
        """Write an object unless there is one; where an answer was lost, the one that is there may be this one.

        Raises:
            FileExistsError: there is one.
        """
        return self._put(key, data, "create")

    def replace(self, key: str, data: bytes, tag: str) -> Entry:
        """Write an object in place of the version of that tag; where an answer was lost, the other version may be this one.

        Raises:
            ChangedError: there is another version, or none.
        """
        try:
            return self._put(key, data, {"e_tag": tag})
        except FileNotFoundError:
            raise ChangedError(key) from None

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        import obstore

        for key in keys:
            try:
                self._ask(key, lambda key=key: obstore.delete(self.client, key))  # type: ignore[misc]
            except FileNotFoundError:
                continue

    def _put(self, key: str, data: bytes, mode: Any) -> Entry:
        import obstore

        done = self._ask(key, lambda: obstore.put(self.client, key, data, mode=mode, use_multipart=False))
        return Entry(len(data), done["e_tag"] or "")

    def _ask(self, key: str, work: Callable[[], _Answer]) -> _Answer:
        """Do some work, again where no whole answer arrived; obstore itself does not repeat all kinds of requests."""
        stop = time.monotonic() + _PATIENCE
        for pause in (*_PAUSES, None):
            try:
                with self._translated(key):
                    return work()
            except NetworkError:
                if pause is None or time.monotonic() + pause > stop:
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turn obstore's errors into ours; their own text may show signed addresses, so none of it but the status is told."""
        from obstore.exceptions import (
            AlreadyExistsError,
            BaseError,
            PermissionDeniedError,
            PreconditionError,
            UnauthenticatedError,
        )

        where = f"{self.address}/{key}" if key else self.address
        try:
            yield
        except AlreadyExistsError:
            raise FileExistsError(where) from None
        except PreconditionError:
            raise ChangedError(where) from None
        except (PermissionDeniedError, UnauthenticatedError):
            raise AccessError(
                f"{where} may not be used with these credentials; check them, and what they may do in the bucket"
            ) from None
        except (BaseError, FileNotFoundError) as error:
            is_absent = isinstance(error, FileNotFoundError)
            if any(each in str(error) for each in _NO_BUCKET) or (is_absent and not key):
                raise StoreError(
                    f"there is no bucket {self.address}; make it, or check the name and AWS_ENDPOINT_URL"
                ) from None
            if is_absent:
                raise
            raise NetworkError(
                f"{where} could not be reached ({_reason(error)}); what was finished is kept: run the same command again"
            ) from None


def _entry(found: Any) -> Entry:
    return Entry(found["size"], found["e_tag"] or "", found["last_modified"].timestamp())


def _reason(error: BaseException) -> str:
    """The status of an answer, or that there was none."""
    text = str(error)
    if found := _STATUS.search(text):
        return f"{found[1]} {found[2]}"
    return "no answer in time" if _LATE.search(text) else "no whole answer"
