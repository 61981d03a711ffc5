"""Render a pipeline as requests of the Batch API; pure and offline."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Protocol

from backends import names, outcome, wire
from backends.config import transport
from backends.errors import ConfigError, Problem
from backends.orchestrator.batch.limits import (
    AROUND,
    DEFINITION_SIZE,
    FARGATE,
    JOB_SIZE,
    MOST_ATTEMPTS,
    MOST_PARENTS,
    MOST_RULES,
    NAME,
    SHORTEST_TIMEOUT,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backends.orchestrator.remote.job import Job, Names
    from backends.platform import Document

# What a fan-in job runs: nothing, in a store of its own inside the container, so that it needs no right to anything.
FAN_IN = {
    "version": 1,
    "name": "fan-in",
    "store": "/tmp/zen-runner-fan-in",
    "code": None,
    "steps": {"fan-in": {"run": ["true"]}},
}
FAN_IN_KEY = "FAN-IN-"  # a step's name has no capitals
_IMAGE_SHOWN, _DEFINITION_DIGEST = 80, 20  # characters of a definition's name


class Options(Protocol):
    """What the requests have of the backend's arguments."""

    queue: str
    region: str | None
    job_role: str | None
    execution_role: str | None
    capability: str
    vcpu: float
    memory: int
    ephemeral_storage: int | None
    assign_public_ip: bool
    user: str | None
    variables: dict[str, str]
    tags: dict[str, str]
    log_group: str | None
    share_identifier: str | None
    priority: int | None
    attempt_timeout: int | None

    def mounts(self) -> list[str]: ...


