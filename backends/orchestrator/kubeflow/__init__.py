"""The orchestrator that hands the pipeline to Kubeflow Pipelines 2, which runs a task a step.

`render` writes the IR itself, two protobuf messages in their JSON form; kfp is imported to reach the server, and only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from backends.arguments import positive, public_variables, refuse, wrong
from backends.errors import ConfigError, Problem
from backends.orchestrator.kubeflow.limits import TASK, TASK_LIMITS
from backends.orchestrator.kubeflow.platform import KubeflowPlatform
from backends.orchestrator.kubeflow.render import Renderer, task_keys
from backends.orchestrator.remote.jobs import PipelineBackend
from backends.platform import JobStatus
from backends.states import PENDING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from backends.orchestrator.remote.job import Job
    from backends.platform import Document, Platform
    from backends.store.base import Store


class OrchestratorKubeFlowBackend(PipelineBackend):
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

    limits = TASK_LIMITS
    rule = TASK

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
        problems = positive(request_timeout=request_timeout)
        if token is not None and (len(token) != 1 or not token.keys() <= {"env", "file"}):
            problems.append(wrong("token", "must be {env: NAME} or {file: PATH}; no token belongs into a config"))
        if not experiment.strip() or len(experiment) > 128:
            problems.append(wrong("experiment", f"must have 1 to 128 characters, not {len(experiment)}"))
        why = "this name looks secret, and a config is stored and printed; use the config's `secrets`"
        refuse([*problems, *public_variables(env or {}, secret=why)])
        self.host = host
        self.namespace = namespace
        self.token = token
        self.experiment = experiment
        self.service_account = service_account
        self.parameters = parameters or []
        self.env = env or {}
        self.image_pull_policy: str | None = image_pull_policy
        self.image_pull_secrets = image_pull_secrets or []
        self.gpu_type = gpu_type
        self.ca_bundle = ca_bundle
        self.request_timeout = request_timeout
        self.startup_timeout = startup_timeout
        self.deadline = deadline

    def escape(self, text: str) -> str:
        # Kubernetes reads $(…) and $$ in a variable, Argo {{…}} in all of a workflow; in JSON these are inside strings.
        return text.replace("$", r"\u0024").replace("{{", r"\u007b\u007b")

    def render_pipeline(self, config: Mapping[str, Any], jobs: list[Job]) -> list[Document]:
        """Return the pipeline's spec and, if it needs one, the platform's: the documents of the file that Kubeflow takes.

        Source: kubeflow/pipelines, ``api/v2alpha1/pipeline_spec.proto`` (schema version 2.1.0) and
        ``kubernetes_platform/proto/kubernetes_executor_config.proto``.
        """
        return Renderer(self, config, jobs).documents()

    def task_names(self, steps: Collection[str]) -> dict[str, str]:
        return task_keys(steps)

    def check_submission(self, config: Mapping[str, Any]) -> None:
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

    def platform(self, store: Store) -> KubeflowPlatform:
        return KubeflowPlatform(self)

    def statuses(self, platform: Platform, state: Mapping[str, Any]) -> dict[str, JobStatus]:
        statuses = super().statuses(platform, state)
        space = f" -n {self.namespace}" if self.namespace else ""
        where = f"kubectl{space} describe pods -l pipeline/runid={state.get('run')}"
        return {
            step: JobStatus(PENDING, f"Kubeflow's API does not say why; `{where}` does") if _is_mute(status) else status
            for step, status in statuses.items()
        }


def _is_mute(status: JobStatus) -> bool:
    return status.state == PENDING and not status.message
