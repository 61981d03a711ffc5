"""What the environment says of a bucket: who may use it, and where it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backends.errors import InfraError, PlacementError

if TYPE_CHECKING:
    from collections.abc import Mapping

HINTS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`aws configure export-credentials --format env` prints "
    "them), or run where a role is attached; AWS_REGION must be the bucket's",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run where a service account is attached",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY, "
    "or run where an identity is attached",
}
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# What goes into a header or an address as it is.
_LINES = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", *_ENDPOINTS),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_TOKEN"),
}


def check(cloud: str, environ: Mapping[str, str]) -> None:
    """Refuse settings with which the store's client would fail in ways that nobody understands.

    Args:
        cloud: ``s3``, ``gs`` or ``az``.
        environ: this process's environment.

    Raises:
        PlacementError: one is not a line of text, or an endpoint is no address.
    """
    for name in _LINES[cloud]:
        value = environ.get(name, "")
        if not value.isascii() or not value.isprintable():
            lines = "it has a line break, which a secret made from a file often has at its end"
            why = lines if "\n" in value or "\r" in value else "it has a character that is not printable ASCII"
            raise PlacementError(f"${name} can't be what it is meant to be: {why}; set it without that")
    if cloud == "s3" and (address := endpoint(environ)) and not _is_address(address):
        name = next(name for name in _ENDPOINTS if environ.get(name))
        raise PlacementError(f"${name} is no address of a server; write http:// or https://, a host, and perhaps a port")


def endpoint(environ: Mapping[str, str]) -> str:
    """Return where S3 is if it isn't Amazon's; empty if it is."""
    return next((environ[name] for name in _ENDPOINTS if environ.get(name)), "")


def certificates(environ: Mapping[str, str] = os.environ) -> bytes | None:
    """Return the certificate authorities that the environment adds to the system's own, in PEM.

    Raises:
        InfraError: the file can't be read.
    """
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        if bundle := environ.get(name):
            try:
                return Path(bundle).read_bytes()
            except OSError as error:
                raise InfraError(f"{name}={bundle}: {error.strerror}; point it at a PEM file of certificates") from error
    return None


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    named = bool(host) and not set(host) & set(" %<>\"'\\^`{|}")
    return parts.scheme in ("http", "https") and named and port != 0 and " " not in text
