"""A stub of the Kubeflow Pipelines API server, v2beta1: it takes, shows and ends runs, and runs nothing.

It stands for the server in tests of submit, status and cancel alone. What it refuses, the server refuses: a wrong token,
a pipeline spec without a root or of another schema version, parameters that the pipeline does not have or that are too
long. A test sets the states of a run's tasks itself.

Source: kubeflow/pipelines, ``backend/api/v2beta1/run.proto`` and ``experiment.proto``.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PREFIX = "/apis/v2beta1"
PARAMETER_BYTES = 10_000
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


class KfpApi:
    """The server; use it as a context manager.

    Args:
        token: the bearer token that every call must bring; None for none.

    Attributes:
        url: where it listens, on the loopback interface.
        runs: all runs by id.
        experiments: all experiments by id.
        calls: how often each call was made, by method and path without ids.
        faults: statuses that the next calls get instead of an answer, first one first.
        tear: the next created run is kept, and its answer lost.
        terminated: the state that a terminated run gets.
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.runs: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.calls: Counter[str] = Counter()
        self.faults: list[int] = []
        self.tear = False
        self.terminated = "CANCELING"
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> KfpApi:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def set_states(self, run_id: str, state: str, **tasks: str) -> None:
        """Let a run, and tasks of it by their keys with ``_`` for ``-``, be in these states."""
        with self._lock:
            run = self.runs[run_id]
            run["state"] = state
            # As the server does, every task comes with nodes that are not tasks.
            details = [("root", state), ("root-driver", "SUCCEEDED")]
            for name, task_state in tasks.items():
                key = name.replace("_", "-")
                details += [(f"{key}-driver", "SUCCEEDED"), (key, task_state), ("executor", task_state)]
            run["run_details"] = {
                "task_details": [
                    {"run_id": run_id, "task_id": str(number), "display_name": name, "state": of}
                    | ({"child_tasks": [{"pod_name": f"{name}-pod"}]} if number else {})
                    for number, (name, of) in enumerate(details)
                ]
            }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve("GET")

            def do_POST(self) -> None:
                self._serve("POST")

            def _serve(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with api._lock:
                    status, answer = api._answer(method, self.path, self.headers.get("authorization"), body)
                if status == 0:
                    self.close_connection = True
                    return
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        return Handler

    def _answer(self, method: str, target: str, authorization: str | None, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        words = parts.path.removeprefix(PREFIX).strip("/").split("/")
        identity, _, verb = words[1].partition(":") if len(words) > 1 else ("", "", "")
        self.calls[f"{method} {words[0]}{'/ID' if identity else ''}{':' + verb if verb else ''}"] += 1
        if self.faults:
            return self.faults.pop(0), {"error": "injected", "code": 13, "message": "the server is not well"}
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401, {"error": "Request header error: there is no user identity header.", "code": 16}
        if not parts.path.startswith(PREFIX):
            return 404, {"error": "Not Found", "code": 5}
        if (method, words) == ("GET", ["healthz"]):
            return 200, {"multi_user": False}
        if words[0] in ("runs", "experiments") and not identity:
            if method == "GET":
                return 200, self._list(words[0], query)
            return self._create(words[0], json.loads(body))
        run = self.runs.get(identity) if words[0] == "runs" else None
        if run is None:
            return 404, {"error": f"Run {identity} not found", "code": 5}
        if method == "POST" and verb == "terminate":
            if run["state"] in ENDED:
                return 400, {"error": f"Failed to terminate a run: run {identity} has already ended", "code": 9}
            run["state"] = self.terminated
            return 200, {}
        return 200, run

    def _list(self, kind: str, query: dict[str, str]) -> dict[str, Any]:
        found = list(getattr(self, kind).values())
        for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
            assert predicate["operation"] in (1, "EQUALS") and predicate["key"] == "display_name"
            found = [item for item in found if item["display_name"] == predicate["stringValue"]]
        scope = "experiment_id" if kind == "runs" else "namespace"
        found = [item for item in found if query.get(scope) in (None, "", item.get(scope))]
        return {kind: found, "total_size": len(found)} if found else {}

    def _create(self, kind: str, item: dict[str, Any]) -> tuple[int, Any]:
        identity = str(uuid.uuid4())
        if kind == "experiments":
            names = [(other["display_name"], other.get("namespace")) for other in self.experiments.values()]
            if (item["display_name"], item.get("namespace")) in names:
                return 409, {"error": f"experiment {item['display_name']} already exists", "code": 6}
            self.experiments[identity] = item = {**item, "experiment_id": identity}
            return 200, item
        if problem := self._refuse(item):
            return 400, {"error": f"Failed to create a run: {problem}", "code": 3, "message": problem}
        self.runs[identity] = {**item, "run_id": identity, "state": "PENDING"}
        if self.tear:
            self.tear = False
            return 0, None
        return 200, self.runs[identity]

    def _refuse(self, run: dict[str, Any]) -> str:
        spec = run.get("pipeline_spec", {})
        spec = spec.get("pipeline_spec", spec)
        if "root" not in spec:
            return "invalid v2 pipeline spec: root component is empty"
        if spec.get("schemaVersion") != "2.1.0":
            return f"KFP only supports schema version 2.1.0, but the pipeline spec has version {spec.get('schemaVersion')}"
        if run.get("experiment_id") not in self.experiments:
            return f"experiment {run.get('experiment_id')!r} not found"
        given = run.get("runtime_config", {}).get("parameters") or {}
        if len(json.dumps(given)) > PARAMETER_BYTES:
            return f"The input parameter length exceed maximum size of {PARAMETER_BYTES}"
        unknown = set(given) - set(spec["root"].get("inputDefinitions", {}).get("parameters", {}))
        return f"parameter(s) provided are not required by pipeline: {sorted(unknown)}" if unknown else ""
