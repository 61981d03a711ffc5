"""Render a pipeline as Kubeflow's own specification; pure and offline."""

from __future__ import annotations

from math import ceil

from backends import graph, names, wire
from backends.config import placeholders
from backends.errors import ConfigError, Problem
from backends.text import did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from backends.orchestrator.kubeflow import OrchestratorKubeFlowBackend


COMMAND = ("/usr/bin/tini", "-s", "--", "/usr/bin/zen-runner")
"""The image's ENTRYPOINT, said again: Kubeflow starts a container with a launcher of its own, which refuses a component without a
command ("command and arguments are empty", kubeflow/pipelines, backend/src/v2/component/launcher_v2.go)."""
OWN_ID = "{{$.pipeline_job_uuid}}"
"""What Kubeflow replaces by its own id of the run (kubeflow/pipelines, backend/src/v2/driver/resolve.go)."""
RETRY_FOR = 30 * 86_400
"""Seconds after the start of the first attempt in which a failed one is retried. It is 0 where nothing is said, and then Argo
retries nothing at all (argo-workflows, workflow/controller/operator.go, processNodeRetries)."""
# "executor", "root" and "NAME-driver" are Argo's names of what Kubeflow adds; a task of that name could not be told from them.
TASK = names.Rule(63, names.LOWER + names.DIGITS + "-", names.LOWER + names.DIGITS, names.LOWER + names.DIGITS)
_RESERVED = ("executor", "root", "entrypoint")
RUN, ATTEMPT = "zen_run_id", "zen_attempt"
"""Every task's own two inputs."""
_KINDS = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN", list: "LIST", dict: "STRUCT"}


class _Parameter:
    """An argument that can be set when a run is started."""

    def __init__(self, default: Any, steps: list[str], arg: str) -> None:
        self.default = default
        self.kind = _KINDS[type(default)]
        self.steps = steps
        self.arg = arg


