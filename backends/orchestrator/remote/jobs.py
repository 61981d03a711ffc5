"""Orchestrators whose platform runs the steps and keeps their order: one job per step, or one pipeline for all."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from backends.errors import ConfigError, ZenRunnerError
from backends.orchestrator.remote.backend import RemoteBackend, Sending
from backends.orchestrator.remote.job import Names
from backends.platform import WHOLE_RUN, JobStatus
from backends.states import ENDED, PENDING, SKIPPED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from backends.orchestrator.remote.job import Job
    from backends.platform import Document, Platform

SAVED_EVERY = 5.0
"""Seconds between two saves while jobs are started; what is not saved is found again by its name."""


class Started(NamedTuple):
    """A job that the platform has.

    Attributes:
        id: the platform's.
        size: of an array; 0 for a single container.
    """

    id: str
    size: int


class JobsBackend(RemoteBackend):
    """An orchestrator whose platform takes one job per step, and keeps their order.

    A backend writes ``render_job`` and ``platform``. The handle's state is ``{"round", "prefix", "jobs": {key: id, or [id, size]
    of an array}, "complete"}``.
    """

    runs_a_driver = False

    def render_jobs(self, jobs: list[Job], names: Names) -> list[Document]:
        """Return the documents of all jobs, each after those that it waits for or refers to.

        A job's own has its key under ``job``. What has none is handed to ``Platform.prepare``.

        Args:
            jobs: each after those that it waits for.
            names: of further jobs that the platform needs.
        """
        return [self.render_job(job) for job in jobs]

    def render_job(self, job: Job) -> Document:
        """Return what the platform is asked to start; ``job`` in it is the job's key."""
        raise TypeError(f"{type(self).__qualname__} must define render_job or render_jobs")

    def render(
        self, config: Mapping[str, Any], run_id: str = "RUN", done: Collection[str] = frozenset(), number: int = 1
    ) -> list[Document]:
        """Return one document per job, each after those that it waits for.

        Args:
            config: the resolved config, shipped or not.
            run_id: the run's id.
            done: steps that have a good result already; they are left out, and so is the waiting for them.
            number: the round.

        Raises:
            ConfigError: the platform can't run this.
        """
        return self.render_jobs(self.jobs(config, run_id, done, number), Names(self.rule, config["store"], run_id, number))

    def send(self, sending: Sending) -> None:
        platform, state = sending.platform, sending.state
        names = Names(self.rule, sending.config["store"], sending.run, state["round"])
        jobs = self.jobs(sending.config, sending.run, sending.done, state["round"])
        sizes = {job.key: job.size for job in jobs}
        started: dict[str, Any] = state.get("jobs", {})
        there = platform.find(names.prefix) if "jobs" in state else {}
        pending = []
        for document in self.render_jobs(jobs, names):
            if "job" not in document:
                platform.prepare(document)
            elif (key := document["job"]) not in started:
                if names.of(key) in there:
                    started[key] = _entry(there[names.of(key)], sizes.get(key, 1))
                else:
                    pending.append(document)
        state.update(prefix=names.prefix, jobs=started, complete=False)
        sending.save()  # from here on, whoever comes after this process looks for the jobs by their names
        saved = time.monotonic()
        for document in pending:
            sending.check()
            try:
                job = platform.start(document, {key: entry.id for key, entry in _started(state).items()})
            except ZenRunnerError:
                if not started and not platform.doubtful:  # nothing was started
                    for name in ("prefix", "jobs", "complete"):
                        del state[name]
                raise
            started[document["job"]] = _entry(job, sizes.get(document["job"], 1))
            if time.monotonic() - saved > SAVED_EVERY:
                sending.save()
                saved = time.monotonic()
        state["complete"] = True

    def statuses(self, platform: Platform, state: Mapping[str, Any]) -> dict[str, JobStatus]:
        jobs = _started(state)
        looked = platform.look([job.id for job in jobs.values()])
        statuses: dict[str, JobStatus] = {}
        for key, job in jobs.items():
            if (status := looked.get(job.id)) is None:
                continue
            if not job.size:
                statuses[key] = status
            for index in range(job.size):
                statuses[f"{key}.{index}"] = status.members.get(str(index), status)
        return statuses

    def end(self, platform: Platform, state: Mapping[str, Any]) -> None:
        if "jobs" not in state:
            return
        ids = dict.fromkeys(job.id for job in _started(state).values())
        if not state["complete"]:
            ids.update(dict.fromkeys(platform.find(state["prefix"]).values()))
        platform.end(list(ids))

    def platform_log(self, platform: Platform, state: Mapping[str, Any], step: str) -> Iterator[bytes]:
        jobs = _started(state)
        of, _, index = step.rpartition(".")
        if of in jobs:
            return platform.log(jobs[of].id, int(index))
        return platform.log(jobs[step].id) if step in jobs else iter(())


