"""The orchestrator that hands every step to AWS Batch as a job of its own, ordered by Batch's own dependencies.

What is rendered are requests of the Batch API: one job definition for each combination of image and resources, found again by
the digest in its name, and one ``SubmitJob`` a step; a ``foreach`` step is one array job. No job has a command: the image's own
ENTRYPOINT reads the config from the environment. A job's id is known only once it is submitted, so a dependency is rendered as
the name of the job in braces.

``SubmitJob`` has no idempotency token. So a job's name tells which run, round and step it belongs to, and before a call is made a
second time whose first had no clear answer, Batch is asked for a job of that name.
"""

from __future__ import annotations

import time
from math import ceil

from backends.base import FAILED, RUNNING
from backends.config import quantities, transport
from backends.errors import ConfigError, Problem, ZenRunnerError
from backends.orchestrator.batch.api import DESCRIBED, Client
from backends.orchestrator.batch.render import EPHEMERAL, FAN_IN_KEY, LOG_GROUP, MOST_TAGS, SHORTEST_TIMEOUT, Renderer, prefix
from backends.orchestrator.batch.states import OVER, Mixed, seen_of
from backends.orchestrator.remote.backend import OrchestratorRemoteBackend
from backends.platform import WHOLE_RUN, JobStatus
from backends.store.records import read_handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any, Literal

    from backends.store.base import Store

    Document = dict[str, Any]


SAVED_EVERY = 5.0
"""Seconds between two saves while jobs are submitted; what is not saved is found again by its name."""


