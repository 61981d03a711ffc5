"""A platform as small as one can be, and a backend of every shape for it: what a new backend has to write.

Jobs, machines and containers are processes of this machine that run the real entrypoint with the variables they were given.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import names, wire
from backends.calls import call
from backends.config.transport import Limits
from backends.errors import ZenRunnerError
from backends.orchestrator.driven.container_platform import ContainerPlatform, ContainerStatus, Labels
from backends.orchestrator.driven.containers import ContainersBackend
from backends.orchestrator.remote.backend import RemoteBackend
from backends.orchestrator.remote.job import Job
from backends.orchestrator.remote.jobs import JobsBackend, PipelineBackend
from backends.orchestrator.remote.machine import MachineBackend
from backends.platform import WHOLE_RUN, JobStatus, Platform
from backends.states import CANCELLED, ENDED, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED
from backends.store.base import Store
from tests.support.fake_platform.api import Api, judge

if TYPE_CHECKING:
    from backends.platform import Document

LIMITS = Limits("a fake job", 4_000, source="made up")
NAME = names.Rule(128, names.LETTERS + names.DIGITS + "-_", names.LETTERS + names.DIGITS, names.LETTERS + names.DIGITS + "-_")


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
        name, parents = document["name"], [ids[parent] for parent in document.get("after", ()) if parent in ids]
        more = {"machine": True} if document.get("machine") else {}
        retry = document.get("retry", {"limit": 0, "on": []})
        try:
            return call(
                lambda: self.api.submit(name, document["env"], parents, retry, **more),
                f"the fake platform: submit {name}",
                judge,
            )
        except ZenRunnerError as error:
            self.doubtful = "lost" in str(error)
            raise

    def find(self, prefix: str) -> dict[str, str]:
        return {name: name for name in call(lambda: self.api.find(prefix), "the fake platform: find", judge, tries=2)}

    def look(self, ids: Collection[str]) -> dict[str, JobStatus]:
        listed = list(ids)
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
        return (data for _, data in self.api.log(job))


class OnFakePlatform(RemoteBackend):
    """What the remote backends for the fake platform share."""

    limits = LIMITS
    rule = NAME
    cancel_timeout = 20.0
    poll: float

    def mounts(self) -> list[str]:
        return ["/"]

    def platform(self, store: Store) -> FakePlatform:
        return FakePlatform(Path(f"{store.root}-cluster"), self.poll)


class OrchestratorFakeBackend(OnFakePlatform, JobsBackend):
    """Runs every step as a job of the fake platform, which keeps their order.

    Args:
        startup_timeout: see ``RemoteBackend``.
        deadline: the same.
        poll: seconds between two questions.
        seen: local directories that the jobs see.
    """

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

    def statuses(self, platform: Platform, state: Mapping[str, Any]) -> dict[str, JobStatus]:
        statuses = super().statuses(platform, state)
        assert isinstance(platform, FakePlatform)
        whole = platform.api.root / "whole"
        return {**statuses, WHOLE_RUN: JobStatus(FAILED, whole.read_text())} if whole.exists() else statuses


class FakePipelinePlatform(FakePlatform):
    """The fake platform, as it runs whole pipelines."""

    def start(self, document: Document, ids: Mapping[str, str]) -> str:
        [pipeline] = document["documents"]
        tasks = pipeline["tasks"]
        return call(lambda: self.api.create(document["name"], document["note"], tasks), "the fake platform: create", judge)

    def find(self, prefix: str) -> dict[str, str]:
        there = call(self.api.pipelines, "the fake platform: pipelines", judge)
        return {record["note"]: pipeline for pipeline, record in there.items() if record["name"] == prefix}

    def look(self, ids: Collection[str]) -> dict[str, JobStatus]:
        there = call(self.api.pipelines, "the fake platform: pipelines", judge, tries=2)
        return {pipeline: self._status_of(there[pipeline]["tasks"]) for pipeline in ids if pipeline in there}

    def _status_of(self, tasks: Mapping[str, str]) -> JobStatus:
        looked = super().look(tasks.values())
        members = {task: looked[job] for task, job in tasks.items() if job in looked}
        states = {member.state for member in members.values()}
        if not states <= ENDED:
            return JobStatus(PENDING if states <= {PENDING, SKIPPED} else RUNNING, members=members)
        return JobStatus(SUCCEEDED if states <= {SUCCEEDED} else CANCELLED if CANCELLED in states else FAILED, members=members)

    def end(self, ids: Collection[str]) -> None:
        there = self.api.pipelines()
        super().end([job for pipeline in ids for job in there[pipeline]["tasks"].values()])


class OrchestratorFakePipelineBackend(OnFakePlatform, PipelineBackend):
    """Runs a pipeline as one document, whose tasks the fake platform runs.

    Args:
        poll: seconds between two questions.
    """

    def __init__(self, poll: float = 0.05) -> None:
        self.poll = self.poll_most = poll

    def task_names(self, steps: Collection[str]) -> dict[str, str]:
        return {step: f"task-{step}" for step in steps}

    def render_pipeline(self, config: Mapping[str, Any], jobs: list[Job]) -> list[Document]:
        tasks = self.task_names(config["steps"])
        return [
            {
                "tasks": [
                    {
                        "task": tasks[job.key],
                        "env": job.env,
                        "after": [tasks[parent] for parent in job.after],
                        "retry": {"limit": job.retry["limit"], "on": list(job.retry["on"])},
                    }
                    for job in jobs
                ]
            }
        ]

    def platform(self, store: Store) -> FakePipelinePlatform:
        return FakePipelinePlatform(Path(f"{store.root}-cluster"), self.poll)


class OrchestratorFakeMachineBackend(OnFakePlatform, MachineBackend):
    """Runs a pipeline on one machine of the fake platform.

    Args:
        startup_timeout: see ``RemoteBackend``.
        deadline: the same.
        poll: seconds between two questions.
    """

    def __init__(self, startup_timeout: float | None = None, deadline: float | None = None, poll: float = 0.05) -> None:
        self.startup_timeout = startup_timeout
        self.deadline = deadline
        self.poll = self.poll_most = poll

    def render_machine(self, job: Job) -> Document:
        return {"machine": True, "name": job.name, "env": job.env}


class FakeContainers(ContainerPlatform):
    """The fake platform, as a driver on the client uses it.

    Args:
        root: its directory.
    """

    timeout = 20.0

    def __init__(self, root: Path) -> None:
        self.api = Api(root)

    def start(self, document: Document, ids: Mapping[str, str]) -> str:
        name, env, labels = document["name"], document["env"], document["labels"]
        return call(lambda: self.api.run_container(name, env, labels), "the fake platform: run", judge)

    def find(self, prefix: str) -> dict[str, str]:
        return {name: name for name in self.api.find(prefix)}

    def containers(self) -> dict[str, Labels]:
        return {name: Labels(**labels) for name, labels in self.api.labels().items()}

    def status(self, container: str) -> ContainerStatus | None:
        said = call(lambda: self.api.describe([container]), "the fake platform: describe", judge, tries=2).get(container)
        return None if said is None else ContainerStatus(said["state"], said.get("reason", ""), exit_code=said.get("code"))

    def output(self, container: str) -> Iterator[tuple[int, bytes]]:
        return self.api.log(container, follow=True)

    def wait(self, container: str) -> ContainerStatus | None:
        while (status := self.status(container)) is not None and not status.has_ended():
            time.sleep(0.02)
        return status

    def stop(self, container: str, grace: int) -> None:
        self.api.end(container)
        until = time.monotonic() + grace
        while (status := self.status(container)) is not None and not status.has_ended():
            if time.monotonic() > until:
                self.api.kill(container)
            time.sleep(0.02)

    def end(self, ids: Collection[str]) -> None:
        for container in ids:
            self.api.kill(container)

    def remove(self, container: str) -> None:
        self.api.remove(container)


class FakeRenderer:
    """What the fake platform is asked for, for the steps of one config."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = wire.dumps(config)
        self.sha = wire.sha256(self._config.encode())

    def render(self, labels: Labels, memory: int | None, environ: Mapping[str, str] | None) -> Document:
        own = {"CONFIG": self._config, "STEP": labels.step, "RUN_ID": labels.run, "ATTEMPT": labels.attempt}
        env = {f"ZEN_RUNNER_{name}": value for name, value in own.items()}
        return {"name": labels.name, "env": env, "labels": labels._asdict()}


class OrchestratorFakeContainersBackend(ContainersBackend):
    """Runs every step in a container of the fake platform, ordered by a driver on the client's machine.

    Args:
        root: the platform's directory.
        max_parallel: see ``ClientDrivenBackend``.
        keep_going: the same.
    """

    def __init__(self, root: str, max_parallel: int | None = None, keep_going: bool = False) -> None:
        self.root = root
        self.max_parallel = max_parallel
        self.keep_going = keep_going

    def renderer(self, config: Mapping[str, Any]) -> FakeRenderer:
        return FakeRenderer(config)

    def platform(self) -> FakeContainers:
        return FakeContainers(Path(self.root))
