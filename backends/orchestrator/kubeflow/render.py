"""Render a pipeline as Kubeflow's own specification; pure and offline."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from backends import graph, names
from backends.config import placeholders
from backends.errors import ConfigError, Problem
from backends.orchestrator.kubeflow.limits import RESERVED, TASK
from backends.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from backends.orchestrator.remote.job import Job

COMMAND = ("/usr/bin/tini", "-s", "--", "/usr/bin/zen-runner")
"""The image's ENTRYPOINT, said again: Kubeflow starts a container with a launcher of its own, which refuses a component without a
command ("command and arguments are empty", kubeflow/pipelines, backend/src/v2/component/launcher_v2.go)."""
OWN_ID = "{{$.pipeline_job_uuid}}"
"""What Kubeflow replaces by its own id of the run (kubeflow/pipelines, backend/src/v2/driver/resolve.go)."""
RETRY_FOR = 30 * 86_400
"""Seconds after the start of the first attempt in which a failed one is retried. It is 0 where nothing is said, and then Argo
retries nothing at all (argo-workflows, workflow/controller/operator.go, processNodeRetries)."""
RUN, ATTEMPT = "zen_run_id", "zen_attempt"
"""Every task's own two inputs."""
_KINDS = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN", list: "LIST", dict: "STRUCT"}


class Parameter(NamedTuple):
    """An argument that can be set when a run is started."""

    default: Any
    kind: str
    steps: list[str]
    arg: str


class Options(Protocol):
    """What the pipeline has of the backend's arguments."""

    parameters: list[str]
    env: dict[str, str]
    image_pull_policy: str | None
    image_pull_secrets: list[str]
    gpu_type: str


