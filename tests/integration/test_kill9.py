"""Kill -9 between any two lines: no finished step is lost or run twice, no half result reads as whole, all go on."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.store import artifacts, claims, open_store, records
from backends.store.base import Store
from tests.support.claiming import claim

STEPS = ["a", "b"]
CALLS = ["open", "write", "read", "close", "rename", "link", "unlink", "mkdir", "rmdir", "listdir", "scandir", "stat", "lstat"]
CALLS += ["fstat", "lseek", "readlink", "symlink", "kill"]
KILLED = 9


def run_step(store: Store, step: str, say: Callable[[str], None]) -> None:
    """Do what a supervisor does for a step: claim, log, outputs, result."""
    try:
        attempt = claim(store, "r", step, {})
    except claims.AlreadyDone:
        return
    say(f"begin {step}")
    store.put(f"{attempt.prefix}/log/000001.txt", f"log of {step}\n".encode())
    attempt.heartbeat({"usage": {"rss": 1}})
    tmp = Path(store.url_of(f"{attempt.prefix}/tmp"))
    (tmp / "tree").mkdir(parents=True)
    (tmp / "file").write_bytes(step.encode() * 100)
    (tmp / "tree" / "x").write_bytes(step.encode())
    (tmp / "tree" / "y").symlink_to(tmp / "tree" / "x")
    outputs = {n: artifacts.publish(store, f"{attempt.prefix}/out/{n}", str(tmp / n)) for n in ("file", "tree")}
    attempt.finish({"class": "success", "exit_code": 0, "outputs": outputs})
    say(f"done {step}")


class Crash:
    """Ends the process at the n-th call into the system.

    Args:
        at: counts from 1.
        calls: the names in ``os`` that count.
        torn: the n-th call is a write that gets half of its bytes out; otherwise it doesn't happen at all.
        links: False for a file system that has no hard links.
    """

    def __init__(self, at: int, calls: Sequence[str] = CALLS, torn: bool = False, links: bool = True) -> None:
        self.left = at
        self.calls = calls
        self.torn = torn
        self.links = links

    def install(self) -> None:
        if not self.links:
            os.link = self._no_link  # type: ignore[assignment]
        for name in self.calls:
            setattr(os, name, self._wrap(getattr(os, name)))

    def _no_link(self, *_args: object) -> None:
        raise OSError(errno.EPERM, "no links")

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left:
                return real(*args, **kwargs)
            if self.torn:
                real(args[0], args[1][: len(args[1]) // 2])
            os._exit(KILLED)

        return call


def in_child(root: str, steps: Sequence[str], crash: Crash | None = None) -> tuple[int, list[str]]:
    """Run the steps in a process of its own; return how it ended and what it said until then."""
    pid, pipe = start_child(root, steps, crash)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), heard(pipe)


def start_child(root: str, steps: Sequence[str], crash: Crash | None = None) -> tuple[int, int]:
    inlet, outlet = os.pipe()
    write = os.write
    pid = os.fork()
    if pid:
        os.close(outlet)
        return pid, inlet

    def say(text: str) -> None:
        write(outlet, f"{text}\n".encode())

    try:
        store = open_store(root)
        if crash:
            crash.install()
        for step in steps:
            run_step(store, step, say)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001
        say(f"error {error!r}")
        os._exit(1)


def heard(pipe: int) -> list[str]:
    with os.fdopen(pipe) as file:
        return file.read().splitlines()


def check_whole(store: Store, said: list[str], scratch: str) -> None:
    """Check what must hold at any moment, whoever was killed whenever."""
    for line in said:
        assert not line.startswith("error"), line
        if line.startswith("done "):
            assert records.good_result(store, "r", line[5:]) is not None, "a finished step was lost"
    for step in STEPS:
        good = records.good_result(store, "r", step)
        if good is not None:
            assert set(good["outputs"]) == {"file", "tree"}
            for artifact in good["outputs"].values():
                artifacts.fetch(store, artifact, scratch)


def check_over(store: Store, scratch: str) -> None:
    """Check that all steps are finished, and that each attempt but the last has an honest end."""
    check_whole(store, [f"done {step}" for step in STEPS], scratch)
    for step in STEPS:
        ends = [records.result(store, "r", step, number) for number in records.attempts(store, "r", step)]
        assert [end and end["class"] for end in ends] == ["infra"] * (len(ends) - 1) + ["success"]
        for number in range(1, len(ends)):
            assert not os.path.exists(store.url_of(f"runs/r/{step}/{number}/tmp"))


def crash_everywhere(root: Path, prepare: Callable[[str], None], steps: Sequence[str] = STEPS, **crash: Any) -> int:
    """Crash at the first, second, … call until none is left; after each, a new process must bring the run to its end."""
    for at in range(1, 1000):
        place = str(root / str(at))
        prepare(place)
        status, said = in_child(place, steps, Crash(at, **crash))
        store = open_store(place)
        scratch = str(root / "scratch")
        check_whole(store, said, scratch)
        if status == 0:
            return at
        assert status == KILLED
        status, more = in_child(place, STEPS)
        assert status == 0, more
        done = {line[5:] for line in said if line.startswith("done ")}
        again = {line[6:] for line in more if line.startswith("begin ")}
        assert not done & again, "a finished step ran again"
        check_over(store, scratch)
    raise AssertionError("it never came to its end")


def nothing(_place: str) -> None:
    """Leave nothing."""


def a_death(place: str) -> None:
    """Leave a dead attempt at the first step."""
    status, said = in_child(place, ["a"], Crash(60))
    assert status == KILLED
    assert said == ["begin a"]


@pytest.mark.parametrize(("prepare", "steps"), [(nothing, STEPS), (a_death, ["a"])])
def test_a_crash_before_any_call(tmp_path: Path, prepare: Callable[[str], None], steps: list[str]) -> None:
    assert crash_everywhere(tmp_path, prepare, steps) > 100


@pytest.mark.parametrize("prepare", [nothing, a_death])
def test_a_crash_in_the_midst_of_any_write(tmp_path: Path, prepare: Callable[[str], None]) -> None:
    assert crash_everywhere(tmp_path, prepare, calls=["write"], torn=True) > 8


@pytest.mark.parametrize("torn", [False, True])
def test_a_crash_at_any_write_without_hard_links(tmp_path: Path, torn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "DEAD_AFTER", 0.0)  # a torn claim names no process, so only its age tells
    assert crash_everywhere(tmp_path, nothing, calls=["write"], torn=torn, links=False) > 8


@settings(max_examples=12, deadline=None)
@given(delays=st.lists(st.integers(0, 25_000), min_size=1, max_size=4))
def test_kill_9_at_random(tmp_path_factory: pytest.TempPathFactory, delays: list[int]) -> None:
    steps = [f"s{number}" for number in range(12)]
    place = tmp_path_factory.mktemp("run")
    store = open_store(str(place / "runs"))
    done: set[str] = set()
    for delay in [*delays, None]:
        pid, pipe = start_child(str(place / "runs"), steps)
        if delay is not None:
            time.sleep(delay / 1e6)
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for line in heard(pipe):
            word, _, step = line.partition(" ")
            assert word != "error", line
            assert step not in done, "a finished step ran again"
            if word == "done":
                done.add(step)
        for step in done:
            good = records.good_result(store, "r", step)
            assert good is not None, "a finished step was lost"
            for artifact in good["outputs"].values():
                artifacts.fetch(store, artifact, str(place / "scratch"))
    found = records.results(store, "r")
    assert {step for step, record in found.items() if record["class"] == "success"} == set(steps)
