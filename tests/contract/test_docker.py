"""The docker orchestrator, on a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from hypothesis import strategies as st

from backends.orchestrator.docker import OrchestratorDockerBackend
from tests.contract.suite import DrivenSubmission, ParallelContract, PipelineContract, RenderContract


@pytest.mark.engine
@pytest.mark.xdist_group("image")
@pytest.mark.usefixtures("cpu_image")
class TestDocker(RenderContract, PipelineContract, ParallelContract, DrivenSubmission):
    cls = OrchestratorDockerBackend
    source = "docker"
    arguments = st.fixed_dictionaries(
        {},
        optional={
            "max_parallel": st.none() | st.integers(1, 10**6),
            "keep_going": st.booleans(),
            "network": st.none() | st.sampled_from(["none", "host", "my-net"]),
            "pull": st.sampled_from(["missing", "never", "always"]),
            "user": st.none() | st.sampled_from(["1000", "1000:0"]),
            "read_only": st.booleans(),
            "engine_timeout": st.floats(0.1, 1e6),
        },
    )
    options = {"max_parallel": 2, "network": "none"}  # noqa: RUF012 - a ClassVar in the base

    @pytest.fixture(autouse=True)
    def _containers(self, tmp_path: Path) -> Iterator[None]:
        self.client = docker.from_env()
        yield
        left = self.containers(tmp_path)
        for container in left:
            container.remove(force=True)
        self.client.close()
        assert left == []

    def containers(self, folder: Path) -> list[Any]:
        """Return the containers of the runs in a folder."""
        return self.client.containers.list(all=True, filters={"label": f"zen-runner.store={folder / 'store'}"})

    def end_what_runs(self, config: Path) -> None:
        # The step still runs, and a new client would wait for it: that has a test in tests/integration/test_docker.py.
        for container in self.containers(config.parent):
            container.kill()
