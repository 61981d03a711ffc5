"""A run on one machine with its driver inside: submitted once, whoever dies; its state in every phase; and what ends it early."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.errors import ConfigError, InfraError, Terminated, ZenRunnerError
from backends.execution import Execution
from backends.orchestrator.remote.job import Job
from backends.platform import WHOLE_RUN, JobStatus
from backends.states import CANCELLED, FAILED, PENDING, RUNNING, SUCCEEDED, UNKNOWN
from backends.store import records
from tests.support import running
from tests.support.fake_platform import FakePlatform, OrchestratorFakeMachineBackend
from tests.support.fake_platform.place import ENV, Place, in_a_row
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

BACKEND = OrchestratorFakeMachineBackend()
ENDED = {SUCCEEDED, FAILED, CANCELLED}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, "tests.support.fake_platform:OrchestratorFakeMachineBackend")
    yield place
    place.clean()


def status_once(place: Place, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the run's status when it meets a condition."""
    statuses: list[dict[str, Any]] = []

    def is_met() -> object:
        statuses.append(BACKEND.status(place.handle()))
        return condition(statuses[-1])

    try:
        wait_until(is_met, 20)
    except AssertionError:
        raise AssertionError(f"it did not come to pass: {statuses[-1]}") from None
    return statuses[-1]


def ended(place: Place) -> dict[str, Any]:
    return status_once(place, lambda status: status["state"] in ENDED)


def verdict(status: dict[str, Any]) -> tuple[Any, ...]:
    return status["state"], status["class"], status["exit_code"]


def machines(place: Place) -> list[str]:
    return sorted(path.name for path in place.platform.jobs.iterdir())


class TestSubmit:
    @pytest.mark.parametrize(
        ("when", "state"), [("find:1", UNKNOWN), ("submit:1", UNKNOWN), ("submitted:1", RUNNING), ("describe:1", RUNNING)]
    )
    def test_a_client_that_is_killed_at_a_call_is_followed_by_another(self, place: Place, when: str, state: str) -> None:
        config = place.config(in_a_row(2, "sleep 0.5"))
        words = ("--wait",) if when == "describe:1" else ()
        assert place.submit(*words, FAKE_KILL=when).code == -signal.SIGKILL
        status = status_once(place, lambda status: status["state"] != PENDING)
        assert status["state"] == state, status
        assert ("--run-id r to complete it" in status["message"]) == (when != "describe:1"), status
        again = place.submit("--wait")
        assert again.code == 0, again.errors
        assert len(machines(place)) == 1
        assert [place.attempts(step) for step in config["steps"]] == [[1], [1]]

    def test_a_run_that_ended_while_its_submission_was_cut_short_keeps_its_record(self, place: Place) -> None:
        place.config(in_a_row(1, "exit 3"))
        assert place.submit(FAKE_KILL="submitted:1").code == -signal.SIGKILL
        assert verdict(ended(place)) == (FAILED, "user", 3)
        handle = BACKEND.submit(place.config(in_a_row(1, "exit 3")), "r", place.store)  # completes it
        assert (verdict(BACKEND.status(handle)), handle["state"]["round"]) == ((FAILED, "user", 3), 1)

    @pytest.mark.parametrize("when", ["find:1", "submit:1", "submitted:1"])
    def test_a_submission_that_was_killed_can_be_cancelled(self, place: Place, when: str) -> None:
        config = place.config(in_a_row(2, "test $ZEN_ATTEMPT = 2 || sleep 300"))
        assert place.submit(FAKE_KILL=when).code == -signal.SIGKILL
        BACKEND.cancel(place.handle())
        assert verdict(ended(place)) == (CANCELLED, "terminated", 143)
        BACKEND.cancel(place.handle())
        again = BACKEND.submit(config, "r", place.store)
        assert again["state"]["round"] == 2
        assert BACKEND.status(again)["state"] in (PENDING, RUNNING)
        BACKEND.cancel(again)
        assert ended(place)["state"] == CANCELLED

    def test_a_start_whose_answer_was_lost_is_found_by_its_name(self, place: Place) -> None:
        config = place.config(in_a_row(1))
        place.platform.fail(("submitted", "lost"))
        with pytest.raises(InfraError, match="A part of run r is submitted"):
            BACKEND.submit(config, "r", place.store)
        assert "cut short" in BACKEND.status(place.handle())["message"]
        handle = BACKEND.submit(config, "r", place.store)
        assert BACKEND.wait(handle)["class"] == "success"
        assert machines(place) == [handle["state"]["machine"]]

    @pytest.mark.parametrize(("code", "error"), [("no such queue", ConfigError), ("denied", InfraError)])
    def test_a_refusal_leaves_nothing_behind(self, place: Place, code: str, error: type[ZenRunnerError]) -> None:
        config = place.config(in_a_row(1))
        place.platform.fail(("submit", code))
        with pytest.raises(error):
            BACKEND.submit(config, "r", place.store)
        assert (list(place.store.walk("runs")), machines(place)) == ([], [])

    def test_a_refusal_of_a_resumption_leaves_the_failed_run_as_it_was(self, place: Place) -> None:
        config = place.config(in_a_row(2, "exit 3"))
        BACKEND.wait(BACKEND.submit(config, "r", place.store))
        before = BACKEND.status(place.handle())
        place.platform.fail(("submit", "no such queue"))
        with pytest.raises(ConfigError):
            BACKEND.submit(config, "r", place.store)
        assert BACKEND.status(place.handle()) == before
        assert verdict(before) == (FAILED, "user", 3)

    def test_a_run_of_this_machine_goes_on_there_with_what_it_lacks(self, place: Place) -> None:
        steps = {"a": {"run": ["true"]}, "b": {"run": ["sh", "-c", "test $ZEN_ATTEMPT = 2"], "after": ["a"]}}
        config = place.config(steps)
        assert place.zen("run", "-c", "config.json", "--run-id", "r").code == 1
        handle = BACKEND.submit(config, "r", place.store)
        assert (handle["resumed"], BACKEND.wait(handle)["class"]) == (["a"], "success")

    def test_a_run_that_lacks_nothing_needs_no_machine(self, place: Place) -> None:
        config = place.config(in_a_row(2))
        assert place.zen("run", "-c", "config.json", "--run-id", "r").code == 0
        summary = BACKEND.run(Execution(config, "r", place.store))
        assert (summary["class"], summary["exit_code"], machines(place)) == ("success", 0, [])
        assert verdict(BACKEND.status(place.handle())) == (SUCCEEDED, "success", 0)

    def test_a_stop_while_submitting_cancels(self, place: Place) -> None:
        config = place.config(in_a_row(1, "sleep 300"))
        with pytest.raises(Terminated):
            BACKEND.run(Execution(config, "r", place.store, stop_requested=lambda: place.platform.calls("submit") == 1))
        assert verdict(ended(place)) == (CANCELLED, "terminated", 143)


