"""Files that somebody else could have made: opened without waiting, read up to a bound, removed however deep they lie."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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


def remove_tree(top: str) -> None:
    """Remove a file or a directory with all in it as far as that can be done; no link is followed, no depth is too much.

    It goes down and up by single names from one open directory to the next, so that no path gets long and nothing calls itself.
    """
    try:
        fd = os.open(top, _FOLDER)
    except OSError:
        _quietly(lambda: os.unlink(top))
        return
    stack = [("", _identity(fd), _empty(fd))]
    while stack:
        name, above, folders = stack[-1]
        if folders:
            below = folders.pop()
            parent = _identity(fd)
            try:
                deeper = _open_folder(below, fd)
            except OSError:
                continue
            os.close(fd)
            fd = deeper
            stack.append((below, parent, _empty(fd)))
            continue
        stack.pop()
        if stack:
            fd = _up(fd)
            if _identity(fd) != above:
                break  # somebody moves it about
            _quietly(lambda name=name, fd=fd: os.rmdir(name, dir_fd=fd))  # type: ignore[misc]
    os.close(fd)
    _quietly(lambda: os.rmdir(top))


def _open_folder(name: str, above: int) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=above)
        return os.open(name, _FOLDER, dir_fd=above)


def _up(fd: int) -> int:
    above = os.open("..", _FOLDER, dir_fd=fd)
    os.close(fd)
    return above


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _empty(fd: int) -> list[str]:
    """Remove all but the directories from an open directory, and return their names."""
    _quietly(lambda: os.fchmod(fd, 0o700))
    folders = []
    for name in os.listdir(fd):
        try:
            os.unlink(name, dir_fd=fd)
        except OSError:
            folders.append(name)
    return folders


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except OSError:
        pass