class OrchestratorBatchBackend(OrchestratorRemoteBackend):
    """Runs every step as a job of AWS Batch.

    Args:
        queue: the job queue's name or ARN.
        region: the region; None for the one of the client's environment.
        job_role: ARN of the role that the steps act as; it reads and writes the store.
        execution_role: ARN of the role that starts the containers: it pulls images and reads secrets. Fargate needs one.
        platform: what the queue's compute environments are.
        vcpu: for steps whose ``resources`` say nothing of it.
        memory: the same, such as ``2Gi``.
        ephemeral_storage: the container's disk in GiB, 21 to 200; Fargate only. None for Fargate's own 20.
        assign_public_ip: Fargate in a public subnet needs one to reach registry and store.
        mounts: directories of the instances, such as a shared file system, that the containers see under the same path;
            EC2 only. A store may be on one.
        user: who the containers run as, ``uid`` or ``uid:gid``; None for the image's own. EC2 only.
        env: further variables of the containers, such as a proxy; nothing secret.
        tags: for job definitions, jobs and what they run on.
        log_group: the CloudWatch log group; None for ``/aws/batch/job``.
        share_identifier: for queues with a fair-share policy, which need one.
        priority: of the jobs among those with the same share identifier, 0 to 9999.
        attempt_timeout: the most seconds, at least 60, for an attempt of a step that has no ``timeout``; None for no limit.
        startup_timeout: seconds for which nothing may run while a step could; None for ever.
        deadline: seconds for the whole run; None for ever.
    """

    limits = transport.BATCH

    def __init__(
        self,
        queue: str,
        region: str | None = None,
        job_role: str | None = None,
        execution_role: str | None = None,
        platform: Literal["EC2", "FARGATE"] = "EC2",
        vcpu: float = 1.0,
        memory: str = "2Gi",
        ephemeral_storage: int | None = None,
        assign_public_ip: bool = False,
        mounts: list[str] | None = None,
        user: str | None = None,
        env: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        log_group: str | None = None,
        share_identifier: str | None = None,
        priority: int | None = None,
        attempt_timeout: int | None = None,
        startup_timeout: float | None = 3600.0,
        deadline: float | None = None,
    ) -> None:
        self.queue = queue
        self.region = region
        self.job_role = job_role
        self.execution_role = execution_role
        self.platform = platform
        self.ephemeral_storage = ephemeral_storage
        self.assign_public_ip = assign_public_ip
        self.user = user
        self.variables = env or {}
        self.tags = tags or {}
        self.log_group = log_group
        self.share_identifier = share_identifier
        self.priority = priority
        self.attempt_timeout = attempt_timeout
        self.startup_timeout = startup_timeout
        self.deadline = deadline
        self._mounts = mounts or []
        problems = self._problems()
        try:
            self.vcpu = quantities.cpu(vcpu)
        except ValueError as error:
            problems.append(Problem("", "args.vcpu", str(error)))
        try:
            self.memory = quantities.memory(memory)
        except ValueError as error:
            problems.append(Problem("", "args.memory", str(error)))
        if problems:
            raise ConfigError(problems)
        self._api: Client | None = None
        self._ended: dict[str, JobStatus] = {}
        self._calls = 0

    def _problems(self) -> list[Problem]:
        """Return what the arguments' types let through and Batch does not."""
        fargate = self.platform == "FARGATE"
        low, high = EPHEMERAL
        checks = [
            ("queue", not self.queue, "is empty; write the job queue's name or ARN"),
            ("execution_role", fargate and not self.execution_role, "Fargate needs one; write its ARN"),
            ("ephemeral_storage", self.ephemeral_storage is not None and not fargate, "is for Fargate only; remove it"),
            ("assign_public_ip", self.assign_public_ip and not fargate, "is for Fargate only; remove it"),
            ("mounts", bool(self._mounts) and fargate, "is for EC2 only; remove it, and use a store in S3"),
            ("user", self.user is not None and fargate, "is for EC2 only; remove it, and write USER in the image"),
            ("mounts", any(path[:1] != "/" for path in self._mounts), "must be absolute paths"),
            ("priority", self.priority is not None and not 0 <= self.priority <= 9999, "must be 0 to 9999"),
            (
                "priority",
                self.priority is not None and self.share_identifier is None,
                "counts among jobs with the same `share_identifier`; write that as well",
            ),
            ("tags", len(self.tags) > MOST_TAGS - 3, f"Batch allows {MOST_TAGS}, of which three are the runner's own"),
        ]
        if self.ephemeral_storage is not None and fargate:
            wrong = not low <= self.ephemeral_storage <= high
            checks.append(("ephemeral_storage", wrong, f"must be {low} to {high} GiB, not {self.ephemeral_storage}"))
        if self.attempt_timeout is not None:
            wrong = self.attempt_timeout < SHORTEST_TIMEOUT
            checks.append(("attempt_timeout", wrong, f"must be at least {SHORTEST_TIMEOUT} seconds, not {self.attempt_timeout}"))
        for name, value in (("startup_timeout", self.startup_timeout), ("deadline", self.deadline)):
            checks.append((name, value is not None and value <= 0, "must be more than 0 seconds"))
        found = [Problem("", f"args.{name}", message) for name, wrong, message in checks if wrong]
        if self.variables:
            from backends.config.naming import looks_secret

            for name in self.variables:
                if name.startswith(("AWS_BATCH", "ZEN_RUNNER_")):
                    found.append(Problem("", f"args.env.{name}", "is not yours to set; remove it"))
                elif looks_secret(name):
                    found.append(Problem("", f"args.env.{name}", "looks secret; write it under `secrets`"))
        return found

    def mounts(self) -> list[str]:
        return list(self._mounts)

    # -- render -----------------------------------------------------------------------------------------------------------

    def render(self, config: Mapping[str, Any], run_id: str = "RUN", done: Collection[str] = frozenset()) -> list[Document]:
        """Return the requests: the job definitions, then the jobs, each after those it depends on.

        A definition is ``{"api": "RegisterJobDefinition", "request"}``, a job ``{"api": "SubmitJob", "job", "request"}``, where
        ``job`` is the step, the ``foreach`` step of an array job, or the name of a fan-in job; ``dependsOn`` has it in
        braces.

        Raises:
            ConfigError: Batch can't run this.

        Source: AWS Batch API, RegisterJobDefinition and SubmitJob.
        """
        return Renderer(self, config, run_id, frozenset(done)).documents()

    # -- submit -----------------------------------------------------------------------------------------------------------

    def _hand_over(
        self, config: Mapping[str, Any], run_id: str, store: Store, stop_requested: Callable[[], bool]
    ) -> dict[str, Any]:
        if read_handle(store, run_id) is None:  # before anything is put into the store
            self.api.check_queue(self.queue)
        return super()._hand_over(config, run_id, store, stop_requested)

    def _submit(
        self,
        config: Mapping[str, Any],
        documents: list[Document],
        run_id: str,
        store: Store,
        state: dict[str, Any],
        save: Callable[[], None],
    ) -> None:
        api = self.api
        first, prefix = (prefix(config["store"], run_id, number) for number in (1, state["round"]))
        jobs = [document for document in documents if document["api"] == "SubmitJob"]
        ids = api.submitted(self.queue, prefix) if "jobs" in state else {}
        known = state.get("jobs", {})
        pending = []
        for document in jobs:
            request = {**document["request"], "jobName": prefix + document["request"]["jobName"].removeprefix(first)}
            found = ids.get(request["jobName"])
            if found and document["job"] not in known:
                known[document["job"]] = _entry(found, request)
            if document["job"] not in known:
                pending.append((document["job"], request))
        wanted = {request["jobDefinition"] for _, request in pending}
        definitions = {
            document["request"]["jobDefinitionName"]: api.define(document["request"])
            for document in documents
            if document["api"] == "RegisterJobDefinition" and document["request"]["jobDefinitionName"] in wanted
        }
        state.update(queue=self.queue, prefix=prefix, jobs=known, complete=False)
        save()  # from here on, whoever comes after this process looks for the jobs by their names
        saved = time.monotonic()
        for job, request in pending:
            request["jobDefinition"] = definitions[request["jobDefinition"]]
            if "dependsOn" in request:
                depends = [known[edge["jobId"][1:-1]] for edge in request["dependsOn"]]
                request["dependsOn"] = [{"jobId": entry if isinstance(entry, str) else entry[0]} for entry in depends]
            try:
                known[job] = _entry(api.submit(job, request), request)
            except ZenRunnerError:
                if not known and not api.doubtful:  # nothing was started
                    for key in ("queue", "prefix", "jobs", "complete"):
                        del state[key]
                raise
            if time.monotonic() - saved > SAVED_EVERY:
                save()
                saved = time.monotonic()
        state["complete"] = True

    # -- and after --------------------------------------------------------------------------------------------------------

    def _status(self, state: dict[str, Any]) -> dict[str, JobStatus]:
        jobs: dict[str, Any] = state.get("jobs", {})
        self._calls = 0
        plain = {entry: job for job, entry in jobs.items() if isinstance(entry, str)}
        arrays = {entry[0]: (job, entry[1]) for job, entry in jobs.items() if not isinstance(entry, str)}
        found = self._look([*plain, *arrays])
        seen = {job: found[job_id] for job_id, job in plain.items() if job_id in found}
        members = {}
        for job_id, (of, size) in arrays.items():
            for index in range(size):
                if isinstance(parent := found.get(job_id), Mixed):
                    members[f"{job_id}:{index}"] = f"{of}.{index}"
                if parent is not None:
                    seen[f"{of}.{index}"] = parent
        asked = self._look(members)
        seen.update((members[job_id], what) for job_id, what in asked.items())
        for job in [job for job in seen if job.startswith(FAN_IN_KEY)]:
            fan_in = seen.pop(job)
            if fan_in.state == FAILED and fan_in.attempt is not None:
                seen[WHOLE_RUN] = JobStatus(RUNNING, f"the fan-in job {jobs[job]} failed: {fan_in.message}")
        # All callers of an account share Batch's rate, so a look at many jobs is a rare one: a call a second at most.
        self.poll_first = float(self._calls) if self._calls > 1 else min(self.poll_first, 1.0)
        return seen

    def _look(self, job_ids: Collection[str]) -> dict[str, JobStatus]:
        """Return what Batch says of jobs by id; those that had ended the last time are not asked for again."""
        found = {job_id: self._ended[job_id] for job_id in job_ids if job_id in self._ended}
        wanted = [job_id for job_id in job_ids if job_id not in found]
        self._calls += ceil(len(wanted) / DESCRIBED)
        for detail in self.api.describe(wanted):
            seen = found[detail["jobId"]] = seen_of(detail)
            if detail["status"] in OVER and not isinstance(seen, Mixed):
                self._ended[detail["jobId"]] = seen
        return found

    def _cancel(self, state: dict[str, Any]) -> None:
        if "jobs" not in state:
            return
        ids = {entry if isinstance(entry, str) else entry[0] for entry in state["jobs"].values()}
        if not state["complete"]:
            ids.update(self.api.submitted(state["queue"], state["prefix"]).values())
        alive = [detail for detail in self.api.describe(sorted(ids)) if detail["status"] not in OVER]
        # The last first: what waits for another must not begin because that one has ended.
        for detail in sorted(alive, key=lambda detail: int(detail.get("createdAt", 0)), reverse=True):
            self.api.terminate(detail["jobId"])

    def _logs(self, state: dict[str, Any], step: str) -> Iterator[bytes]:
        jobs = state.get("jobs", {})
        of, _, index = step.rpartition(".")
        job_id = f"{jobs[of][0]}:{index}" if of in jobs else jobs.get(step)
        for detail in self.api.describe([job_id] if job_id else []):
            attempts = [attempt.get("container") or {} for attempt in detail.get("attempts") or []]
            streams = [container.get("logStreamName") for container in [detail.get("container") or {}, *reversed(attempts)]]
            if stream := next(filter(None, streams), None):
                yield from self.api.log(self.log_group or LOG_GROUP, stream)

    @property
    def api(self) -> Client:
        """The client; made when it is first needed.

        Raises:
            PlacementError: boto3 is not installed.
            ConfigError: no region is known.
        """
        if self._api is None:
            self._api = Client(self.region)
        return self._api

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_api": None}


def _entry(job_id: str, request: Document) -> Any:
    """Return what the state keeps of a job: its id, and with it the size of an array job."""
    return [job_id, request["arrayProperties"]["size"]] if "arrayProperties" in request else job_id