class Renderer:
    """The requests for one pipeline.

    Args:
        options: the backend's arguments.
        jobs: each after those that it waits for.
        names: of the fan-in jobs.
    """

    def __init__(self, options: Options, jobs: list[Job], names: Names) -> None:
        self._options = options
        self._pipeline = jobs
        self._names = names
        self._problems: list[Problem] = []
        self._definitions: dict[str, Document] = {}
        self._defined: dict[tuple[Any, ...], str] = {}
        self._jobs: dict[str, Document] = {}

    def documents(self) -> list[Document]:
        """Return the job definitions, then the jobs, each after those that it depends on."""
        secrets = self._secrets(self._pipeline[0].secrets) if self._pipeline else []
        for job in self._pipeline:
            request = self._request(job, self._resources(job), secrets, {"zen-runner.step": job.key})
            if job.size > 1:
                request["arrayProperties"] = {"size": job.size}
            if (timeout := self._timeout(job)) is not None:
                request["timeout"] = {"attemptDurationSeconds": timeout}
            self._add(job, request)
        if self._problems:
            raise ConfigError(self._problems)
        return [*self._definitions.values(), *self._jobs.values()]

    def _request(
        self, job: Job, resources: Mapping[str, str], secrets: list[dict[str, str]], tags: Mapping[str, str]
    ) -> Document:
        options = self._options
        tags = {"zen-runner.run": job.run, "zen-runner.pipeline": job.pipeline, **tags}
        request: Document = {
            "jobName": job.name,
            "jobQueue": options.queue,
            "jobDefinition": self._define(job.key, job.image, resources, secrets),
            "containerOverrides": {"environment": variables(job.env)},
            "retryStrategy": self._retry(job),
            "propagateTags": True,
            "tags": {**options.tags, **{name: _tag(value) for name, value in tags.items()}},
        }
        if options.share_identifier is not None:
            request["shareIdentifier"] = options.share_identifier
        if options.priority is not None:
            request["schedulingPriorityOverride"] = options.priority
        return request

    def _add(self, job: Job, request: Document) -> None:
        parents = list(job.after)
        while len(parents) > MOST_PARENTS:
            chunks = [parents[start : start + MOST_PARENTS] for start in range(0, len(parents), MOST_PARENTS)]
            parents = [chunk[0] if len(chunk) == 1 else self._fan_in(chunk, job) for chunk in chunks]
        if parents:
            request["dependsOn"] = [{"jobId": f"{{{parent}}}"} for parent in parents]
        # An id is 36 characters, whatever stands for it here.
        size = len(wire.dumps(request)) + 36 * len(parents)
        if size > JOB_SIZE:
            self._problem(f"steps.{job.key}", f"the job has {size:,} bytes, and Batch takes {JOB_SIZE:,}; shorten the `tags`")
        self._jobs[job.key] = {"api": "SubmitJob", "job": job.key, "request": request}

    def _fan_in(self, parents: list[str], child: Job) -> str:
        """Return the key of a job that does nothing but wait for others."""
        key = FAN_IN_KEY + wire.sha256(wire.dumps(parents).encode())[: names.DIGEST]
        if key not in self._jobs:
            is_fargate = self._options.capability == "FARGATE"
            small = {"VCPU": "0.25", "MEMORY": "512"} if is_fargate else {"VCPU": "1", "MEMORY": "256"}
            job = child._replace(
                key=key,
                name=self._names.of(key),
                env={transport.VARIABLE: wire.dumps(FAN_IN), "ZEN_RUNNER_STEP": "fan-in", "ZEN_RUNNER_RUN_ID": child.run},
                retry={"limit": 2, "on": outcome.RETRIED_BY_DEFAULT, "memory_factor": 1.0},
                after=tuple(parents),
                size=1,
            )
            request = self._request(job, small, [], {})
            request["timeout"] = {"attemptDurationSeconds": AROUND}
            self._add(job, request)
        return key

    def _problem(self, path: str, message: str) -> None:
        self._problems.append(Problem("", path, message))

    # -- the job definition -----------------------------------------------------------------------------------------------

    def _define(self, job: str, image: str, resources: Mapping[str, str], secrets: list[dict[str, str]]) -> str:
        """Return the name of a definition for these, which says all that is in it."""
        key = (image, *resources.items(), bool(secrets))
        if key not in self._defined:
            self._defined[key] = self._make_definition(job, image, resources, secrets)
        return self._defined[key]

    def _make_definition(self, job: str, image: str, resources: Mapping[str, str], secrets: list[dict[str, str]]) -> str:
        options = self._options
        container: Document = {
            "image": image,
            "resourceRequirements": [{"type": kind, "value": value} for kind, value in resources.items()],
        }
        optional: Document = {
            "jobRoleArn": options.job_role,
            "executionRoleArn": options.execution_role,
            "user": options.user,
            "secrets": secrets,
            "environment": variables({**({"AWS_REGION": options.region} if options.region else {}), **options.variables}),
        }
        container.update({name: value for name, value in optional.items() if value})
        if options.log_group:
            container["logConfiguration"] = {"logDriver": "awslogs", "options": {"awslogs-group": options.log_group}}
        if options.mounts():
            volumes = [(f"mount{number}", path) for number, path in enumerate(options.mounts())]
            container["volumes"] = [{"name": name, "host": {"sourcePath": path}} for name, path in volumes]
            container["mountPoints"] = [
                {"sourceVolume": name, "containerPath": path, "readOnly": False} for name, path in volumes
            ]
        if options.capability == "FARGATE":
            container["networkConfiguration"] = {"assignPublicIp": "ENABLED" if options.assign_public_ip else "DISABLED"}
            if options.ephemeral_storage is not None:
                container["ephemeralStorage"] = {"sizeInGiB": options.ephemeral_storage}
        request: Document = {
            "type": "container",
            "platformCapabilities": [options.capability],
            "containerProperties": container,
            "propagateTags": True,
            "tags": {**options.tags, "zen-runner": "job-definition"},
        }
        text = wire.dumps(request)
        kept = "".join(char if char in NAME.inner else "-" for char in image)[-_IMAGE_SHOWN:].lstrip("-_")
        name = f"zen-runner-{kept}-{wire.sha256(text.encode())[:_DEFINITION_DIGEST]}"
        if len(text) > DEFINITION_SIZE:
            counts = f"{len(text):,} bytes, and Batch takes {DEFINITION_SIZE:,}"
            self._problem(f"steps.{job}", f"the job definition has {counts}; use fewer `secrets`, `env` or `tags`")
        self._definitions[name] = {"api": "RegisterJobDefinition", "request": {"jobDefinitionName": name, **request}}
        return name

    def _secrets(self, references: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
        secrets = []
        for name, source in sorted(references.items()):
            if "aws" in source:
                secrets.append({"name": name, "valueFrom": source["aws"]})
                continue
            kind = next(iter(source))
            fix = f"write {name}: {{aws: ARN}} with the ARN of a secret of Secrets Manager or a parameter of Systems Manager"
            self._problem(f"secrets.{name}", f"AWS Batch can't read a secret by `{kind}`; {fix}")
        if secrets and self._options.execution_role is None:
            self._problem("backend.args.execution_role", "secrets are read by the execution role; write its ARN")
        return secrets

    def _resources(self, job: Job) -> dict[str, str]:
        options = self._options
        cpu = options.vcpu if job.cpu is None else float(job.cpu)
        mib = ceil((options.memory if job.memory is None else job.memory) / 2**20)
        if options.capability == "FARGATE":
            path = f"steps.{job.key}.resources"
            if job.gpu:
                self._problem(f"{path}.gpu", "there are no GPUs on Fargate; use a queue and `platform: EC2`")
            if mib not in FARGATE.get(cpu, ()):
                pairs = "; ".join(f"{vcpu:g} vCPU with {_shown(sizes)}" for vcpu, sizes in FARGATE.items())
                self._problem(path, f"Fargate has no {cpu:g} vCPU with {mib:,} MiB; it has {pairs}")
        else:
            cpu, mib = ceil(cpu), max(mib, 4)
        resources = {"VCPU": f"{cpu:g}", "MEMORY": str(mib)}
        if job.gpu:
            resources["GPU"] = str(job.gpu)
        return resources

    # -- how it ends ------------------------------------------------------------------------------------------------------

    def _timeout(self, job: Job) -> int | None:
        """Return Batch's own limit for an attempt, in seconds: behind that of the supervisor in the container."""
        if job.timeout is None:
            return self._options.attempt_timeout
        return max(SHORTEST_TIMEOUT, ceil(job.timeout) + AROUND)

    def _retry(self, job: Job) -> Document:
        attempts = job.retry["limit"] + 1
        if attempts > MOST_ATTEMPTS:
            most = MOST_ATTEMPTS - 1
            self._problem(
                f"steps.{job.key}.retry.limit", f"AWS Batch makes {MOST_ATTEMPTS} attempts at most; write {most} or less"
            )
        if attempts == 1 or not job.retry["on"]:
            return {"attempts": 1}
        return {"attempts": attempts, "evaluateOnExit": evaluate_on_exit(job.retry, self._options.capability)}


def evaluate_on_exit(retry: Mapping[str, Any], platform: str) -> list[dict[str, str]]:
    """Return a step's ``retry`` and the exit table as the rules of Batch, which takes five and retries what matches none.

    Args:
        retry: of the resolved step. Batch gives an attempt no more memory than the one before, so class ``oom`` is retried only
            where ``memory_factor`` is 1.
        platform: ``EC2`` or ``FARGATE``.

    Source: AWS Batch, "Automated job retries", and the API's ``EvaluateOnExit``.
    """
    on = {name for name in retry["on"] if name != outcome.OOM or retry["memory_factor"] == 1.0}
    rows = [row for row in outcome.TABLE if row.code and row.name != outcome.USER]
    asked = [row for row in rows if row.retry != "never" and row.name in on]
    if outcome.USER in on:
        # A step's own status can be any number, so here the rules say what is not retried: first what takes long to fail again.
        others = [row for row in rows if row not in asked]
        others.sort(key=lambda row: (row.retry == "never", row.name == outcome.USAGE or row.name == outcome.DUPLICATE))
        return [{"onExitCode": str(row.code), "action": "EXIT"} for row in others[:MOST_RULES]]
    lost = outcome.INFRA in on or outcome.TERMINATED in on
    rules = [{"onExitCode": str(row.code), "action": "RETRY"} for row in asked]
    if lost and platform == "EC2":
        rules.insert(0, {"onStatusReason": "Host EC2*", "action": "RETRY"})  # the instance was reclaimed or died
        if len(rules) >= MOST_RULES:  # what SIGTERM ends on EC2 is either that, or cancelled and then not retried anyway
            rules = [rule for rule in rules if rule.get("onExitCode") != str(outcome.code_of(outcome.TERMINATED))]
    if outcome.INFRA in on and len(rules) < MOST_RULES - 1:
        rules.append({"onStatusReason": "Task failed to start*", "action": "RETRY"})
    return [*rules, {"onReason": "*", "action": "EXIT"}]


def _tag(value: str) -> str:
    """Return a tag's value: 256 characters at most, and only such as AWS takes."""
    return "".join(char if char.isalnum() or char in " +-=._:/@" else "-" for char in value)[:256]


def _shown(sizes: tuple[int, ...]) -> str:
    if len(sizes) < 5:
        return f"{', '.join(map(str, sizes))} MiB"
    return f"{sizes[0]} to {sizes[-1]} MiB in steps of {sizes[1] - sizes[0]}"


def variables(env: Mapping[str, str]) -> list[dict[str, str]]:
    """Return environment variables as Batch takes them, sorted by name."""
    return [{"name": name, "value": value} for name, value in sorted(env.items())]
