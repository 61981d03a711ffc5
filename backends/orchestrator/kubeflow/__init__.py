"""The orchestrator that hands the pipeline to Kubeflow Pipelines 2, which runs a task a step.

`render` writes the IR itself, two protobuf messages in their JSON form; kfp is imported to reach the server, and only then.
"""

from __future__ import annotations

from backends.base import PENDING, RUNNING, SKIPPED, SUCCEEDED
from backends.config import transport
from backends.errors import ConfigError, Problem
from backends.orchestrator.kubeflow.api import Client, reason
from backends.orchestrator.kubeflow.render import OWN_ID, Renderer, task_keys
from backends.orchestrator.kubeflow.states import OVER, STATES
from backends.orchestrator.remote.backend import OrchestratorRemoteBackend
from backends.platform import WHOLE_RUN, JobStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, Literal

    from backends.store.base import Store


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
            from backends.config.naming import looks_secret

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
        return Renderer(self, config, OWN_ID if run_id == "RUN" else run_id, done).documents()

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
        server = Client(self)
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

    def _status(self, state: dict[str, Any]) -> dict[str, JobStatus]:
        if "run" not in state:
            return {}
        run = Client(self).get_run(state["run"])
        over = run.state in OVER
        found = {WHOLE_RUN: JobStatus(STATES.get(run.state, PENDING), reason(run.error))}
        details = (run.run_details and run.run_details.task_details) or []
        # A task counts as running from its first pod on, which is not the step's: that is the one named executor.
        runs = any(detail.display_name.startswith("executor") and detail.state == "RUNNING" for detail in details)
        for detail in details:
            step = state["tasks"].get(detail.display_name)
            state_of = STATES.get(detail.state, SKIPPED if over else PENDING)
            if state_of == RUNNING and not runs:
                state_of = PENDING
            if step is not None:
                found[step] = JobStatus(state_of, reason(detail.error), exit_code=0 if state_of == SUCCEEDED else None)
        for step in state["tasks"].values():
            found.setdefault(step, JobStatus(SKIPPED if over else PENDING))
        for seen in found.values():
            if seen.state == PENDING and not seen.message:
                space = f" -n {self.namespace}" if self.namespace else ""
                where = f"kubectl{space} describe pods -l pipeline/runid={state['run']}"
                seen.message = f"Kubeflow's API does not say why; `{where}` does"
        return found

    def _cancel(self, state: dict[str, Any]) -> None:
        if "name" not in state:
            return
        server = Client(self)
        run = state.get("run") or server.find_run(state)
        if run:
            server.terminate_run(run)


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
