"""AWS Batch: the contract, on moto's Batch, whose jobs are containers on a real engine; the store is a mounted directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st

from backends.orchestrator.batch import OrchestratorBatchBackend
from tests.contract.suite import ParallelContract, PipelineContract, RemoteSubmission, RenderContract
from tests.emulators.moto_batch import QUEUE, MotoBatch, moto_batch

ARN = "arn:aws:iam::123456789012:role/"


@pytest.fixture(scope="module")
def aws(cpu_image: str) -> Iterator[MotoBatch]:
    with moto_batch() as server:
        yield server


@pytest.mark.engine
@pytest.mark.xdist_group("image")
class TestBatch(RenderContract, PipelineContract, ParallelContract, RemoteSubmission):
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
    # One of a kind that Batch can read.
    secrets = {"API_KEY": {"aws": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:api-key"}}  # noqa: RUF012 - the same
    seconds = 90.0
    lingers = 40.0  # Batch says that a job has ended while its container is taken down

    @pytest.fixture(autouse=True)
    def _platform(self, aws: MotoBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        options = {**self.options, "mounts": [str(tmp_path)], "user": f"{os.getuid()}:{os.getgid()}"}
        monkeypatch.setattr(self, "environ", aws.environment())
        monkeypatch.setattr(self, "options", options)
        monkeypatch.setattr(OrchestratorBatchBackend, "poll_most", 1.0)
        self.aws = aws
        yield
        self.wait_until(lambda: aws.containers() == [])

    def end_what_runs(self, config: Path) -> None:
        # The job goes on whoever waits for it, so another who waits finds it running.
        batch = self.aws.client("batch")
        for job in batch.list_jobs(jobQueue=QUEUE, jobStatus="RUNNING")["jobSummaryList"]:
            batch.terminate_job(jobId=job["jobId"], reason="for the test")
        self.wait_until(lambda: not batch.list_jobs(jobQueue=QUEUE, jobStatus="RUNNING")["jobSummaryList"])
