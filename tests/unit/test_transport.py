"""A config fits into an environment variable as it is, packed, or not at all."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from backends import transport
from backends.errors import ConfigError
from entrypoint import load


def _noise(size: int) -> bytes:
    return random.Random(1).randbytes(size).hex().encode()[:size]  # noqa: S311 - test data that doesn't pack well


def test_what_fits_goes_as_it_is() -> None:
    data = _noise(transport.ENV_LIMIT)
    assert transport.encode(data) == (data.decode(), "inline")


def test_what_does_not_fit_is_packed_the_same_way_each_time() -> None:
    data = b'{"version": 1}' + b" " * transport.ENV_LIMIT
    value, how = transport.encode(data)
    assert how == "gzip"
    assert value.startswith("gz:H4sI")
    assert transport.encode(data) == (value, how)
    assert load.find(None, {"ZEN_RUNNER_CONFIG": value}).data == data


def test_a_config_that_looks_packed_is_packed() -> None:
    value, how = transport.encode(b"gz:")
    assert how == "gzip"
    assert load.find(None, {"ZEN_RUNNER_CONFIG": value}).data == b"gz:"


def test_the_limit_counts() -> None:
    assert transport.encode(b"x" * 100, limit=100)[1] == "inline"
    assert transport.encode(b"x" * 101, limit=100)[1] == "gzip"
    with pytest.raises(ConfigError, match="ref:URL#sha256=HEX") as caught:
        transport.encode(_noise(300_000))
    assert "300000 bytes" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_linux_takes_a_variable_of_exactly_the_limit() -> None:
    command = [sys.executable, "-S", "-c", "import os; print(len(os.environ['ZEN_RUNNER_CONFIG']))"]
    env = {**os.environ, "ZEN_RUNNER_CONFIG": "x" * transport.ENV_LIMIT}
    assert int(subprocess.run(command, env=env, check=True, capture_output=True).stdout) == transport.ENV_LIMIT
    with pytest.raises(OSError, match="too long"):
        subprocess.run(command, env={**env, "ZEN_RUNNER_CONFIG": "x" * (transport.ENV_LIMIT + 1)}, check=True)
