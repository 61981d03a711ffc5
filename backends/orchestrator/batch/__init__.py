"""The orchestrator that hands every step to AWS Batch as a job of its own, ordered by Batch's own dependencies.

What is rendered are requests of the Batch API: one job definition for each combination of image and resources, found again by
the digest in its name, and one ``SubmitJob`` a step; a ``foreach`` step is one array job. No job has a command: the image's own
ENTRYPOINT reads the config from the environment. A job's id is known only once it is submitted, so a dependency is rendered as
the name of the job in braces.

``SubmitJob`` has no idempotency token. So a job's name tells which run, round and step it belongs to, and before a call is made a
second time whose first had no clear answer, Batch is asked for a job of that name.
"""

from __future__ import annotations

from backends import wire
from backends.arguments import absolute, positive, public_variables, refuse, wrong
from backends.config import quantities
from backends.orchestrator.batch.limits import BATCHS_OWN, EPHEMERAL, MOST_TAGS, NAME, OVERRIDES, SHORTEST_TIMEOUT
from backends.orchestrator.batch.platform import BatchPlatform
from backends.orchestrator.batch.render import FAN_IN_KEY, Renderer, variables
from backends.orchestrator.remote.jobs import JobsBackend
from backends.platform import WHOLE_RUN, JobStatus
from backends.states import FAILED, RUNNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    from backends.errors import Problem
    from backends.orchestrator.remote.job import Job, Names
    from backends.platform import Document, Platform
    from backends.store.base import Store


class OrchestratorBatchBackend(JobsBackend):
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

    limits = OVERRIDES
    rule = NAME
    arrays = True

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
        self.capability: str = platform
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
            problems.append(wrong("vcpu", str(error)))
        try:
            self.memory = quantities.memory(memory)
        except ValueError as error:
            problems.append(wrong("memory", str(error)))
        refuse(problems)

    def _problems(self) -> list[Problem]:
        """Return what the arguments' types let through and Batch does not."""
        fargate = self.capability == "FARGATE"
        low, high = EPHEMERAL
        disk, attempt = self.ephemeral_storage, self.attempt_timeout
        checks = [
            ("queue", not self.queue, "is empty; write the job queue's name or ARN"),
            ("execution_role", fargate and not self.execution_role, "Fargate needs one; write its ARN"),
            ("ephemeral_storage", disk is not None and not fargate, "is for Fargate only; remove it"),
            (
                "ephemeral_storage",
                fargate and disk is not None and not low <= disk <= high,
                f"must be {low} to {high} GiB, not {disk}",
            ),
            ("assign_public_ip", self.assign_public_ip and not fargate, "is for Fargate only; remove it"),
            ("mounts", bool(self._mounts) and fargate, "is for EC2 only; remove it, and use a store in S3"),
            ("user", self.user is not None and fargate, "is for EC2 only; remove it, and write USER in the image"),
            ("priority", self.priority is not None and not 0 <= self.priority <= 9999, "must be 0 to 9999"),
            (
                "priority",
                self.priority is not None and self.share_identifier is None,
                "counts among jobs with the same `share_identifier`; write that as well",
            ),
            ("tags", len(self.tags) > MOST_TAGS - 3, f"Batch allows {MOST_TAGS}, of which three are the runner's own"),
            (
                "attempt_timeout",
                attempt is not None and attempt < SHORTEST_TIMEOUT,
                f"must be at least {SHORTEST_TIMEOUT} seconds, not {attempt}",
            ),
        ]
        return [
            *(wrong(name, message) for name, is_wrong, message in checks if is_wrong),
            *absolute(mounts=self._mounts),
            *positive(startup_timeout=self.startup_timeout, deadline=self.deadline),
            *public_variables(self.variables, reserved=("AWS_BATCH", "ZEN_RUNNER_")),
        ]

    def mounts(self) -> list[str]:
        return list(self._mounts)

    def count_variables(self, env: Mapping[str, str]) -> int:
        return len(wire.dumps({"environment": variables(env)})) + BATCHS_OWN

    def render_jobs(self, jobs: list[Job], names: Names) -> list[Document]:
        """Return the requests: the job definitions, then the jobs, each after those it depends on.

        A definition is ``{"api": "RegisterJobDefinition", "request"}``, a job ``{"api": "SubmitJob", "job", "request"}``, where
        ``job`` is the step, the ``foreach`` step of an array job, or the name of a fan-in job; ``dependsOn`` has it in
        braces.

        Raises:
            ConfigError: Batch can't run this.

        Source: AWS Batch API, RegisterJobDefinition and SubmitJob.
        """
        return Renderer(self, jobs, names).documents()

    def platform(self, store: Store) -> BatchPlatform:
        return BatchPlatform(self.region, self.queue, self.log_group)

    def statuses(self, platform: Platform, state: Mapping[str, Any]) -> dict[str, JobStatus]:
        statuses = super().statuses(platform, state)
        for job in [job for job in statuses if job.startswith(FAN_IN_KEY)]:
            fan_in = statuses.pop(job)
            if fan_in.state == FAILED and fan_in.attempt is not None:
                statuses[WHOLE_RUN] = JobStatus(RUNNING, f"the fan-in job {state['jobs'][job]} failed: {fan_in.message}")
        return statuses
