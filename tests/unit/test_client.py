"""What can be known of a submitted run when its driver is dead, elsewhere or unreadable; tests/contract has the runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import outcome, wire
from backends.errors import ConfigError, DuplicateError, InfraError, UsageError
from backends.execution import Execution
from backends.orchestrator.driven import backend as driven
from backends.orchestrator.local import OrchestratorLocalBackend
from backends.process import process_start, whoami
from backends.store import open_store, records
from backends.store.base import Store
from tests.support.claiming import claim
from tests.support.configs import resolved

pytestmark = pytest.mark.processes

LOCAL = OrchestratorLocalBackend()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a driver."""
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        yield sleeper
        sleeper.kill()


def config(store: Store) -> dict[str, Any]:
    return resolved({"a": {}, "b": {"after": ["a"]}, "c": {}}, store=store.url)


def handle(store: Store, pid: int, **changed: Any) -> dict[str, Any]:
    """Return the handle of run ``r`` whose driver is process ``pid``."""
    return {
        "run": "r",
        "store": store.url,
        "config": records.put_config(store, config(store)),
        "backend": LOCAL.to_config(),
        "log": f"{store.url}/driver.log",
        **whoami(),
        "pid": pid,
        "pid_start": process_start(pid),
        **changed,
    }


def run_json(store: Store, of: dict[str, Any], state: str, **more: Any) -> None:
    who = {name: of[name] for name in whoami()}
    records.write_run(store, "r", {"name": "p", "config": of["config"], "state": state, **who, **more})


def step(store: Store, name: str, kind: str | None) -> None:
    """Write an attempt of a step; None is one that has not ended."""
    attempt = claim(store, "r", name, {})
    if kind is not None:
        attempt.finish({"class": kind, "exit_code": outcome.code_of(kind)})


def test_pending_until_the_driver_has_written_its_first_word(store: Store, process: subprocess.Popen[bytes]) -> None:
    status = LOCAL.status(handle(store, process.pid))
    assert status["state"] == "pending" and set(status["steps"].values()) == {"pending"}
    assert (status["class"], status["exit_code"]) == (None, None)


def test_running_with_each_steps_own_state(store: Store, process: subprocess.Popen[bytes]) -> None:
    of = handle(store, process.pid)
    run_json(store, of, "running")
    step(store, "a", "infra")
    step(store, "a", None)
    step(store, "c", "success")
    status = LOCAL.status(of)
    assert status["state"] == "running"
    assert status["steps"] == {"a": "running", "b": "pending", "c": "succeeded"}


def test_a_dead_driver_is_a_failed_run_not_a_running_one(store: Store, process: subprocess.Popen[bytes]) -> None:
    of = handle(store, process.pid)
    run_json(store, of, "running")
    step(store, "a", None)
    step(store, "c", "user")
    process.kill()
    process.wait()
    status = LOCAL.status(of)
    assert (status["state"], status["class"], status["exit_code"]) == ("failed", "infra", 69)
    assert "the driver died" in status["message"] and "same run id" in status["message"]
    assert status["steps"] == {"a": "unknown", "b": "skipped", "c": "failed"}


def test_a_driver_that_died_before_its_first_word_failed_too(store: Store, process: subprocess.Popen[bytes]) -> None:
    of = handle(store, process.pid)
    process.kill()
    process.wait()
    assert LOCAL.status(of)["state"] == "failed"


def test_a_driver_that_was_cancelled_before_its_first_word_was_cancelled(store: Store, process: subprocess.Popen[bytes]) -> None:
    of = handle(store, process.pid)
    LOCAL.cancel(of)
    assert process.wait(10) == -15
    status = LOCAL.status(of)
    assert (status["state"], status["class"], status["exit_code"]) == ("cancelled", "terminated", 143)
    again = handle(store, os.getpid(), pid_start="1")  # the run was submitted again, and that driver died by itself
    assert LOCAL.status(again)["state"] == "failed"


def test_a_process_that_got_the_drivers_old_number_is_not_the_driver(store: Store) -> None:
    of = handle(store, os.getpid(), pid_start="1")
    run_json(store, of, "running")
    assert LOCAL.status(of)["state"] == "failed"
    LOCAL.cancel(of)  # would end this very process


def test_a_driver_from_before_the_machine_restarted_is_dead(store: Store) -> None:
    of = handle(store, os.getpid(), boot="another")
    run_json(store, of, "running")
    assert LOCAL.status(of)["state"] == "failed"