class PipelineBackend(RemoteBackend):
    """An orchestrator whose platform takes the pipeline as one document, and runs a task per step.

    A backend writes ``render_pipeline`` and ``platform``. The handle's state is ``{"round", "name", "note", "tasks": {task:
    step}, "run": id}``.
    """

    runs_a_driver = False

    @abstractmethod
    def render_pipeline(self, config: Mapping[str, Any], jobs: list[Job]) -> list[Document]:
        """Return the documents of the pipeline."""

    @abstractmethod
    def task_names(self, steps: Collection[str]) -> dict[str, str]:
        """Return what the platform calls each step's task."""

    def check_submission(self, config: Mapping[str, Any]) -> None:
        """See what ``render`` can let pass and a submission can't.

        Raises:
            ConfigError: the platform can't run this.
        """
        return

    def render(
        self, config: Mapping[str, Any], run_id: str = "RUN", done: Collection[str] = frozenset(), number: int = 1
    ) -> list[Document]:
        """Return the documents of the file that the platform takes.

        Args:
            config: the resolved config.
            run_id: the run's id; ``RUN`` lets every run of the pipeline have the id that the platform gives it.
            done: the steps that are left out.
            number: the round.
        """
        return self.render_pipeline(config, self.jobs(config, run_id, done, number))

    def send(self, sending: Sending) -> None:
        platform, state, config = sending.platform, sending.state, sending.config
        if "run" in state:
            return
        documents = self.render(config, sending.run, sending.done, state["round"])
        self.check_submission(config)
        if "name" not in state:
            platform.check()
            number = state["round"]
            state.update(
                name=sending.run if number == 1 else f"{sending.run} ({number})",
                # With it the run is known again: another store may have a run of the same id.
                note=f"zen-runner run {sending.run}, round {number}, of {config['name']} in {sending.store.url}",
                tasks={task: step for step, task in self.task_names(config["steps"]).items()},
            )
            sending.save()
        try:
            run = platform.find(state["name"]).get(state["note"])
            state["run"] = run or platform.start({"name": state["name"], "note": state["note"], "documents": documents}, {})
        except ConfigError:  # refused, so nothing was started
            for name in ("name", "note", "tasks"):
                del state[name]
            raise
        sending.save()

    def statuses(self, platform: Platform, state: Mapping[str, Any]) -> dict[str, JobStatus]:
        if "run" not in state:
            return {}
        whole = platform.look([state["run"]]).get(state["run"])
        if whole is None:
            return {}
        unnamed = JobStatus(SKIPPED if whole.state in ENDED else PENDING)
        return {WHOLE_RUN: whole, **{step: whole.members.get(task, unnamed) for task, step in state["tasks"].items()}}

    def end(self, platform: Platform, state: Mapping[str, Any]) -> None:
        if "name" not in state:
            return
        if run := state.get("run") or platform.find(state["name"]).get(state["note"]):
            platform.end([run])


def _entry(job: str, size: int) -> Any:
    """Return what the state keeps of a job: its id, and with it the size of an array."""
    return [job, size] if size > 1 else job


def _started(state: Mapping[str, Any]) -> dict[str, Started]:
    entries = state.get("jobs", {}).items()
    return {key: Started(entry, 0) if isinstance(entry, str) else Started(*entry) for key, entry in entries}
