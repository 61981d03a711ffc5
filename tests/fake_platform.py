"""A platform as small as one can be, and a backend for it: every job is a process of this machine, beside whoever submitted it.

It is asked through an API that can fail: ``faults.json`` in its directory holds a list of errors for calls to come, and
``$FAKE_KILL`` names the call at which the caller is killed, such as ``submit:2`` (before it) or ``submitted:2`` (after it). Jobs
wait for their parents, are tried again where their retry says so, and run the real entrypoint with the variables they were given.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import names, outcome
from backends.calls import Fault, call
from backends.config.transport import Limits
from backends.orchestrator.remote.job import Job
from backends.orchestrator.remote.jobs import JobsBackend
from backends.platform import WHOLE_RUN, JobStatus, Platform
from backends.states import CANCELLED, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED
from backends.store.base import Store
from tests.support import running

if TYPE_CHECKING:
    from backends.platform import Document

LIMITS = Limits("a fake job", 4_000, source="made up")
NAME = names.Rule(128, names.LETTERS + names.DIGITS + "-_", names.LETTERS + names.DIGITS, names.LETTERS + names.DIGITS + "-_")
LIVES = 60.0  # seconds; a job that nobody ended ends itself


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
        (root / "jobs").mkdir(parents=True, exist_ok=True)

    def calls(self, name: str) -> int:
        """Return how often a call was made."""
        return len(list((self.root / "calls").glob(f"{name}.*")))

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
                    if code[-1] != "!":  # with a ! it stays
                        faults.write_text(json.dumps(planned[:number] + planned[number + 1 :]))
                    raise ApiError(code.rstrip("!"))

    def submit(self, name: str, env: dict[str, str], parents: list[str], retry: dict[str, Any]) -> str:
        """Start a job, unless there is one of this name, and return its id."""
        self._answer("submit")
        job = self.root / "jobs" / name
        try:
            job.mkdir()
        except FileExistsError:
            return name
        (job / "spec.json").write_text(json.dumps({"env": env, "parents": parents, "retry": retry}))
        (job / "state.json").write_text(json.dumps({"state": PENDING}))
        subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.fake_platform", str(job)],
            cwd=self.root,
            env=running.environment(PYTHONPATH=str(running.ROOT)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._answer("submitted")
        return name

    def describe(self, jobs: list[str]) -> dict[str, dict[str, Any]]:
        """Return what is known of at most 100 jobs."""
        assert len(jobs) <= 100
        self._answer("describe")
        return {name: json.loads((self.root / "jobs" / name / "state.json").read_text()) for name in jobs}

    def end(self, name: str) -> None:
        """End a job; one that has ended stays as it is."""
        self._answer("end")
        (self.root / "jobs" / name / "end").touch()


def judge(error: Exception) -> Fault | None:
    if not isinstance(error, ApiError):
        return None
    if error.code == "throttled":
        return Fault(True, error.code, "ask less often")
    return Fault(False, error.code, "look at the queue", config=error.code == "no such queue")


class FakePlatform(Platform):
    """The fake platform, as a backend uses it.

    Args:
        root: its directory.
        pace: seconds between two looks.
    """

    def __init__(self, root: Path, pace: float) -> None:
        self.api = Api(root)
        self.pace = pace

    def start(self, document: Document, ids: Mapping[str, str]) -> str:
        name, parents = document["name"], [ids[parent] for parent in document["after"] if parent in ids]
        return call(
            lambda: self.api.submit(name, document["env"], parents, document["retry"]), f"the fake platform: submit {name}", judge
        )

    def find(self, prefix: str) -> dict[str, str]:
        return {path.name: path.name for path in (self.api.root / "jobs").glob(f"{prefix}*")}

    def look(self, ids: Collection[str]) -> dict[str, JobStatus]:
        listed = [job for job in ids if not (self.api.root / "jobs" / job / "forgotten").exists()]
        answers: dict[str, dict[str, Any]] = {}
        for at in range(0, len(listed), 100):
            some = listed[at : at + 100]
            answers |= call(lambda some=some: self.api.describe(some), "the fake platform: describe", judge, tries=2)  # type: ignore[misc]
        return {
            job: JobStatus(said["state"], said.get("reason", ""), exit_code=said.get("code"), attempt=said.get("attempt"))
            for job, said in answers.items()
        }

    def end(self, ids: Collection[str]) -> None:
        for job in ids:
            call(lambda job=job: self.api.end(job), "the fake platform: end", judge)  # type: ignore[misc]

    def log(self, job: str, member: int | None = None) -> Iterator[bytes]:
        yield (self.api.root / "jobs" / job / "log").read_bytes()


class OrchestratorFakeBackend(JobsBackend):
    """Runs every step as a job of the fake platform, which keeps their order.

    Args:
        startup_timeout: see ``RemoteBackend``.
        deadline: the same.
        poll: seconds between two questions.
        seen: local directories that the jobs see.
    """

    limits = LIMITS
    rule = NAME
    cancel_timeout = 20.0

    def __init__(
        self,
        startup_timeout: float | None = None,
        deadline: float | None = None,
        poll: float = 0.05,
        seen: list[str] | None = None,
    ) -> None:
        self.startup_timeout = startup_timeout
        self.deadline = deadline
        self.poll = self.poll_most = poll
        self.seen = seen

    def mounts(self) -> list[str]:
        return ["/"] if self.seen is None else self.seen

    def render_job(self, job: Job) -> Document:
        retry = {"limit": job.retry["limit"], "on": list(job.retry["on"])}
        return {"job": job.key, "name": job.name, "env": job.env, "after": list(job.after), "retry": retry}

    def platform(self, store: Store) -> FakePlatform:
        return FakePlatform(Path(f"{store.root}-cluster"), self.poll)

    def statuses(self, platform: Platform, state: Mapping[str, Any]) -> dict[str, JobStatus]:
        statuses = super().statuses(platform, state)
        assert isinstance(platform, FakePlatform)
        whole = platform.api.root / "whole"
        return {**statuses, WHOLE_RUN: JobStatus(FAILED, whole.read_text())} if whole.exists() else statuses


def work(job: Path) -> None:
    """Be one job: wait for its parents, then run the entrypoint until it ends for good."""
    spec = json.loads((job / "spec.json").read_text())
    until = time.monotonic() + LIVES

    def tell(state: str, **more: Any) -> None:
        (job / "new.json").write_text(json.dumps({"state": state, **more}))
        (job / "new.json").rename(job / "state.json")

    def state_of(name: str) -> str:
        try:
            found: str = json.loads((job.parent / name / "state.json").read_text())["state"]
        except FileNotFoundError:
            return PENDING
        return found

    def wait(is_over: Callable[[], bool]) -> bool:
        while not is_over():
            if (job / "end").exists() or time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def may_start() -> bool:
        stuck = job.parent.parent / "stuck"
        if stuck.exists():
            tell(PENDING, reason=stuck.read_text())
            return False
        return True

    def parents_ended() -> bool:
        return all(state_of(parent) in (SUCCEEDED, FAILED, CANCELLED, SKIPPED) for parent in spec["parents"])

    if not (wait(parents_ended) and wait(may_start)):
        tell(CANCELLED, reason="ended before it began")
        return
    if any(state_of(parent) != SUCCEEDED for parent in spec["parents"]):
        tell(SKIPPED, reason="a parent failed")
        return
    attempt = 0
    while True:
        attempt += 1
        tell(RUNNING, attempt=attempt)
        env = running.environment(**spec["env"], TMPDIR=str(job), PYTHONPATH=str(running.ROOT))
        with open(job / "log", "ab") as log:
            container = job.parent.parent / "container"  # in place of the image's entrypoint
            argv = ["sh", str(container)] if container.exists() else running.argv()
            process = subprocess.Popen(argv, cwd=job, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        ended = wait(lambda process=process: process.poll() is not None)  # type: ignore[misc]
        if not ended:
            process.terminate()
        code = process.wait()
        if not ended:
            tell(CANCELLED, reason="ended", code=code, attempt=attempt)
            return
        if attempt > spec["retry"]["limit"] or not outcome.is_retried(outcome.row_of(code).name, code, spec["retry"]["on"]):
            tell(SUCCEEDED if code == 0 else FAILED, code=code, attempt=attempt)
            return


if __name__ == "__main__":
    work(Path(sys.argv[1]))