class Renderer:
    """The pipeline as Kubeflow takes it.

    Args:
        backend: the options.
        config: the resolved config.
        run: the run's id, or ``OWN_ID``.
        done: the steps that are left out.
    """

    def __init__(self, backend: OrchestratorKubeFlowBackend, config: Mapping[str, Any], run: str, done: Collection[str]) -> None:
        self._backend = backend
        self._config = config
        self._run = run
        self._keys = task_keys(config["steps"])
        self._parameters = find_parameters(backend.parameters, config["steps"])
        order = graph.order({step: spec["parents"] for step, spec in config["steps"].items()})
        self._steps = dict.fromkeys(step for step in order if step not in done)
        # Kubernetes reads $(…) and $$ in a variable, Argo {{…}} in all of a workflow; in JSON these are inside strings.
        text = wire.dumps(config)
        plain = text.replace("$", r"\u0024").replace("{{", r"\u007b\u007b")
        used = backend.limits.count(plain) - backend.limits.count(text)
        self._carried = backend.carry(config, used=used, copies=len(self._steps))
        if self._carried.how == "inline":
            self._carried.value = plain

    def documents(self) -> list[dict[str, Any]]:
        """Return the pipeline's spec and, if it needs one, the platform's."""
        components, executors, tasks = {}, {}, {}
        for step in self._steps:
            key = self._keys[step]
            mine = {name: parameter for name, parameter in self._parameters.items() if step in parameter.steps}
            kinds = {RUN: "STRING", ATTEMPT: "STRING", **{name: parameter.kind for name, parameter in mine.items()}}
            components[f"comp-{key}"] = {
                "executorLabel": f"exec-{key}",
                "inputDefinitions": {"parameters": {name: {"parameterType": kind} for name, kind in kinds.items()}},
            }
            executors[f"exec-{key}"] = {"container": self._container(step, mine)}
            tasks[key] = self._task(step, mine)
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

    def _container(self, step: str, parameters: Mapping[str, _Parameter]) -> dict[str, Any]:
        spec = self._config["steps"][step]
        env = {**self._backend.env, **self._backend.environment(self._carried, self._config, step, self._run)}
        del env["ZEN_RUNNER_RUN_ID"]
        if _retries(spec):
            env["ZEN_RUNNER_RETRY"] = "any"
        # Kubeflow fills in what is in a command, but nothing in the environment; env(1) takes it across.
        given = {"ZEN_RUNNER_RUN_ID": RUN, "ZEN_RUNNER_ATTEMPT": ATTEMPT}
        given.update({f"ZEN_RUNNER_ARG_{parameter.arg}": name for name, parameter in parameters.items()})
        filled = [f"{variable}={{{{$.inputs.parameters['{name}']}}}}" for variable, name in given.items()]
        container: dict[str, Any] = {
            "image": spec["image"],
            "command": ["/usr/bin/env", *filled, *COMMAND],
            "env": [{"name": name, "value": value} for name, value in sorted(env.items())],
        }
        if resources := self._resources(spec["resources"]):
            container["resources"] = resources
        return container

    def _resources(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        # Each in two fields: older servers read the number, newer ones the text.
        resources: dict[str, Any] = {}
        if wanted["cpu"]:
            resources.update(cpuLimit=float(wanted["cpu"]), resourceCpuLimit=f"{wanted['cpu']:g}")
        if wanted["memory"]:
            resources.update(memoryLimit=wanted["memory"] / 1e9, resourceMemoryLimit=str(wanted["memory"]))
        if wanted["gpu"]:
            count, kind = str(wanted["gpu"]), self._backend.gpu_type
            resources["accelerator"] = {"count": count, "type": kind, "resourceCount": count, "resourceType": kind}
        return resources

    def _task(self, step: str, parameters: Mapping[str, _Parameter]) -> dict[str, Any]:
        spec = self._config["steps"][step]
        inputs: dict[str, Any] = {
            RUN: {"runtimeValue": {"constant": self._run}},
            ATTEMPT: {"runtimeValue": {"constant": OWN_ID}},
            **{name: {"componentInputParameter": name} for name in parameters},
        }
        task: dict[str, Any] = {
            "cachingOptions": {},  # off: our own key tells what may be used again
            "componentRef": {"name": f"comp-{self._keys[step]}"},
            "inputs": {"parameters": inputs},
            "taskInfo": {"name": step},
        }
        if parents := sorted(self._keys[parent] for parent in spec["parents"] if parent in self._steps):
            task["dependentTasks"] = parents
        if _retries(spec):
            task["retryPolicy"] = {
                "maxRetryCount": spec["retry"]["limit"],
                "backoffDuration": f"{ceil(spec['retry']['backoff'])}s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": f"{RETRY_FOR}s",
            }
        return task

    def _extras(self) -> dict[str, Any]:
        """Return what Kubernetes is asked for beside the container, which is the same for every task."""
        extras: dict[str, Any] = {}
        if self._backend.image_pull_policy:
            extras["imagePullPolicy"] = self._backend.image_pull_policy
        if self._backend.image_pull_secrets:
            extras["imagePullSecret"] = [_secret(name) for name in self._backend.image_pull_secrets]
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


def _retries(spec: Mapping[str, Any]) -> bool:
    return bool(spec["retry"]["limit"] and spec["retry"]["on"])


def task_keys(steps: Mapping[str, Any]) -> dict[str, str]:
    """Return the name that each step has among Kubeflow's tasks.

    Source: argo-workflows, ``workflow/validate/validate.go``, workflowFieldNameFmt.
    """
    taken = {step: step in _RESERVED or step.endswith("-driver") for step in steps}
    return {step: names.fit(TASK, "step", step) if taken[step] else names.fit(TASK, step) for step in steps}


def find_parameters(marked: list[str], steps: Mapping[str, Any]) -> dict[str, _Parameter]:
    """Return the pipeline's parameters by name.

    Args:
        marked: each ``STEP.ARG``.
        steps: the config's steps.

    Raises:
        ConfigError: one of them is no argument of a step, or none that can be set from outside.
    """
    found: dict[str, _Parameter] = {}
    problems = []
    for number, mark in enumerate(marked):
        step, _, arg = mark.rpartition(".")
        members = graph.members(steps, step)
        values = [steps[member]["args"].get(arg) for member in members]
        name = f"{step}_{arg}".replace("-", "_").replace(".", "_")
        if not members:
            problem = f"no step {step!r}{did_you_mean(step, graph.named(steps))}; write STEP.ARG"
        elif arg not in steps[members[0]]["args"]:
            problem = f"step {step!r} has no argument {arg!r}{did_you_mean(arg, steps[members[0]]['args'])}"
        elif values[0] is None:
            problem = "it is null, which has no type; give it a value"
        elif any(value != values[0] for value in values):
            problem = f"it differs from item to item of step {step!r}"
        elif refers(values[0]):
            problem = "it has a placeholder, which only the run can fill in"
        elif name in (RUN, ATTEMPT, *found):
            problem = f"it would be parameter {name!r}, as another is; rename one of the arguments"
        else:
            found[name] = _Parameter(values[0], members, arg)
            continue
        problems.append(Problem("", f"args.parameters[{number}]", f"{mark}: {problem}"))
    if problems:
        raise ConfigError(problems)
    return found


def refers(value: Any) -> bool:
    if isinstance(value, str):
        return bool(placeholders.names(value))
    return isinstance(value, dict | list) and any(map(refers, value.values() if isinstance(value, dict) else value))