@pytest.mark.parametrize("changed", [{"host": "elsewhere"}, {"pid_ns": "pid:[1]"}])
def test_a_driver_elsewhere_is_unknown_until_it_has_ended(store: Store, changed: dict[str, Any]) -> None:
    of = handle(store, os.getpid(), **changed)
    assert LOCAL.status(of)["state"] == "unknown"
    run_json(store, of, "running")
    status = LOCAL.status(of)
    assert status["state"] == "unknown" and of["host"] in status["message"]
    with pytest.raises(InfraError, match="cancel it there"):
        LOCAL.cancel(of)
    run_json(store, of, "success", **{"class": "success", "exit_code": 0})
    assert LOCAL.status(of)["state"] == "succeeded"
    LOCAL.cancel(of)


@pytest.mark.parametrize(
    ("kind", "code", "state"), [("success", 0, "succeeded"), ("terminated", 143, "cancelled"), ("user", 3, "failed")]
)
def test_an_ended_run_has_its_class_and_exit_status(store: Store, kind: str, code: int, state: str) -> None:
    of = handle(store, 1, pid_start="0")
    run_json(store, of, kind, **{"class": kind, "exit_code": code, "message": "m"})
    step(store, "a", kind)
    status = LOCAL.status(of)
    assert (status["state"], status["class"], status["exit_code"], status["message"]) == (state, kind, code, "m")
    assert status["steps"] == {"a": state, "b": "skipped", "c": "skipped"}


def test_a_resubmitted_run_is_pending_although_its_old_record_says_ended(store: Store, process: subprocess.Popen[bytes]) -> None:
    run_json(store, handle(store, 1, pid_start="0"), "user", **{"class": "user", "exit_code": 1})
    assert LOCAL.status(handle(store, process.pid))["state"] == "pending"


def test_a_run_that_was_resumed_by_hand_is_watched_and_cancelled_there(store: Store, process: subprocess.Popen[bytes]) -> None:
    of = handle(store, 1, pid_start="0")
    run_json(store, handle(store, process.pid), "running")
    assert LOCAL.status(of)["state"] == "running"
    LOCAL.cancel(of)
    assert process.wait(10) == -15
    assert LOCAL.status(of)["state"] == "cancelled"


def test_a_store_that_does_not_answer_makes_the_status_unknown(store: Store) -> None:
    of = handle(store, os.getpid())
    root = Path(store.url)
    (root / "runs").write_text("no directory\n")
    (root / "runs").chmod(0)
    (root / "runs").unlink()
    (root / "runs").symlink_to("runs")  # a loop: every access fails
    status = LOCAL.status(of)
    assert status["state"] == "unknown" and "runs" in status["message"] and status["steps"] == {}


def test_a_run_with_a_live_driver_is_not_submitted_again(store: Store, process: subprocess.Popen[bytes]) -> None:
    store.put("runs/r/handle.json", wire.dumps(handle(store, process.pid)).encode())
    with pytest.raises(DuplicateError, match=f"process {process.pid}"):
        LOCAL.submit(config(store), "r", store)


def test_a_handle_that_cannot_be_written_leaves_no_driver(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def spawn(argv: list[str], log: str) -> int:
        process = subprocess.Popen(["sleep", "60"])
        started.append(process.pid)
        children.append(process)
        return process.pid

    children: list[subprocess.Popen[bytes]] = []

    def refuse(key: str, data: bytes) -> None:
        raise InfraError("full")

    monkeypatch.setattr(driven, "spawn", spawn)
    document = config(store)
    records.put_config(store, document)
    monkeypatch.setattr(type(store), "put", lambda self, key, data: refuse(key, data))
    with pytest.raises(InfraError, match="full"):
        LOCAL.submit(document, "r", store)
    assert children[0].wait(10) == -15


def test_the_drivers_log_can_be_gone(store: Store) -> None:
    with pytest.raises(InfraError, match="can't be read here"):
        list(LOCAL.logs(handle(store, os.getpid()), None))


def test_following_ends_when_the_driver_does(store: Store, process: subprocess.Popen[bytes]) -> None:
    of = handle(store, process.pid)
    run_json(store, of, "running")
    Path(of["log"]).write_bytes(b"one\n")
    chunks = LOCAL.logs(of, None, follow=True)
    assert next(chunks) == b"one\n"
    with open(of["log"], "ab") as log:
        log.write(b"two\n")
    assert next(chunks) == b"two\n"
    process.kill()
    process.wait()
    assert list(chunks) == []
    assert list(LOCAL.logs(of, "b", follow=True)) == []  # a step that never began


def test_the_local_backend_needs_a_launcher_from_its_caller(store: Store) -> None:
    with pytest.raises(UsageError, match="zen-runner run"):
        LOCAL.run(Execution(config(store), "r", store))


def test_how_many_run_at_a_time_is_at_least_one() -> None:
    for wrong in (0, -1):
        with pytest.raises(ConfigError, match="at least 1"):
            OrchestratorLocalBackend(max_parallel=wrong)
