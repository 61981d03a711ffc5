"""The orchestrator that hands the pipeline to Kubeflow Pipelines 2, which runs a task a step.

`render` writes the IR itself, two protobuf messages in their JSON form; kfp is imported to reach the server, and only then.
"""

from __future__ import annotations

import os
from math import ceil

from backends import graph, names, placeholders, transport, wire
from backends.base import CANCELLED, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED
from backends.errors import ConfigError, Problem
from backends.orchestrator.remote import WHOLE, Fault, OrchestratorRemoteBackend, Seen, call, sdk
from backends.registry import did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, Literal

    from backends.store import Store

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
_OVER = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
_STATES = {
    "PENDING": PENDING,
    "RUNNING": RUNNING,
    "PAUSED": RUNNING,
    "CANCELING": RUNNING,
    "SUCCEEDED": SUCCEEDED,
    "SKIPPED": SKIPPED,
    "FAILED": FAILED,
    "CANCELED": CANCELLED,
}


class OrchestratorKubeFlowBackend(OrchestratorRemoteBackend):
    """Runs every step as a task of a Kubeflow Pipelines 2 pipeline.

    Args:
        host: the server's URL, such as ``https://kubeflow.example.com/pipeline``; None for ``$KF_PIPELINES_ENDPOINT``, else the
            one of the cluster that this runs in, or that the current kubectl context names.
        namespace: the profile's namespace, on a server with more than one user.
        token: where the bearer token is: ``{env: NAME}`` or ``{file: PATH}``; None for what kfp finds itself.
        experiment: the experiment that runs belong to; it is made if it isn't there.
        service_account: the Kubernetes service account of the steps; None for the server's default.
        parameters: arguments, each ``STEP.ARG``, that can be set anew when a run of the rendered pipeline is started.
        env: further environment variables of all containers, such as ``AWS_ENDPOINT_URL``; nothing secret.
        image_pull_policy: when the cluster pulls an image; None for Kubernetes' own rule.
        image_pull_secrets: the Kubernetes secrets with which it does.
        gpu_type: the resource that ``resources.gpu`` counts.
        ca_bundle: a file of CA certificates (PEM) that the server's certificate is checked with; None for the usual ones.
        request_timeout: how long the server may take for one answer, in seconds.
        startup_timeout: how long a step may wait for its container, in seconds; None for ever.
        deadline: how long the whole run may take, in seconds; None for ever.
    """

    # A container's spec travels as one argument of Kubeflow's driver, and all of them in one object in etcd, which holds 1.5 MiB
    # and has some of them three times: as the workflow's parameter, and as the output and the input of two of its nodes.
    limits = transport.Limits(
        "a Kubeflow Pipelines task",
        98_304,
        as_json=True,
        total=262_144,
        source="kubeflow/pipelines, backend/src/v2/compiler/argocompiler/container.go, `--container`; execve(2), MAX_ARG_STRLEN; "
        "etcd, --max-request-bytes",
    )

    def __init__(
        self,
        host: str | None = None,
        namespace: str | None = None,
        token: dict[str, str] | None = None,
        experiment: str = "Default",
        service_account: str | None = None,
        parameters: list[str] | None = None,
        env: dict[str, str] | None = None,
        image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None,
        image_pull_secrets: list[str] | None = None,
        gpu_type: str = "nvidia.com/gpu",
        ca_bundle: str | None = None,
        request_timeout: float = 30.0,
        startup_timeout: float | None = 1800.0,
        deadline: float | None = None,
    ) -> None:
        problems = []
        if token is not None and (len(token) != 1 or not token.keys() <= {"env", "file"}):
            problems.append(Problem("", "args.token", "must be {env: NAME} or {file: PATH}; no token belongs into a config"))
        if not experiment.strip() or len(experiment) > 128:
            problems.append(Problem("", "args.experiment", f"must have 1 to 128 characters, not {len(experiment)}"))
        if env:
            from backends.resolve import looks_secret

            why = "this name looks secret, and a config is stored and printed; use the config's `secrets`"
            problems += [Problem("", f"args.env.{name}", why) for name in env if looks_secret(name)]
        if request_timeout <= 0:
            problems.append(Problem("", "args.request_timeout", f"must be more than 0 seconds, not {request_timeout:g}"))
        if problems:
            raise ConfigError(problems)
        self.host = host
        self.namespace = namespace
        self.token = token
        self.experiment = experiment
        self.service_account = service_account
        self.parameters = parameters or []
        self.env = env or {}
        self.image_pull_policy = image_pull_policy
        self.image_pull_secrets = image_pull_secrets or []
        self.gpu_type = gpu_type
        self.ca_bundle = ca_bundle
        self.request_timeout = request_timeout
        self.startup_timeout = startup_timeout
        self.deadline = deadline

    def render(self, config: Mapping[str, Any], run_id: str = "RUN", done: Collection[str] = frozenset()) -> list[dict[str, Any]]:
        """Return the pipeline's spec and, if it needs one, the platform's: the documents of the file that Kubeflow takes.

        Args:
            config: the resolved config.
            run_id: the run's id; ``RUN`` lets every run of the pipeline have the id that Kubeflow gives it.
            done: the steps that are left out.

        Source: kubeflow/pipelines, ``api/v2alpha1/pipeline_spec.proto`` (schema version 2.1.0) and
        ``kubernetes_platform/proto/kubernetes_executor_config.proto``.
        """
        return _Recipe(self, config, OWN_ID if run_id == "RUN" else run_id, done).documents()

    def _submit(
        self,
        config: Mapping[str, Any],
        documents: list[dict[str, Any]],
        run_id: str,
        store: Store,
        state: dict[str, Any],
        save: Callable[[], None],
    ) -> None:
        if "run" in state:
            return
        _check_secrets(config)
        server = _Server(self)
        if "name" not in state:
            state.update(
                name=run_id if state["round"] == 1 else f"{run_id} ({state['round']})",
                # With it the run is known again: another store may have a run of the same id.
                note=f"zen-runner run {run_id}, round {state['round']}, of {config['name']} in {store.url}",
                experiment=server.find_experiment(self.experiment),
                tasks={key: step for step, key in task_keys(config["steps"]).items()},
            )
            save()
        try:
            state["run"] = server.find_run(state) or server.create_run(state, documents)
        except ConfigError:  # refused, so nothing was started
            for name in ("name", "note", "experiment", "tasks"):
                del state[name]
            raise
        save()

    def _status(self, state: dict[str, Any]) -> dict[str, Seen]:
        if "run" not in state:
            return {}
        run = _Server(self).get_run(state["run"])
        over = run.state in _OVER
        found = {WHOLE: Seen(_STATES.get(run.state, PENDING), _reason(run.error))}
        details = (run.run_details and run.run_details.task_details) or []
        # A task counts as running from its first pod on, which is not the step's: that is the one named executor.
        runs = any(detail.display_name.startswith("executor") and detail.state == "RUNNING" for detail in details)
        for detail in details:
            step = state["tasks"].get(detail.display_name)
            state_of = _STATES.get(detail.state, SKIPPED if over else PENDING)
            if state_of == RUNNING and not runs:
                state_of = PENDING
            if step is not None:
                found[step] = Seen(state_of, _reason(detail.error), exit_code=0 if state_of == SUCCEEDED else None)
        for step in state["tasks"].values():
            found.setdefault(step, Seen(SKIPPED if over else PENDING))
        for seen in found.values():
            if seen.state == PENDING and not seen.message:
                space = f" -n {self.namespace}" if self.namespace else ""
                where = f"kubectl{space} describe pods -l pipeline/runid={state['run']}"
                seen.message = f"Kubeflow's API does not say why; `{where}` does"
        return found

    def _cancel(self, state: dict[str, Any]) -> None:
        if "name" not in state:
            return
        server = _Server(self)
        run = state.get("run") or server.find_run(state)
        if run:
            server.terminate_run(run)


