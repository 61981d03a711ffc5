"""Files that somebody else could have made: opened without waiting, read up to a bound."""

from __future__ import annotations

import errno
import os
import stat

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


def go_on() -> None:
    """Check nothing: the ``check`` of work that nobody stops."""
