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
from typing import Any

from backends import graph, names, outcome
from backends.base import CANCELLED, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED
from backends.calls import Fault, call
from backends.config.transport import Limits
from backends.orchestrator.remote.backend import OrchestratorRemoteBackend
from backends.platform import WHOLE_RUN, JobStatus
from backends.store.base import Store
from tests import helpers

LIVES = 60.0  # seconds; a job that nobody ended ends itself


class ApiError(Exception):
    """What the platform answers instead of what was asked for."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the fake platform says {code}")
        self.code = code


class Platform:
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
            env=helpers.environment(PYTHONPATH=str(helpers.ROOT)),
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


class OrchestratorFakeBackend(OrchestratorRemoteBackend):
    """Runs every step as a job of the fake platform.

    Args:
        startup_timeout: see ``OrchestratorRemoteBackend``.
        deadline: the same.
        poll: seconds between two questions.
        seen: local directories that the jobs see.
    """

    limits = Limits("a fake job", 4_000, source="made up")
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
        self.poll_first = self.poll_most = poll
        self.seen = seen

    def mounts(self) -> list[str]:
        return ["/"] if self.seen is None else self.seen

    def render(self, config: Mapping[str, Any], run_id: str = "RUN", done: Collection[str] = frozenset()) -> list[dict[str, Any]]:
        carried = self.carry(config)
        steps = config["steps"]
        return [
            {
                "step": step,
                "name": names.fit(names.BATCH, run_id, step),
                "env": self.environment(carried, config, step, run_id),
                "parents": [names.fit(names.BATCH, run_id, parent) for parent in steps[step]["parents"] if parent not in done],
                "retry": {"limit": steps[step]["retry"]["limit"], "on": list(steps[step]["retry"]["on"])},
            }
            for step in graph.order({step: spec["parents"] for step, spec in steps.items()})
            if step not in done
        ]

    def _submit(
        self,
        config: Mapping[str, Any],
        documents: list[dict[str, Any]],
        run_id: str,
        store: Store,
        state: dict[str, Any],
        save: Callable[[], None],
    ) -> None:
        platform = Platform(Path(f"{store.root}-cluster"))
        suffix = "" if state["round"] == 1 else f"-r{state['round']}"
        for document in documents:
            step, name = document["step"], document["name"] + suffix
            if step in state.get("jobs", {}):
                continue
            parents = [parent + suffix for parent in document["parents"]]

            def submit(name: str = name, parents: list[str] = parents, document: dict[str, Any] = document) -> str:
                return platform.submit(name, document["env"], parents, document["retry"])

            job = call(submit, f"the fake platform: submit {name}", judge)
            state["root"] = str(platform.root)
            state.setdefault("jobs", {})[step] = job
            save()

    def _status(self, state: dict[str, Any]) -> dict[str, JobStatus]:
        if "root" not in state:
            return {}
        platform, jobs = Platform(Path(state["root"])), state["jobs"]
        found: dict[str, dict[str, Any]] = {}
        for at in range(0, len(jobs), 100):
            some = list(jobs.values())[at : at + 100]
            found |= call(lambda some=some: platform.describe(some), "the fake platform: describe", judge, tries=2)  # type: ignore[misc]
        whole = platform.root / "whole"
        said = {WHOLE_RUN: JobStatus(FAILED, whole.read_text())} if whole.exists() else {}
        return said | {
            step: JobStatus(
                found[job]["state"],
                found[job].get("reason", ""),
                exit_code=found[job].get("code"),
                attempt=found[job].get("attempt"),
            )
            for step, job in jobs.items()
            if not (platform.root / "jobs" / job / "forgotten").exists()
        }

    def _cancel(self, state: dict[str, Any]) -> None:
        for job in state.get("jobs", {}).values():
            platform = Platform(Path(state["root"]))
            call(lambda platform=platform, job=job: platform.end(job), "the fake platform: end", judge)  # type: ignore[misc]

    def _logs(self, state: dict[str, Any], step: str) -> Iterator[bytes]:
        yield (Path(state["root"]) / "jobs" / state["jobs"][step] / "log").read_bytes()


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
        env = helpers.environment(**spec["env"], TMPDIR=str(job), PYTHONPATH=str(helpers.ROOT))
        with open(job / "log", "ab") as log:
            container = job.parent.parent / "container"  # in place of the image's entrypoint
            argv = ["sh", str(container)] if container.exists() else helpers.argv()
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
