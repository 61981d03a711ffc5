"""Beam's own job server, as a process; a plugin that gives every suite its fixture."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.frameworks import python_with
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def job_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Beam's own job server, as host and port."""
    yield from start_job_server(tmp_path_factory.mktemp("beam"))


def start_job_server(folder: Path, **env: str) -> Generator[str]:
    """Start a job server; yield its host and port, and end it.

    Args:
        folder: for its files.
        env: added to the environment that it and its workers have.
    """
    port = folder / "port"
    argv = [python_with("apache_beam"), "-m", "apache_beam.runners.portability.local_job_service_main"]
    argv += ["-p", "0", "--port_file", str(port), "--staging_dir", str(folder / "staging")]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, **env}, start_new_session=True)
    try:
        wait_until(lambda: port.exists() or process.poll() is not None, subject=f"the port of {folder / 'log'}")
        assert process.poll() is None, (folder / "log").read_text()
        yield f"localhost:{port.read_text()}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        finally:
            process.kill()
