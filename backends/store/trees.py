"""Files and folders that others made: walk, open, protect and remove them, whatever is in them.

One rule for each oddity, the same on every store; docs/store.md has the table. Nothing here recurses, waits for a pipe, or
follows a link that it did not look at.
"""

from __future__ import annotations

import errno
import os
import stat

from backends.errors import UserError, ZenRunnerError
from backends.files import go_on
from backends.store.base import TEMP, portable, trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Member = tuple[str, str, os.stat_result]


ENTRIES = 2_000_000  # files and folders that a folder may hold in all
LINKED = 100_000  # of them, those that are only there through links to folders, which multiply
DEPTH = 200  # folders below each other
PATH = 900  # bytes of a path in a folder: S3 takes 1,024 for a key, and the store's own part is in it
BLOCK = 1 << 20
FILE, PROGRAM, FOLDER = 0o444, 0o555, 0o555  # modes of what is published
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# What is about the path or the rights, and so about who made it. The rest is a fault of the disk or the mount.
_MADE_SO = frozenset(
    (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG, errno.ENXIO)
)


def walk(top: str, *, keep: bool, ours: bool, check: Callable[[], None] = go_on) -> Iterator[Member]:
    """Yield the relative path, the real path and the status of each file in a folder, and of each empty folder below it.

    Args:
        top: the folder.
        keep: it is about to be published: make its links relative, so that they move with it, and all but itself read-only.
        ours: False for what others made, whose links may lead anywhere, and which may be a disk's own top.
        check: called for each file; what it raises ends the walk.

    Raises:
        UserError: it holds what has no place in an artifact, or more than may be.
        InfraError: the disk failed.
    """
    real = os.path.realpath(top)
    root = real if ours else ""
    folders: list[tuple[str, str, tuple[str, ...], bool]] = [(top, "", (real,), False)]
    kept: list[str] = []
    count = linked = 0
    while folders:
        folder, relative, above, is_linked = folders.pop()
        entries = _list(folder, keep, ENTRIES - count)
        count += len(entries)
        linked += len(entries) if is_linked else 0
        if linked > LINKED:
            raise UserError(f"{top}: links to folders make more than {LINKED} files of it; remove links, or pack it")
        if not entries and relative:
            yield relative, folder, os.lstat(folder)
        for entry in entries:
            check()
            if not (ours or relative) and entry.name == "lost+found":
                continue  # the top of a disk has it, for root alone
            below = f"{relative}/{entry.name}" if relative else entry.name
            path, status = _look(entry, below, root, keep)
            if not stat.S_ISDIR(status.st_mode):
                yield below, path, status
                continue
            path = path if path != entry.path else f"{above[-1]}/{entry.name}"
            if path in above:
                raise UserError(f"{entry.path} is a link to a directory that it lies in; remove the link")
            if len(above) > DEPTH:
                raise UserError(f"{top} has more than {DEPTH} folders below each other; pack it, or write fewer levels")
            through_link = is_linked or entry.is_symlink()
            if keep and not through_link:
                kept.append(entry.path)
            folders.append((entry.path, below, (*above, path), through_link))
    for folder in kept:
        set_mode(folder, FOLDER)


def _list(folder: str, keep: bool, most: int) -> list[os.DirEntry[str]]:
    entries: list[os.DirEntry[str]] = []
    try:
        mode = os.stat(folder).st_mode
        if keep and mode & 0o700 != 0o700:
            set_mode(folder, stat.S_IMODE(mode) | 0o700)
        with os.scandir(folder) as listing:
            for entry in listing:
                entries.append(entry)
                if len(entries) > most:
                    raise UserError(f"{folder}: more than {ENTRIES} files and folders in all; pack them into fewer files")
    except OSError as error:
        raise unreadable(folder, error) from error
    return entries


def _look(entry: os.DirEntry[str], below: str, root: str, keep: bool) -> tuple[str, os.stat_result]:
    """Return where an entry really lies, and what it is."""
    path = entry.path
    if not portable(entry.name):
        raise UserError(f"{path!r}: its name is not UTF-8 or has a control character, which no bucket can hold; rename it")
    if len(below) > PATH // 4 and len(below.encode()) > PATH:
        raise UserError(
            f"{path}: its path in the folder is longer than {PATH} bytes, which no bucket can hold; use shorter names"
        )
    try:
        if not entry.is_symlink():
            return path, entry.stat()
        try:
            status = os.stat(path)  # the kernel gives up on long chains, which realpath would recurse into
            real = os.path.realpath(path, strict=True)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                raise
            raise UserError(f"{path} is a link to {os.readlink(path)}, which leads nowhere; remove it") from None
        if root and real != root and not real.startswith(root + "/"):
            raise UserError(f"{path} is a link to {real}, outside of the output; copy the data into the output instead")
        if keep:
            _relink(path, real)
        return real, status
    except OSError as error:
        raise unreadable(path, error) from error


def _relink(path: str, real: str) -> None:
    # The directory is about to move, and only a relative link that stays inside moves with it.
    target = os.path.relpath(real, os.path.realpath(os.path.dirname(path)))
    if os.readlink(path) != target:
        os.unlink(path)
        os.symlink(target, path)