class TestStatus:
    def test_it_is_told_in_every_phase(self, place: Place) -> None:
        place.put("stuck", "no machine is free")
        steps = {"a": {"run": ["sh", "-c", "echo one; sleep 0.5"]}, "b": {"run": ["sh", "-c", "exit 9"], "after": ["a"]}}
        handle = BACKEND.submit(place.config(steps), "r", place.store)
        status = status_once(place, lambda status: status["message"])
        assert (status["state"], status["message"], status["steps"]) == (
            PENDING,
            "no machine is free",
            {"a": PENDING, "b": PENDING},
        )
        assert (b"".join(BACKEND.logs(handle)), b"".join(BACKEND.logs(handle, "a"))) == (b"", b"")
        driver = BACKEND.logs(handle, follow=True)
        (place.platform.root / "stuck").unlink()
        assert status_once(place, lambda status: status["steps"]["a"] == RUNNING)["state"] == RUNNING
        status = ended(place)
        assert (verdict(status), status["steps"]) == ((FAILED, "user", 9), {"a": SUCCEEDED, "b": FAILED})
        assert b"".join(driver) == b"".join(BACKEND.logs(handle))
        assert json.loads(b"".join(BACKEND.logs(handle)).splitlines()[-1])["exit_code"] == 9
        assert b"".join(BACKEND.logs(handle, "a")) == b"one\n"

    def test_a_step_between_two_attempts_has_not_ended(self, place: Place) -> None:
        retry = {"limit": 1, "on": ["user"], "backoff": 2}
        events: list[str] = []

        def report(event: str, /, **fields: Any) -> None:
            events.append(event)

        config = place.config({"a": {"run": ["sh", "-c", "test $ZEN_ATTEMPT = 2"], "retry": retry}})
        # It is no step either that does not start.
        backend = OrchestratorFakeMachineBackend(startup_timeout=1.0)
        summary = backend.run(Execution(config, "r", place.store, report=report))
        assert (summary["class"], summary["steps"]["a"]["attempt"]) == ("success", 2), summary
        assert events == ["run_started", "step_started", "step_finished", "run_finished"]

    def test_a_platform_that_can_not_be_asked_is_unknown_and_a_heartbeat_still_counts(self, place: Place) -> None:
        handle = BACKEND.submit(place.config({**in_a_row(1), "b": {"run": ["sleep", "300"], "after": ["s0"]}}), "r", place.store)
        status_once(place, lambda status: status["steps"]["b"] == RUNNING)
        place.platform.fail(("describe", "denied!"))
        status = BACKEND.status(handle)
        assert (status["state"], status["steps"]) == (UNKNOWN, {"s0": SUCCEEDED, "b": RUNNING}), status
        assert "describe: denied" in status["message"]

    def test_what_the_platform_has_forgotten_is_told_by_the_run_itself(self, place: Place) -> None:
        handle = BACKEND.submit(place.config(in_a_row(2, "exit 3")), "r", place.store)
        before = ended(place)
        place.platform.forget(handle["state"]["machine"])
        assert BACKEND.status(handle) == before

    def test_a_machine_that_is_forgotten_while_it_runs_can_be_given_up_and_resumed(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = place.config(in_a_row(1, "test $ZEN_ATTEMPT = 2 || sleep 300"))
        handle = BACKEND.submit(config, "r", place.store)
        status_once(place, lambda status: status["steps"]["s0"] == RUNNING)
        place.platform.kill(handle["state"]["machine"])
        status_once(place, lambda status: status["state"] == FAILED)
        place.platform.forget(handle["state"]["machine"])
        status = BACKEND.status(handle)
        assert status["state"] == UNKNOWN and "cancel the run, and submit it again" in status["message"], status
        monkeypatch.setattr(OrchestratorFakeMachineBackend, "blind_timeout", 0.3)
        with pytest.raises(InfraError, match="knows nothing of"):
            BACKEND.wait(handle)
        assert BACKEND.submit(config, "r", place.store) == handle  # it may run, as far as is known
        BACKEND.cancel(handle)
        assert verdict(BACKEND.status(handle)) == (CANCELLED, "terminated", 143)
        monkeypatch.undo()
        summary = BACKEND.wait(BACKEND.submit(config, "r", place.store))
        assert (summary["class"], summary["steps"]["s0"]["attempt"]) == ("success", 2), summary

    def test_the_command_line_needs_only_the_store(self, place: Place) -> None:
        place.config({"a": {"run": ["sh", "-c", "echo one; sleep 300"]}})
        assert place.submit().code == 0
        there = ("--store", place.store.url, "r")
        wait_until(lambda: place.zen("logs", *there, "--step", "a").stdout == b"one\n", 20)
        driver = running.start("logs", *there, "--driver", "-f", cwd=place.folder, **ENV)
        follower = running.start("logs", *there, "-f", cwd=place.folder, **ENV)
        assert json.loads(place.zen("status", *there, "-o", "json").stdout)["state"] == "running"
        assert place.zen("cancel", *there).code == 0
        heard = running.end(driver)
        assert (heard.code, json.loads(heard.stdout.splitlines()[-1])["class"]) == (0, "terminated"), heard
        assert running.end(follower).stdout == b"a | one\n"
        assert b"terminated" in place.zen("status", *there).stdout


class TestEnd:
    def test_a_machine_that_dies_takes_its_steps_with_it(self, place: Place) -> None:
        handle = BACKEND.submit(place.config({**in_a_row(2), "c": {"run": ["sleep", "300"]}}), "r", place.store)
        status_once(place, lambda status: status["steps"] == {"s0": SUCCEEDED, "s1": SUCCEEDED, "c": RUNNING})
        place.platform.kill(handle["state"]["machine"])
        status = ended(place)
        assert (verdict(status), status["steps"]) == ((FAILED, "infra", 69), {"s0": SUCCEEDED, "s1": SUCCEEDED, "c": FAILED})
        summary = BACKEND.wait(handle)
        record = summary["steps"]["c"]
        assert (summary["class"], record["class"], record["attempt"]) == ("infra", "infra", 1)
        assert f"{handle['state']['machine']} ended before its run had: the machine was lost" in summary["message"]
        assert (records.read_run(place.store, "r") or {})["message"] == summary["message"] == status["message"]

    def test_a_machine_that_is_ended_at_once_was_cancelled_if_that_was_asked_for(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handle = BACKEND.submit(place.config(in_a_row(2, "sleep 300")), "r", place.store)
        status_once(place, lambda status: status["steps"]["s0"] == RUNNING)
        monkeypatch.setattr(FakePlatform, "end", lambda self, ids: [self.api.kill(machine) for machine in ids])
        BACKEND.cancel(handle)
        status = ended(place)
        assert (verdict(status), status["message"]) == ((CANCELLED, "terminated", 143), "the run was cancelled")
        assert status["steps"] == {"s0": CANCELLED, "s1": "skipped"}

    def test_a_pending_machine_is_cancelled(self, place: Place) -> None:
        place.put("stuck", "no machine is free")
        handle = BACKEND.submit(place.config(in_a_row(1)), "r", place.store)
        BACKEND.cancel(handle)
        status = ended(place)
        assert (verdict(status), status["steps"]) == ((CANCELLED, "terminated", 143), {"s0": "skipped"})

    def test_a_driver_that_ends_between_two_looks_has_ended_well(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        handle = BACKEND.submit(place.config(in_a_row(1, "sleep 1")), "r", place.store)
        look = FakePlatform.look

        def late(self: FakePlatform, ids: list[str]) -> dict[str, JobStatus]:
            wait_until(lambda: all(status.state in ENDED for status in look(self, ids).values()), 20)
            return look(self, ids)

        monkeypatch.setattr(FakePlatform, "look", late)
        assert verdict(BACKEND.status(handle)) == (SUCCEEDED, "success", 0)

    def test_a_start_that_does_not_come(self, place: Place) -> None:
        place.put("stuck", "no machine is free")
        backend = OrchestratorFakeMachineBackend(startup_timeout=0.5)
        summary = backend.run(Execution(place.config(in_a_row(2)), "r", place.store))
        assert (summary["class"], summary["exit_code"], set(summary["skipped"])) == ("infra", 69, {"s0", "s1"}), summary
        assert "step 's0' did not start within 0.5 s: no machine is free" in summary["message"]
        assert verdict(BACKEND.status(place.handle())) == (FAILED, "infra", 69)

    def test_a_deadline(self, place: Place) -> None:
        backend = OrchestratorFakeMachineBackend(deadline=2.0)
        summary = backend.run(Execution(place.config(in_a_row(2, "sleep 300")), "r", place.store))
        assert (summary["class"], summary["exit_code"]) == ("timeout", 124), summary
        assert "2 s after its submission" in summary["message"]
        status = BACKEND.status(place.handle())
        assert (verdict(status), status["message"]) == ((FAILED, "timeout", 124), summary["message"])

    def test_a_machine_that_does_not_end_when_cancelled_is_given_up(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(OrchestratorFakeMachineBackend, "cancel_timeout", 0.3)
        monkeypatch.setattr(FakePlatform, "end", lambda self, ids: None)
        config = place.config({"a": {"run": ["sleep", "300"], "grace_period": 0.1}})
        summary = OrchestratorFakeMachineBackend(deadline=0.1).run(Execution(config, "r", place.store))
        assert summary["class"] == "timeout" and "did not say in time that it ended" in summary["message"], summary

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (JobStatus(FAILED), "infra"),
            (JobStatus(SUCCEEDED), "infra"),  # a machine without an exit status
            (JobStatus(SUCCEEDED, exit_code=0), "config"),  # what it ran is no driver of ours
            (JobStatus(FAILED, exit_code=78), "config"),
            (JobStatus(FAILED, exit_code=76), "placement"),
            (JobStatus(FAILED, exit_code=137), "infra"),
            (JobStatus(FAILED, exit_code=1), "infra"),
            (JobStatus(FAILED, exit_code=143), "infra"),
            (JobStatus(FAILED, kind="oom"), "oom"),
            (JobStatus(CANCELLED), "terminated"),
        ],
    )
    def test_a_machine_without_a_record(
        self, status: JobStatus, kind: str, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FakePlatform, "look", lambda self, ids: dict.fromkeys(ids, status))
        whole = BACKEND.statuses(BACKEND.platform(place.store), {"round": 1, "name": "m", "machine": "m"})[WHOLE_RUN]
        assert (whole.state, whole.kind) == (CANCELLED if kind == "terminated" else FAILED, kind)


def test_a_machine_has_what_the_most_demanding_step_asks_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = f"zen-runner@sha256:{'0' * 64}"
    config = place.config(
        {
            "a": {"run": ["true"], "resources": {"cpu": 2}, "image": "other:1", "timeout": 5, "retry": {"limit": 3}},
            "b": {"run": ["true"], "resources": {"memory": "1Gi", "gpu": 1}},
            "c": {"run": ["true"], "resources": {"memory": "2Gi", "cpu": 0.5}},
        },
        image=digest,
    )
    jobs: list[Job] = []
    monkeypatch.setattr(OrchestratorFakeMachineBackend, "render_machine", lambda self, job: jobs.append(job))
    OrchestratorFakeMachineBackend(deadline=60.0).render(config, "r")
    [job] = jobs
    assert (job.cpu, job.memory, job.gpu, job.timeout, job.retry["limit"]) == (2, 2 << 30, 1, 60.0, 0)
    assert (job.image, job.env["ZEN_RUNNER_IMAGE_DIGEST"], job.key) == (digest, digest, "")
