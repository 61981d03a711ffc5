"""Read /proc, and find programs."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    Io = tuple[int, int, int, int]
    Table = dict[int, list[bytes]]

PROC = "/proc"
# Fields of /proc/<pid>/stat after the name in brackets, which may hold anything.
PARENT, GROUP, START, RESIDENT = 1, 2, 19, 21
TIMES = (11, 12, 13, 14)  # user and system, its own and its children's, in ticks


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
        descriptor = os.open(f"{PROC}/{pid}/io", os.O_RDONLY)
        try:
            found = os.read(descriptor, 1024).split()
        finally:
            os.close(descriptor)
        return int(found[1]), int(found[3]), int(found[9]), int(found[11])
    except (OSError, ValueError, IndexError):
        return None


def look() -> tuple[Table, dict[int, list[int]], dict[int, list[int]]]:
    """Return the fields of every living process, the children of each, and the members of each group.

    Raises:
        OSError: there is no /proc.

    Source: proc(5), ``/proc/<pid>/stat``.
    """
    table: Table = {}
    children: dict[int, list[int]] = {}
    groups: dict[int, list[int]] = {}
    for name in os.listdir(PROC):
        if not name.isdigit():
            continue
        try:
            descriptor = os.open(f"{PROC}/{name}/stat", os.O_RDONLY)
            try:
                fields = os.read(descriptor, 1024).rpartition(b")")[2].split(None, RESIDENT + 1)
            finally:
                os.close(descriptor)
        except OSError:
            continue  # it has ended meanwhile
        if len(fields) <= RESIDENT or fields[0] in (b"Z", b"X"):
            continue
        pid = int(name)
        table[pid] = fields
        children.setdefault(int(fields[PARENT]), []).append(pid)
        groups.setdefault(int(fields[GROUP]), []).append(pid)
    return table, children, groups


def has_living(group: int) -> bool:
    """Return whether a process group has a member that isn't a zombie; init may be slow to reap those that it inherits."""
    try:
        return group in look()[2]
    except OSError:  # no /proc, so no telling zombies
        pass
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True
