"""The client of a Kubeflow Pipelines server."""

from __future__ import annotations

import os

from backends import wire
from backends.calls import Fault, call, sdk
from backends.errors import ConfigError, Problem
from backends.orchestrator.kubeflow.states import OVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from backends.orchestrator.kubeflow import OrchestratorKubeFlowBackend


class Client:
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
        if self.get_run(run).state in (*OVER, "CANCELING"):
            return
        try:
            self._call(
                f"terminate run {run}",
                lambda: self._client.runs.run_service_terminate_run(run, _request_timeout=self._timeout),
            )
        except ConfigError:
            if self.get_run(run).state not in OVER:  # it may have ended just now, which is refused as well
                raise

    def _call(self, what: str, function: Callable[[], Any]) -> Any:
        return call(function, f"{self._where}: {what}", self._judge, tries=5, longest=60.0)

    def _judge(self, error: Exception) -> Fault | None:
        import urllib3

        api = sdk("kfp_server_api", "kubeflow")
        if isinstance(error, api.ApiException) and error.status:
            body = _body(error)
            why = f"{error.status}, {reason(body) or error.reason}"
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


def reason(status: Any) -> str:
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
