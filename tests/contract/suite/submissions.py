"""What an orchestrator makes of a submitted run: its status, its logs, and its end on demand."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from backends.base import OrchestratorBaseBackend
from backends.errors import UsageError
from tests.contract.suite.pipelines import Pipelines, has_printed

CANCELLED = ("cancelled", "terminated", 143)


def verdict(status: dict[str, Any]) -> tuple[str, str, int]:
    """Return the state, class and exit status of a run."""
    return status["state"], status["class"], status["exit_code"]


class Submissions(Pipelines):
    """A run that was submitted, whoever drives it."""

    def test_a_submitted_run_can_be_followed_to_its_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(
            tmp_path, {"a": {"run": ["sh", "-c", "echo one; sleep 0.5; echo two"]}, "b": {"run": ["false"], "after": ["a"]}}
        )
        backend, handle = self.submitted(config, monkeypatch)
        assert b"".join(backend.logs(handle, "a", follow=True)) == b"one\ntwo\n"
        status = self.ended_status(backend, handle)
        assert (status["run"], *verdict(status)) == ("r", "failed", "user", 1), status
        assert status["steps"] == {"a": "succeeded", "b": "failed"}
        assert "'b' failed" in status["message"]
        self.hear_the_driver(backend, handle)
        assert b"".join(backend.logs(handle, "b", follow=True)) == b""
        with pytest.raises(UsageError, match="no step 'c'"):
            list(backend.logs(handle, "c"))
        backend.cancel(handle)
        assert backend.status(handle) == status

    def hear_the_driver(self, backend: OrchestratorBaseBackend, handle: dict[str, Any]) -> None:
        """Fail unless the driver's log says how the run ended, or there is no driver and that is told."""
        raise NotImplementedError

    def test_a_submitted_run_can_be_cancelled_twice(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(
            tmp_path, {"a": {"run": ["sh", "-c", "echo begun; sleep 300"]}, "b": {"run": ["true"], "after": ["a"]}}
        )
        backend, handle = self.submitted(config, monkeypatch)
        self.wait_until(has_printed(tmp_path, "a"))
        assert backend.status(handle)["steps"] == {"a": "running", "b": "pending"}
        self.cancel_and_see(backend, handle)
        assert backend.status(handle)["steps"] == {"a": "cancelled", "b": "skipped"}

    def cancel_and_see(self, backend: OrchestratorBaseBackend, handle: dict[str, Any]) -> None:
        """Cancel a run twice while it runs and once more when it has ended."""
        backend.cancel(handle)
        backend.cancel(handle)
        status = self.ended_status(backend, handle)
        assert verdict(status) == CANCELLED, status
        backend.cancel(handle)
        assert backend.status(handle) == status


class DrivenSubmission(Submissions):
    """A run that a process of the client's machine drives."""

    def hear_the_driver(self, backend: OrchestratorBaseBackend, handle: dict[str, Any]) -> None:
        assert b"run_finished" in b"".join(backend.logs(handle, None, follow=True))

    def cancel_and_see(self, backend: OrchestratorBaseBackend, handle: dict[str, Any]) -> None:
        super().cancel_and_see(backend, handle)
        list(backend.logs(handle, None, follow=True))  # its driver is gone when this ends

    def test_cancel_ends_what_a_killed_driver_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(tmp_path, {"a": {"run": ["sh", "-c", "echo begun; sleep 300"]}})
        backend, handle = self.submitted(config, monkeypatch)
        self.wait_until(has_printed(tmp_path, "a"))
        os.kill(handle["pid"], signal.SIGKILL)
        self.wait_until(lambda: backend.status(handle)["state"] == "failed", "the end of the driver")
        backend.cancel(handle)
        assert verdict(backend.status(handle)) == CANCELLED


class RemoteSubmission(Submissions):
    """A run that goes on whoever waits for it: its platform keeps the order of the steps."""

    def hear_the_driver(self, backend: OrchestratorBaseBackend, handle: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="no driver"):
            backend.logs(handle, None)

    def test_a_run_outlives_who_waits_for_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(tmp_path, {"a": {"run": ["sh", "-c", "echo begun; sleep 300"]}})
        self.kill(self.begin(config, has_printed(tmp_path, "a")))
        backend, handle = self.submitted(config, monkeypatch)  # finds the first
        assert backend.status(handle)["state"] == "running"
        self.cancel_and_see(backend, handle)


class MachineSubmission(RemoteSubmission):
    """A run that a driver of ours drives, beside its steps on the platform's machine."""

    def hear_the_driver(self, backend: OrchestratorBaseBackend, handle: dict[str, Any]) -> None:
        assert b'"run":"r"' in b"".join(backend.logs(handle, None, follow=True))  # its last words

    def kill_the_machine(self, handle: dict[str, Any]) -> None:
        """End the machine and all that runs on it, at once and without a warning."""
        raise NotImplementedError

    def test_a_machine_that_dies_fails_the_run_which_can_be_resumed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = self.write(
            tmp_path,
            {
                "a": {"run": ["true"]},
                "b": {"run": ["sh", "-c", 'echo begun; [ "$ZEN_ATTEMPT" = 2 ] || sleep 300'], "after": ["a"]},
            },
        )
        backend, handle = self.submitted(config, monkeypatch)
        self.wait_until(has_printed(tmp_path, "b"))
        self.kill_the_machine(handle)
        status = self.ended_status(backend, handle)
        assert verdict(status) == ("failed", "infra", 69), status
        assert "a run with the same run id resumes" in status["message"]
        assert b"".join(backend.logs(handle, "b", follow=True)) == b"begun\n"
        backend, handle = self.submitted(config, monkeypatch)
        assert (handle["resumed"], handle["state"]["round"]) == (["a"], 2)
        status = self.ended_status(backend, handle)
        assert (verdict(status), status["steps"]) == (("succeeded", "success", 0), {"a": "succeeded", "b": "succeeded"}), status
