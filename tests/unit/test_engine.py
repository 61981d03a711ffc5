"""The docker package's errors as ours."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import Any

import docker
import pytest
import requests
import urllib3

from backends.errors import ConfigError, InfraError, PlacementError, ZenRunnerError
from backends.orchestrator.docker.engine import engine
from tests.support import running


def refusal(status: int, why: str) -> docker.errors.APIError:
    answer = requests.Response()
    answer.status_code = status
    return docker.errors.APIError("", response=answer, explanation=why)


def lost(number: int) -> requests.ConnectionError:
    cause = {errno.ENOENT: FileNotFoundError, errno.EACCES: PermissionError, errno.ECONNREFUSED: ConnectionRefusedError}[number]
    return requests.ConnectionError(urllib3.exceptions.ProtocolError("aborted", cause(number, "Reason")))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (refusal(400, 'exec: "x": executable file not found'), ConfigError, "ENTRYPOINT"),
        (refusal(400, "bind source path does not exist: /x"), ConfigError, "the machine where the engine runs"),
        (refusal(404, "network x not found"), ConfigError, "network x"),
        (refusal(400, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"), PlacementError, "2 CPUs"),
        (refusal(500, 'could not select device driver "" with capabilities: [[gpu]]'), PlacementError, "gpu"),
        (refusal(409, "removal in progress"), InfraError, "removal"),
        (refusal(500, "no space left on device"), InfraError, "no space"),
        (lost(errno.ENOENT), InfraError, "Reason; start the engine, or point DOCKER_HOST"),
        (lost(errno.ECONNREFUSED), InfraError, "Reason; start the engine"),
        (lost(errno.EACCES), InfraError, "Reason; join the group"),
        (docker.errors.DockerException("odd"), InfraError, "odd; see whether `docker version` answers"),
        (requests.ReadTimeout("Read timed out."), InfraError, "Read timed out"),
    ],
)
def test_errors(error: Exception, kind: type[ZenRunnerError], words: str) -> None:
    with pytest.raises(kind) as found, engine("start it"):
        raise error
    assert type(found.value) is kind and str(found.value).startswith("start it: ") and words in str(found.value)
    assert found.value.__cause__ is error


def test_a_fault_of_ours_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), engine("start it"):
        raise ZeroDivisionError
    with pytest.raises(requests.ReadTimeout), engine("start it", requests.RequestException):
        raise requests.ReadTimeout


@pytest.mark.processes
def test_a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['docker'] = None; from backends.orchestrator.docker.engine import connect; connect(1, 1)"
    done: Any = subprocess.run([sys.executable, "-c", code], cwd=running.ROOT, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "PlacementError" in last and "pip install 'zen-runner[docker]'" in last
