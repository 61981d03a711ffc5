"""Render a pipeline as requests of the Batch API; pure and offline."""

from __future__ import annotations

from math import ceil

from backends import graph, names, outcome, wire
from backends.config import transport
from backends.errors import ConfigError, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.orchestrator.batch import OrchestratorBatchBackend

    Document = dict[str, Any]


MOST_PARENTS = 20
"""Jobs that one job can depend on. Source: AWS Batch API, SubmitJob ``dependsOn``."""
SHORTEST_TIMEOUT = 60
"""Seconds. Source: AWS Batch API, ``JobTimeout``."""
MOST_ATTEMPTS = 10
"""Source: AWS Batch API, ``RetryStrategy``."""
MOST_RULES = 5
"""Source: AWS Batch API, ``RetryStrategy``: ``evaluateOnExit``."""
MOST_TAGS = 50
"""Source: AWS Batch API, ``propagateTags``: those of the job and of its definition together."""
EPHEMERAL = (21, 200)
"""GiB on Fargate. Source: AWS Batch API, ``EphemeralStorage``."""
JOB_SIZE, DEFINITION_SIZE = 30 * 1024, 24 * 1024
"""Bytes. Source: AWS Batch, "Service quotas": maximum job payload size, maximum job definition size."""
BATCHS_OWN = 1024
"""Characters of a container's overrides that are left for the variables that Batch itself puts there: ids, queue, environment."""
AROUND = 600
"""Seconds that an attempt may take beside its step's timeout and grace period: inputs are fetched, outputs published."""
LOG_GROUP = "/aws/batch/job"
"""Where Batch's containers log. Source: AWS Batch, "Using CloudWatch Logs"."""
# MiB by vCPU. Source: AWS Batch API, ``ResourceRequirement``.
FARGATE: dict[float, tuple[int, ...]] = {
    0.25: (512, 1024, 2048),
    0.5: (1024, 2048, 3072, 4096),
    1: tuple(range(2048, 8193, 1024)),
    2: tuple(range(4096, 16385, 1024)),
    4: tuple(range(8192, 30721, 1024)),
    8: tuple(range(16384, 61441, 4096)),
    16: tuple(range(32768, 122881, 8192)),
    32: (61440, 122880, 249856),
}
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


