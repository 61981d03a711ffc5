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
from functools import partial
from math import ceil

from backends import graph, names, outcome, quantities, transport, wire
from backends.base import CANCELLED, FAILED, PENDING, RUNNING, SUCCEEDED
from backends.errors import ConfigError, Problem, ZenRunnerError
from backends.orchestrator.client import read_handle
from backends.orchestrator.remote import WHOLE, Fault, OrchestratorRemoteBackend, Seen, call, sdk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any, Literal

    from backends.store import Store

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
DESCRIBED = 100
"""Jobs in one call. Source: AWS Batch API, DescribeJobs ``jobs``, and ListJobs ``maxResults`` with a filter."""
BATCHS_OWN = 1024
"""Characters of a container's overrides that are left for the variables that Batch itself puts there: ids, queue, environment."""
AROUND = 600
"""Seconds that an attempt may take beside its step's timeout and grace period: inputs are fetched, outputs published."""
SAVED_EVERY = 5.0
"""Seconds between two saves while jobs are submitted; what is not saved is found again by its name."""
LOG_GROUP = "/aws/batch/job"
"""Where Batch's containers log. Source: AWS Batch, "Using CloudWatch Logs"."""
REASON = "cancelled by zen-runner"

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
_FAN_IN_KEY = "FAN-IN-"  # a step's name has no capitals
_IMAGE_SHOWN, _DEFINITION_DIGEST = 80, 20  # characters of a definition's name

