"""The artifact store: plain objects under keys, the same on a laptop's disk and in a bucket.

A key is a relative path with ``/`` between its parts. `LocalStore` is a directory and costs no import; buckets are in
`backends.store.bucket`, which loads only when a URL asks for it.
"""

from __future__ import annotations

import os

from backends.errors import ConfigError, InfraError
from backends.store.base import BUCKET_SCHEMES
from backends.store.local import LocalStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.store.base import Store


def open_store(url: str, *, create: bool = True) -> Store:
    """Open the store at a path or URL.

    Args:
        url: a directory, ``file:///…``, ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix`` or
            ``abfss://container@account.dfs.core.windows.net/prefix``.
        create: a local directory may be missing and is made by the first write; otherwise it must be there.

    Returns:
        The store; nothing has been written, and no network was used.

    Raises:
        ConfigError: the URL names no kind of store that is known.
        InfraError: the directory is not there and ``create`` is false, or the bucket's settings in the environment are
            wrong.
        PlacementError: credentials or an endpoint in the environment can't be what they are meant to be.
    """
    scheme, colon, rest = url.partition("://")
    if colon and scheme.lower() in BUCKET_SCHEMES:
        from backends.store.bucket import ObjectStore

        return ObjectStore(url)
    if colon and scheme.lower() == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(f"store {url!r}: a file URL has three slashes, file:///{rest}")
        if "%" in path:
            from urllib.parse import unquote

            path = unquote(path)
        url = "/" + path
    elif colon:
        raise ConfigError(f"store {url!r}: no such kind of store; write a directory, or s3://, gs://, az://")
    if not url or "\0" in url:
        raise ConfigError("store: it is empty; write a directory such as ./runs, or a URL such as s3://bucket/prefix")
    root = os.path.abspath(url)
    if not create and not os.path.isdir(root):
        raise InfraError(f"store {root}: there is no such directory; check `store` in the config, or its mount")
    return LocalStore(root)
