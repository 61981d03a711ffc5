"""What all backends of a shape share, driven by the contract: a platform whose jobs, machines and containers are processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.contract.suite import (
    DrivenSubmission,
    MachineSubmission,
    ParallelContract,
    PipelineContract,
    RemoteSubmission,
    RenderContract,
)
from tests.support import fake_platform, running
from tests.support.fake_platform.api import Api

SOURCE = "tests.support.fake_platform:"
SECONDS = st.none() | st.floats(1, 1e6)


class OnFakePlatform(RenderContract, PipelineContract, ParallelContract):
    environ = {"PYTHONPATH": str(running.ROOT)}  # noqa: RUF012 - a ClassVar in the base
    lingers = 5.0  # a job says that it has ended just before it ends

    @pytest.fixture(autouse=True)
    def _platform(self, tmp_path: Path) -> None:
        self.api = Api(tmp_path / "store-cluster")

    def end_what_runs(self, config: Path) -> None:
        # What runs goes on whoever waits for it, so another who waits would find it running.
        jobs = [job.name for job in self.api.jobs.iterdir()]
        running_jobs = [name for name, status in self.api.describe(jobs).items() if status["state"] == "running"]
        for job in running_jobs:
            self.api.kill(job)
        self.wait_until(lambda: all(status["state"] != "running" for status in self.api.describe(running_jobs).values()))


class TestJobs(OnFakePlatform, RemoteSubmission):
    cls = fake_platform.OrchestratorFakeBackend
    source = f"{SOURCE}OrchestratorFakeBackend"
    arguments = st.fixed_dictionaries(
        {},
        optional={
            "startup_timeout": SECONDS,
            "deadline": SECONDS,
            "poll": st.floats(0.01, 10),
            "seen": st.none() | st.lists(st.text()),
        },
    )


class TestPipeline(OnFakePlatform, RemoteSubmission):
    cls = fake_platform.OrchestratorFakePipelineBackend
    source = f"{SOURCE}OrchestratorFakePipelineBackend"
    arguments = st.fixed_dictionaries({}, optional={"poll": st.floats(0.01, 10)})


class TestMachine(OnFakePlatform, MachineSubmission):
    cls = fake_platform.OrchestratorFakeMachineBackend
    source = f"{SOURCE}OrchestratorFakeMachineBackend"
    arguments = st.fixed_dictionaries({}, optional={"startup_timeout": SECONDS, "deadline": SECONDS, "poll": st.floats(0.01, 10)})

    def kill_the_machine(self, handle: dict[str, Any]) -> None:
        self.api.kill(handle["state"]["machine"])


class TestContainers(OnFakePlatform, DrivenSubmission):
    cls = fake_platform.OrchestratorFakeContainersBackend
    source = f"{SOURCE}OrchestratorFakeContainersBackend"
    arguments = st.fixed_dictionaries(
        {"root": st.text()}, optional={"max_parallel": st.none() | st.integers(1, 10**6), "keep_going": st.booleans()}
    )
    options = {"root": "/cluster"}  # noqa: RUF012 - a ClassVar in the base

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self, "options", {"root": str(tmp_path / "store-cluster"), "max_parallel": 2})