_OVER = ("SUCCEEDED", "FAILED")
_STATES = {
    "SUBMITTED": PENDING,
    "PENDING": PENDING,
    "RUNNABLE": PENDING,
    "STARTING": PENDING,
    "RUNNING": RUNNING,
    "SUCCEEDED": SUCCEEDED,
    "FAILED": FAILED,
}
# Source: botocore's standard retry mode, and the codes that Batch documents.
_THROTTLED = frozenset(
    (
        *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException"),
        *("TooManyRequestsException", "RequestLimitExceeded", "LimitExceededException", "SlowDown", "PriorRequestNotComplete"),
    )
)
_UNKNOWN_CALLER = frozenset(
    (
        *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch"),
        *("ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "MissingAuthenticationToken", "AuthFailure"),
    )
)
_DENIED = frozenset(("AccessDeniedException", "AccessDenied", "UnauthorizedOperation", "OptInRequired"))
_NO_SUCH_IMAGE = ("manifest unknown", "not found", "does not exist", "denied", "unauthorized", "invalid reference")
_GIVE_CREDENTIALS = "give credentials in AWS_PROFILE, AWS_ACCESS_KEY_ID or as this machine's role"


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
        self._api: _Api | None = None
        self._ended: dict[str, Seen] = {}
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
            from backends.resolve import looks_secret

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
        return _Plan(self, config, run_id, frozenset(done)).documents()

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
        first, prefix = (_prefix(config["store"], run_id, number) for number in (1, state["round"]))
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

    def _status(self, state: dict[str, Any]) -> dict[str, Seen]:
        jobs: dict[str, Any] = state.get("jobs", {})
        self._calls = 0
        plain = {entry: job for job, entry in jobs.items() if isinstance(entry, str)}
        arrays = {entry[0]: (job, entry[1]) for job, entry in jobs.items() if not isinstance(entry, str)}
        found = self._look([*plain, *arrays])
        seen = {job: found[job_id] for job_id, job in plain.items() if job_id in found}
        members = {}
        for job_id, (of, size) in arrays.items():
            for index in range(size):
                if isinstance(parent := found.get(job_id), _Mixed):
                    members[f"{job_id}:{index}"] = f"{of}.{index}"
                if parent is not None:
                    seen[f"{of}.{index}"] = parent
        asked = self._look(members)
        seen.update((members[job_id], what) for job_id, what in asked.items())
        for job in [job for job in seen if job.startswith(_FAN_IN_KEY)]:
            fan_in = seen.pop(job)
            if fan_in.state == FAILED and fan_in.attempt is not None:
                seen[WHOLE] = Seen(RUNNING, f"the fan-in job {jobs[job]} failed: {fan_in.message}")
        # All callers of an account share Batch's rate, so a look at many jobs is a rare one: a call a second at most.
        self.poll_first = float(self._calls) if self._calls > 1 else min(self.poll_first, 1.0)
        return seen

    def _look(self, job_ids: Collection[str]) -> dict[str, Seen]:
        """Return what Batch says of jobs by id; those that had ended the last time are not asked for again."""
        found = {job_id: self._ended[job_id] for job_id in job_ids if job_id in self._ended}
        wanted = [job_id for job_id in job_ids if job_id not in found]
        self._calls += ceil(len(wanted) / DESCRIBED)
        for detail in self.api.describe(wanted):
            seen = found[detail["jobId"]] = _seen(detail)
            if detail["status"] in _OVER and not isinstance(seen, _Mixed):
                self._ended[detail["jobId"]] = seen
        return found

    def _cancel(self, state: dict[str, Any]) -> None:
        if "jobs" not in state:
            return
        ids = {entry if isinstance(entry, str) else entry[0] for entry in state["jobs"].values()}
        if not state["complete"]:
            ids.update(self.api.submitted(state["queue"], state["prefix"]).values())
        alive = [detail for detail in self.api.describe(sorted(ids)) if detail["status"] not in _OVER]
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
    def api(self) -> _Api:
        """The client; made when it is first needed.

        Raises:
            PlacementError: boto3 is not installed.
            ConfigError: no region is known.
        """
        if self._api is None:
            self._api = _Api(self.region)
        return self._api

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_api": None}


class _Plan:
    """The requests for one config."""

    def __init__(self, backend: OrchestratorBatchBackend, config: Mapping[str, Any], run_id: str, done: frozenset[str]) -> None:
        self._backend = backend
        self._config = config
        self._run = run_id
        self._prefix = _prefix(config["store"], run_id, 1)
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
        job = _FAN_IN_KEY + wire.sha256(wire.dumps(parents).encode())[: names.DIGEST]
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


class _Api:
    """Batch and CloudWatch Logs, asked with patience.

    Args:
        region: the region; None for the environment's.

    Raises:
        PlacementError: boto3 is not installed.
        ConfigError: no region is known, or it is none.
    """

    def __init__(self, region: str | None) -> None:
        boto3 = sdk("boto3", "aws")
        self._errors = sdk("botocore.exceptions", "aws")
        # `call` retries, since a SubmitJob must not be repeated blindly.
        options = sdk("botocore.config", "aws").Config(
            retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60, user_agent_extra="zen-runner"
        )
        self._session = boto3.session.Session(region_name=region)
        try:
            self._batch = self._session.client("batch", config=options)
        except self._errors.NoRegionError as error:
            raise ConfigError("backend.args.region: no region is known; write it here, or set AWS_REGION") from error
        except (self._errors.BotoCoreError, ValueError) as error:
            raise ConfigError(f"backend.args.region: no client for AWS Batch can be made: {error}") from error
        self._options = options
        self._region = self._batch.meta.region_name
        self.doubtful = False
        """Whether the last SubmitJob may have been carried out although it failed here."""

    def check_queue(self, queue: str) -> None:
        """See that the queue is there and takes jobs.

        Raises:
            ConfigError: it isn't, or doesn't.
            InfraError: Batch can't be asked.
        """
        what = f"DescribeJobQueues of queue {queue!r}"
        found = self._call(what, lambda: self._batch.describe_job_queues(jobQueues=[queue]), tries=3)["jobQueues"]
        where = f"backend.args.queue: queue {queue!r}"
        if not found:
            from backends.registry import did_you_mean

            others = self._call("DescribeJobQueues", self._batch.describe_job_queues)["jobQueues"]
            there = sorted(other["jobQueueName"] for other in others)
            hint = did_you_mean(queue, there)
            raise ConfigError(
                f"{where} does not exist in {self._region}{hint}; the queues there are {', '.join(there) or 'none'}"
            )
        [there] = found
        if there.get("state") != "ENABLED" or there.get("status", "VALID") not in ("VALID", "UPDATING", "CREATING"):
            reason = f": {there['statusReason']}" if there.get("statusReason") else ""
            raise ConfigError(f"{where} in {self._region} takes no jobs: {there.get('state')}, {there.get('status')}{reason}")

    def define(self, request: Document) -> str:
        """Return a definition with its revision; registered if there is none of its name, which says all that is in it."""
        name = request["jobDefinitionName"]
        found = self._call(
            f"DescribeJobDefinitions of {name}",
            lambda: self._batch.describe_job_definitions(jobDefinitionName=name, status="ACTIVE"),
        )["jobDefinitions"]
        if found:
            return f"{name}:{max(there['revision'] for there in found)}"
        made = self._call(f"RegisterJobDefinition of {name}", lambda: self._batch.register_job_definition(**request))
        return f"{name}:{made['revision']}"

    def submit(self, job: str, request: Document) -> str:
        """Submit one job and return its id; one that a lost answer spoke of is not submitted again."""
        self.doubtful = False

        def once() -> str:
            if self.doubtful:
                before = self._list(request["jobQueue"], request["jobName"])
                if before:
                    return str(before[-1]["jobId"])
            self.doubtful = True
            try:
                return str(self._batch.submit_job(**request)["jobId"])
            except self._errors.ClientError as error:
                self.doubtful = _status_code(error) >= 500
                raise
            except (self._errors.EndpointConnectionError, self._errors.NoCredentialsError):
                self.doubtful = False  # nothing was sent
                raise

        job_id: str = self._call(f"SubmitJob of {job!r} to queue {request['jobQueue']!r}", once)
        return job_id

    def submitted(self, queue: str, prefix: str) -> dict[str, str]:
        """Return the ids of the jobs by their names, for names that begin with ``prefix``; the oldest counts."""
        found = self._call(f"ListJobs of queue {queue!r}", lambda: self._list(queue, f"{prefix}*"))
        return {job["jobName"]: job["jobId"] for job in found if job["jobName"].startswith(prefix)}

    def _list(self, queue: str, name: str) -> list[Document]:
        """Return the jobs of a name, or of a prefix and ``*``, the newest first."""
        found: list[Document] = []
        request = {"jobQueue": queue, "filters": [{"name": "JOB_NAME", "values": [name]}], "maxResults": DESCRIBED}
        while True:
            page = self._batch.list_jobs(**request)
            found += [job for job in page["jobSummaryList"] if ":" not in job["jobId"]]  # no members of array jobs
            if not page.get("nextToken"):
                return sorted(found, key=lambda job: int(job["createdAt"]), reverse=True)
            request["nextToken"] = page["nextToken"]

    def describe(self, job_ids: list[str]) -> list[Document]:
        """Return what Batch knows of jobs, asked a hundred at a time; it forgets them some days after their end."""
        found: list[Document] = []
        for start in range(0, len(job_ids), DESCRIBED):
            some = job_ids[start : start + DESCRIBED]
            found += self._call("DescribeJobs", partial(self._batch.describe_jobs, jobs=some))["jobs"]
        return found

    def terminate(self, job_id: str) -> None:
        """End a job, whatever state it is in."""
        self._call(f"TerminateJob of {job_id}", lambda: self._batch.terminate_job(jobId=job_id, reason=REASON))

    def log(self, group: str, stream: str) -> Iterator[bytes]:
        """Yield the lines of a log stream from its beginning."""
        logs = self._session.client("logs", config=self._options)
        request: Document = {"logGroupName": group, "logStreamName": stream, "startFromHead": True}
        while True:
            page = self._call(f"GetLogEvents of {group} {stream}", lambda: _one_page(logs, request))
            for event in page["events"]:
                yield event["message"].encode() + b"\n"
            if page["nextForwardToken"] in (None, request.get("nextToken")):  # how the end is told
                return
            request["nextToken"] = page["nextForwardToken"]

    def _call(self, what: str, function: Callable[[], Any], tries: int = 8) -> Any:
        return call(function, f"AWS Batch in {self._region}: {what}", self._judge, tries=tries)

    def _judge(self, error: Exception) -> Fault | None:
        errors = self._errors
        if isinstance(error, errors.ClientError):
            said = error.response.get("Error", {})
            code, message = str(said.get("Code", "")), str(said.get("Message") or said.get("message") or "")
            why = ": ".join(part for part in (code, message) if part)
            status = _status_code(error)
            if code in _THROTTLED or status == 429:
                return Fault(True, why, "the account's request rate is used up; try again later")
            if status >= 500 or code in ("ServerException", "InternalFailure", "ServiceUnavailable"):
                return Fault(True, why, "it is the service's own trouble; submit again later")
            if code in _UNKNOWN_CALLER:
                return Fault(False, why, f"the credentials are wrong or have expired; {_GIVE_CREDENTIALS}")
            if code in _DENIED:
                return Fault(False, why, "the caller lacks the permission; docs/batch.md has the list")
            return Fault(False, why, config=True)
        if isinstance(error, errors.NoCredentialsError | errors.PartialCredentialsError | errors.CredentialRetrievalError):
            return Fault(False, str(error), _GIVE_CREDENTIALS)
        if isinstance(error, errors.ParamValidationError):
            return Fault(False, " ".join(str(error).split()), config=True)
        if isinstance(error, errors.HTTPClientError | errors.EndpointConnectionError):
            return Fault(True, str(error), "check the region, the network and the proxy")
        if isinstance(error, errors.BotoCoreError):
            return Fault(False, str(error), "check the client's AWS configuration")
        return None


def _status_code(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _prefix(store: str, run_id: str, number: int) -> str:
    """Return what the names of a run's jobs begin with: no other run of any store has it, and no other round of this one."""
    digest = wire.sha256(wire.dumps([store, run_id, number]).encode())[: names.DIGEST]
    return f"{names.fit(names.Rule(63, names.LETTERS + names.DIGITS + '-_', _FIRST, _LAST), run_id)}-{digest}-"


def _entry(job_id: str, request: Document) -> Any:
    """Return what the state keeps of a job: its id, and with it the size of an array job."""
    return [job_id, request["arrayProperties"]["size"]] if "arrayProperties" in request else job_id


def _tag(value: str) -> str:
    """Return a tag's value: 256 characters at most, and only such as AWS takes."""
    return "".join(char if char.isalnum() or char in " +-=._:/@" else "-" for char in value)[:256]


def _shown(sizes: tuple[int, ...]) -> str:
    if len(sizes) < 5:
        return f"{', '.join(map(str, sizes))} MiB"
    return f"{sizes[0]} to {sizes[-1]} MiB in steps of {sizes[1] - sizes[0]}"


def _variables(env: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(env.items())]


def _one_page(logs: Any, request: Document) -> Document:
    try:
        page: Document = logs.get_log_events(**request)
    except logs.exceptions.ResourceNotFoundException:  # nothing was logged
        return {"events": [], "nextForwardToken": None}
    return page


class _Mixed(Seen):
    """What Batch says of an array job whose members differ: what holds for those that it doesn't know, or not yet."""


def _seen(detail: Document) -> Seen:
    """Return what Batch says of one job."""
    state = _STATES.get(detail["status"], PENDING)
    container = detail.get("container") or {}
    attempts = [attempt.get("container") or {} for attempt in detail.get("attempts") or []]
    attempt = len(attempts) or None
    last = attempts[-1] if attempts else {}
    reasons = (detail.get("statusReason"), container.get("reason") or last.get("reason"))
    message = ": ".join(dict.fromkeys(filter(None, reasons)))
    array = detail.get("arrayProperties") or {}
    if array.get("size"):
        members = {_STATES.get(name, PENDING) for name, count in (array.get("statusSummary") or {}).items() if count}
        alike = members <= {PENDING} if state == PENDING else members <= {SUCCEEDED}
        return Seen(state, message) if alike and state != RUNNING else _Mixed(state, message)
    if state != FAILED:
        return Seen(state, message, attempt=attempt, exit_code=0 if state == SUCCEEDED else None)
    code = container.get("exitCode", last.get("exitCode"))
    if detail.get("isCancelled") or detail.get("isTerminated") or REASON in message:
        return Seen(CANCELLED, message, exit_code=code, attempt=attempt)
    kind = None
    if "OutOfMemory" in message:
        kind = outcome.OOM
    elif "attempt duration exceeded" in message:
        kind = outcome.TIMEOUT
    elif "Host EC2" in message:
        kind = outcome.INFRA
    elif "CannotPull" in message:
        kind = outcome.CONFIG if any(word in message.lower() for word in _NO_SUCH_IMAGE) else outcome.INFRA
    return Seen(FAILED, message, exit_code=code, kind=kind, attempt=attempt)
