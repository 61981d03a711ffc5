"""The beam orchestrator, on Beam's own local runner and on a job server of Beam's whose workers are in Beam's program."""

from __future__ import annotations

import sys

import pytest
from hypothesis import strategies as st

from backends.orchestrator.beam import OrchestratorBeamBackend
from tests.contract.suite import DrivenSubmission, ParallelContract, PipelineContract, RenderContract
from tests.support import frameworks


class OnBeam(PipelineContract, DrivenSubmission):
    """Pipelines, whose steps are started by a program of Beam's."""

    source = "beam"
    seconds = 120.0

    @pytest.fixture(autouse=True)
    def _python(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give the pipelines' tests a Python with Beam; the others need none."""
        if "tmp_path" in request.function.__code__.co_varnames:
            monkeypatch.setattr(self, "environ", {"ZEN_RUNNER_PYTHON": frameworks.python_with("apache_beam")})


class TestBeam(OnBeam, ParallelContract, RenderContract):
    cls = OrchestratorBeamBackend
    arguments = st.fixed_dictionaries(
        {},
        optional={
            "runner": st.sampled_from(["DirectRunner", "PortableRunner", "DataflowRunner", "my.runners.Own"]),
            "options": st.none()
            | st.dictionaries(
                st.sampled_from(["job_endpoint", "direct_num_workers", "streaming", "experiments"]),
                st.integers(0, 100) | st.booleans() | st.text() | st.lists(st.text()),
            ),
            "max_parallel": st.none() | st.integers(1, 10**6),
            "keep_going": st.booleans(),
            "program": st.none() | st.lists(st.text(min_size=1), min_size=1),
            "mounts": st.none() | st.lists(st.just("/data")),
            "startup_timeout": st.none() | st.floats(0.1, 1e6),
            "worker_machine_type": st.text(),
            "num_workers": st.integers(1, 1000),
            "max_num_workers": st.integers(1, 1000),
            "disk_size_gb": st.integers(1, 10**5),
            "autoscaling_algorithm": st.sampled_from(["THROUGHPUT_BASED", "NONE"]),
        },
    )
    options = {"max_parallel": 2}  # noqa: RUF012 - a ClassVar in the base


class TestBeamElsewhere(OnBeam):
    """The ParDos run the attempts; the server takes one ParDo after the other."""

    cls = OrchestratorBeamBackend
    lingers = 10.0  # what a killed driver leaves ends by itself, within the steps' grace period

    @pytest.fixture(autouse=True)
    def _server(self, job_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        program = [sys.executable, "-P", "-m", "entrypoint"]
        options = {"job_endpoint": job_server, "environment_type": "LOOPBACK"}
        monkeypatch.setattr(self, "options", {"runner": "PortableRunner", "options": options, "program": program})
