"""A start that finds another's claim: it watches, and goes on, takes over, or leaves. Real processes, one of them "elsewhere"."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import wire
from backends.store import open_store
from tests.support.configs import config
from tests.support.running import Ended, end, environment, results, start
from tests.support.waiting import wait_until

# A process of this machine that takes itself for one of another, as a pod on another node is.
ELSEWHERE = """
import sys
from backends import process
process.whoami()["host"] = "elsewhere"
from backends.store import records
records.DEAD_AFTER = float(sys.argv[1])
from entrypoint.__main__ import main
sys.exit(main(sys.argv[2:]))
"""
# Says that it runs, and then waits for leave to end; the second time there is leave.
STEP = 'echo $$ >> "$0/pids"; while [ ! -e "$0/go" ]; do sleep 0.05; done; echo done; exit $(cat "$0/go")'


def start_elsewhere(*arguments: str, cwd: Path, dead_after: float = 30) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", ELSEWHERE, str(dead_after), *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(ZEN_RUNNER_RUN_ID="r"),
        start_new_session=True,
    )


class Scene:
    """A run whose steps were begun by a first process.

    Args:
        folder: where all of it lies.
        steps: their names.
        arguments: what is run, after ``--config``.
    """

    def __init__(self, folder: Path, steps: tuple[str, ...] = ("s",), arguments: tuple[str, ...] = ("--step", "s")) -> None:
        self.folder = folder
        step: dict[str, Any] = {"run": ["sh", "-c", STEP, str(folder)]}
        path = config(folder, steps=dict.fromkeys(steps, step), code=str(folder))
        self.arguments = ("--config", str(path), *arguments)
        self.first = start(*self.arguments, cwd=folder, ZEN_RUNNER_RUN_ID="r")
        self._count = len(steps)

    def wait(self) -> None:
        """Wait until all steps run."""
        wait_until(lambda: len(self.pids()) == self._count, 20, "the first process's steps")

    def pids(self) -> list[int]:
        path = self.folder / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def kill(self) -> None:
        """End the first process and its steps as the end of a machine does."""
        self.first.kill()
        for pid in self.pids():
            os.killpg(pid, signal.SIGKILL)
        self.first.communicate()

    def go(self, status: int = 0) -> None:
        """Let every step end."""
        (self.folder / "go.new").write_text(str(status))
        (self.folder / "go.new").rename(self.folder / "go")

    def start_second(self, dead_after: float = 30) -> subprocess.Popen[bytes]:
        return start_elsewhere(*self.arguments, cwd=self.folder, dead_after=dead_after)


MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(tmp_path: Path) -> Iterator[MakeScene]:
    """Make scenes in the test's folder, of which nothing is left in the end."""
    made: list[subprocess.Popen[bytes]] = []

    def make(*arguments: Any) -> Scene:
        scene = Scene(tmp_path, *arguments)
        made.append(scene.first)
        scene.wait()
        return scene

    yield make
    (tmp_path / "go").write_text("0")
    for process in made:
        process.kill()
        process.wait()


def seconds_of(process: subprocess.Popen[bytes], begun: float) -> tuple[float, Ended]:
    ended = end(process)
    return time.monotonic() - begun, ended


def test_a_replacement_two_seconds_after_a_kill_resumes(tmp_path: Path, make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.kill()
    scene.go()
    time.sleep(2)
    seconds, second = seconds_of(scene.start_second(), time.monotonic())
    assert (second.code, second.record["class"], second.record["attempt"]) == (0, "success", 2)
    assert 29 < seconds < 45
    assert second.errors.count("another process holds steps.s; for up to 30 s its heartbeat is watched\n") == 1
    assert [record["class"] for record in results(tmp_path, "r", "s")] == ["infra", "success"]
    assert "was silent for 3" in results(tmp_path, "r", "s")[0]["message"]


def test_a_living_owner_is_found_out_within_two_beats(tmp_path: Path, make_scene: MakeScene) -> None:
    scene = make_scene()
    seconds, second = seconds_of(scene.start_second(), time.monotonic())
    assert (second.code, second.record["class"]) == (73, "duplicate")
    assert seconds < 12
    scene.go()
    assert end(scene.first).code == 0


@pytest.mark.parametrize("status", [0, 3])
def test_an_owner_that_ends_is_succeeded(tmp_path: Path, make_scene: MakeScene, status: int) -> None:
    scene = make_scene()
    begun = time.monotonic()
    second = scene.start_second()
    wait_until(lambda: list((tmp_path / "store/runs/r/s/1").glob(".tmp-*")) or time.monotonic() > begun + 1.5)
    scene.go(status)
    assert end(scene.first).code == status
    ended = end(second)
    assert (ended.code, ended.record["attempt"]) == (status, 2 if status else 1)
    assert len(scene.pids()) == (2 if status else 1)


@pytest.mark.parametrize("arguments", [("--step", "s"), ("--run-id", "r")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_waits_is_served_at_once(
    tmp_path: Path, make_scene: MakeScene, arguments: tuple[str, ...], number: int
) -> None:
    scene = make_scene(("s",), arguments)
    scene.kill()
    second = scene.start_second()
    time.sleep(2.5)
    assert second.poll() is None
    begun = time.monotonic()
    second.send_signal(number)
    seconds, ended = seconds_of(second, begun)
    assert ended.code == 143, ended.errors
    assert seconds < 1.5  # with the end of the interpreter
    assert len(results(tmp_path, "r", "s")) == 0


def test_the_dead_steps_of_a_run_are_watched_side_by_side(tmp_path: Path, make_scene: MakeScene) -> None:
    scene = make_scene(("a", "b"), ("--run-id", "r"))
    scene.kill()
    scene.go()
    seconds, second = seconds_of(scene.start_second(dead_after=6), time.monotonic())
    assert second.code == 0, second.errors
    assert 5 < seconds < 12
    for step in ("a", "b"):
        assert f"another process holds steps.{step}" in second.errors
        assert [record["class"] for record in results(tmp_path, "r", step)] == ["infra", "success"]


def test_of_two_newcomers_one_takes_over(tmp_path: Path, make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.kill()
    newcomers = [scene.start_second(dead_after=4) for _ in range(3)]
    wait_until(lambda: len(scene.pids()) == 2)
    time.sleep(1)
    scene.go()
    ended = [end(newcomer) for newcomer in newcomers]
    assert len(scene.pids()) == 2
    assert sorted({one.code for one in ended}) in ([0], [0, 73])
    assert [record["class"] for record in results(tmp_path, "r", "s")] == ["infra", "success"]


@pytest.mark.parametrize("end_of_step", ["stopped by its own", "killed by the successor", "failed", "done"])
def test_whoever_was_taken_for_dead_ends_with_73(tmp_path: Path, make_scene: MakeScene, end_of_step: str) -> None:
    scene = make_scene()
    buried = {"class": "infra", "exit_code": 69, "attempt": 1}
    assert open_store(str(tmp_path / "store")).create("runs/r/s/1/result.json", wire.dumps(buried).encode())
    if end_of_step == "killed by the successor":
        os.killpg(scene.pids()[0], signal.SIGKILL)
    elif end_of_step != "stopped by its own":
        scene.go(3 if end_of_step == "failed" else 0)
    first = end(scene.first)
    assert (first.code, first.record["class"]) == (73, "duplicate")
    assert results(tmp_path, "r", "s") == [buried]