class _Parameter:
    """An argument that can be set when a run is started."""

    def __init__(self, default: Any, steps: list[str], arg: str) -> None:
        self.default = default
        self.kind = _KINDS[type(default)]
        self.steps = steps
        self.arg = arg


class _Recipe:
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


def _check_secrets(config: Mapping[str, Any]) -> None:
    problems = [
        Problem(
            "",
            f"secrets.{name}",
            f"a reference by {kind} can't reach a task of Kubeflow Pipelines; put the value into a Kubernetes secret of its "
            "namespace and write {kubernetes: SECRET/KEY}",
        )
        for name, source in config["secrets"].items()
        for kind in source
        if kind not in ("kubernetes", "file")
    ]
    if problems:
        raise ConfigError(problems)


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
        elif _refers(values[0]):
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


def _refers(value: Any) -> bool:
    if isinstance(value, str):
        return bool(placeholders.names(value))
    return isinstance(value, dict | list) and any(map(_refers, value.values() if isinstance(value, dict) else value))


class _Server:
    """The few calls of the server's API that are needed, through kfp's client.

    Source: kubeflow/pipelines, ``backend/api/v2beta1/run.proto`` and ``experiment.proto``.
    """

    def __init__(self, backend: OrchestratorKubeFlowBackend) -> None:
        self._backend = backend
        self._timeout = backend.request_timeout
        self._where = "Kubeflow Pipelines" + (f" at {backend.host}" if backend.host else "")
        self._kfp = sdk("kfp", "kubeflow")
        self._client = self._call("connect", self._connect)

    def _connect(self) -> Any:
        import io
        import logging
        import warnings
        from contextlib import redirect_stdout

        backend, api = self._backend, sdk("kfp_server_api", "kubeflow")

        class Client(self._kfp.Client):  # type: ignore[misc, name-defined]
            def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
                # kfp asks while a client is built, to guess a namespace: five times, with a pause and a traceback each.
                return api.V2beta1GetHealthzResponse(multi_user=False)

        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # of its own tries
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return Client(
                host=backend.host,
                namespace=backend.namespace or "kubeflow",
                existing_token=self._token(),
                ssl_ca_cert=backend.ca_bundle,
            )

    def _token(self) -> str | None:
        reference = self._backend.token
        if reference is None:
            return None
        if "env" in reference:
            token = os.environ.get(reference["env"], "")
            if not token:
                raise ConfigError([Problem("", "args.token", f"${reference['env']} is not set here")])
            return token
        try:
            with open(reference["file"], encoding="utf-8") as file:
                return file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([Problem("", "args.token", f"{reference['file']} can't be read: {error}")]) from error

    def find_experiment(self, name: str) -> str:
        """Return the id of the experiment with this name, which is made if need be."""
        experiments, models = self._client.experiments, self._client.api_models
        space = {"namespace": self._backend.namespace} if self._backend.namespace else {}

        def find() -> str:
            known = experiments.experiment_service_list_experiments(filter=_named(name), _request_timeout=self._timeout, **space)
            if known.experiments:
                return str(known.experiments[0].experiment_id)
            made = experiments.experiment_service_create_experiment(
                models.V2beta1Experiment(display_name=name, **space), _request_timeout=self._timeout
            )
            return _identity(made.experiment_id)

        return str(self._call(f"experiment {name!r}", find))

    def find_run(self, state: Mapping[str, Any]) -> str | None:
        """Return the id of the run that an earlier call of ``create_run`` made, if it did."""
        found = self._call(
            f"look for run {state['name']!r}",
            lambda: self._client.runs.run_service_list_runs(
                experiment_id=state["experiment"], filter=_named(state["name"]), _request_timeout=self._timeout
            ),
        )
        return next((str(run.run_id) for run in found.runs or [] if run.description == state["note"]), None)

    def create_run(self, state: Mapping[str, Any], documents: list[dict[str, Any]]) -> str:
        """Start a run and return its id."""
        models = self._client.api_models
        spec = documents[0] if len(documents) == 1 else dict(zip(("pipeline_spec", "platform_spec"), documents, strict=True))
        body = models.V2beta1Run(
            display_name=state["name"],
            description=state["note"],
            experiment_id=state["experiment"],
            pipeline_spec=spec,
            runtime_config=models.V2beta1RuntimeConfig(parameters={}),
            service_account=self._backend.service_account,
        )
        tried = False

        def create() -> str:
            nonlocal tried
            if tried and (found := self.find_run(state)):  # only the answer was lost
                return found
            tried = True
            return _identity(self._client.runs.run_service_create_run(body, _request_timeout=self._timeout).run_id)

        return str(self._call(f"create run {state['name']!r}", create))

    def get_run(self, run: str) -> Any:
        """Return the server's own description of a run."""
        return self._call(
            f"get run {run}",
            lambda: self._client.runs.run_service_get_run(run, _request_timeout=self._timeout),
        )

    def terminate_run(self, run: str) -> None:
        """End a run, unless it has ended."""
        if self.get_run(run).state in (*_OVER, "CANCELING"):
            return
        try:
            self._call(
                f"terminate run {run}",
                lambda: self._client.runs.run_service_terminate_run(run, _request_timeout=self._timeout),
            )
        except ConfigError:
            if self.get_run(run).state not in _OVER:  # it may have ended just now, which is refused as well
                raise

    def _call(self, what: str, function: Callable[[], Any]) -> Any:
        return call(function, f"{self._where}: {what}", self._judge, tries=5, longest=60.0)

    def _judge(self, error: Exception) -> Fault | None:
        import urllib3

        api = sdk("kfp_server_api", "kubeflow")
        if isinstance(error, api.ApiException) and error.status:
            body = _body(error)
            why = f"{error.status}, {_reason(body) or error.reason}"
            if error.status in (401, 403):
                fix = "check args.token" if self._backend.token else "set args.token"
                return Fault(False, why, f"{fix} and args.namespace", config=True)
            if error.status in (404, 405, 501):
                return Fault(False, why, "check args.host", config=True)
            if error.status in (408, 429) or error.status >= 500:
                return Fault(True, why)
            return Fault(False, why, config=True)
        if isinstance(error, _Misunderstood):
            return Fault(False, "its answer is not that of Kubeflow Pipelines 2", "check args.host", config=True)
        if isinstance(error, urllib3.exceptions.HTTPError | api.OpenApiException | OSError):
            cause = _cause(error)
            if "CERTIFICATE_VERIFY_FAILED" in cause:
                return Fault(False, cause, "set args.ca_bundle", config=True)
            return Fault(True, cause, "check args.host and the network")
        return None


