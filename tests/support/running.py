"""Drives the real entrypoint as a real process, the way a container's runtime does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# The step's Python is one that has nothing of ours: the interpreter that the test environment was made from.
USER_PYTHON = getattr(sys, "_base_executable", sys.executable)


@dataclass
class Ended:
    """How a run of the entrypoint ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def record(self) -> dict[str, Any]:
        """The last words: the last line on stderr."""
        last = self.stderr.rstrip(b"\n").rpartition(b"\n")[2]
        record: dict[str, Any] = json.loads(last)
        return record

    @property
    def errors(self) -> str:
        return self.stderr.decode("utf-8", "replace")


def environment(**extra: str) -> dict[str, str]:
    """Return a small environment in which steps find the user's Python."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/tmp"),
        "ZEN_RUNNER_PYTHON": USER_PYTHON,
        # An editable install of ours is on the path of the test environment's Python, not on USER_PYTHON's.
        "PYTHONDONTWRITEBYTECODE": "1",
        **extra,
    }


def argv(*arguments: str) -> list[str]:
    """Return the command line of the entrypoint; -P keeps the checkout's root off the path, as in an installation."""
    return [sys.executable, "-P", "-m", "entrypoint", *arguments]


def run(
    *arguments: str,
    cwd: Path,
    stdin: bytes = b"",
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    **variables: str,
) -> Ended:
    """Run the entrypoint to its end.

    Args:
        arguments: its command line.
        cwd: where.
        stdin: what it can read.
        timeout: seconds.
        env: added to a small environment.
        variables: the same, written as keywords.
    """
    environ = environment(**{**(env or {}), **variables})
    done = subprocess.run(argv(*arguments), cwd=cwd, input=stdin, capture_output=True, env=environ, timeout=timeout, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def start(*arguments: str, cwd: Path, **env: str) -> subprocess.Popen[bytes]:
    """Start the entrypoint in a session of its own and return its process."""
    return subprocess.Popen(
        argv(*arguments),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**env),
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], timeout: float = 60) -> Ended:
    """Wait for a process from ``start``."""
    out, err = process.communicate(timeout=timeout)
    return Ended(process.returncode, out, err)


def results(folder: Path, run_id: str, step: str) -> list[dict[str, Any]]:
    """Return the result records of a step's attempts, in order."""
    found = (folder / "store" / "runs" / run_id / step).glob("*/result.json")
    return [json.loads(path.read_text()) for path in sorted(found, key=lambda path: int(path.parent.name))]