def open_file(path: str, *, keep: bool = False, check: Callable[[], None] = go_on) -> tuple[int, bool]:
    """Open a regular file for reading; return the descriptor, and whether its owner may execute it.

    Args:
        path: of the file; a link is refused.
        keep: it is about to be published: make it read-only and its own, not one that another name leads to.
        check: called for each block that is copied for this.

    Raises:
        UserError: it is no regular file, or can't be read.
        InfraError: the disk failed.
    """
    try:
        fd = _open(path, keep)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(unpublishable(path, status.st_mode))
            runs = bool(status.st_mode & stat.S_IXUSR)
            if keep and status.st_nlink > 1:
                own = _copy(fd, path, check)
                os.close(fd)
                fd = own
            mode = PROGRAM if runs else FILE
            if keep and (status.st_nlink > 1 or stat.S_IMODE(status.st_mode) != mode):
                set_mode(fd, mode)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise _unopened(path, error) from error
    return fd, runs


def _unopened(path: str, error: OSError) -> ZenRunnerError:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        mode = stat.S_IFREG
    return unreadable(path, error) if stat.S_ISREG(mode) else UserError(unpublishable(path, mode))


def _open(path: str, keep: bool) -> int:
    try:
        return os.open(path, _READ)
    except PermissionError:
        if not keep:
            raise
    set_mode(path, stat.S_IMODE(os.lstat(path).st_mode) | 0o400)  # a step may have taken its own right away
    return os.open(path, _READ)


def _copy(fd: int, path: str, check: Callable[[], None]) -> int:
    """Put a copy in a file's place, and return it opened: whoever holds another name of the file then can't change it."""
    temp = f"{os.path.dirname(path)}/{TEMP}{os.urandom(8).hex()}"
    outlet = os.open(temp, _NEW, 0o600)
    try:
        while block := os.read(fd, BLOCK):
            check()
            while block:
                block = block[os.write(outlet, block) :]
        os.lseek(outlet, 0, os.SEEK_SET)
        os.rename(temp, path)
    except BaseException:
        os.close(outlet)
        os.unlink(temp)
        raise
    return outlet


def set_mode(path: str | int, mode: int) -> None:
    """Set the mode of a file or folder, where its owner and its file system let us."""
    try:
        os.chmod(path, mode)
    except OSError:
        pass  # a mount without modes, or somebody else's: the digest still tells


def unpublishable(path: str, mode: int) -> str:
    """Return why something that is neither a file nor a directory can't be published."""
    if stat.S_ISLNK(mode):
        return f"{path} is a link to {os.readlink(path)}; write the output itself there, or copy it"
    if stat.S_ISDIR(mode):
        return f"{path} is a directory, where a file should be"
    names = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return f"{path} is {names.get(stat.S_IFMT(mode), 'no file')}, which can't be published; outputs are files and directories"


def unreadable(path: str, error: OSError) -> ZenRunnerError:
    """Return the error for something that can't be read: its maker's fault, or the disk's."""
    if error.errno not in _MADE_SO:
        return trouble("read", path, error)
    advice = f"give user {os.geteuid()} the right to" if error.errno in (errno.EACCES, errno.EPERM) else "look at what is there"
    return UserError(f"{path} can't be read: {error.strerror or error}; {advice}")


def remove(top: str) -> None:
    """Remove a file or a folder with all that is in it, as far as that can be done; a link goes, not what it leads to.

    Folders that lie deep are first moved to the top, so that no path gets long and nothing recurses.
    """
    try:
        if not stat.S_ISDIR(os.lstat(top).st_mode):
            os.unlink(top)
            return
        fd = _open_folder(top, None)
    except OSError:
        return
    try:
        folders = _empty(fd, fd, 0)
        number = len(folders)
        while folders:
            name = folders.pop()
            try:
                below = _open_folder(name, fd)
                try:
                    more = _empty(below, fd, number)
                finally:
                    os.close(below)
                number += len(more)
                folders += more
                os.rmdir(name, dir_fd=fd)
            except OSError:
                continue
    finally:
        os.close(fd)
    try:
        os.rmdir(top)
    except OSError:
        pass


def _open_folder(name: str, above: int | None) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        fd = os.open(name, flags, dir_fd=above)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=above)
        fd = os.open(name, flags, dir_fd=above)
    set_mode(fd, 0o700)
    return fd


def _empty(fd: int, top: int, number: int) -> list[str]:
    """Remove the files of an open folder, and move its folders to the top; return the names that they have there."""
    folders = []
    with os.scandir(fd) as listing:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
    for name, is_folder in entries:
        try:
            if not is_folder:
                os.unlink(name, dir_fd=fd)
                continue
            if fd == top:
                folders.append(name)
                continue
            new = f"{TEMP}{os.getpid()}-{number + len(folders)}"
            try:
                os.rename(name, new, src_dir_fd=fd, dst_dir_fd=top)
            except PermissionError:  # a folder without the right to write can't be moved
                os.chmod(name, 0o700, dir_fd=fd)
                os.rename(name, new, src_dir_fd=fd, dst_dir_fd=top)
            folders.append(new)
        except OSError:
            continue
    return folders
