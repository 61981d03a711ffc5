"""A store in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage, all through obstore.

Credentials and endpoints come from each cloud's usual environment variables or from the machine's own identity. A
conditional create is ``If-None-Match: *`` (S3, Azure) or ``x-goog-if-generation-match: 0`` (GCS).
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import obstore
import obstore.store
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from backends.errors import ConfigError, InfraError
from backends.store.base import TEMP, Store, check_key, trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 1 << 20
# A dead endpoint fails within 15 s: a connection is given up after 4 s, and no retry begins later than 10 s after the
# first try.
_RETRY: Any = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=3), "base": 2},
}
_CLIENT: dict[str, Any] = {"connect_timeout": "4s", "read_timeout": "60s", "timeout": "1h"}
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`aws configure export-credentials --format env` prints "
    "them), or run where a role is attached; AWS_REGION must be the bucket's",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run where a service account is attached",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY, "
    "or run where an identity is attached",
}
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
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.root = None
        scheme = url.partition("://")[0].lower()
        self._cloud = {"s3": "s3", "s3a": "s3", "gs": "gs"}.get(scheme, "az")
        options: Any = dict(_CLIENT)
        config: Any = {}
        if self._cloud == "s3":
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
            if endpoint:
                config["endpoint"] = endpoint
            if endpoint.startswith("http://"):
                options["allow_http"] = True
        for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
            if bundle := os.environ.get(name):
                try:
                    options["root_certificate"] = Path(bundle).read_bytes()
                except OSError as error:
                    raise InfraError(f"{name}={bundle}: {error.strerror}; point it at a PEM file of certificates") from error
                break
        try:
            self._store = obstore.store.from_url(url, config=config, client_options=options, retry_config=_RETRY)
        except BaseError as error:
            text = _first_line(error)
            if "Unable to recognise URL" in text:
                raise ConfigError(f"store {url!r}: there is no bucket in it; write {scheme}://bucket/prefix") from error
            raise InfraError(f"store {url}: {text}; {_CREDENTIALS[self._cloud]}") from error

    def get(self, key: str, start: int = 0) -> bytes | None:
        check_key(key)
        try:
            if start:
                if obstore.head(self._store, key)["size"] <= start:
                    return b""
                return bytes(obstore.get(self._store, key, options={"range": {"offset": start}}).bytes())
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError as error:
            self._is_bucket_missing(key, error)
            return None
        except BaseError as error:
            self._fail("read", key, error)

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        try:
            obstore.put(self._store, key, data, use_multipart=False)
        except (BaseError, FileNotFoundError) as error:
            self._fail("write", key, error)

    def create(self, key: str, data: bytes) -> bool:
        check_key(key)
        try:
            obstore.put(self._store, key, data, mode="create")
        except (AlreadyExistsError, PreconditionError):
            # If the answer to our write was lost and obstore wrote again, that was refused; the object is ours all the
            # same.
            return self.get(key) == data
        except (BaseError, FileNotFoundError) as error:
            self._fail("write", key, error)
        return True

    def exists(self, key: str) -> bool:
        return self._head(key) is not None

    def names(self, prefix: str) -> list[str]:
        skip = len(check_key(prefix)) + 1 if prefix else 0
        try:
            listed = obstore.list_with_delimiter(self._store, prefix or None)
        except (BaseError, FileNotFoundError) as error:
            self._fail("list", prefix, error)
        paths = [*listed["common_prefixes"], *(meta["path"] for meta in listed["objects"])]
        return sorted({path[skip:] for path in paths if path[skip:] and not path[skip:].startswith(TEMP)})

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        if prefix:
            check_key(prefix)
        try:
            for chunk in obstore.list(self._store, prefix or None, chunk_size=1000):
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
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError as error:
            self._is_bucket_missing(key, error)
        except BaseError as error:
            self._fail("delete", key, error)

    def upload(self, key: str, path: str) -> None:
        check_key(key)
        try:
            with open(path, "rb") as file:
                obstore.put(self._store, key, file, max_concurrency=4)
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
        try:
            answer = obstore.get(self._store, key)
        except FileNotFoundError as error:
            self._is_bucket_missing(key, error)
            return None
        except BaseError as error:
            self._fail("read", key, error)
        return self._read(key, answer)

    def _read(self, key: str, answer: obstore.GetResult) -> Iterator[bytes]:
        try:
            for block in answer.stream(_BLOCK):
                yield bytes(block)
        except BaseError as error:
            self._fail("read", key, error)

    def _head(self, key: str) -> obstore.ObjectMeta | None:
        check_key(key)
        try:
            return obstore.head(self._store, key)
        except FileNotFoundError:
            return None
        except BaseError as error:
            self._fail("read", key, error)

    def _is_bucket_missing(self, key: str, error: FileNotFoundError) -> None:
        if _no_bucket(str(error)):
            self._fail("read", key, error)

    def _fail(self, what: str, key: str, error: Exception) -> NoReturn:
        """Raise the error that tells a user what went wrong with the bucket and what to do about it."""
        text = str(error)
        rights = f"allow it {_RIGHTS[self._cloud]}"
        if _no_bucket(text) or isinstance(error, FileNotFoundError):
            why, hint = "there is no such bucket", "create it, or check `store` in the config and the region"
        elif "169.254.169.254" in text or "metadata.google.internal" in text or "oken request" in text:
            why, hint = "no credentials were found", _CREDENTIALS[self._cloud]
        elif isinstance(error, UnauthenticatedError) or "status code: 401" in text:
            why, hint = f"the credentials were refused ({_code(text)})", _CREDENTIALS[self._cloud]
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
