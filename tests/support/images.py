"""The images under test, each built once from this checkout; a plugin that gives every suite their fixtures."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import ROOT


@dataclass
class Ended:
    """How a container ended."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Layer:
    """One layer of an image: its tar archive, and that archive's members and files by path."""

    blob: bytes
    members: dict[str, tarfile.TarInfo]
    files: dict[str, bytes]


def step(*argv: str) -> dict[str, Any]:
    """Return the SDK's options for a container that runs one step."""
    document = {"version": 1, "store": "/tmp/store", "code": None, "steps": {"only": {"run": list(argv)}}}
    return {"environment": {"ZEN_RUNNER_CONFIG": json.dumps(document), "ZEN_RUNNER_STEP": "only"}}


def build(*arguments: str, cwd: Path = ROOT, **env: str) -> str:
    """Run a checkout's ``images/build``; a build that changes nothing takes a second.

    Args:
        arguments: its command line.
        cwd: root of the checkout.
        env: added to the environment.

    Returns:
        What it said.
    """
    # pytest-xdist's workers all come here, and the first makes the base where there is none.
    with (Path(tempfile.gettempdir()) / "zen-runner-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [cwd / "images/build", *arguments],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=900,
        )
    if done.returncode:
        pytest.fail(f"images/build failed with status {done.returncode}:\n{done.stdout}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="session")
def cpu_image() -> str:
    """The tag of the cpu image, up to date with this checkout."""
    build("cpu")
    return "zen-runner:cpu"


@pytest.fixture(scope="session")
def beam_image() -> str:
    """The tag of the beam image, up to date with this checkout."""
    build("beam")
    return "zen-runner:beam"


@pytest.fixture(scope="session")
def spark_image() -> str:
    """The tag of the spark image, up to date with this checkout."""
    build("spark")
    return "zen-runner:spark"


@pytest.fixture(scope="session")
def cuda_image() -> str:
    """The tag of the cuda image, up to date with this checkout."""
    build("cuda")
    return "zen-runner:cuda"
