"""What the running steps use: CPU, memory and I/O of all their processes, from the kernel's tables.

Imported when the first step has run for a second. One look at /proc serves all steps of this process.
"""

from __future__ import annotations

import os
from time import thread_time

from entrypoint.runtime.proc import PARENT, RESIDENT, START, TIMES, look, read_io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from entrypoint.runtime.proc import Io, Table

EVERY = 1.0  # seconds between two looks
SHARE = 200  # a look may cost a two-hundredth of the time until the next: half a percent of a core, however many processes
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_NO_IO: Io = (0, 0, 0, 0)


class _Member:
    """One process of a step when it was last seen: its own use, and that of its ended children it has waited for."""

    __slots__ = ("cpu", "io", "is_beside", "parent", "start")

    def __init__(self, fields: list[bytes], io: Io) -> None:
        self.start = fields[START]
        self.parent = int(fields[PARENT])
        self.cpu = sum(int(fields[field]) for field in TIMES) / _TICKS
        self.io = io
        self.is_beside = False


class Tree:
    """The processes of one step: its process group, all their descendants, and whoever was one of these before.

    Args:
        root: the step's own process.

    Attributes:
        pids: those that lived at the last look.
        rss: bytes resident at the last look; what processes share counts once for each of them.
        rss_peak: the most bytes at any look.
        cpu_seconds: of all processes, ended ones included.
        io: of all processes, ended ones included.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self.pids: frozenset[int] = frozenset((root,))
        self.rss = 0
        self.rss_peak = 0
        self.cpu_seconds = 0.0
        self.io: Io = _NO_IO
        self._members: dict[int, _Member] = {}
        self._lost_cpu = 0.0  # of processes that ended and that nobody in the tree waited for
        self._lost_io: Io = _NO_IO

    def update(self, table: Table, children: dict[int, list[int]], groups: dict[int, list[int]]) -> None:
        """Take in one look at /proc."""
        known = [pid for pid, member in self._members.items() if pid in table and table[pid][START] == member.start]
        lineage = set(_below([self.root], children)) if self.root in table else set()
        everyone = lineage | set(_below([*groups.get(self.root, ()), *known], children))
        members = {}
        rss = 0
        for pid in everyone & table.keys():
            members[pid] = member = _Member(table[pid], read_io(pid) or _NO_IO)
            member.is_beside = pid not in lineage
            rss += int(table[pid][RESIDENT]) * _PAGE
        for pid, gone in self._members.items():
            # The kernel adds an ended process to the one that waited for it. A member's parent did that; init is no member.
            again = members.get(pid)
            if (again is None or again.start != gone.start) and gone.parent not in self._members and pid != self.root:
                self._lost_cpu += gone.cpu
                self._lost_io = _plus(self._lost_io, gone.io)
        self._members = members
        self.pids = frozenset(members)
        self.rss = rss
        self.rss_peak = max(self.rss_peak, rss)
        self.cpu_seconds = self._lost_cpu + sum(member.cpu for member in members.values())
        self.io = _plus(self._lost_io, *(member.io for member in members.values()))

    def beside(self) -> tuple[float, Io]:
        """Return the CPU seconds and the I/O of processes that are in no count of the step's own process."""
        aside = [member for member in self._members.values() if member.is_beside]
        return self._lost_cpu + sum(member.cpu for member in aside), _plus(self._lost_io, *(member.io for member in aside))


def _plus(*parts: Io) -> Io:
    reads, writes, disk_reads, disk_writes = (sum(column) for column in zip(*parts, strict=True))
    return reads, writes, disk_reads, disk_writes


def _below(pids: Iterable[int], children: dict[int, list[int]]) -> Iterator[int]:
    """Yield processes and all their descendants."""
    left = list(pids)
    seen = set(left)
    while left:
        pid = left.pop()
        yield pid
        more = [child for child in children.get(pid, ()) if child not in seen]
        seen.update(more)
        left += more


def sample(trees: Mapping[int, Tree | None]) -> tuple[dict[int, Tree], float]:
    """Look at all processes once.

    Args:
        trees: by the pid of each step's own process; None for one that was never looked at.

    Returns:
        The trees, brought up to date, and the seconds until the next look.
    """
    began = thread_time()
    try:
        seen = look()
    except OSError:  # no /proc (macOS): what the kernel says at the end is all there is
        return {}, 3600.0
    now = {pid: tree or Tree(pid) for pid, tree in trees.items()}
    for tree in now.values():
        tree.update(*seen)
    return now, max(EVERY, (thread_time() - began) * SHARE)
