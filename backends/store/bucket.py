"""A store in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage, all through obstore.

Credentials and endpoints come from each cloud's usual environment variables or from the machine's own identity. A
conditional create is ``If-None-Match: *`` (S3, Azure) or ``x-goog-if-generation-match: 0`` (GCS).
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import obstore
import obstore.store
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from backends.backoff import backoff
from backends.errors import ConfigError, InfraError, PlacementError
from backends.store import credentials
from backends.store.base import TEMP, Store, check_key, trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
PATIENCE = 30.0  # seconds after which no further try begins: outages of that length are survived
_BLOCK = 1 << 20
_BULKY = 1 << 20  # bytes: what is larger is given the time that a slow line needs
_PAUSE, _LONGEST_PAUSE = 0.2, 3.0  # seconds between tries
# A server that takes a request and says nothing must not outlast a heartbeat. A timeout of reading counts from the request's
# first byte to the answer's, so what carries much gets more.
_CLIENT: dict[str, Any] = {"connect_timeout": "4s", "read_timeout": "12s", "timeout": "1h"}
_BULK_CLIENT: dict[str, Any] = {**_CLIENT, "read_timeout": "60s"}
# What is tried again here is tried only a few times there; what goes in parts is tried again there alone.
_BACKOFF = {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=3), "base": 2}
_RETRY: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=5), "backoff": _BACKOFF}
_BULK_RETRY: Any = {"max_retries": 100, "retry_timeout": timedelta(seconds=PATIENCE), "backoff": _BACKOFF}
# Signs in an error's text: no retry brings credentials or a name; the other ones come and go.
_LASTING = ("169.254.169.254", "metadata.google.internal", "oken request", "dns error", "failed to lookup", "builder error")
_PASSING = (
    *(f"status code: {status}" for status in (408, 409, 425, 429, *range(500, 600))),
    *("error sending request", "timed out", "error decoding response body", "RequestTimeout"),
)
_REFUSED = (AlreadyExistsError, PreconditionError)
_RIGHTS = {
    "s3": "s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket",
    "gs": "the role Storage Object User",
    "az": "the role Storage Blob Data Contributor",
}


class ObjectStore(Store):
    """A store under a prefix of a bucket; opening it uses no network.

    Args:
        url: such as ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``.

    Raises:
        ConfigError: the URL names no bucket.
        InfraError: the settings in the environment are wrong.
        PlacementError: they are such that no request could be made of them.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.root = None
        scheme = url.partition("://")[0].lower()
        self._cloud = {"s3": "s3", "s3a": "s3", "gs": "gs"}.get(scheme, "az")
        credentials.check(self._cloud, os.environ)
        self._store = self._client(url, _CLIENT, _RETRY)

    @cached_property
    def _bulk(self) -> Any:
        """The client for what may be large."""
        return self._client(self.url, _BULK_CLIENT, _BULK_RETRY)

    def _client(self, url: str, settings: dict[str, Any], retry: Any) -> Any:
        options: Any = dict(settings)
        config: Any = {}
        if self._cloud == "s3" and (endpoint := credentials.endpoint(os.environ)):
            config["endpoint"] = endpoint
            if endpoint.startswith("http://"):
                options["allow_http"] = True
        if (bundle := credentials.certificates()) is not None:
            options["root_certificate"] = bundle
        try:
            return obstore.store.from_url(url, config=config, client_options=options, retry_config=retry)
        except BaseError as error:
            text = _first_line(error)
            if "Unable to recognise URL" in text:
                scheme = url.partition("://")[0].lower()
                raise ConfigError(f"store {url!r}: there is no bucket in it; write {scheme}://bucket/prefix") from error
            raise InfraError(f"store {url}: {text}; {credentials.HINTS[self._cloud]}") from error
        except BaseException as error:
            raise _unpanicked(error, f"open {url}") from error

    def get(self, key: str, start: int = 0) -> bytes | None:
        check_key(key)
        return self._again("read", key, lambda: self._get(key, start))

    def _get(self, key: str, start: int = 0) -> bytes | None:
        try:
            if start:
                if obstore.head(self._store, key)["size"] <= start:
                    return b""
                return bytes(obstore.get(self._store, key, options={"range": {"offset": start}}).bytes())
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError as error:
            if _no_bucket(str(error)):
                raise
            return None

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        client = self._store if len(data) <= _BULKY else self._bulk
        self._again("write", key, lambda: obstore.put(client, key, data, use_multipart=False))

    def create(self, key: str, data: bytes) -> bool:
        check_key(key)
        return self._again("write", key, lambda: self._create(key, data))

    def _create(self, key: str, data: bytes) -> bool:
        try:
            obstore.put(self._store, key, data, mode="create")
        except BaseError as error:
            # If the answer to our write was lost, or it was written again and that was refused, the object is ours all the
            # same. A refusal although nothing is there is S3's word for a write that met another.
            if not _is_passing(error) or (present := self._get(key)) is None:
                raise
            return present == data
        return True

    def exists(self, key: str) -> bool:
        return self._head(key) is not None

    def names(self, prefix: str) -> list[str]:
        skip = len(check_key(prefix)) + 1 if prefix else 0
        listed = self._again("list", prefix, lambda: obstore.list_with_delimiter(self._store, prefix or None))
        paths = [*listed["common_prefixes"], *(meta["path"] for meta in listed["objects"])]
        return sorted({path[skip:] for path in paths if path[skip:] and not path[skip:].startswith(TEMP)})

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        if prefix:
            check_key(prefix)
        try:
            for chunk in obstore.list(self._bulk, prefix or None, chunk_size=1000):
                for meta in chunk:
                    if not meta["path"].rpartition("/")[2].startswith(TEMP):
                        yield meta["path"], meta["size"]
        except (BaseError, FileNotFoundError) as error:
            self._fail("list", prefix, error)

    def age(self, key: str) -> float | None:
        meta = self._head(key)
        if meta is None:
            return None
        folder = key.rpartition("/")[0]
        probe = f"{folder}/{TEMP}{os.urandom(8).hex()}".lstrip("/")
        self.put(probe, b"")
        now = self._head(probe)
        self.delete(probe)
        return max(0.0, (now["last_modified"] - meta["last_modified"]).total_seconds()) if now else 0.0

    def delete(self, key: str) -> None:
        check_key(key)
        self._again("delete", key, lambda: self._delete(key))

    def _delete(self, key: str) -> None:
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError as error:
            if _no_bucket(str(error)):
                raise

    def upload(self, key: str, path: str) -> None:
        check_key(key)
        try:
            with open(path, "rb") as file:
                obstore.put(self._bulk, key, file, max_concurrency=4)
        except BaseError as error:
            self._fail("write", key, error)
        except OSError as error:
            if error.errno is None:  # obstore's own FileNotFoundError, about the bucket
                self._fail("write", key, error)
            raise trouble("read", path, error) from error

    def download(self, key: str, path: str) -> bool:
        temp = f"{os.path.dirname(os.path.abspath(path))}/{TEMP}{os.urandom(8).hex()}"
        try:
            blocks = self._blocks(key)
            if blocks is None:
                return False
            try:
                with open(temp, "wb") as file:
                    for block in blocks:
                        file.write(block)
                os.replace(temp, path)
            finally:
                if os.path.lexists(temp):
                    os.unlink(temp)
        except OSError as error:
            raise trouble("write", path, error) from error
        return True

    def stream(self, key: str) -> Iterator[bytes]:
        yield from self._blocks(key) or ()

    def url_of(self, key: str) -> str:
        return f"{self.url}/{check_key(key)}"

    def _blocks(self, key: str) -> Iterator[bytes] | None:
        check_key(key)
        answer = self._again("read", key, lambda: self._open(key))
        return None if answer is None else self._read(key, answer)

    def _open(self, key: str) -> obstore.GetResult | None:
        try:
            return obstore.get(self._bulk, key)
        except FileNotFoundError as error:
            if _no_bucket(str(error)):
                raise
            return None

    def _read(self, key: str, answer: obstore.GetResult) -> Iterator[bytes]:
        try:
            for block in answer.stream(_BLOCK):
                yield bytes(block)
        except BaseError as error:
            self._fail("read", key, error)

    def _head(self, key: str) -> obstore.ObjectMeta | None:
        check_key(key)

        def ask() -> obstore.ObjectMeta | None:
            try:
                return obstore.head(self._store, key)
            except FileNotFoundError:
                return None

        return self._again("read", key, ask)

    def _again(self, verb: str, key: str, call: Callable[[], T]) -> T:
        """Do something, and again while what is in the way may pass."""
        until = time.monotonic() + PATIENCE
        tries = 0
        while True:
            try:
                return call()
            except (BaseError, FileNotFoundError) as error:
                pause = min(_LONGEST_PAUSE, backoff(_PAUSE, tries))
                if not _is_passing(error) or time.monotonic() + pause > until:
                    self._fail(verb, key, error)
            except BaseException as error:
                raise _unpanicked(error, f"{verb} {self.url}/{key}") from error
            time.sleep(pause)
            tries += 1

    def _fail(self, what: str, key: str, error: Exception) -> NoReturn:
        """Raise the error that tells a user what went wrong with the bucket and what to do about it."""
        text = str(error)
        rights = f"allow it {_RIGHTS[self._cloud]}"
        if _no_bucket(text) or isinstance(error, FileNotFoundError):
            why, hint = "there is no such bucket", "create it, or check `store` in the config and the region"
        elif "169.254.169.254" in text or "metadata.google.internal" in text or "oken request" in text:
            why, hint = "no credentials were found", credentials.HINTS[self._cloud]
        elif isinstance(error, UnauthenticatedError) or "status code: 401" in text:
            why, hint = f"the credentials were refused ({_code(text)})", credentials.HINTS[self._cloud]
        elif isinstance(error, PermissionDeniedError) or "status code: 403" in text:
            why = f"access was refused ({_code(text)})"
            hint = f"check that the credentials are the ones you mean, and {rights}"
        elif "certificate" in text.lower():
            why = "its TLS certificate is not trusted"
            hint = "set AWS_CA_BUNDLE or SSL_CERT_FILE to a PEM file with your certificate authority"
        elif "dns error" in text or "failed to lookup" in text:
            why, hint = "the host's name is not known", "check the endpoint (AWS_ENDPOINT_URL), the region and the DNS"
        elif "error sending request" in text or "timed out" in text:
            why = "it could not be reached" + (": connection refused" if "ConnectionRefused" in text else "")
            hint = "check the network, the proxy and the endpoint (AWS_ENDPOINT_URL)"
        else:
            why, hint = _first_line(error), "check the bucket and its region, and try again"
        where = f"{self.url}/{key}" if key else self.url
        raise InfraError(f"cannot {what} {where}: {why}; {hint}") from error


def _is_passing(error: Exception) -> bool:
    """Return whether the same request may well be granted in a moment."""
    if isinstance(error, _REFUSED):
        return True
    text = str(error)
    if any(sign in text for sign in _LASTING) or "certificate" in text.lower():
        return False
    return any(sign in text for sign in _PASSING)


def _unpanicked(error: BaseException, action: str) -> BaseException:
    """Return what to raise for an exception that is no error of obstore's: a panic of its Rust derives from none."""
    if type(error).__name__ != "PanicException":
        return error
    return PlacementError(f"cannot {action}: the client of the store gave up ({error}); check the endpoint and the credentials")


def _no_bucket(text: str) -> bool:
    return "NoSuchBucket" in text or "ContainerNotFound" in text or "The specified bucket does not exist" in text


def _code(text: str) -> str:
    """Return a cloud's own word for a refusal, such as ``AccessDenied``, or its HTTP status."""
    _, found, rest = text.partition("<Code>")
    if found:
        return rest.partition("<")[0]
    return text.partition("status code: ")[2][:3] or "forbidden"


def _first_line(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    kind, colon, rest = line.partition(" error: ")
    return (rest if colon and kind.startswith("Generic ") else line)[:300] or type(error).__name__
