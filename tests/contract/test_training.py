"""The training backends."""

from __future__ import annotations

from hypothesis import strategies as st

from backends.training.batch import TrainingBatchBackend
from backends.training.docker import TrainingDockerBackend
from backends.training.local import TrainingLocalBackend
from tests.contract.suite import BackendContract
from tests.support.fake_platform.training import TrainingFakeBackend


class TestLocal(BackendContract):
    cls = TrainingLocalBackend
    source = "local"
    arguments = st.just({})


class TestDocker(BackendContract):
    cls = TrainingDockerBackend
    source = "docker"
    arguments = st.fixed_dictionaries(
        {},
        optional={
            "network": st.none() | st.text(),
            "pull": st.sampled_from(["missing", "never", "always"]),
            "user": st.none() | st.text(),
            "read_only": st.booleans(),
            "engine_timeout": st.floats(1, 1e6),
            "startup_timeout": st.none() | st.floats(1, 1e6),
        },
    )


class TestBatch(BackendContract):
    cls = TrainingBatchBackend
    source = "batch"
    arguments = st.fixed_dictionaries(
        {"queue": st.text(min_size=1)},
        optional={
            "region": st.none() | st.text(),
            "job_role": st.none() | st.text(),
            "vcpu": st.floats(0.25, 96),
            "memory": st.sampled_from(["512Mi", "2Gi"]),
            "startup_timeout": st.none() | st.floats(1, 1e6),
        },
    )


class TestFake(BackendContract):
    cls = TrainingFakeBackend
    source = "tests.support.fake_platform.training:TrainingFakeBackend"
    arguments = st.fixed_dictionaries(
        {},
        optional={
            "startup_timeout": st.none() | st.floats(1, 1e6),
            "poll": st.floats(0.01, 10),
            "seen": st.none() | st.lists(st.text()),
        },
    )
