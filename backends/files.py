"""Files that somebody else could have made: opened without waiting, read up to a bound, removed however deep they lie."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK = 1 << 20


def open_regular(path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    """Open a regular file and return its descriptor; a pipe, a link, a device or a socket in its place is refused at once.

    Args:
        path: where it is.
        flags: as for `os.open`.
        mode: of a file that is made.

    Raises:
        OSError: it can't be opened; ``EINVAL`` or ``ELOOP`` for what is no regular file.
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "not a regular file", path)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_regular(path: str, limit: int, start: int = 0) -> bytes:
    """Return the bytes of a regular file, at most ``limit`` of them, so that one more than allowed can be told.

    Args:
        path: where it is.
        limit: in bytes.
        start: the first byte that is wanted.

    Raises:
        OSError: as `open_regular`.
    """
    fd = open_regular(path)
    try:
        if start:
            os.lseek(fd, start, os.SEEK_SET)
        data = block = os.read(fd, min(limit, 1 << 16))
        while len(block) >= min(limit, 1 << 16) and len(data) < limit:  # a short read of a regular file is its end
            block = os.read(fd, min(_BLOCK, limit - len(data)))
            data += block
        return data
    finally:
        os.close(fd)


def remove_tree(folder: str) -> None:
    """Remove a directory and all in it as far as that can be done; no link is followed, and no depth is too much.

    What lies below a directory is first moved up beside it, so that no path gets long and nothing calls itself.
    """
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            os.unlink(folder)
            return
    except OSError:
        return
    stuck: set[str] = set()
    while names := [name for name in _names(folder) if name not in stuck]:
        for name in names:
            if not _remove(folder, f"{folder}/{name}"):
                stuck.add(name)
    _quietly(os.rmdir, folder)


def _remove(folder: str, path: str) -> bool:
    """Remove one entry of a folder, a directory's own directories being moved up into it; return whether it is gone."""
    if _quietly(os.unlink, path):
        return True
    if not _is_folder(path):
        return False
    _quietly(os.chmod, path, 0o700)
    for name in _names(path):
        below = f"{path}/{name}"
        if _quietly(os.unlink, below) or not _is_folder(below):
            continue
        _quietly(os.chmod, below, 0o700)  # to move a directory changes its ".."
        _quietly(os.rename, below, f"{folder}/{os.urandom(8).hex()}")
    return _quietly(os.rmdir, path)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _quietly(call: Callable[..., None], *arguments: object) -> bool:
    try:
        call(*arguments)
    except OSError:
        return False
    return True
