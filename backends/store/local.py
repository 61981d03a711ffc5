"""The store in a directory."""

from __future__ import annotations

import errno
import os
import stat
import time

from backends.errors import UserError
from backends.files import open_regular, read_regular
from backends.store.base import TEMP, Store, check_key, trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_BLOCK = 1 << 20
_MOST = 1 << 30  # bytes that an object may have which is read at once; the largest is the manifest of millions of files
_NO_FILE = (errno.EINVAL, errno.ELOOP, errno.ENXIO)  # a pipe, a link, a socket: somebody else put it there
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


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
            return read_regular(path, _MOST, start)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise trouble("read", path, error) from error

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            temp = _stage(os.path.dirname(path), data)
            try:
                os.rename(temp, path)
            except OSError:
                _discard(temp)
                raise
        except OSError as error:
            raise trouble("write", path, error) from error

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        try:
            temp = _stage(os.path.dirname(path), data)
            try:
                return _link(temp, path) or _create_in_place(path, data)
            except FileExistsError:
                _refuse_odd(path)
                return False
            finally:
                _discard(temp)
        except OSError as error:
            raise trouble("write", path, error) from error

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
            fd = open_regular(path)
            try:
                return max(0.0, now - os.fstat(fd).st_mtime)
            finally:
                os.close(fd)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
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
                _discard(temp)
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
                _discard(temp)
                raise
        except OSError as error:
            raise trouble("write", path, error) from error
        return True

    def stream(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
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


def _refuse_odd(path: str) -> None:
    """Refuse what holds a key and is no object: no reader would ever see a record there."""
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(kind):
        raise UserError(f"{path} is no file, but a record belongs there; a step must have put it there: remove it")


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
        _discard(path)
        raise
    return path


def _discard(temp: str) -> None:
    """Remove a staged file if that is possible: it is hidden, so what was done with it counts all the same."""
    try:
        os.unlink(temp)
    except OSError:
        pass


def _link(temp: str, path: str) -> bool:
    """Give a staged file its name if that is free, and return whether this file system has hard links.

    Unlike rename, a link never replaces; unlike ``O_EXCL``, the content is there at once.

    Raises:
        FileExistsError: the name is taken.

    Source: open(2), on ``O_EXCL`` and NFS: the answer to a link that was made may be lost, so the count of links tells.
    """
    try:
        os.link(temp, path)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        if os.stat(temp).st_nlink < 2:
            raise
    return True


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
        try:
            _write(fd, data)
        finally:
            os.close(fd)
    except OSError:
        _discard(path)  # half an object would hold its key
        raise
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
    inlet = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        outlet = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        try:
            while block := os.read(inlet, _BLOCK):
                _write(outlet, block)
        finally:
            os.close(outlet)
    finally:
        os.close(inlet)