class _Misunderstood(Exception):
    """The server's answer is of another kind; kfp's client makes an empty object of it."""


def _identity(found: str | None) -> str:
    if not found:
        raise _Misunderstood
    return found


def _named(name: str) -> str:
    # 1 is EQUALS: kubeflow/pipelines, backend/api/v2beta1/filter.proto.
    return wire.dumps({"predicates": [{"operation": 1, "key": "display_name", "stringValue": name}]})


def _body(error: Any) -> Any:
    try:
        return wire.loads(error.body or "")
    except (ValueError, UnicodeDecodeError):
        return None


def _reason(status: Any) -> str:
    """Return what an error of the server says, on one line: the JSON body of an answer, or a ``google.rpc.Status``."""
    if isinstance(status, dict):
        text = status.get("message") or status.get("error") or ""
    else:
        text = getattr(status, "message", None) or ""
    return " ".join(str(text).split())[:500]


def _cause(error: BaseException) -> str:
    """Return the innermost reason why a connection failed."""
    seen: list[BaseException] = [error]
    for item in seen:
        inner = (getattr(item, "reason", None), item.__cause__, item.__context__, *item.args)
        seen += [other for other in inner if isinstance(other, BaseException) and other not in seen]
    for item in reversed(seen):
        if isinstance(item, OSError) and item.strerror:
            return str(item.strerror)
    return " ".join(str(seen[-1]).split())
