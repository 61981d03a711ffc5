"""A config fits into an environment variable as it is, packed, or not at all."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from backends.config import transport
from backends.errors import ConfigError
from backends.orchestrator.batch.limits import OVERRIDES
from backends.orchestrator.kubeflow.limits import TASK_LIMITS
from entrypoint.runtime import load

# Those of our backends, and others of each kind: with a file beside the variable, and with a total.
PLATFORMS = (
    OVERRIDES,
    TASK_LIMITS,
    transport.Limits("a pod", transport.ENV_LIMIT, mount=1_048_576, source="made up"),
    transport.Limits("user data", 16_384, source="made up"),
    transport.Limits("metadata", 262_144, total=524_288, source="made up"),
)


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
@pytest.mark.processes
def test_linux_takes_a_variable_of_exactly_the_limit() -> None:
    command = [sys.executable, "-S", "-c", "import os; print(len(os.environ['ZEN_RUNNER_CONFIG']))"]
    env = {**os.environ, "ZEN_RUNNER_CONFIG": "x" * transport.ENV_LIMIT}
    assert int(subprocess.run(command, env=env, check=True, capture_output=True).stdout) == transport.ENV_LIMIT
    with pytest.raises(OSError, match="too long"):
        subprocess.run(command, env={**env, "ZEN_RUNNER_CONFIG": "x" * (transport.ENV_LIMIT + 1)}, check=True)


ROOMY = transport.Limits("a test", 1_000)
JSON_TEXT = b'{"a": "%s"}' % (b"x" * 500)


def test_the_first_rung_that_fits_is_taken() -> None:
    mounting = transport.Limits("a test", 1_000, mount=5_000)
    assert transport.carry(JSON_TEXT, ROOMY, None).how == "inline"
    assert transport.carry(JSON_TEXT * 2, ROOMY, None).how == "gzip"
    assert transport.carry(_noise(5_000), mounting, "s3://b/c.json").how == "mount"
    assert transport.carry(_noise(5_001), mounting, "s3://b/c.json").how == "ref"
    assert transport.carry(_noise(5_001), ROOMY, "s3://b/c.json").how == "ref"


@pytest.mark.parametrize("limits", PLATFORMS)
def test_the_count_is_exact(limits: transport.Limits) -> None:
    data = _noise(limits.env_value)
    assert transport.carry(data, limits, "s3://b/c").how == "inline"
    assert transport.carry(data + b"x", limits, "s3://b/c").how != "inline"
    assert transport.carry(data[:-7], limits, "s3://b/c", used=7).how == "inline"
    assert transport.carry(data[:-6], limits, "s3://b/c", used=7).how != "inline"


def test_a_platform_that_counts_json_counts_the_backslashes() -> None:
    limits = transport.Limits("a test", 100, as_json=True)
    assert transport.carry(b'"' * 50, limits, "s3://b/c").size == 100
    assert transport.carry(b'"' * 51, limits, "s3://b/c").how == "gzip"
    assert limits.count('"\\é\n') == len(r"\"\\\u00e9\n")


def test_copies_share_the_total() -> None:
    limits = transport.Limits("a test", 1_000, total=10_000)
    assert transport.carry(_noise(1_000), limits, "s3://b/c", copies=10).how == "inline"
    assert transport.carry(_noise(1_000), limits, "s3://b/c", copies=11).how != "inline"


def test_what_was_carried_is_the_config_again(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for data, how in ((JSON_TEXT, "inline"), (JSON_TEXT * 9, "gzip"), (_noise(3_000), "ref")):
        file.write_bytes(data)
        carried = transport.carry(data, ROOMY, str(file))
        assert carried.how == how and carried.size == ROOMY.count(carried.value) <= 1_000
        assert load.find(None, carried.environment()).data == data
    carried = transport.carry(data, transport.Limits("a test", 100, mount=5_000), None)
    assert carried.environment("/etc/config.json") == {"ZEN_RUNNER_CONFIG_FILE": "/etc/config.json"}
    assert carried.value.encode() == data


def test_it_says_why() -> None:
    assert transport.carry(JSON_TEXT, ROOMY, None).why == "509 of 1,000 as it is"
    assert transport.carry(_noise(9_000), ROOMY, "s3://b/c").why.startswith("9,000 as it is and ")
    assert "a test has room for 1,000; by reference, 84" in transport.carry(_noise(9_000), ROOMY, "s3://b/c").why
    with pytest.raises(ConfigError, match=r"9,000 as it is and .* room for 1,000; use a store"):
        transport.carry(_noise(9_000), ROOMY, None)
    with pytest.raises(ConfigError, match="even the reference to it"):
        transport.carry(_noise(9_000), ROOMY, "s3://b/" + "c" * 1_000)
    with pytest.raises(ConfigError, match="room for 0"):
        transport.carry(b"x", ROOMY, "s3://b/c", used=2_000)


@pytest.mark.large
def test_a_config_of_five_megabytes_goes_everywhere() -> None:
    data = _noise(5_000_000)
    for limits in PLATFORMS:
        carried = transport.carry(data, limits, "s3://bucket/prefix/configs/x.json")
        assert carried.how == "ref" and carried.size < 200
        assert limits.source and limits.name in carried.why
