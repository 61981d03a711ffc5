"""Digests of files, trees and gathered artifacts."""

from __future__ import annotations

import os
import stat

from backends import wire
from backends.errors import UserError
from backends.files import go_on
from backends.store import trees
from backends.store.trees import BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, NotRequired, TypedDict

    Line = list[Any]

    class Content(TypedDict):
        """What is in a file or directory, wherever it lies: ``size`` in bytes, ``kind`` is ``file`` or ``dir``."""

        digest: str
        size: int
        kind: str
        files: int
        executable: NotRequired[bool]  # a file that its owner may execute; a directory's manifest has that for each of its own

    class Artifact(Content):
        """Content in the store."""

        key: str


_HEADER = '["zen-runner tree",1]\n'  # keeps an empty directory from looking like an empty file
_GATHERED = '["zen-runner gathered",1]\n'


def digest(path: str, *, check: Callable[[], None] = go_on) -> str:
    """Return the digest of a file or directory, ``sha256:`` and 64 hexadecimal digits.

    Args:
        path: a file, or a directory; links inside a directory that stay in it count as what they point to.
        check: called for each file and block; what it raises ends the work.

    Raises:
        UserError: it isn't there, can't be read, or holds what can't be published: a link out of the directory, a
            socket, a pipe, a device, or a name that isn't UTF-8.
    """
    return str(describe(path, check=check)[0]["digest"])


def gathered_digest(parts: Sequence[Artifact]) -> str:
    """Return the digest of artifacts gathered in this order: the SHA-256 over a header line and a line a digest."""
    text = _GATHERED + "".join(f"{artifact['digest']}\n" for artifact in parts)
    return f"sha256:{wire.sha256(text.encode())}"


def describe(
    path: str, *, keep: bool = False, ours: bool = True, check: Callable[[], None] = go_on
) -> tuple[Content, list[Line] | None]:
    """Return an artifact without its key, and the manifest's lines if it is a directory.

    Args:
        path: of the file or directory.
        keep: it is about to be published: make it read-only, but for a directory's own mode, which has to allow its move.
        ours: False for what others made, whose links may lead anywhere.
        check: called for each file and block; what it raises ends the work.
    """
    name = os.path.basename(path)
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"output {name!r} was not written: nothing is at {path}") from None
    except OSError as error:
        raise trees.unreadable(path, error) from error
    if stat.S_ISREG(status.st_mode):
        size, sha, runs = _hash_file(path, status.st_size, keep, check)
        return file_artifact(size, sha, runs), None
    if not stat.S_ISDIR(status.st_mode):
        raise UserError(trees.unpublishable(path, status.st_mode))
    lines: list[Line] = []
    for below, real, status in trees.walk(path, keep=keep, ours=ours, check=check):
        if stat.S_ISDIR(status.st_mode):
            lines.append([below, "d", 0, ""])
        elif stat.S_ISREG(status.st_mode):
            size, sha, runs = _hash_file(real, status.st_size, keep, check)
            lines.append([below, "x" if runs else "-", size, sha])
        else:
            raise UserError(trees.unpublishable(f"{path}/{below}", status.st_mode))
    lines.sort(key=order_key)
    return tree_artifact(lines), lines


def order_key(line: Line) -> bytes:
    return str(line[0]).encode()


def file_artifact(size: int, sha: str, runs: bool = False) -> Content:
    content: Content = {"digest": f"sha256:{sha}", "size": size, "kind": "file", "files": 1}
    if runs:
        content["executable"] = True
    return content


def tree_artifact(lines: list[Line]) -> Content:
    files = sum(line[1] != "d" for line in lines)
    return {"digest": tree_digest(lines), "size": sum(line[2] for line in lines), "kind": "dir", "files": files}


def tree_digest(lines: Iterable[Line]) -> str:
    text = _HEADER + "".join(wire.dumps(line) + "\n" for line in lines)
    return f"sha256:{wire.sha256(text.encode())}"


def _hash_file(path: str, size: int, keep: bool, check: Callable[[], None]) -> tuple[int, str, bool]:
    fd, runs = trees.open_file(path, keep=keep, check=check)
    try:
        if size < BLOCK and len(data := os.read(fd, BLOCK)) < BLOCK:
            return len(data), wire.sha256(data), runs  # small: not worth loading OpenSSL for
        os.lseek(fd, 0, os.SEEK_SET)
        return *hash_blocks(lambda: os.read(fd, BLOCK), check), runs
    except OSError as error:
        raise trees.unreadable(path, error) from error
    finally:
        os.close(fd)


def hash_blocks(read: Callable[[], bytes], check: Callable[[], None] = go_on) -> tuple[int, str]:
    import hashlib

    state, size = hashlib.sha256(), 0
    while block := read():
        check()
        state.update(block)
        size += len(block)
    return size, state.hexdigest()
