"""Checks of the programs that steps need: Python, a JVM, the engines' packages, Docker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

from backends import __version__
from entrypoint.cli.doctor.finding import FAIL, LIMIT, NOT_APPLICABLE, OK, WARN, Finding, Place
from entrypoint.runtime.processing import framework_of


def check_runner(place: Place) -> Finding:
    """Name the runner's own version and Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("runner", OK, f"zen-runner {__version__} on Python {version} ({sys.executable})")


def check_python(place: Place) -> Finding:
    """Check whether the steps' Python runs and is new enough."""
    named = place.environ.get("ZEN_RUNNER_PYTHON", "")
    fix = "install Python 3.8 or later, or point ZEN_RUNNER_PYTHON at one"
    where = shutil.which(named or "python3", path=place.environ.get("PATH", os.defpath))
    if where is None:
        origin = f"ZEN_RUNNER_PYTHON names {named!r}, which is not an executable" if named else "no python3 on PATH"
        return Finding("python", FAIL, origin, fix)
    try:
        status, said = _ask([where, "-I", "-S", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"], place.environ)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("python", FAIL, f"{where} does not run: {error}", fix)
    try:
        version = tuple(int(part) for part in said.split("."))
    except ValueError:
        version = ()
    if status or not version:
        return Finding("python", FAIL, f"{where} does not run: exit status {status}, it said {said[-200:]!r}", fix)
    origin = "ZEN_RUNNER_PYTHON" if named else "python3 on PATH"
    if version < (3, 8):
        return Finding("python", FAIL, f"Python {said} ({where}, from {origin}) is too old for steps", fix)
    return Finding("python", OK, f"steps run under Python {said} ({where}, from {origin})")


def check_jvm(place: Place) -> Finding:
    """Check whether there is a JVM, which steps on Spark need."""
    home = place.environ.get("JAVA_HOME", "")
    java = f"{home}/bin/java" if home else shutil.which("java", path=place.environ.get("PATH", os.defpath))
    needed = place.needing(lambda step: framework_of(step) == "spark")
    fix = "install a JRE (17 or 21) and set JAVA_HOME, or use the spark image"
    if not java:
        if needed:
            return Finding("jvm", WARN, f"no java here, and {needed} needs one", fix)
        return Finding("jvm", NOT_APPLICABLE, "no java here, and no step needs one")
    try:
        status, said = _ask([java, "-version"], place.environ)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("jvm", WARN, f"{java} does not run: {error}", fix)
    first = next((line for line in said.splitlines() if "version" in line), said[:100])
    if status:
        return Finding("jvm", WARN, f"{java} ended with {status}: {first}", fix)
    return Finding("jvm", OK, f"{first} ({java})")


def check_packages(place: Place) -> Finding:
    """Check whether the steps' Python has the packages of the engines that they run on."""
    needed = {framework_of(step) for step in place.steps.values()} - {None}
    if not needed:
        return Finding("engines", NOT_APPLICABLE, "no step runs on Beam or Spark")
    present, missing = [], []
    python = shutil.which(place.environ.get("ZEN_RUNNER_PYTHON") or "python3", path=place.environ.get("PATH", os.defpath))
    for engine, package in (("beam", "apache-beam"), ("spark", "pyspark")):
        if engine not in needed:
            continue
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        try:
            status, said = _ask([python or "python3", "-c", code], place.environ)
        except (OSError, subprocess.SubprocessError):
            status, said = 1, ""
        if status:
            missing.append((engine, package))
        else:
            present.append(f"{package} {said}")
    if missing:
        who = place.needing(lambda step: framework_of(step) in [engine for engine, _ in missing])
        packages = " and ".join(package for _, package in missing)
        fix = f"use the image {' or '.join(f'zen-runner:{engine}' for engine, _ in missing)}, or pip install {packages}"
        return Finding("engines", WARN, f"the step's Python has no {packages}, which {who} needs", fix)
    return Finding("engines", OK, ", ".join(present))


def check_docker(place: Place) -> Finding:
    """Check whether a Docker Engine answers, which the backend ``docker`` needs."""
    block = (place.config or {}).get("backend") or {}
    needed = block.get("source") == "docker"
    state = FAIL if needed else NOT_APPLICABLE
    fix = "start Docker, or point DOCKER_HOST at an engine that this user may use" if needed else ""
    try:
        import docker
    except ImportError:
        fix = "pip install 'zen-runner[docker]'" if needed else ""
        return Finding("engine", state, "the docker package is not installed", fix)
    try:
        client = docker.DockerClient.from_env(timeout=int(LIMIT) - 1, environment=dict(place.environ))
        try:
            said = client.version()
        finally:
            client.close()
    except Exception as error:  # noqa: BLE001 - docker, requests and urllib3 each have their own
        reason = str(error).partition("\n")[0]
        return Finding("engine", state, f"no Docker Engine answers: {reason[:200]}", fix)
    return Finding("engine", OK, f"Docker Engine {said.get('Version')} ({said.get('Os')}/{said.get('Arch')})")


def _ask(argv: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Run a program and return its exit status and all that it printed."""
    done = subprocess.run(
        argv,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT - 1,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()
