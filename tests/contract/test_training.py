"""The training backends."""

from __future__ import annotations

from hypothesis import strategies as st

from backends.training.local import TrainingLocalBackend
from tests.contract.suite import BackendContract


class TestLocal(BackendContract):
    cls = TrainingLocalBackend
    source = "local"
    arguments = st.just({})
