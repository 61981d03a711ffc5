"""The checks, each against the real thing made wrong, and the bound on their time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backends.errors import ConfigError
from entrypoint.cli import doctor
from entrypoint.cli.doctor import FAIL, NOT_APPLICABLE, OK, WARN, Finding, Place
from entrypoint.cli.doctor.machine import CA_FILES
from tests.support.configs import resolved


def check(name: str, environ: dict[str, str] | None = None, **place: Any) -> Finding:
    """Run one check through the front door."""
    where = Place({**os.environ, **(environ or {})}, **place)
    [finding] = doctor.examine(where, checks={name: doctor.CHECKS[name]})
    return finding


def config(**step: Any) -> dict[str, Any]:
    """Return the resolved config of one step."""
    return resolved({"train": step})


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.processes
def test_everything_is_checked_and_nothing_breaks_here(tmp_path: Path) -> None:
    findings = doctor.examine(Place(os.environ, config(), store=str(tmp_path)))
    assert [finding.name for finding in findings] == list(doctor.CHECKS)
    assert {finding.state for finding in findings} <= {OK, WARN, FAIL, NOT_APPLICABLE}
    assert not [finding for finding in findings if "could not be checked" in finding.detail]
    assert all(finding.fix for finding in findings if finding.state in (WARN, FAIL))


@pytest.mark.processes
def test_python_of_the_user(tmp_path: Path) -> None:
    assert check("python", {"ZEN_RUNNER_PYTHON": sys.executable}).state == OK
    missing = check("python", {"ZEN_RUNNER_PYTHON": "/no/such/python"})
    assert (missing.state, "/no/such/python" in missing.detail, "ZEN_RUNNER_PYTHON" in missing.fix) == (FAIL, True, True)
    assert check("python", {"PATH": str(tmp_path), "ZEN_RUNNER_PYTHON": ""}).detail == "no python3 on PATH"
    old = check("python", {"ZEN_RUNNER_PYTHON": script(tmp_path / "old", "echo 3.7.17")})
    assert (old.state, "3.7.17" in old.detail) == (FAIL, True)
    for text in ("echo nonsense", "exit 3", "echo 3.x"):
        assert check("python", {"ZEN_RUNNER_PYTHON": script(tmp_path / "odd", text)}).state == FAIL


@pytest.mark.processes
def test_engines_of_the_steps(tmp_path: Path) -> None:
    assert check("engines", config=config()).state == NOT_APPLICABLE
    bare = script(tmp_path / "bare", "exit 1")
    found = check("engines", {"ZEN_RUNNER_PYTHON": bare}, config=config(beam="m:f"))
    assert (found.state, "apache-beam, which step 'train' needs" in found.detail) == (WARN, True)
    assert found.fix == "use the image zen-runner:beam, or pip install apache-beam"
    spark = config(backend={"type": "processing", "source": "spark", "args": {}})
    assert "pyspark" in check("engines", {"ZEN_RUNNER_PYTHON": bare}, config=spark).detail
    full = script(tmp_path / "full", "echo 2.77.0")
    assert check("engines", {"ZEN_RUNNER_PYTHON": full}, config=config(beam="m:f")).detail == "apache-beam 2.77.0"


def test_store_is_written_read_and_left_as_it_was(tmp_path: Path) -> None:
    assert check("store", store=str(tmp_path / "new")).state == OK
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine").write_text("kept")
    assert check("store", store=str(tmp_path / "old")).state == OK
    assert [entry.name for entry in (tmp_path / "old").iterdir()] == ["mine"]
    broken = check("store", store=str(tmp_path / "old" / "mine" / "below"))
    assert broken.state == FAIL
    assert broken.fix
    assert check("store").state == NOT_APPLICABLE


def test_user_without_a_home() -> None:
    assert check("user", {"HOME": "/no/such/home"}).state == WARN
    assert check("user", {"HOME": ""}).state == WARN
    assert f"uid {os.getuid()}" in check("user").detail


def test_ca_bundle(tmp_path: Path) -> None:
    names = dict.fromkeys(CA_FILES, "")
    assert check("ca", {**names, "SSL_CERT_FILE": str(tmp_path / "none.pem")}).state == FAIL
    (tmp_path / "bad.pem").write_text("this is no certificate")
    assert check("ca", {**names, "AWS_CA_BUNDLE": str(tmp_path / "bad.pem")}).state == FAIL
    assert check("ca", {**names, "REQUESTS_CA_BUNDLE": str(tmp_path)}).state == OK  # a directory of hashed names


def test_disk_tells_of_a_temporary_directory_that_is_not_there() -> None:
    finding = check("disk", {"TMPDIR": "/no/such/tmp"})
    assert finding.state == FAIL
    assert finding.fix


@pytest.mark.processes
def test_what_the_steps_need(tmp_path: Path) -> None:
    huge = config(resources={"memory": 1 << 60})
    assert "step 'train' asks for more memory" in check("cgroup", config=huge).detail
    without_java = {"JAVA_HOME": "", "PATH": str(tmp_path)}
    assert check("jvm", without_java).state == NOT_APPLICABLE
    assert check("jvm", without_java, config=config(spark="m:f")).state == WARN
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "java", "echo 'openjdk version \"21.0.1\"' >&2")
    java = check("jvm", {"JAVA_HOME": str(tmp_path)}, config=config(spark="m:f"))
    assert (java.state, "21.0.1" in java.detail) == (OK, True)
    assert check("jvm", {"JAVA_HOME": "/no/such/java"}).state == WARN


def test_gpu_that_a_step_asks_for() -> None:
    finding = check("gpu", config=config(resources={"gpu": 1}))
    if os.path.exists("/dev/nvidia0"):
        assert finding.state == OK
    else:
        assert (finding.state, "'train'" in finding.detail) == (WARN, True)
        assert check("gpu").state == NOT_APPLICABLE


def test_engine_is_only_missed_where_it_is_used() -> None:
    nowhere = {"DOCKER_HOST": "unix:///no/such/docker.sock"}
    assert check("engine", nowhere).state == NOT_APPLICABLE
    docker = resolved({"train": {}}, backend={"type": "orchestrator", "source": "docker"})
    missed = check("engine", nowhere, config=docker)
    assert (missed.state, bool(missed.fix)) == (FAIL, True)


@pytest.mark.engine
def test_engine_that_answers() -> None:
    assert check("engine").detail.startswith("Docker Engine ")


def test_config_that_is_wrong() -> None:
    finding = check("config", config_problem=ConfigError("one\ntwo"))
    assert (finding.state, finding.detail) == (FAIL, "one (and 1 more)")


def test_a_check_that_hangs_or_breaks_costs_nobody_else() -> None:
    def hangs(place: Place) -> Finding:
        time.sleep(60)
        raise AssertionError

    def breaks(place: Place) -> Finding:
        raise RuntimeError("oh no")

    def works(place: Place) -> Finding:
        return Finding("works", OK, "fine")

    late, broken, fine = doctor.examine(Place({}), limit=0.2, checks={"hangs": hangs, "breaks": breaks, "works": works})
    assert (late.state, "no answer within 0.2 s" in late.detail) == (FAIL, True)
    assert (broken.state, "RuntimeError: oh no" in broken.detail) == (WARN, True)
    assert fine.state == OK


def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-P", "-m", "entrypoint", "doctor", *args]
    return subprocess.run(argv, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.processes
def test_command_line(tmp_path: Path) -> None:
    good = run("--store", str(tmp_path), "--output", "json", ZEN_RUNNER_PYTHON=sys.executable)
    said = json.loads(good.stdout)
    assert [found["name"] for found in said["checks"]] == list(doctor.CHECKS)
    assert (good.returncode, said["ok"]) in ((0, True), (76, False))
    assert next(found for found in said["checks"] if found["name"] == "store")["state"] == OK
    bad = run("--config", str(tmp_path / "none.yaml"), ZEN_RUNNER_PYTHON="/no/such/python")
    assert bad.returncode == 76
    lines = bad.stdout.splitlines()
    assert any(line.startswith("fail  python ") for line in lines)
    assert any(line.startswith("fail  config ") for line in lines)
    assert "Traceback" not in bad.stdout + bad.stderr
