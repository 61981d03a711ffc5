"""What all remote backends share, driven by the contract: on a platform whose jobs are processes of this machine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import strategies as st

from backends.base import OrchestratorBaseBackend
from backends.errors import UsageError
from tests.contract.suite import OrchestratorContract
from tests.fake_platform import OrchestratorFakeBackend
from tests.support import running


class TestRemote(OrchestratorContract):
    cls = OrchestratorFakeBackend
    source = "tests.fake_platform:OrchestratorFakeBackend"
    arguments = st.fixed_dictionaries(
        {},
        optional={
            "startup_timeout": st.none() | st.floats(1, 1e6),
            "deadline": st.none() | st.floats(1, 1e6),
            "poll": st.floats(0.01, 10),
            "seen": st.none() | st.lists(st.text()),
        },
    )
    environ = {"PYTHONPATH": str(running.ROOT)}  # noqa: RUF012 - a ClassVar in the base

    def assert_nothing_is_left(self, folder: Path) -> None:
        until = time.monotonic() + 5
        while True:  # a job says that it has ended just before it ends
            try:
                return super().assert_nothing_is_left(folder)
            except AssertionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def run_again(self, config: Path) -> tuple[int, dict[str, object]]:
        # The job goes on whoever waits for it, so another who waits finds it running.
        job = next((config.parent / "store-cluster" / "jobs").glob("*second*"))
        (job / "end").touch()
        self.wait_until(lambda: "cancelled" in (job / "state.json").read_text())
        return self.run(config)

    def test_a_submitted_run_can_be_followed_to_its_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(
            tmp_path, {"a": {"run": ["sh", "-c", "echo one; sleep 0.5; echo two"]}, "b": {"run": ["false"], "after": ["a"]}}
        )
        backend, handle = self.submitted(config, monkeypatch)
        assert b"".join(backend.logs(handle, "a", follow=True)) == b"one\ntwo\n"
        status = self.ended_status(backend, handle)
        assert (status["run"], status["state"], status["class"], status["exit_code"]) == ("r", "failed", "user", 1)
        assert status["steps"] == {"a": "succeeded", "b": "failed"} and "'b' failed" in status["message"]
        assert b"".join(backend.logs(handle, "b", follow=True)) == b""
        with pytest.raises(UsageError, match="no step 'c'"):
            backend.logs(handle, "c")
        with pytest.raises(UsageError, match="no driver"):
            backend.logs(handle, None)
        backend.cancel(handle)
        assert backend.status(handle) == status

    def test_cancel_ends_what_a_killed_driver_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is no driver that could be killed; whoever waits may be, and the run goes on."""
        config = self.write(tmp_path, {"a": {"run": ["sh", "-c", "echo begun; sleep 300"]}})
        process = running.start(*self.arguments_of_run(config, "r"), cwd=tmp_path, **self.environ)
        try:
            self.wait_until(lambda: bool(list((tmp_path / "store/runs/r/a/1/log").glob("*.txt"))))
        finally:
            process.kill()
            running.end(process, self.seconds)
        backend, handle = self.submitted(config, monkeypatch)  # finds the first
        assert backend.status(handle)["state"] == "running"
        self.cancel_and_see(backend, handle)

    def test_a_submitted_run_can_be_cancelled_twice(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(
            tmp_path, {"a": {"run": ["sh", "-c", "echo begun; sleep 300"]}, "b": {"run": ["true"], "after": ["a"]}}
        )
        backend, handle = self.submitted(config, monkeypatch)
        self.wait_until(lambda: bool(list((tmp_path / "store/runs/r/a/1/log").glob("*.txt"))))
        assert backend.status(handle)["steps"] == {"a": "running", "b": "pending"}
        self.cancel_and_see(backend, handle)
        assert backend.status(handle)["steps"] == {"a": "cancelled", "b": "skipped"}

    def cancel_and_see(self, backend: OrchestratorBaseBackend, handle: dict[str, object]) -> None:
        backend.cancel(handle)
        backend.cancel(handle)
        status = self.ended_status(backend, handle)
        assert (status["state"], status["class"], status["exit_code"]) == ("cancelled", "terminated", 143)
        backend.cancel(handle)
        assert backend.status(handle) == status
