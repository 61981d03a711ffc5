"""Digests of files, trees and gathered artifacts."""

from __future__ import annotations

import errno
import os
import stat

from backends import wire
from backends.errors import UserError
from backends.store.base import portable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TypedDict

    Line = list[Any]

    class Content(TypedDict):
        """What is in a file or directory, wherever it lies: ``size`` in bytes, ``kind`` is ``file`` or ``dir``."""

        digest: str
        size: int
        kind: str
        files: int

    class Artifact(Content):
        """Content in the store."""

        key: str


BLOCK = 1 << 20
_HEADER = '["zen-runner tree",1]\n'  # keeps an empty directory from looking like an empty file
_GATHERED = '["zen-runner gathered",1]\n'


def digest(path: str) -> str:
    """Return the digest of a file or directory, ``sha256:`` and 64 hexadecimal digits.

    Args:
        path: a file, or a directory; links inside a directory that stay in it count as what they point to.

    Raises:
        UserError: it isn't there, can't be read, or holds what can't be published: a link out of the directory, a
            socket, a pipe, a device, or a name that isn't UTF-8.
    """
    return str(describe(path)[0]["digest"])


def gathered_digest(parts: Sequence[Artifact]) -> str:
    """Return the digest of artifacts gathered in this order: the SHA-256 over a header line and a line a digest."""
    text = _GATHERED + "".join(f"{artifact['digest']}\n" for artifact in parts)
    return f"sha256:{wire.sha256(text.encode())}"


def describe(path: str, *, moving: bool = False, ours: bool = True) -> tuple[Content, list[Line] | None]:
    """Return an artifact without its key, and the manifest's lines if it is a directory.

    Args:
        path: of the file or directory.
        moving: make its links ready to move with it.
        ours: False for what others made, whose links may lead anywhere.
    """
    name = os.path.basename(path)
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"output {name!r} was not written: nothing is at {path}") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    if stat.S_ISREG(status.st_mode):
        size, sha = _hash_file(path, status.st_size)
        return file_artifact(size, sha), None
    if stat.S_ISDIR(status.st_mode):
        lines: list[Line] = []
        root = os.path.realpath(path)
        _walk(path, "", root if ours else "", [root], lines, moving=moving)
        lines.sort(key=order_key)
        return tree_artifact(lines), lines
    raise UserError(_unpublishable(path, status.st_mode))


def _walk(folder: str, relative: str, root: str, above: list[str], lines: list[Line], *, moving: bool) -> None:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        raise _unreadable(folder, error) from error
    if not found and relative:
        lines.append([relative, "d", 0, ""])
    for entry in found:
        path = entry.path
        if not portable(entry.name):
            raise UserError(f"{path!r}: its name is not UTF-8 or has a control character, which no bucket can hold; rename it")
        try:
            if entry.is_symlink():
                real = _inside(path, root)
                if moving:
                    _relink(path, real)
            else:
                real = ""
            status = entry.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        below = f"{relative}/{entry.name}" if relative else entry.name
        if stat.S_ISDIR(status.st_mode):
            real = real or os.path.realpath(path)
            if real in above:
                raise UserError(f"{path} is a link to a directory that it lies in; remove the link")
            _walk(path, below, root, [*above, real], lines, moving=moving)
        elif stat.S_ISREG(status.st_mode):
            size, sha = _hash_file(path, status.st_size)
            lines.append([below, "x" if status.st_mode & stat.S_IXUSR else "-", size, sha])
        else:
            raise UserError(_unpublishable(path, status.st_mode))


def _inside(path: str, root: str) -> str:
    try:
        real = os.path.realpath(path, strict=True)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise
        raise UserError(f"{path} is a link to {os.readlink(path)}, which leads nowhere; remove it") from None
    if root and real != root and not real.startswith(root + "/"):
        raise UserError(f"{path} is a link to {real}, outside of the output; copy the data into the output instead")
    return real


def _relink(path: str, real: str) -> None:
    # The directory is about to move, and only a relative link that stays inside moves with it.
    target = os.path.relpath(real, os.path.realpath(os.path.dirname(path)))
    if os.readlink(path) != target:
        os.unlink(path)
        os.symlink(target, path)


def _unpublishable(path: str, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return f"{path} is a link to {os.readlink(path)}; write the output itself there, or copy it"
    names = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return f"{path} is {names.get(stat.S_IFMT(mode), 'no file')}, which can't be published; outputs are files and directories"


def _unreadable(path: str, error: OSError) -> UserError:
    return UserError(f"{path} can't be read: {error.strerror or error}; give user {os.geteuid()} the right to")


def order_key(line: Line) -> bytes:
    return str(line[0]).encode()


def file_artifact(size: int, sha: str) -> Content:
    return {"digest": f"sha256:{sha}", "size": size, "kind": "file", "files": 1}


def tree_artifact(lines: list[Line]) -> Content:
    files = sum(line[1] != "d" for line in lines)
    return {"digest": tree_digest(lines), "size": sum(line[2] for line in lines), "kind": "dir", "files": files}


def tree_digest(lines: Iterable[Line]) -> str:
    text = _HEADER + "".join(wire.dumps(line) + "\n" for line in lines)
    return f"sha256:{wire.sha256(text.encode())}"


def _hash_file(path: str, size: int) -> tuple[int, str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if size < BLOCK and len(data := os.read(fd, BLOCK)) < BLOCK:
                return len(data), wire.sha256(data)  # small: not worth loading OpenSSL for
            os.lseek(fd, 0, os.SEEK_SET)
            return hash_blocks(lambda: os.read(fd, BLOCK))
        finally:
            os.close(fd)
    except OSError as error:
        raise _unreadable(path, error) from error


def hash_blocks(read: Callable[[], bytes]) -> tuple[int, str]:
    import hashlib

    state, size = hashlib.sha256(), 0
    while block := read():
        state.update(block)
        size += len(block)
    return size, state.hexdigest()
