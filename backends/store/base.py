"""What a store is: objects under keys, and the rules for keys."""

from __future__ import annotations

import errno
import os

from backends.errors import InfraError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any


BUCKET_SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss")
TEMP = ".tmp-"  # names that begin so are not objects: staged writes and clock probes
_HINTS = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or raise the quota",
    errno.EROFS: "mount it read-write, or choose another `store`",
    errno.EIO: "check the disk or the mount",
    errno.ESTALE: "check the network mount",
    errno.ENOTDIR: "a file is where a directory should be; move it, or choose another `store`",
    errno.ENAMETOOLONG: "use a shorter name",
}


class Store:
    """What every store can do; a fault of the store itself is an `InfraError` wherever it happens.

    Attributes:
        url: the store as users write it, made absolute.
        root: the absolute directory of a local store; None for a bucket.
    """

    url: str
    root: str | None = None

    def get(self, key: str, start: int = 0) -> bytes | None:
        """Return an object's bytes from ``start`` (in bytes) to its end, or None if there is no such object."""
        raise NotImplementedError

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole, replacing one that is there; a reader sees the old or the new, never a mixture."""
        raise NotImplementedError

    def create(self, key: str, data: bytes) -> bool:
        """Write an object whole if its key is free, and tell whether this call did; of many at once, one does."""
        raise NotImplementedError

    def exists(self, key: str) -> bool:
        """Return whether there is an object under exactly this key."""
        raise NotImplementedError

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names directly under ``prefix``: objects, and the first part of longer keys."""
        raise NotImplementedError

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield the key and the size in bytes of every object under ``prefix``, in no set order."""
        raise NotImplementedError

    def age(self, key: str) -> float | None:
        """Return how many seconds ago, by the store's own clock, an object was written; None if there is none.

        It writes a probe beside the object to learn the store's time, so it is for rare questions.
        """
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        raise NotImplementedError

    def upload(self, key: str, path: str) -> None:
        """Copy the file at ``path`` into the store, whole or not at all, whatever its size."""
        raise NotImplementedError

    def download(self, key: str, path: str) -> bool:
        """Copy an object to the file at ``path``, replacing it; False if there is no such object."""
        raise NotImplementedError

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes in blocks; nothing if there is no such object."""
        raise NotImplementedError

    def url_of(self, key: str) -> str:
        """Return where programs that read the store themselves find an object: a path or a URL."""
        raise NotImplementedError


def each(store: Store, work: Callable[[Any], Any], items: Sequence[Any], threads: int = 16) -> list[Any]:
    """Do the same for each item, and return the results in the items' order; the first error ends it.

    Args:
        store: of a bucket every question costs a round trip, so there several are asked at a time.
        work: what to do, from any thread.
        items: what to do it for.
        threads: how many at a time.
    """
    if store.root is not None or len(items) < 2:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def check_key(key: str) -> str:
    """Return ``key`` if it is one: relative, ``/`` between parts, none of them empty, ``.`` or ``..``.

    Raises:
        UsageError: it is not.
    """
    for part in key.split("/"):
        if part in ("", ".", ".."):
            raise UsageError(f"{key!r} is not a key of the store: parts between slashes may not be empty, '.' or '..'")
    if not portable(key):
        raise UsageError(f"{key!r} is not a key of the store: it has a control character, or is not UTF-8")
    return key


def portable(name: str) -> bool:
    """Return whether every kind of store can hold this name: UTF-8 without control characters."""
    if name.isascii():
        return name.isprintable()
    return not any(c < " " or "\x7f" <= c < "\xa0" or "\ud800" <= c < "\ue000" for c in name)


def trouble(what: str, path: str, error: OSError) -> InfraError:
    """Return the error that tells a user what could not be done at ``path``, why, and what to do.

    Args:
        what: the verb, such as ``write``.
        path: the file or directory.
        error: what the operating system said.
    """
    if error.errno in (errno.EACCES, errno.EPERM):
        there = path
        while not os.path.exists(there) and there != os.path.dirname(there):
            there = os.path.dirname(there)
        owner = os.stat(there)
        hint = (
            f"this is user {os.geteuid()}, and {there} belongs to {owner.st_uid}:{owner.st_gid}: run as its owner "
            f"(docker run --user {owner.st_uid}:{owner.st_gid}), or choose another `store`"
        )
    else:
        hint = _HINTS.get(error.errno or 0, "check `store` in the config")
    return InfraError(f"cannot {what} {path}: {error.strerror or error}; {hint}")