class Renderer:
    """The requests for one config."""

    def __init__(self, backend: OrchestratorBatchBackend, config: Mapping[str, Any], run_id: str, done: frozenset[str]) -> None:
        self._backend = backend
        self._config = config
        self._run = run_id
        self._prefix = prefix_of(config["store"], run_id, 1)
        self._problems: list[Problem] = []
        self._definitions: dict[str, Document] = {}
        self._defined: dict[tuple[Any, ...], str] = {}
        self._jobs: dict[str, Document] = {}
        self._rule = names.Rule(names.BATCH.limit - len(self._prefix), names.LETTERS + names.DIGITS + "-_", _FIRST, _LAST)
        steps = config["steps"]
        arrays = {of: members for of, members in graph.groups(steps).items() if len(members) > 1}
        # Jobs by the step, or by the `foreach` step whose members are one array job, and their first step.
        self._of = {member: of for of, members in arrays.items() for member in members}
        self._sizes = {of: len(members) for of, members in arrays.items()}
        self._steps: dict[str, str] = {}
        for step in steps:
            if step not in done:  # an array job has all its members; those that are done end at once
                self._steps.setdefault(self._of.get(step, step), f"{self._of[step]}.0" if step in self._of else step)

    def documents(self) -> list[Document]:
        config, steps = self._config, self._config["steps"]
        secrets = self._secrets()
        parents = {job: self._parents(step) for job, step in self._steps.items()}
        empty = transport.Carried("", "inline", 0, "")
        # The config is the same for all, so what else counts is that of the job with the longest name.
        used = max((len(wire.dumps({"environment": self._contract(empty, job)})) for job in self._steps), default=0)
        carried = self._backend.carry(config, used=used + BATCHS_OWN) if self._steps else empty
        for job in graph.order(parents):
            step = self._steps[job]
            spec = steps[step]
            definition = self._define(job, spec["image"], self._resources(job, spec["resources"]), secrets)
            tags = {"zen-runner.run": self._run, "zen-runner.step": job, "zen-runner.pipeline": config["name"]}
            request: Document = {
                "jobName": self._name(job),
                "jobQueue": self._backend.queue,
                "jobDefinition": definition,
                "containerOverrides": {"environment": self._contract(carried, job)},
                "retryStrategy": self._retry(job, spec["retry"]),
                "propagateTags": True,
                "tags": {**self._backend.tags, **{name: _tag(value) for name, value in tags.items()}},
                **self._share(),
            }
            if job in self._sizes:
                request["arrayProperties"] = {"size": self._sizes[job]}
            if (timeout := self._timeout(spec)) is not None:
                request["timeout"] = {"attemptDurationSeconds": timeout}
            self._add(job, request, parents[job], spec["image"])
        if self._problems:
            raise ConfigError(self._problems)
        return [*self._definitions.values(), *self._jobs.values()]

    def _parents(self, step: str) -> list[str]:
        found = dict.fromkeys(self._of.get(parent, parent) for parent in self._config["steps"][step]["parents"])
        return [job for job in found if job in self._steps]

    def _add(self, job: str, request: Document, parents: list[str], image: str) -> None:
        while len(parents) > MOST_PARENTS:
            chunks = [parents[start : start + MOST_PARENTS] for start in range(0, len(parents), MOST_PARENTS)]
            parents = [chunk[0] if len(chunk) == 1 else self._fan_in(chunk, image) for chunk in chunks]
        if parents:
            request["dependsOn"] = [{"jobId": f"{{{parent}}}"} for parent in parents]
        # An id is 36 characters, whatever stands for it here.
        size = len(wire.dumps(request)) + 36 * len(parents)
        if size > JOB_SIZE:
            self._problem(f"steps.{job}", f"the job has {size:,} bytes, and Batch takes {JOB_SIZE:,}; shorten the `tags`")
        self._jobs[job] = {"api": "SubmitJob", "job": job, "request": request}

    def _fan_in(self, parents: list[str], image: str) -> str:
        """Return a job that does nothing but wait for others."""
        job = FAN_IN_KEY + wire.sha256(wire.dumps(parents).encode())[: names.DIGEST]
        if job not in self._jobs:
            small = {"VCPU": "0.25", "MEMORY": "512"} if self._backend.platform == "FARGATE" else {"VCPU": "1", "MEMORY": "256"}
            env = {transport.VARIABLE: wire.dumps(FAN_IN), "ZEN_RUNNER_STEP": "fan-in", "ZEN_RUNNER_RUN_ID": self._run}
            request = {
                "jobName": self._name(job),
                "jobQueue": self._backend.queue,
                "jobDefinition": self._define(job, image, small, []),
                "containerOverrides": {"environment": _variables(env)},
                "retryStrategy": self._retry(job, {"limit": 2, "on": outcome.RETRIED_BY_DEFAULT, "memory_factor": 1.0}),
                "timeout": {"attemptDurationSeconds": AROUND},
                "propagateTags": True,
                "tags": {**self._backend.tags, "zen-runner.run": self._run, "zen-runner.pipeline": _tag(self._config["name"])},
                **self._share(),
            }
            self._add(job, request, parents, image)
        return job

    def _name(self, job: str) -> str:
        return self._prefix + names.fit(self._rule, job)

    def _share(self) -> Document:
        found: Document = {}
        if self._backend.share_identifier is not None:
            found["shareIdentifier"] = self._backend.share_identifier
        if self._backend.priority is not None:
            found["schedulingPriorityOverride"] = self._backend.priority
        return found

    def _contract(self, carried: transport.Carried, job: str) -> list[dict[str, str]]:
        env = self._backend.environment(carried, self._config, self._steps[job], self._run)
        return _variables({**env, "ZEN_RUNNER_STEP": job})  # which member of an array job it is, the job's index says

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
        backend = self._backend
        container: Document = {
            "image": image,
            "resourceRequirements": [{"type": kind, "value": value} for kind, value in resources.items()],
        }
        optional: Document = {
            "jobRoleArn": backend.job_role,
            "executionRoleArn": backend.execution_role,
            "user": backend.user,
            "secrets": secrets,
            "environment": _variables({**({"AWS_REGION": backend.region} if backend.region else {}), **backend.variables}),
        }
        container.update({name: value for name, value in optional.items() if value})
        if backend.log_group:
            container["logConfiguration"] = {"logDriver": "awslogs", "options": {"awslogs-group": backend.log_group}}
        if backend.mounts():
            volumes = [(f"mount{number}", path) for number, path in enumerate(backend.mounts())]
            container["volumes"] = [{"name": name, "host": {"sourcePath": path}} for name, path in volumes]
            container["mountPoints"] = [
                {"sourceVolume": name, "containerPath": path, "readOnly": False} for name, path in volumes
            ]
        if backend.platform == "FARGATE":
            container["networkConfiguration"] = {"assignPublicIp": "ENABLED" if backend.assign_public_ip else "DISABLED"}
            if backend.ephemeral_storage is not None:
                container["ephemeralStorage"] = {"sizeInGiB": backend.ephemeral_storage}
        request: Document = {
            "type": "container",
            "platformCapabilities": [backend.platform],
            "containerProperties": container,
            "propagateTags": True,
            "tags": {**backend.tags, "zen-runner": "job-definition"},
        }
        text = wire.dumps(request)
        kept = "".join(char if char in names.BATCH.inner else "-" for char in image)[-_IMAGE_SHOWN:].lstrip("-_")
        name = f"zen-runner-{kept}-{wire.sha256(text.encode())[:_DEFINITION_DIGEST]}"
        if len(text) > DEFINITION_SIZE:
            counts = f"{len(text):,} bytes, and Batch takes {DEFINITION_SIZE:,}"
            self._problem(f"steps.{job}", f"the job definition has {counts}; use fewer `secrets`, `env` or `tags`")
        self._definitions[name] = {"api": "RegisterJobDefinition", "request": {"jobDefinitionName": name, **request}}
        return name

    def _secrets(self) -> list[dict[str, str]]:
        found = []
        for name, source in sorted(self._config["secrets"].items()):
            if "aws" in source:
                found.append({"name": name, "valueFrom": source["aws"]})
                continue
            kind = next(iter(source))
            fix = f"write {name}: {{aws: ARN}} with the ARN of a secret of Secrets Manager or a parameter of Systems Manager"
            self._problem(f"secrets.{name}", f"AWS Batch can't read a secret by `{kind}`; {fix}")
        if found and self._backend.execution_role is None:
            self._problem("backend.args.execution_role", "secrets are read by the execution role; write its ARN")
        return found

    def _resources(self, job: str, wanted: Mapping[str, Any]) -> dict[str, str]:
        backend = self._backend
        cpu = backend.vcpu if wanted["cpu"] is None else float(wanted["cpu"])
        mib = ceil((backend.memory if wanted["memory"] is None else wanted["memory"]) / 2**20)
        if backend.platform == "FARGATE":
            path = f"steps.{job}.resources"
            if wanted["gpu"]:
                self._problem(f"{path}.gpu", "there are no GPUs on Fargate; use a queue and `platform: EC2`")
            if mib not in FARGATE.get(cpu, ()):
                pairs = "; ".join(f"{vcpu:g} vCPU with {_shown(sizes)}" for vcpu, sizes in FARGATE.items())
                self._problem(path, f"Fargate has no {cpu:g} vCPU with {mib:,} MiB; it has {pairs}")
        else:
            cpu, mib = ceil(cpu), max(mib, 4)
        found = {"VCPU": f"{cpu:g}", "MEMORY": str(mib)}
        if wanted["gpu"]:
            found["GPU"] = str(wanted["gpu"])
        return found

    # -- how it ends ------------------------------------------------------------------------------------------------------

    def _timeout(self, spec: Mapping[str, Any]) -> int | None:
        """Return Batch's own limit for an attempt, in seconds: behind that of the supervisor in the container."""
        if spec["timeout"] is None:
            return self._backend.attempt_timeout
        return max(SHORTEST_TIMEOUT, ceil(float(spec["timeout"]) + float(spec["grace_period"])) + AROUND)

    def _retry(self, job: str, retry: Mapping[str, Any]) -> Document:
        attempts = retry["limit"] + 1
        if attempts > MOST_ATTEMPTS:
            most = MOST_ATTEMPTS - 1
            self._problem(f"steps.{job}.retry.limit", f"AWS Batch makes {MOST_ATTEMPTS} attempts at most; write {most} or less")
        if attempts == 1 or not retry["on"]:
            return {"attempts": 1}
        return {"attempts": attempts, "evaluateOnExit": evaluate_on_exit(retry, self._backend.platform)}


_FIRST = names.LETTERS + names.DIGITS
_LAST = _FIRST + "-_"


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


def prefix_of(store: str, run_id: str, number: int) -> str:
    """Return what the names of a run's jobs begin with: no other run of any store has it, and no other round of this one."""
    digest = wire.sha256(wire.dumps([store, run_id, number]).encode())[: names.DIGEST]
    return f"{names.fit(names.Rule(63, names.LETTERS + names.DIGITS + '-_', _FIRST, _LAST), run_id)}-{digest}-"


def _tag(value: str) -> str:
    """Return a tag's value: 256 characters at most, and only such as AWS takes."""
    return "".join(char if char.isalnum() or char in " +-=._:/@" else "-" for char in value)[:256]


def _shown(sizes: tuple[int, ...]) -> str:
    if len(sizes) < 5:
        return f"{', '.join(map(str, sizes))} MiB"
    return f"{sizes[0]} to {sizes[-1]} MiB in steps of {sizes[1] - sizes[0]}"


def _variables(env: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(env.items())]
