"""AWS Batch: the contract, on moto's Batch, whose jobs are containers on a real engine; the store is a mounted directory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from backends import wire
from backends.base import OrchestratorBaseBackend
from backends.errors import UsageError
from backends.orchestrator.batch import OrchestratorBatchBackend
from tests.contract.suite import GOLDEN, OrchestratorContract
from tests.emulators.moto_batch import QUEUE, MotoBatch, moto_batch
from tests.support import running

ARN = "arn:aws:iam::123456789012:role/"


@pytest.fixture(scope="module")
def aws(cpu_image: str) -> Iterator[MotoBatch]:
    with moto_batch() as server:
        yield server


@pytest.mark.engine
@pytest.mark.xdist_group("image")
class TestBatch(OrchestratorContract):
    cls = OrchestratorBatchBackend
    source = "batch"
    arguments = st.fixed_dictionaries(
        {"queue": st.sampled_from(["q", "arn:aws:batch:eu-west-1:123456789012:job-queue/q"])},
        optional={
            "region": st.none() | st.sampled_from(["eu-west-1", "us-east-1"]),
            "job_role": st.none() | st.just(f"{ARN}job"),
            "vcpu": st.floats(0.25, 96),
            "memory": st.sampled_from(["512Mi", "2Gi", "16G"]),
            "mounts": st.none() | st.just(["/shared"]),
            "user": st.none() | st.just("1000:0"),
            "env": st.none() | st.dictionaries(st.sampled_from(["HTTPS_PROXY", "TZ"]), st.text(max_size=9)),
            "tags": st.none() | st.dictionaries(st.text("abc", min_size=1), st.text("xyz")),
            "attempt_timeout": st.none() | st.integers(60, 10**6),
            "startup_timeout": st.none() | st.floats(1, 1e6),
            "deadline": st.none() | st.floats(1, 1e6),
        },
    )
    options = {  # noqa: RUF012 - a ClassVar in the base
        "queue": QUEUE,
        "region": "eu-west-1",
        "job_role": f"{ARN}job",
        "execution_role": f"{ARN}execution",
        "tags": {"team": "birds"},
    }
    seconds = 90.0

    @pytest.fixture(autouse=True)
    def _platform(self, aws: MotoBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        options = {**self.options, "mounts": [str(tmp_path)], "user": f"{os.getuid()}:{os.getgid()}"}
        monkeypatch.setattr(self, "environ", aws.environment())
        monkeypatch.setattr(self, "options", options)
        monkeypatch.setattr(OrchestratorBatchBackend, "poll_most", 1.0)
        self.aws = aws
        yield
        self.wait_until(lambda: aws.containers() == [])

    # -- render: a secret of a kind that Batch can read ---------------------------------------------------------------------

    def golden(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((GOLDEN / "pipeline.json").read_text())
        return {**config, "secrets": {"API_KEY": {"aws": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:api-key"}}}

    def test_render_is_what_the_golden_file_says(self) -> None:
        text = json.dumps(self.cls(**TestBatch.options).render(self.golden()), indent=2, sort_keys=True) + "\n"
        path = GOLDEN / "orchestrator.batch.json"
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text)
        assert text == path.read_text()

    def test_render_is_pure_offline_and_deterministic(self) -> None:
        backend = self.cls(**TestBatch.options)
        expression = f"BaseBackend.from_config({backend.to_config()!r}).render(wire.loads(sys.stdin.read()))"
        stdin = wire.dumps(self.golden())
        first, second = (self._isolated(expression, stdin, PYTHONHASHSEED=seed) for seed in ("1", "2"))
        assert first == second == wire.dumps(backend.render(self.golden())) + "\n"

    def test_render_leaves_the_config_alone(self) -> None:
        config = self.golden()
        self.cls(**TestBatch.options).render(config)
        assert config == self.golden()

    # -- there is no driver: see tests/contract/test_remote.py ----------------------------------------------------------------

    def assert_nothing_is_left(self, folder: Path) -> None:
        until = time.monotonic() + 40
        while True:  # Batch says that a job has ended while its container is taken down
            try:
                return super().assert_nothing_is_left(folder)
            except AssertionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def run_again(self, config: Path) -> tuple[int, dict[str, Any]]:
        # The job goes on whoever waits for it, so another who waits finds it running.
        batch = self.aws.client("batch")
        for job in batch.list_jobs(jobQueue=QUEUE, jobStatus="RUNNING")["jobSummaryList"]:
            batch.terminate_job(jobId=job["jobId"], reason="for the test")
        self.wait_until(lambda: not batch.list_jobs(jobQueue=QUEUE, jobStatus="RUNNING")["jobSummaryList"])
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

    def cancel_and_see(self, backend: OrchestratorBaseBackend, handle: dict[str, Any]) -> None:
        backend.cancel(handle)
        backend.cancel(handle)
        status = self.ended_status(backend, handle)
        assert (status["state"], status["class"], status["exit_code"]) == ("cancelled", "terminated", 143)
        backend.cancel(handle)
        assert backend.status(handle) == status
