"""The local orchestrator."""

from __future__ import annotations

from hypothesis import strategies as st

from backends.orchestrator.local import OrchestratorLocalBackend
from tests.contract.suite import DrivenSubmission, ParallelContract, PipelineContract, RenderContract


class TestLocal(RenderContract, PipelineContract, ParallelContract, DrivenSubmission):
    cls = OrchestratorLocalBackend
    source = "local"
    arguments = st.fixed_dictionaries(
        {}, optional={"max_parallel": st.none() | st.integers(1, 10**6), "keep_going": st.booleans()}
    )
    options = {"max_parallel": 2}  # noqa: RUF012 - a ClassVar in the base
