"""The fake platform's API, which can fail: every job is a process of this machine, beside whoever submitted it.

``faults.json`` in its directory holds a list of errors for calls to come, and ``$FAKE_KILL`` names the call at which the caller
is killed, such as ``submit:2`` (before it) or ``submitted:2`` (after it).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends import wire
from backends.calls import Fault
from backends.states import ENDED, PENDING
from tests.support import running


class ApiError(Exception):
    """What the platform answers instead of what was asked for."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the fake platform says {code}")
        self.code = code


class Api:
    """The platform's API.

    Args:
        root: its directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs = root / "jobs"
        self.jobs.mkdir(parents=True, exist_ok=True)

    # -- what tests do to it ---------------------------------------------------------------------------------------------

    def calls(self, name: str) -> int:
        """Return how often a call was made."""
        return len(list((self.root / "calls").glob(f"{name}.*")))

    def fail(self, *faults: tuple[str, str]) -> None:
        """Make calls fail: each of a name, such as ``submit`` or ``submit:2``, and an error's code; with a ! it stays."""
        (self.root / "faults.json").write_text(json.dumps(faults))

    def forget(self, name: str) -> None:
        """Know nothing of a job any more."""
        (self.jobs / name / "forgotten").touch()

    def _answer(self, name: str) -> None:
        calls = self.root / "calls"
        calls.mkdir(exist_ok=True)
        (calls / f"{name}.{time.monotonic_ns()}.{os.getpid()}").touch()
        if os.environ.get("FAKE_KILL") == f"{name}:{self.calls(name)}":
            os.kill(os.getpid(), signal.SIGKILL)
        faults = self.root / "faults.json"
        with contextlib.suppress(FileNotFoundError):
            planned: list[list[str]] = json.loads(faults.read_text())
            for number, (where, code) in enumerate(planned):
                if where in (name, f"{name}:{self.calls(name)}"):
                    if code[-1] != "!":
                        faults.write_text(json.dumps(planned[:number] + planned[number + 1 :]))
                    raise ApiError(code.rstrip("!"))

    # -- what clients ask of it ------------------------------------------------------------------------------------------

    def submit(self, name: str, env: dict[str, str], parents: list[str], retry: dict[str, Any], **more: Any) -> str:
        """Start a job, unless there is one of this name, and return its id."""
        self._answer("submit")
        self._spawn(name, {"env": env, "parents": parents, "retry": retry, **more}, PENDING)
        self._answer("submitted")
        return name

    def create(self, name: str, note: str, tasks: list[dict[str, Any]]) -> str:
        """Start all jobs of a pipeline, unless there is one of this note, and return its id."""
        self._answer("create")
        pipeline = wire.sha256(note.encode())[:8]
        (self.root / "pipelines").mkdir(exist_ok=True)
        names = {task["task"]: f"{pipeline}-{task['task']}" for task in tasks}
        record = {"name": name, "note": note, "tasks": names}
        (self.root / "pipelines" / pipeline).write_text(json.dumps(record))
        for task in tasks:
            parents = [names[parent] for parent in task["after"]]
            self._spawn(names[task["task"]], {"env": task["env"], "parents": parents, "retry": task["retry"]}, PENDING)
        self._answer("created")
        return pipeline

    def pipelines(self) -> dict[str, dict[str, Any]]:
        """Return all pipelines by id: each has its name, its note, and its jobs by their tasks."""
        self._answer("pipelines")
        return {path.name: json.loads(path.read_text()) for path in (self.root / "pipelines").glob("*")}

    def run_container(self, name: str, env: dict[str, str], labels: dict[str, str]) -> str:
        """Start a container, unless there is one of this name, and return its id."""
        self._answer("run")
        self._spawn(name, {"env": env, "parents": [], "retry": {"limit": 0, "on": []}, "labels": labels}, "running")
        return name

    def _spawn(self, name: str, spec: dict[str, Any], state: str) -> None:
        job = self.jobs / name
        with contextlib.suppress(FileExistsError):
            job.mkdir()
            (job / "spec.json").write_text(json.dumps(spec))
            (job / "state.json").write_text(json.dumps({"state": state}))
            subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.support.fake_platform.job", str(job)],
                cwd=self.root,
                env=running.environment(PYTHONPATH=str(running.ROOT)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def find(self, prefix: str) -> list[str]:
        """Return the names of the jobs that begin with a prefix."""
        self._answer("find")
        return sorted(path.name for path in self.jobs.glob(f"{prefix}*"))

    def describe(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """Return what is known of at most 100 jobs; one that it does not know is left out."""
        assert len(names) <= 100
        self._answer("describe")
        states = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if not (self.jobs / name / "forgotten").exists():
                    states[name] = json.loads((self.jobs / name / "state.json").read_text())
        return states

    def labels(self) -> dict[str, dict[str, str]]:
        """Return the labels of all containers by id, the oldest first."""
        specs = {}
        for path in sorted(self.jobs.iterdir(), key=lambda path: path.stat().st_ctime):
            with contextlib.suppress(FileNotFoundError):
                specs[path.name] = json.loads((path / "spec.json").read_text())
        return {name: spec["labels"] for name, spec in specs.items() if "labels" in spec}

    def end(self, name: str) -> None:
        """End a job with its grace; one that has ended stays as it is."""
        self._answer("end")
        self._tell(name, "end")

    def kill(self, name: str) -> None:
        """Kill a job and all its processes at once."""
        self._answer("kill")
        self._tell(name, "kill")

    def _tell(self, name: str, word: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.jobs / name / word).touch()

    def remove(self, name: str) -> None:
        """Remove a job that has ended."""
        shutil.rmtree(self.jobs / name, ignore_errors=True)

    def log(self, name: str, follow: bool = False) -> Iterator[tuple[int, bytes]]:
        """Yield what a job printed, with the stream; when following, to its end."""
        at = {1: 0, 2: 0}
        while True:
            over = not follow or self.describe([name]).get(name, {"state": "gone"})["state"] in (*ENDED, "gone")
            for stream, begin in at.items():
                with contextlib.suppress(FileNotFoundError), open(self.jobs / name / f"log.{stream}", "rb") as file:
                    file.seek(begin)
                    if data := file.read():
                        yield stream, data
                        at[stream] += len(data)
            if over:
                return
            time.sleep(0.02)


def judge(error: Exception) -> Fault | None:
    """Return what an error of the API means."""
    if not isinstance(error, ApiError):
        return None
    if error.code == "throttled":
        return Fault(True, error.code, "ask less often")
    return Fault(False, error.code, "look at the queue", config=error.code == "no such queue")
