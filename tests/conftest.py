"""What every test may use: the engine rule, and a clean environment."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path

import hypothesis
import pytest

# The assertions of what tests share show values too.
pytest.register_assert_rewrite("tests.contract.suite", "tests.support")

from tests.support import fake_nvml  # noqa: E402
from tests.support.ci import CI  # noqa: E402

pytest_plugins = ["tests.support.beam_job_server", "tests.support.images"]

# What nohup, or a shell's `&`, had us ignore our children would ignore too; with a handler they begin with the default.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda number, frame: None)

# A loaded machine is no failure: times are the benchmarks' business.
hypothesis.settings.register_profile("zen-runner", deadline=None)
hypothesis.settings.load_profile("zen-runner")


@functools.cache
def engine_problem() -> str | None:
    """Return why no Docker Engine can be used here, or None if one answers."""
    try:
        import docker

        client = docker.from_env(timeout=10)
        client.ping()
        client.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
        return f"no Docker Engine answers: {error}"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip engine tests with the reason where no engine answers; with CI=true they run, and fail."""
    wanted = [item for item in items if item.get_closest_marker("engine")]
    if wanted and not CI and (why := engine_problem()):
        for item in wanted:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(autouse=True)
def _no_ambient_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caller's own contract variables out of the tests."""
    for name in list(os.environ):
        if name.startswith(("ZEN_", "AWS_BATCH_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake NVML library."""
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(nvml_library: Path, tmp_path: Path) -> fake_nvml.Machine:
    """A machine without GPUs, for the test to give it some."""
    made = fake_nvml.Machine(nvml_library, tmp_path / "machine")
    made.has()
    return made
