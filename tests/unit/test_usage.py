"""The trees of processes, on tables laid out as the kernel lays out /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from entrypoint.runtime import usage
from entrypoint.runtime.proc import look
from entrypoint.runtime.usage import Tree

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Machine:
    """Processes by pid, and what the kernel would say of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.io: dict[int, tuple[int, int, int, int]] = {}
        monkeypatch.setattr("entrypoint.runtime.proc.PROC", str(folder))
        monkeypatch.setattr(usage, "read_io", lambda pid: self.io.get(pid))

    def has(
        self,
        pid: int,
        parent: int,
        group: int,
        cpu: float = 0,
        waited: float = 0,
        pages: int = 1,
        start: int = 7,
        state: str = "S",
    ) -> None:
        """Let there be a process."""
        fields = [
            state,
            parent,
            group,
            *[0] * 8,
            int(cpu * TICKS),
            0,
            int(waited * TICKS),
            0,
            20,
            0,
            1,
            0,
            start,
            4096,
            pages,
            0,
            0,
        ]
        (self.folder / str(pid)).mkdir(exist_ok=True)
        (self.folder / str(pid) / "stat").write_text(f"{pid} (a) name (of it) {' '.join(map(str, fields))}\n")

    def lacks(self, pid: int) -> None:
        """Let it be gone."""
        (self.folder / str(pid) / "stat").unlink()
        (self.folder / str(pid)).rmdir()


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    made = Machine(monkeypatch, tmp_path)
    (tmp_path / "self").mkdir()
    (tmp_path / "99").mkdir()  # one that ended between the listing and the look
    made.has(1, 0, 1, cpu=1000, pages=1000)
    made.has(50, 1, 50, cpu=1000, pages=1000)
    return made


def test_descendants_and_the_group_count_and_nobody_else(proc: Machine) -> None:
    proc.has(100, 50, 100, cpu=1, pages=10)
    proc.has(101, 100, 100, cpu=2, pages=20)
    proc.has(102, 101, 102, cpu=3, pages=30)  # in a session of its own
    proc.has(103, 1, 100, cpu=4, pages=40)  # left to init, still in the group
    proc.has(104, 100, 100, cpu=9, pages=90, state="Z")
    proc.io = {100: (1, 0, 0, 0), 102: (10, 0, 0, 5), 103: (100, 1, 2, 3)}
    tree = Tree(100)
    tree.update(*look())
    assert tree.pids == {100, 101, 102, 103}
    assert (tree.cpu_seconds, tree.rss, tree.io) == (10, 100 * PAGE, (111, 1, 2, 8))
    assert tree.beside() == (4, (100, 1, 2, 3))  # of 103 alone the step's own process will never know


def test_a_daemon_that_was_seen_before_it_left_still_counts(proc: Machine) -> None:
    proc.has(100, 50, 100)
    proc.has(101, 100, 101, cpu=2)
    tree = Tree(100)
    tree.update(*look())
    proc.has(101, 1, 101, cpu=5)  # its parent ended, init took it, and it has a group of its own
    tree.update(*look())
    assert (set(tree.pids), tree.cpu_seconds) == ({100, 101}, 5)
    proc.lacks(101)
    tree.update(*look())
    assert (set(tree.pids), tree.cpu_seconds, tree.beside()[0]) == ({100}, 5, 5)  # it has ended, and what it used has not


def test_an_ended_child_is_not_counted_twice(proc: Machine) -> None:
    proc.has(100, 50, 100, cpu=1)
    proc.has(101, 100, 100, cpu=2)
    tree = Tree(100)
    tree.update(*look())
    proc.lacks(101)
    proc.has(100, 50, 100, cpu=1, waited=2)
    tree.update(*look())
    assert (tree.cpu_seconds, tree.beside()[0]) == (3, 0)


def test_a_pid_that_is_used_again_is_another_process(proc: Machine) -> None:
    proc.has(100, 50, 100)
    proc.has(101, 1, 100, cpu=2)
    tree = Tree(100)
    tree.update(*look())
    proc.has(101, 50, 50, cpu=500, start=8)
    tree.update(*look())
    assert (set(tree.pids), tree.cpu_seconds) == ({100}, 2)


def test_the_peak_stays(proc: Machine) -> None:
    tree = Tree(100)
    for pages in (5, 50, 2):
        proc.has(100, 50, 100, pages=pages)
        tree.update(*look())
    assert (tree.rss, tree.rss_peak) == (2 * PAGE, 50 * PAGE)


@pytest.mark.large
def test_the_pause_grows_with_the_machine(proc: Machine) -> None:
    proc.has(100, 50, 100)
    trees, pause = usage.sample({100: None})
    assert pause >= usage.EVERY
    for pid in range(1000, 11_000):
        proc.has(pid, 1, pid)
    began = time.thread_time()
    again, delay = usage.sample(trees)
    cost = time.thread_time() - began
    assert again[100] is trees[100] and again[100].pids == {100}
    # A two-hundredth of a core, however large the table. The clock around it has a little more to time than the one inside.
    assert delay > cost * usage.SHARE * 0.8 and delay > usage.EVERY


def test_without_proc_the_kernels_last_word_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("entrypoint.runtime.proc.PROC", str(tmp_path / "none"))
    trees, pause = usage.sample({100: None})
    assert (trees, pause > 600) == ({}, True)
