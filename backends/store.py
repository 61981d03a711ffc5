"""The artifact store: plain objects under keys, the same on a laptop's disk and in a bucket.

A key is a relative path with ``/`` between its parts. `LocalStore` is a directory and costs no import; buckets are in
`backends.objectstore`, which loads only when a URL asks for it.
"""

from __future__ import annotations

import errno
import os
import time

from backends.errors import ConfigError, InfraError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET_SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss")
TEMP = ".tmp-"  # names that begin so are not objects: staged writes and clock probes
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_BLOCK = 1 << 20
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
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
        """Tell whether there is an object under exactly this key."""
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


def open_store(url: str, create: bool = True) -> Store:
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
    """
    scheme, colon, rest = url.partition("://")
    if colon and scheme.lower() in BUCKET_SCHEMES:
        from backends.objectstore import ObjectStore

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
    """Tell whether every kind of store can hold this name: UTF-8 without control characters."""
    if name.isascii():
        return name.isprintable()
    return not any(c < " " or "\x7f" <= c < "\xa0" or "\ud800" <= c < "\ue000" for c in name)


class LocalStore(Store):
    """A store in a directory.

    Nothing is flushed to the disk with fsync: what a killed process wrote is in the kernel's cache and survives it. After
    a power cut a record may be torn; it then fails to parse and reads as absent, and a torn output fails its digest.
    """

    __slots__ = ("root", "url")

    root: str

    def __init__(self, root: str) -> None:
        self.root = root
        self.url = root

    def _path(self, key: str) -> str:
        return f"{self.root}/{check_key(key)}"

    def get(self, key: str, start: int = 0) -> bytes | None:
        path = self._path(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise trouble("read", path, error) from error
        try:
            if start:
                os.lseek(fd, start, os.SEEK_SET)
            data = block = os.read(fd, 1 << 16)
            while len(block) >= 1 << 16:  # a short read of a regular file is its end
                block = os.read(fd, _BLOCK)
                data += block
            return data
        except IsADirectoryError:
            return None
        except OSError as error:
            raise trouble("read", path, error) from error
        finally:
            os.close(fd)

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            temp = _stage(os.path.dirname(path), data)
            try:
                os.rename(temp, path)
            except OSError:
                os.unlink(temp)
                raise
        except OSError as error:
            raise trouble("write", path, error) from error

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        try:
            temp = _stage(os.path.dirname(path), data)
            try:
                os.link(temp, path)  # unlike rename, it never replaces; unlike O_EXCL, the content is there at once
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return _create_in_place(path, data)
            finally:
                os.unlink(temp)
        except OSError as error:
            raise trouble("write", path, error) from error
        return True

    def exists(self, key: str) -> bool:
        return os.path.isfile(self._path(key))

    def names(self, prefix: str) -> list[str]:
        path = self._path(prefix) if prefix else self.root
        try:
            found = os.listdir(path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise trouble("list", path, error) from error
        return sorted(name for name in found if not name.startswith(TEMP))

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        folders = [prefix]
        while folders:
            folder = folders.pop()
            path = self._path(folder) if folder else self.root
            try:
                with os.scandir(path) as entries:
                    for entry in entries:
                        if entry.name.startswith(TEMP):
                            continue
                        key = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(key)
                        elif entry.is_file():
                            yield key, entry.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise trouble("list", path, error) from error

    def age(self, key: str) -> float | None:
        # The directory may be on a file server whose clock is not ours, and whose answers our kernel caches for a
        # minute: a new file in the same directory has the server's time and ends the caching of names; opening ends
        # that of attributes.
        path = self._path(key)
        try:
            now = _server_time(os.path.dirname(path))
        except FileNotFoundError:
            return None
        except OSError:
            now = time.time()  # a reader without the right to write still gets an answer
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return max(0.0, now - os.fstat(fd).st_mtime)
            finally:
                os.close(fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise trouble("read", path, error) from error

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise trouble("delete", path, error) from error

    def upload(self, key: str, path: str) -> None:
        target = self._path(key)
        try:
            temp = _stage(os.path.dirname(target), b"")
            try:
                _copy(path, temp)
                os.rename(temp, target)
            except OSError:
                os.unlink(temp)
                raise
        except OSError as error:
            raise trouble("write", target, error) from error

    def download(self, key: str, path: str) -> bool:
        source = self._path(key)
        if not os.path.isfile(source):
            return False
        try:
            temp = _stage(os.path.dirname(os.path.abspath(path)), b"")
            try:
                _copy(source, temp)
                os.rename(temp, path)
            except OSError:
                os.unlink(temp)
                raise
        except OSError as error:
            raise trouble("write", path, error) from error
        return True

    def stream(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while block := os.read(fd, _BLOCK):
                    yield block
            finally:
                os.close(fd)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        except OSError as error:
            raise trouble("read", path, error) from error

    def url_of(self, key: str) -> str:
        return self._path(key)


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


def make_folder(path: str) -> None:
    """Make a directory and those above it; it may be there already."""
    try:
        os.mkdir(path)
    except FileNotFoundError:
        make_folder(os.path.dirname(path))
        make_folder(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def _open_new(folder: str) -> tuple[str, int]:
    path = f"{folder}/{TEMP}{os.urandom(8).hex()}"
    try:
        return path, os.open(path, _NEW, 0o666)
    except FileNotFoundError:
        make_folder(folder)
        return path, os.open(path, _NEW, 0o666)


def _stage(folder: str, data: bytes) -> str:
    path, fd = _open_new(folder)
    try:
        try:
            _write(fd, data)
        finally:
            os.close(fd)
    except OSError:
        os.unlink(path)
        raise
    return path


def _write(fd: int, data: bytes) -> None:
    while True:
        written = os.write(fd, data)
        if written == len(data):
            return
        data = data[written:]


def _create_in_place(path: str, data: bytes) -> bool:
    # Some file systems have no hard links. There a kill between these lines leaves an empty or torn object, which holds
    # its key all the same; readers of claims and results know that.
    try:
        fd = os.open(path, _NEW, 0o666)
    except FileExistsError:
        return False
    try:
        _write(fd, data)
    finally:
        os.close(fd)
    return True


def _server_time(folder: str) -> float:
    path = f"{folder}/{TEMP}{os.urandom(8).hex()}"
    fd = os.open(path, _NEW, 0o666)
    try:
        os.write(fd, b"\n")
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)
        os.unlink(path)


def _copy(source: str, target: str) -> None:
    inlet = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        outlet = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        try:
            while block := os.read(inlet, _BLOCK):
                _write(outlet, block)
        finally:
            os.close(outlet)
    finally:
        os.close(inlet)
