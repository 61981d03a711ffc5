"""Read /proc, and find programs."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    Io = tuple[int, int, int, int]


def find_program(name: str, path: str) -> str:
    """Return the file that runs for ``name``, looked up in ``path`` as a shell does.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: there is one, but it can't be executed.
    """
    found = None
    for folder in [""] if "/" in name else path.split(":"):
        candidate = os.path.join(folder or ".", name) if folder or "/" not in name else name
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            found = found or candidate
    if found:
        raise PermissionError(errno.EACCES, "not executable", found)
    raise FileNotFoundError(errno.ENOENT, "not found", name)


def read_io(pid: int) -> Io | None:
    """Return the bytes that a process has read and written, through calls and from storage; None where the kernel doesn't say.

    Its ended children count, once it has waited for them. A zombie has its counts until it is waited for itself.

    Source: the kernel's Documentation/filesystems/proc.rst, "/proc/<pid>/io".
    """
    try:
        descriptor = os.open(f"/proc/{pid}/io", os.O_RDONLY)
        try:
            found = os.read(descriptor, 1024).split()
        finally:
            os.close(descriptor)
        return int(found[1]), int(found[3]), int(found[9]), int(found[11])
    except (OSError, ValueError, IndexError):
        return None


def has_living(group: int) -> bool:
    """Tell whether a process group has a member that isn't a zombie; init may be slow to reap those that it inherits."""
    try:
        names = os.listdir("/proc")
    except OSError:
        names = []
    for name in names:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, _, pgrp = file.read(512).rpartition(b")")[2].split()[:3]
            except (OSError, ValueError):
                continue
            if int(pgrp) == group and state not in (b"Z", b"X"):
                return True
    if not names:  # no /proc, so no telling zombies
        try:
            os.killpg(group, 0)
        except OSError:
            return False
        return True
    return False
