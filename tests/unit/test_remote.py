"""Submission, following and cancelling as all remote backends share them, on a platform of real processes that can fail."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends import calls, wire
from backends.base import OrchestratorBaseBackend
from backends.calls import Fault, call, sdk
from backends.errors import ConfigError, DuplicateError, InfraError, PlacementError, Terminated, UsageError
from backends.execution import Execution
from backends.orchestrator.remote import submission
from backends.orchestrator.remote.backend import Sending
from backends.platform import JobStatus
from backends.shipping.shipment import ship
from backends.states import FAILED, PENDING, UNKNOWN
from backends.store import records
from tests.support import configs, running
from tests.support.fake_platform import OrchestratorFakeBackend
from tests.support.fake_platform.api import Api
from tests.support.fake_platform.place import ENV, Place, in_a_row
from tests.support.waiting import wait_until as until

pytestmark = pytest.mark.processes

SOURCE = "tests.support.fake_platform:OrchestratorFakeBackend"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, SOURCE)
    yield place
    place.clean()


BACKEND = OrchestratorFakeBackend()


class TestSubmit:
    def test_a_second_submit_finds_the_first(self, place: Place) -> None:
        config = place.config(in_a_row(2))
        first = BACKEND.submit(config, "r", place.store)
        assert BACKEND.submit(config, "r", place.store) == first == place.handle()
        BACKEND.wait(first)
        assert BACKEND.submit(config, "r", place.store) == first
        assert place.platform.calls("submit") == 2
        assert first["phase"] == "submitted" and list(first["state"]["jobs"]) == ["s0", "s1"]

    def test_two_at_once_submit_once(self, place: Place) -> None:
        place.config(in_a_row(3))
        words = ("submit", "-c", "config.json", "--run-id", "r", "-o", "json")
        both = [running.start(*words, cwd=place.folder, **ENV) for _ in range(2)]
        ended = [running.end(process) for process in both]
        assert [one.code for one in ended] == [0, 0], [one.errors for one in ended]
        assert json.loads(ended[0].stdout) == json.loads(ended[1].stdout)
        assert place.platform.calls("submit") == 3

    @pytest.mark.parametrize("when", ["submit:1", "submitted:1", "submit:2", "submitted:3"])
    def test_a_submission_that_was_killed_is_completed_not_doubled(self, place: Place, when: str) -> None:
        config = place.config(in_a_row(3))
        assert place.submit(FAKE_KILL=when).code == -signal.SIGKILL
        assert place.handle()["phase"] == "submitting"
        status = BACKEND.status(place.handle())
        assert status["state"] == UNKNOWN and "--run-id r" in status["message"]
        assert place.submit().code == 0
        assert len(place.jobs()) == 3
        summary = BACKEND.wait(place.handle())
        assert summary["class"] == "success"
        assert [place.attempts(step) for step in config["steps"]] == [[1]] * 3

    def test_the_third_completes_what_two_left(self, place: Place) -> None:
        place.config(in_a_row(3))
        for when in ("submit:1", "submitted:2"):  # the counts go on from process to process
            assert place.submit(FAKE_KILL=when).code == -signal.SIGKILL
        assert place.submit("--wait").code == 0
        assert len(place.jobs()) == 3 and place.handle()["number"] == 3

    def test_one_that_was_killed_can_be_cancelled(self, place: Place) -> None:
        place.config({"a": {"run": ["sleep", "300"]}, "b": {"run": ["true"], "after": ["a"]}})
        assert place.submit(FAKE_KILL="submit:2").code == -signal.SIGKILL
        until(lambda: bool(place.attempts("a")))
        BACKEND.cancel(place.handle())
        until(lambda: BACKEND.status(place.handle())["state"] == "cancelled")
        assert BACKEND.status(place.handle())["steps"] == {"a": "cancelled", "b": "skipped"}

    def test_another_may_not_submit_while_the_first_is_at_it(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        config = place.config(in_a_row(1))
        handle = BACKEND.submit(config, "r", place.store)
        place.store.put("runs/r/handle.json", wire.dumps({**handle, "phase": "submitting"}).encode())
        monkeypatch.setattr(submission, "SILENT", 0.3)
        with pytest.raises(DuplicateError, match=f"process {os.getpid()} on"):
            BACKEND.submit(config, "r", place.store)

    def test_one_that_is_silent_elsewhere_is_taken_over_and_told_so(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        config = place.config(in_a_row(3))
        monkeypatch.setattr(submission, "SILENT", 0.0)
        original = OrchestratorFakeBackend.send
        turns = []

        def slow(self: OrchestratorFakeBackend, sending: Sending) -> None:
            turns.append(1)
            if len(turns) > 1:
                original(self, sending)
                return
            sending.save()
            elsewhere = {**place.handle(), "host": "elsewhere"}
            place.store.put("runs/r/handle.json", wire.dumps(elsewhere).encode())
            assert BACKEND.submit(dict(CONFIG), "r", place.store)["number"] == 2
            sending.save()

        CONFIG = config
        monkeypatch.setattr(OrchestratorFakeBackend, "send", slow)
        with pytest.raises(DuplicateError, match="taken over"):
            BACKEND.submit(config, "r", place.store)
        assert place.handle()["phase"] == "submitted" and len(place.jobs()) == 3

    def test_a_throttled_platform_is_asked_again(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        slept: list[float] = []
        monkeypatch.setattr(calls, "sleep", slept.append)
        place.platform.fail(("submit", "throttled"), ("submit", "throttled"), ("submitted", "throttled"))
        handle = BACKEND.submit(place.config(in_a_row(2)), "r", place.store)
        assert BACKEND.wait(handle)["class"] == "success"
        assert len(place.jobs()) == 2 and len(slept) == 3

    def test_a_refusal_leaves_nothing_behind(self, place: Place) -> None:
        place.config(in_a_row(2))
        place.platform.fail(("submit", "no such queue!"))
        ended = place.submit()
        assert (
            ended.code == 78
            and "submit r-" in ended.errors
            and "-s0: " in ended.errors
            and "no such queue; look at the queue" in ended.errors
        )
        assert list(place.store.walk("runs")) == [] and place.jobs() == []
        place.platform.fail(("submit", "denied"))
        assert place.submit().code == 69
        assert place.submit().code == 0

    def test_a_refusal_half_way_can_be_completed(self, place: Place) -> None:
        place.config(in_a_row(3, "sleep 0.3"))
        place.platform.fail(("submit:2", "denied"))
        ended = place.submit()
        assert ended.code == 69 and "denied" in ended.errors and "--run-id r to complete it" in ended.errors
        assert place.handle()["phase"] == "interrupted"
        assert "cut short" in BACKEND.status(place.handle())["message"]
        assert place.submit("--wait").code == 0
        assert len(place.jobs()) == 3 and place.attempts("s0") == [1]

    def test_a_refusal_of_a_resumption_leaves_the_failed_run_as_it_was(self, place: Place) -> None:
        config = place.config(in_a_row(2, "exit 3"))
        handle = BACKEND.submit(config, "r", place.store)
        assert BACKEND.wait(handle)["exit_code"] == 3
        before = BACKEND.status(handle)
        place.platform.fail(("submit", "no such queue"))
        with pytest.raises(ConfigError):
            BACKEND.submit(config, "r", place.store)
        assert BACKEND.status(place.handle()) == before

    def test_a_failed_run_is_submitted_again_without_what_is_done(self, place: Place) -> None:
        steps = {"a": {"run": ["true"]}, "b": {"run": ["sh", "-c", "test $ZEN_ATTEMPT = 2"], "after": ["a"]}}
        config = place.config({**steps, "c": {"run": ["true"], "after": ["b"]}})
        handle = BACKEND.submit(config, "r", place.store)
        assert BACKEND.wait(handle)["class"] == "user"
        handle = BACKEND.submit(config, "r", place.store)
        assert handle["resumed"] == ["a"] and handle["state"]["round"] == 2
        assert set(handle["state"]["jobs"]) == {"b", "c"}
        assert BACKEND.status(handle)["state"] in ("pending", "running", "succeeded")  # an old failure is not the new one's
        assert BACKEND.wait(handle)["class"] == "success"
        assert place.platform.calls("submit") == 5

    def test_a_cancelled_run_is_submitted_again(self, place: Place) -> None:
        config = place.config({"a": {"run": ["sh", "-c", "test $ZEN_ATTEMPT = 2 || sleep 300"]}})
        handle = BACKEND.submit(config, "r", place.store)
        until(lambda: bool(place.attempts("a")))
        BACKEND.cancel(handle)
        until(lambda: BACKEND.status(handle)["state"] == "cancelled")
        assert BACKEND.wait(BACKEND.submit(config, "r", place.store))["class"] == "success"

    def test_a_run_of_this_machine_goes_on_there(self, place: Place) -> None:
        config = place.config({"a": {"run": ["true"]}, "b": {"run": ["sh", "-c", "test $ZEN_ATTEMPT = 2"], "after": ["a"]}})
        assert place.zen("run", "-c", "config.json", "--run-id", "r").code == 1
        handle = BACKEND.submit(config, "r", place.store)
        assert handle["resumed"] == ["a"]
        assert BACKEND.wait(handle)["class"] == "success"

    def test_another_config_is_another_run(self, place: Place) -> None:
        BACKEND.submit(place.config(in_a_row(1)), "r", place.store)
        with pytest.raises(ConfigError, match="use a new run id"):
            BACKEND.submit(place.config(in_a_row(2)), "r", place.store)

    def test_a_run_of_a_client_driven_backend_is_another_run(self, place: Place) -> None:
        config = {**place.config(in_a_row(1)), "base": "/"}
        handle = {"run": "r", "config": wire.sha256(wire.dumps(config).encode()), "store": place.store.url}
        place.store.put("runs/r/handle.json", wire.dumps(handle).encode())
        with pytest.raises(ConfigError, match="use a new run id"):
            BACKEND.submit(config, "r", place.store)

    def test_a_stop_while_submitting_cancels(self, place: Place) -> None:
        config = place.config(in_a_row(3, "sleep 300"))
        with pytest.raises(Terminated):
            BACKEND.run(Execution(config, "r", place.store, stop_requested=lambda: place.platform.calls("submit") == 2))
        until(lambda: BACKEND.status(place.handle())["state"] == "cancelled")
        assert len(place.jobs()) == 2

    def test_a_cancel_from_elsewhere_ends_the_submission(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        config = place.config(in_a_row(3, "sleep 300"))
        original = Api.submit

        def cancelled(self: Api, *args: Any) -> str:
            if self.calls("submit") == 1:
                BACKEND.cancel(place.handle())
            return original(self, *args)

        monkeypatch.setattr(Api, "submit", cancelled)
        with pytest.raises(Terminated, match="cancelled while"):
            BACKEND.submit(config, "r", place.store)
        until(lambda: BACKEND.status(place.handle())["state"] == "cancelled")

    def test_bad_input_is_found_before_anything_is_touched(self, place: Place) -> None:
        config = place.config(in_a_row(1))
        with pytest.raises(ConfigError, match="s3://bucket/prefix"):
            OrchestratorFakeBackend(seen=[]).submit(config, "r", place.store)
        with pytest.raises(ConfigError, match="the code directory is not there"):
            BACKEND.submit({**config, "code": "/nowhere"}, "r", place.store)
        with pytest.raises(UsageError, match="run id"):
            BACKEND.submit(config, "no/id", place.store)
        assert place.store.names("") == [] and place.platform.calls("submit") == 0

    def test_a_store_that_can_not_be_written(self, place: Place) -> None:
        (place.folder / "store").touch()
        with pytest.raises(InfraError, match="store"):
            BACKEND.submit(place.config(in_a_row(1)), "r", place.store)


class TestCode:
    def test_code_and_a_large_config_get_there(self, place: Place) -> None:
        configs.write(place.folder / "code", {"mod.py": "def run(text): return {'size': len(text)}\n"})
        config = place.config({"a": {"call": "mod:run", "args": {"text": os.urandom(2_500_000).hex()}}}, code="code")
        handle = BACKEND.submit(config, "r", place.store)
        (place.folder / "code").rename(place.folder / "gone")
        summary = BACKEND.wait(handle)
        assert summary["steps"]["a"]["values"] == {"size": 5_000_000}, summary
        assert handle["code"]["files"] == 1
        (job,) = (place.platform.root / "jobs").iterdir()
        env = json.loads((job / "spec.json").read_text())["env"]
        assert env["ZEN_RUNNER_CONFIG"] == f"ref:{place.store.root}/configs/{handle['config']}.json#sha256={handle['config']}"


class TestFollow:
    def test_it_can_be_followed_from_the_handle_in_the_store(self, place: Place) -> None:
        place.config({"a": {"run": ["sh", "-c", "echo here; sleep 0.5"]}, "b": {"run": ["sh", "-c", "exit 9"], "after": ["a"]}})
        assert place.submit().code == 0
        backend = OrchestratorBaseBackend.from_config(place.handle()["backend"])
        events: list[str] = []

        def report(event: str, /, **fields: Any) -> None:
            events.append(f"{event} {fields.get('step') or (fields.get('record') or {}).get('step')}")

        summary = backend.wait(place.handle(), report=report)
        assert (summary["class"], summary["exit_code"], summary["config"]) == ("user", 9, place.handle()["config"])
        assert events == [
            *("run_started None", "step_started a", "step_finished a", "step_started b", "step_finished b"),
            "run_finished None",
        ]
        assert (records.read_run(place.store, "r") or {})["class"] == "user"

    def test_a_retried_attempt_is_not_the_end(self, place: Place) -> None:
        config = place.config({"a": {"run": ["sh", "-c", "test $ZEN_ATTEMPT = 3"], "retry": {"limit": 2, "on": ["user"]}}})
        summary = BACKEND.run(Execution(config, "r", place.store))
        assert summary["class"] == "success" and summary["steps"]["a"]["attempt"] == 3

    def test_a_platform_that_can_not_be_asked_is_unknown_and_the_store_still_counts(self, place: Place) -> None:
        config = place.config({**in_a_row(1), "b": {"run": ["sleep", "300"], "after": ["s0"]}})
        handle = BACKEND.submit(config, "r", place.store)
        until(lambda: bool(place.attempts("b")))
        place.platform.fail(("describe", "denied!"))
        status = BACKEND.status(handle)
        assert status["state"] == UNKNOWN and "describe: denied; look at the queue" in status["message"]
        assert status["steps"] == {"s0": "succeeded", "b": "unknown"}
        place.platform.fail()
        assert BACKEND.status(handle)["steps"]["b"] == "running"
        assert BACKEND.status({**handle, "store": str(place.folder / "nowhere")})["state"] == UNKNOWN

    def test_what_the_platform_has_forgotten_is_told_by_the_store(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        retry = {"limit": 1, "on": ["user"]}
        after = {"c": {"run": ["true"], "after": ["b"]}, "d": {"run": ["false"], "retry": retry}}
        config = place.config({"a": {"run": ["true"]}, "b": {"run": ["false"]}, **after})
        handle = BACKEND.submit(config, "r", place.store)
        BACKEND.wait(handle)
        for job in handle["state"]["jobs"].values():
            place.platform.forget(job)
        expected = {"a": "succeeded", "b": "failed", "c": "skipped", "d": "failed"}
        assert BACKEND.status(handle)["steps"] == expected
        (place.folder / "store/runs/r/d/2/result.json").unlink()  # whether its retry still runs can't be told
        (place.folder / "store/runs/r/d/2/claim.json").unlink()
        (place.folder / "store/runs/r/d/2/replay.json").unlink()
        assert BACKEND.status(handle)["steps"] == {**expected, "d": "unknown"}
        status = BACKEND.status(handle)
        assert status["state"] == UNKNOWN and "knows nothing of step 'd'" in status["message"]
        monkeypatch.setattr(OrchestratorFakeBackend, "blind_timeout", 0.2)
        with pytest.raises(InfraError, match="knows nothing of step 'd'"):
            BACKEND.wait(handle)

    @pytest.mark.parametrize(
        ("container", "kind", "code", "message"),
        [
            ("exit 0", "config", 78, "does not run zen-runner"),
            ("exit 78", "config", 78, "without a record"),
            ("exit 69", "infra", 69, "without a record"),
            ("exit 5", "user", 5, "without a record"),
        ],
    )
    def test_a_container_without_a_record(self, place: Place, container: str, kind: str, code: int, message: str) -> None:
        place.put("container", f"echo boom; {container}")
        config = place.config({"a": {"run": ["true"], "retry": {"limit": 0}}, "b": {"run": ["true"], "after": ["a"]}})
        handle = BACKEND.submit(config, "r", place.store)
        summary = BACKEND.wait(handle)
        assert (summary["class"], summary["exit_code"]) == (kind, code) and message in summary["message"]
        assert b"".join(BACKEND.logs(handle, "a")) == b"boom\n"  # the platform's, as the store has none

    def test_a_run_that_failed_as_such(self, place: Place) -> None:
        place.put("stuck", "no room")
        handle = BACKEND.submit(place.config(in_a_row(2)), "r", place.store)
        place.put("whole", "the workflow could not be created")
        status = BACKEND.status(handle)
        assert (status["state"], status["class"], status["steps"]) == ("failed", "infra", {"s0": "failed", "s1": "skipped"})
        assert "the workflow could not be created" in status["message"]

    def test_a_pending_step_says_why(self, place: Place) -> None:
        place.put("stuck", "the image can't be pulled")
        handle = BACKEND.submit(place.config(in_a_row(1)), "r", place.store)
        until(lambda: "step 's0' is pending: the image can't be pulled" in BACKEND.status(handle)["message"])
        assert BACKEND.status(handle)["state"] == PENDING

    def test_logs_follow_a_step_from_before_its_beginning_through_its_retries(self, place: Place) -> None:
        place.put("stuck", "wait")
        retry = {"limit": 1, "on": ["user"]}
        # The first attempt waits until its log has been read.
        command = "echo $ZEN_ATTEMPT; test $ZEN_ATTEMPT = 2 || { while ! test -e $MARK/go; do sleep 0.02; done; false; }"
        handle = BACKEND.submit(place.config({"a": {"run": ["sh", "-c", command], "retry": retry}}), "r", place.store)
        chunks = BACKEND.logs(handle, "a", follow=True)
        (place.platform.root / "stuck").unlink()
        assert next(chunks) == b"1\n"
        (place.folder / "go").touch()
        assert b"".join(chunks) == b"2\n"


class TestGivingUp:
    def test_a_start_that_does_not_come(self, place: Place) -> None:
        place.put("stuck", "MISCONFIGURATION: no such GPU")
        backend = OrchestratorFakeBackend(startup_timeout=1.0)
        summary = backend.run(Execution(place.config(in_a_row(2)), "r", place.store))
        assert (summary["class"], summary["exit_code"]) == ("infra", 69)
        assert "step 's0' did not start within 1 s" in summary["message"] and "no such GPU" in summary["message"]
        assert set(summary["skipped"]) == {"s0", "s1"}
        assert "no such GPU" in (records.read_run(place.store, "r") or {})["message"]

    def test_a_step_that_runs_long_is_no_start_that_does_not_come(self, place: Place) -> None:
        summary = OrchestratorFakeBackend(startup_timeout=0.5).run(
            Execution(place.config(in_a_row(1, "sleep 1.5")), "r", place.store)
        )
        assert summary["class"] == "success"

    def test_a_deadline(self, place: Place) -> None:
        summary = OrchestratorFakeBackend(deadline=1.5).run(Execution(place.config(in_a_row(2, "sleep 300")), "r", place.store))
        assert (summary["class"], summary["exit_code"]) == ("timeout", 124)
        assert "1.5 s after its submission" in summary["message"]

    def test_a_platform_that_never_answers(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(OrchestratorFakeBackend, "blind_timeout", 0.3)
        handle = BACKEND.submit(place.config(in_a_row(1, "sleep 300")), "r", place.store)
        place.platform.fail(("describe", "denied!"))
        with pytest.raises(InfraError, match=r"can't be followed any more: .*denied"):
            BACKEND.wait(handle)

    def test_a_platform_that_does_not_end_what_was_cancelled(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(OrchestratorFakeBackend, "cancel_timeout", 0.3)
        monkeypatch.setattr(Api, "end", lambda self, name: None)
        config = place.config({"a": {"run": ["sleep", "300"], "grace_period": 0.1}})
        summary = OrchestratorFakeBackend(deadline=0.1).run(Execution(config, "r", place.store))
        assert summary["class"] == "timeout" and "did not say in time that it ended" in summary["message"]


class TestCommandLine:
    def test_render_and_dry_run_are_the_same_and_touch_nothing(self, place: Place) -> None:
        configs.write(place.folder / "code", {"mod.py": "def run(): pass\n", "json.py": ""})
        config = place.config({"a": {"call": "mod:run"}}, code="code")
        rendered = place.zen("render", "-c", "config.json", "--run-id", "r")
        assert rendered.code == 0, rendered.errors
        assert "code: 2 files" in rendered.errors and "hides the standard library's module 'json'" in rendered.errors
        assert place.submit("--dry-run").stdout == rendered.stdout
        documents = json.loads(place.submit("--dry-run", "-o", "json").stdout)
        assert list(yaml.safe_load_all(rendered.stdout)) == documents
        assert place.store.names("") == [] and place.jobs() == []
        shipment = ship(config, str(place.folder), mounts=["/"])
        assert documents == BACKEND.render(shipment.config, "r")
        handle = json.loads(place.submit("-o", "json").stdout)
        assert handle["config"] == shipment.sha
        job = next((place.platform.root / "jobs").iterdir())
        assert json.loads((job / "spec.json").read_text())["env"] == documents[0]["env"]

    def test_render_has_a_run_id_for_every_backend(self, place: Place) -> None:
        place.config(in_a_row(1))
        for backend, word in ((SOURCE, 'RUN_ID": "RUN"'), ("local", "{run}"), ("docker", "{run}")):
            words = ("render", "-c", "config.json", "--backend", backend, "-o", "json")
            plain, named = place.zen(*words).stdout.decode(), place.zen(*words, "--run-id", "my-run").stdout.decode()
            assert word in plain and "my-run" in named and word not in named
        assert place.zen("render", "-c", "config.json", "--run-id", "no/id").code == 64

    def test_submit_waits_for_the_end_and_has_its_status(self, place: Place) -> None:
        place.config(in_a_row(2, "echo hello; exit 4"))
        ended = place.submit("--wait")
        assert ended.code == 4 and ended.stdout == b"r\n" and "s0" in ended.errors
        assert place.submit("--wait", "--detach").code == 64

    def test_a_signal_to_one_that_waits_cancels_the_run(self, place: Place) -> None:
        place.config(in_a_row(1, "sleep 300"))
        process = running.start("submit", "-c", "config.json", "--run-id", "r", "--wait", cwd=place.folder, **ENV)
        until(lambda: bool(place.attempts("s0")))
        process.send_signal(signal.SIGTERM)
        assert running.end(process).code == 143

    def test_submit_waits_on_a_client_driven_backend_too(self, place: Place) -> None:
        place.config(in_a_row(2, "exit 4"))
        ended = place.zen("submit", "-c", "config.json", "--backend", "local", "--wait")
        assert ended.code == 4, ended.errors

    def test_status_logs_and_cancel_need_only_the_store(self, place: Place) -> None:
        place.config({"a": {"run": ["sh", "-c", "echo one"]}, "b": {"run": ["sh", "-c", "echo two; sleep 300"], "after": ["a"]}})
        assert place.submit("--detach").stdout == b"r\n"
        there = ("--store", place.store.url, "r")
        until(lambda: b"two\n" in place.zen("logs", *there, "--step", "b").stdout)

        def states() -> dict[str, Any]:
            found = json.loads(place.zen("status", *there, "-o", "json").stdout)
            return {"run": found["state"], **{name: step["class"] for name, step in found["steps"].items()}}

        assert states() == {"run": "running", "a": "success", "b": "running"}
        follower = running.start("logs", *there, "-f", cwd=place.folder, **ENV)
        assert place.zen("cancel", *there).code == 0
        assert sorted(running.end(follower).stdout.splitlines()) == [b"a | one", b"b | two"]  # side by side
        until(lambda: states()["run"] == "terminated")
        assert states() == {"run": "terminated", "a": "success", "b": "terminated"}
        assert place.zen("cancel", *there).code == 0
        assert b"terminated" in place.zen("status", *there).stdout

    def test_status_says_what_the_platform_says(self, place: Place) -> None:
        place.put("stuck", "RUNNABLE: no capacity")
        place.config(in_a_row(2))
        place.submit()
        until(lambda: b"no capacity" in place.zen("status", "-c", "config.json").stdout)
        place.platform.fail(("describe", "denied!"))
        assert b"unknown" in place.zen("status", "-c", "config.json").stdout


class TestCall:
    def test_it_tries_again_where_that_helps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slept: list[float] = []
        monkeypatch.setattr(calls, "sleep", slept.append)
        answers: list[Any] = [OSError("one"), OSError("two"), 3]

        def function() -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        assert call(function, "the call", lambda error: Fault(True, str(error))) == 3
        assert len(slept) == 2 and 0.25 <= slept[0] <= 0.5 <= slept[1] <= 1.0

    def test_it_gives_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slept: list[float] = []
        monkeypatch.setattr(calls, "sleep", slept.append)

        def function() -> None:
            raise OSError("slow down")

        with pytest.raises(InfraError, match=r"^the call: slow down \(8 tries\); ask later$") as caught:
            call(function, "the call", lambda error: Fault(True, str(error), "ask later"))
        assert isinstance(caught.value.__cause__, OSError) and len(slept) == 7 and max(slept) <= 20
        with pytest.raises(InfraError, match=r"^the call: no$"):
            call(function, "the call", lambda error: Fault(True, "no"), longest=0.1)
        with pytest.raises(ConfigError, match=r"^the call: no$"):
            call(function, "the call", lambda error: Fault(False, "no", config=True))
        with pytest.raises(OSError, match="slow down"):
            call(function, "the call", lambda error: None)

    def test_a_missing_library_says_what_to_install(self) -> None:
        with pytest.raises(PlacementError, match=r"pip install 'zen-runner\[aws\]'"):
            sdk("no_such_library", "aws")
        assert sdk("json", "aws") is json


def test_what_the_platform_knows_better_counts() -> None:
    assert JobStatus(FAILED, kind="oom", exit_code=1).verdict() == ("oom", 137)
    assert JobStatus(FAILED).verdict() == ("infra", 69)
    assert JobStatus(FAILED, exit_code=137).verdict() == ("oom", 137)
