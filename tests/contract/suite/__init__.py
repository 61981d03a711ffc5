"""What every backend must do, in parts. A backend's own test inherits those that hold for it, and has a few attributes:

    class TestLocal(RenderContract, PipelineContract, ParallelContract, DrivenSubmission):
        cls = OrchestratorLocalBackend
        source = "local"
        arguments = st.fixed_dictionaries({}, optional={"keep_going": st.booleans()})

Golden files are in ``golden/``; ``UPDATE_GOLDEN=1 pytest tests/contract`` writes them anew, for you to read before you commit.
"""

from __future__ import annotations

from tests.contract.suite.backend import BackendContract
from tests.contract.suite.pipelines import ParallelContract, PipelineContract
from tests.contract.suite.render import GOLDEN, RenderContract
from tests.contract.suite.submissions import DrivenSubmission, MachineSubmission, RemoteSubmission

__all__ = (
    "GOLDEN",
    "BackendContract",
    "DrivenSubmission",
    "MachineSubmission",
    "ParallelContract",
    "PipelineContract",
    "RemoteSubmission",
    "RenderContract",
)