class Renderer:
    """The pipeline as Kubeflow takes it.

    Args:
        options: the backend's arguments.
        config: the resolved config.
        jobs: each after those that it waits for.
    """

    def __init__(self, options: Options, config: Mapping[str, Any], jobs: list[Job]) -> None:
        self._options = options
        self._config = config
        self._jobs = jobs
        self._keys = task_keys(config["steps"])
        self._parameters = find_parameters(options.parameters, config["steps"])

    def documents(self) -> list[dict[str, Any]]:
        """Return the pipeline's spec and, if it needs one, the platform's."""
        components, executors, tasks = {}, {}, {}
        for job in self._jobs:
            key = self._keys[job.key]
            mine = {name: parameter for name, parameter in self._parameters.items() if job.key in parameter.steps}
            kinds = {RUN: "STRING", ATTEMPT: "STRING", **{name: parameter.kind for name, parameter in mine.items()}}
            components[f"comp-{key}"] = {
                "executorLabel": f"exec-{key}",
                "inputDefinitions": {"parameters": {name: {"parameterType": kind} for name, kind in kinds.items()}},
            }
            executors[f"exec-{key}"] = {"container": self._container(job, mine)}
            tasks[key] = self._task(job, mine)
        root: dict[str, Any] = {"dag": {"tasks": tasks}}
        if self._parameters:
            root["inputDefinitions"] = {
                "parameters": {
                    name: {"parameterType": parameter.kind, "defaultValue": parameter.default, "isOptional": True}
                    for name, parameter in self._parameters.items()
                }
            }
        spec = {
            "components": components,
            "deploymentSpec": {"executors": executors},
            "pipelineInfo": {"name": self._name(), "displayName": self._config["name"]},
            "root": root,
            "schemaVersion": "2.1.0",
            "sdkVersion": "zen-runner",
        }
        if not self._extras():
            return [spec]
        platform = {"deploymentSpec": {"executors": {executor: self._extras() for executor in executors}}}
        return [spec, {"platforms": {"kubernetes": platform}}]

    def _name(self) -> str:
        name = names.fit(TASK, self._config["name"])
        # kfp takes a pipeline that is named like one of its components for that component alone.
        return names.fit(TASK, "pipeline", name) if name in self._keys.values() else name

    def _container(self, job: Job, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        env = {**self._options.env, **job.env}
        del env["ZEN_RUNNER_RUN_ID"]
        if _retries(job):
            env["ZEN_RUNNER_RETRY"] = "any"
        # Kubeflow fills in what is in a command, but nothing in the environment; env(1) takes it across.
        given = {"ZEN_RUNNER_RUN_ID": RUN, "ZEN_RUNNER_ATTEMPT": ATTEMPT}
        given.update({f"ZEN_RUNNER_ARG_{parameter.arg}": name for name, parameter in parameters.items()})
        filled = [f"{variable}={{{{$.inputs.parameters['{name}']}}}}" for variable, name in given.items()]
        container: dict[str, Any] = {
            "image": job.image,
            "command": ["/usr/bin/env", *filled, *COMMAND],
            "env": [{"name": name, "value": value} for name, value in sorted(env.items())],
        }
        if resources := self._resources(job):
            container["resources"] = resources
        return container

    def _resources(self, job: Job) -> dict[str, Any]:
        # Each in two fields: older servers read the number, newer ones the text.
        resources: dict[str, Any] = {}
        if job.cpu:
            resources.update(cpuLimit=float(job.cpu), resourceCpuLimit=f"{job.cpu:g}")
        if job.memory:
            resources.update(memoryLimit=job.memory / 1e9, resourceMemoryLimit=str(job.memory))
        if job.gpu:
            count, kind = str(job.gpu), self._options.gpu_type
            resources["accelerator"] = {"count": count, "type": kind, "resourceCount": count, "resourceType": kind}
        return resources

    def _task(self, job: Job, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            # A rendered pipeline's every run has the id that Kubeflow gives it.
            RUN: {"runtimeValue": {"constant": OWN_ID if job.run == "RUN" else job.run}},
            ATTEMPT: {"runtimeValue": {"constant": OWN_ID}},
            **{name: {"componentInputParameter": name} for name in parameters},
        }
        task: dict[str, Any] = {
            "cachingOptions": {},  # off: our own key tells what may be used again
            "componentRef": {"name": f"comp-{self._keys[job.key]}"},
            "inputs": {"parameters": inputs},
            "taskInfo": {"name": job.key},
        }
        if job.after:
            task["dependentTasks"] = sorted(self._keys[parent] for parent in job.after)
        if _retries(job):
            task["retryPolicy"] = {
                "maxRetryCount": job.retry["limit"],
                "backoffDuration": f"{ceil(job.retry['backoff'])}s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": f"{RETRY_FOR}s",
            }
        return task

    def _extras(self) -> dict[str, Any]:
        """Return what Kubernetes is asked for beside the container, which is the same for every task."""
        extras: dict[str, Any] = {}
        if self._options.image_pull_policy:
            extras["imagePullPolicy"] = self._options.image_pull_policy
        if self._options.image_pull_secrets:
            extras["imagePullSecret"] = [_secret(name) for name in self._options.image_pull_secrets]
        secrets = []
        for variable, source in sorted(self._config["secrets"].items()):
            if "kubernetes" in source:
                name, key = source["kubernetes"].split("/")
                secrets.append({**_secret(name), "keyToEnv": [{"secretKey": key, "envVar": variable}], "optional": False})
        if secrets:
            extras["secretAsEnv"] = secrets
        return extras


def _secret(name: str) -> dict[str, Any]:
    # Twice as well: the first is what older servers read.
    return {"secretName": name, "secretNameParameter": {"runtimeValue": {"constant": name}}}


def _retries(job: Job) -> bool:
    return bool(job.retry["limit"] and job.retry["on"])


def task_keys(steps: Collection[str]) -> dict[str, str]:
    """Return the name that each step has among Kubeflow's tasks.

    Source: argo-workflows, ``workflow/validate/validate.go``, workflowFieldNameFmt.
    """
    taken = {step: step in RESERVED or step.endswith("-driver") for step in steps}
    return {step: names.fit(TASK, "step", step) if taken[step] else names.fit(TASK, step) for step in steps}


def find_parameters(marked: list[str], steps: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the pipeline's parameters by name.

    Args:
        marked: each ``STEP.ARG``.
        steps: the config's steps.

    Raises:
        ConfigError: one of them is no argument of a step, or none that can be set from outside.
    """
    parameters: dict[str, Parameter] = {}
    problems = []
    for number, mark in enumerate(marked):
        step, _, arg = mark.rpartition(".")
        members = graph.members(steps, step)
        name = f"{step}_{arg}".replace("-", "_").replace(".", "_")
        if problem := _why_not(steps, step, arg, members) or _why_not_named(name, parameters):
            problems.append(Problem("", f"args.parameters[{number}]", f"{mark}: {problem}"))
            continue
        default = steps[members[0]]["args"][arg]
        parameters[name] = Parameter(default, _KINDS[type(default)], members, arg)
    if problems:
        raise ConfigError(problems)
    return parameters


def _why_not(steps: Mapping[str, Any], step: str, arg: str, members: list[str]) -> str:
    """Return why an argument can't be set from outside, or an empty string."""
    if not members:
        return f"no step {step!r}{did_you_mean(step, graph.named(steps))}; write STEP.ARG"
    first = steps[members[0]]["args"]
    if arg not in first:
        return f"step {step!r} has no argument {arg!r}{did_you_mean(arg, first)}"
    if first[arg] is None:
        return "it is null, which has no type; give it a value"
    if any(steps[member]["args"].get(arg) != first[arg] for member in members):
        return f"it differs from item to item of step {step!r}"
    return "it has a placeholder, which only the run can fill in" if refers(first[arg]) else ""


def _why_not_named(name: str, parameters: Mapping[str, Parameter]) -> str:
    """Return why a parameter can't have a name, or an empty string."""
    if name in (RUN, ATTEMPT, *parameters):
        return f"it would be parameter {name!r}, as another is; rename one of the arguments"
    return ""


def refers(value: Any) -> bool:
    """Return whether a value has a placeholder in it."""
    if isinstance(value, str):
        return bool(placeholders.names(value))
    return isinstance(value, dict | list) and any(map(refers, value.values() if isinstance(value, dict) else value))
