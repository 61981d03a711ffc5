"""What the launcher of containers makes of a platform's rarer answers; tests/integration/test_docker.py has the usual ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backends import wire
from backends.errors import InfraError
from backends.execution import Execution
from backends.orchestrator.driven.container import Container, Phase
from backends.orchestrator.driven.container_platform import STDERR, STDOUT, ContainerPlatform, ContainerStatus, Labels
from backends.orchestrator.driven.platform_launcher import PlatformLauncher
from backends.states import FAILED, PENDING
from backends.store import open_store

if TYPE_CHECKING:
    from backends.store.records import Record

STEP = {"image": "i", "grace_period": 0.1, "resources": {"memory": None}}
CONFIG: dict[str, Any] = {"name": "p", "steps": {"a": STEP}}


class Renderer:
    sha = "0" * 64

    def render(self, labels: Labels, memory: int | None, environ: Mapping[str, str] | None) -> dict[str, Any]:
        return {"name": labels.name}


class Platform(ContainerPlatform):
    """A platform whose containers end as they start."""

    timeout = 1.0

    def __init__(self) -> None:
        self.there: dict[str, Labels] = {}
        self.started: list[str] = []
        self.removed: list[str] = []
        self.lost = 0  # answers to a start that get lost
        self.end_status: ContainerStatus | None = ContainerStatus(FAILED, exit_code=7)
        self.printed: Callable[[], Iterator[tuple[int, bytes]]] = lambda: iter(())

    def start(self, document: dict[str, Any], ids: Mapping[str, str]) -> str:
        name = document["name"]
        self.started.append(name)
        if self.lost:
            self.lost -= 1
            raise InfraError("no answer")
        return f"id of {name}"

    def find(self, prefix: str) -> dict[str, str]:
        return {name: f"id of {name}" for name in self.started if name.startswith(prefix)}

    def containers(self) -> dict[str, Labels]:
        return self.there

    def status(self, container: str) -> ContainerStatus | None:
        return self.end_status

    def output(self, container: str) -> Iterator[tuple[int, bytes]]:
        return self.printed()

    def wait(self, container: str) -> ContainerStatus | None:
        return self.end_status

    def stop(self, container: str, grace: int) -> None:
        pass

    def end(self, ids: Collection[str]) -> None:
        pass

    def remove(self, container: str) -> None:
        self.removed.append(container)


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def launcher(platform: Platform, tmp_path: Path) -> Iterator[PlatformLauncher]:
    store = open_store(str(tmp_path))
    made = PlatformLauncher(platform, Renderer(), Execution({**CONFIG, "store": store.url}, "r", store))
    yield made
    made.close()


def attempt(launcher: PlatformLauncher) -> Record:
    launcher.start("a", None)
    [record] = launcher.wait(10)
    return record


class Panic(BaseException):
    """What a library in Rust raises."""


@pytest.mark.parametrize("kind", [ZeroDivisionError, Panic])
def test_a_fault_that_nobody_foresaw_ends_the_attempt(
    platform: Platform, launcher: PlatformLauncher, kind: type[BaseException]
) -> None:
    def printed() -> Iterator[tuple[int, bytes]]:
        yield STDOUT, b"x"
        raise kind("odd")

    platform.printed = printed
    record = attempt(launcher)
    assert (record["class"], record["step"]) == ("infra", "a") and f"{kind.__name__}: odd" in record["message"]
    assert "in printed" in record["log_tail"]
    platform.printed = lambda: iter(())
    assert "ended with 7" in attempt(launcher)["message"] and len(platform.started) == 1  # the retry takes the container over


def test_a_start_whose_answer_was_lost_is_asked_for_again_under_its_name(platform: Platform, launcher: PlatformLauncher) -> None:
    platform.lost = 1
    assert attempt(launcher)["message"] == "no answer"
    assert "ended with 7" in attempt(launcher)["message"]
    first, second = platform.started
    assert first == second


def test_a_start_whose_answer_was_lost_is_wound_up(platform: Platform, launcher: PlatformLauncher) -> None:
    platform.lost = 1
    attempt(launcher)
    launcher.close()
    assert platform.removed == [f"id of {platform.started[0]}"]


@pytest.mark.parametrize("where", ["stderr", "status"])
def test_the_last_words_may_be_printed_or_in_the_platforms_own_status(
    platform: Platform, launcher: PlatformLauncher, where: str
) -> None:
    words = {"attempt": 1, "class": "input", "exit_code": 65, "message": "m", "run": "r", "step": "a"}
    line = wire.dumps(words).encode()
    platform.end_status = ContainerStatus(FAILED, exit_code=65, last_words=line if where == "status" else b"")
    platform.printed = lambda: iter([(STDERR, line)] if where == "stderr" else [])
    record = attempt(launcher)
    assert (record["class"], record["exit_code"], record["message"]) == ("input", 65, "m")


def test_a_container_that_is_gone_left_no_record(platform: Platform, launcher: PlatformLauncher) -> None:
    platform.end_status = None
    assert attempt(launcher)["message"] == "the container was removed before it left a record"


def test_what_never_ran_is_removed_at_once(platform: Platform, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    dead = wire.dumps({"host": "h"})  # who can't be seen from here, but the run is this one
    platform.there = {"old": Labels("r", "a", "1", "p", Renderer.sha, store.url, "i", dead)}
    platform.end_status = ContainerStatus(PENDING)
    PlatformLauncher(platform, Renderer(), Execution({**CONFIG, "store": store.url}, "r", store)).close()
    until = time.monotonic() + 10
    while platform.removed != ["old"]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_moves_of_a_container(tmp_path: Path) -> None:
    container = Container(open_store(str(tmp_path)), Labels(*"rsapcfid"))
    phases = [container.phase]
    assert not container.ask_to_stop()
    assert container.begin("id")  # it was asked to stop meanwhile
    phases.append(container.phase)
    container.note(ContainerStatus(FAILED, exit_code=1, started="2026-01-01T00:00:00Z"))
    phases.append(container.phase)
    assert phases == [Phase.CREATED, Phase.RUNNING, Phase.ENDED] and container.started == "2026-01-01T00:00:00Z"
    container.settle()
    container.note(None)
    assert container.phase is Phase.SETTLED
