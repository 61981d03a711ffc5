"""moto's AWS Batch, S3 and CloudWatch Logs as a server of its own, on the loopback, for a bounded time.

moto's Batch runs the real containers on the local Docker Engine. It lacks some of what the service does, and this adds it, as the
service's documentation has it, so that what it says is as good as that reading and no better:

- a child of an array job has ``AWS_BATCH_JOB_ARRAY_INDEX``; the parent ends when its children have, and is terminated with them;
- ``AWS_BATCH_JOB_ATTEMPT``, and ``retryStrategy`` with ``evaluateOnExit``;
- MEMORY is the container's limit, ``user`` its user, and what a role gives, credentials, is in its environment;
- exit code and reason in DescribeJobs: ``OutOfMemoryError``, ``CannotPullContainerError``, the failed dependency, the timeout;
- a job that is terminated gets SIGTERM and 30 s;
- SubmitJob and RegisterJobDefinition refuse what botocore's own model of the API does not have, and overrides of more than
  8,192 characters.

With ``--null`` no container runs: each job succeeds ``--seconds-each`` after its last dependency, and leaves its record in the
store.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import copy
import datetime
import gzip
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REGION = "eu-west-1"
ACCOUNT = "123456789012"
BUCKET = "zen-bucket"
QUEUE = "zen-queue"
LABEL = "zen-runner-emulator"
LIFETIME = 1200  # seconds after which the server ends whatever happens
GRACE = 30  # seconds from SIGTERM to SIGKILL, as ECS has it
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}


class MotoBatch:
    """The server, from this process's side.

    Args:
        null: run no containers.
        seconds_each: what a job takes then.
        slots: how many containers run at a time.
    """

    def __init__(self, null: bool = False, seconds_each: float = 0.0, slots: int = 3) -> None:
        argv = [sys.executable, "-m", "tests.emulators.moto_batch", "--slots", str(slots), "--seconds-each", str(seconds_each)]
        self._process = subprocess.Popen(
            [*argv, "--null"] if null else argv,
            cwd=ROOT,
            stdin=subprocess.PIPE,  # its end is the server's end
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if os.environ.get("EMULATOR_QUIET", "1") == "1" else None,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 60)
        self.url = self._process.stdout.readline().decode().strip() if ready else ""
        if not self.url:
            self._process.kill()
            raise RuntimeError(f"moto's server did not start: {self._process.communicate()[1]!r}")
        if self._process.stderr is not None:
            threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError, OSError):
            while self._process.stderr.read(1 << 16):
                pass

    @property
    def pid(self) -> int:
        """The server's process, whose id is also the label of its containers."""
        return self._process.pid

    def environment(self, url: str = "") -> dict[str, str]:
        """Return a client's environment.

        Args:
            url: a proxy's; empty for the server's own.
        """
        return {**CREDENTIALS, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": url or self.url}

    def client(self, service: str, **options: Any) -> Any:
        """Return boto3's client for a service of this server."""
        import boto3

        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id="id",
            aws_secret_access_key="secret",
            **options,
        )

    def containers(self) -> list[Any]:
        """Return the containers of this server's jobs that are there."""
        import docker

        client = docker.from_env()
        try:
            found = client.containers.list(all=True, filters={"label": f"{LABEL}={self.pid}"}, ignore_removed=True)
            return [container.name for container in found]
        finally:
            client.close()

    def close(self) -> None:
        """End the server and remove its containers."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        remove_containers(self.pid)


def remove_containers(pid: int) -> None:
    """Remove the containers that a server left."""
    import docker

    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": f"{LABEL}={pid}"}):
        with contextlib.suppress(docker.errors.APIError):
            container.remove(force=True)
    client.close()


@contextlib.contextmanager
def moto_batch(**options: Any) -> Iterator[MotoBatch]:
    """Run a server with a bucket ``zen-bucket`` and a queue ``zen-queue``."""
    server = MotoBatch(**options)
    try:
        yield server
    finally:
        server.close()


# -- the server's side --------------------------------------------------------------------------------------------------------


def _environment_of_a_container(url: str) -> dict[str, str]:
    """Return what role and agent of the service would give: credentials, and where it is to be found."""
    return {**CREDENTIALS, "AWS_REGION": REGION, "AWS_ENDPOINT_URL": url}


class Engine:
    """The Docker client that one attempt of a job sees: what moto does not ask for is added, and how it went is kept."""

    def __init__(self, client: Any, job: Any, url: str, slots: threading.Semaphore) -> None:
        self.containers = self
        self._client = client
        self._job = job
        self._url = url
        self._slots = slots

    def run(self, **kwargs: Any) -> Any:
        import docker

        job = self._job
        properties = job.job_definition.container_properties
        memory = int(job.job_definition._get_resource_requirement("memory"))
        index = job.array_properties.get("index")
        kwargs["environment"] = {
            **_environment_of_a_container(self._url),
            **kwargs["environment"],
            "AWS_BATCH_JOB_ID": job.job_id,
            "AWS_BATCH_JOB_ATTEMPT": str(job.attempt),
            "AWS_BATCH_JQ_NAME": job.job_queue.name,
            **({} if index is None else {"AWS_BATCH_JOB_ARRAY_INDEX": str(index)}),
        }
        kwargs["name"] += f"-{job.attempt}"
        kwargs["command"] = kwargs["command"] or None
        if properties.get("user"):
            kwargs["user"] = properties["user"]
        kwargs.pop("extra_hosts", None)  # the containers share the host's network
        job.slot = self._slots
        while not self._slots.acquire(timeout=0.2):
            if job.stop:
                job.slot = None
                raise RuntimeError("terminated before it began")
        try:
            container = self._client.containers.run(
                **kwargs, mem_limit=f"{memory}m", memswap_limit=f"{memory}m", labels={LABEL: str(os.getpid())}
            )
        except docker.errors.APIError as error:
            job.reason = f"CannotPullContainerError: {error.explanation}"
            raise
        job.container = Container(container, job)
        return job.container


class Container:
    """A container as moto sees it."""

    def __init__(self, container: Any, job: Any) -> None:
        self._container = container
        self._job = job

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def kill(self) -> None:
        self._container.stop(timeout=GRACE)

    def wait(self) -> Any:
        result = self._container.wait()
        self.note()
        return result

    def remove(self) -> None:
        self._container.remove(force=True)

    def note(self) -> None:
        """Keep how it ended."""
        self._container.reload()
        state = self._container.attrs["State"]
        self._job.exit_code = state["ExitCode"]
        if state["OOMKilled"] and state["ExitCode"] == 137:
            self._job.reason = "OutOfMemoryError: Container killed due to memory usage"


def _matches(rule: dict[str, str], found: dict[str, str]) -> bool:
    """Tell whether all conditions of a rule hold; each is the whole text, or its beginning and ``*``."""
    return all(
        found[name].startswith(pattern[:-1]) if pattern.endswith("*") else found[name] == pattern
        for name, pattern in rule.items()
        if name != "action"
    )


def retries(strategy: dict[str, Any], attempt: int, found: dict[str, str]) -> bool:
    """Tell whether an attempt that failed is followed by another."""
    if attempt >= strategy.get("attempts", 1):
        return False
    for rule in strategy.get("evaluateOnExit", []):
        if _matches(rule, found):
            return bool(rule["action"].upper() == "RETRY")
    return True


def _job_class(url: str, slots: threading.Semaphore, null: bool, seconds_each: float) -> Any:
    from moto.batch import models

    class Job(models.Job):
        """A job with what moto's own lacks."""

        __module__ = models.__name__  # moto's metaclass reads the service from it

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.attempt = 1
            self.reason = ""
            self.over = threading.Event()
            self.ended = False  # this attempt
            self.again = False
            self.container: Container | None = None
            self.slot: threading.Semaphore | None = None
            self._engine: Engine | None = None
            super().__init__(*args, **kwargs)
            self.strategy = getattr(_REQUEST, "body", {}).get("retryStrategy") or self.job_definition.retry_strategy or {}

        @property
        def docker_client(self) -> Any:
            if self._engine is None:
                self._engine = Engine(super().docker_client, self, url, slots)
            return self._engine

        @property
        def status(self) -> Any:
            children = self.__dict__.get("_child_jobs")
            if not children:
                return super().status
            states = {child.status for child in children}
            if states <= {"SUCCEEDED"}:
                return "SUCCEEDED"
            return "FAILED" if states <= {"SUCCEEDED", "FAILED"} else "PENDING"

        @status.setter
        def status(self, value: str) -> None:
            self._status = value

        def _get_container_property(self, p: str, default: Any) -> Any:
            before = self.container_overrides
            self.container_overrides = copy.deepcopy(before)  # moto adds to it each time, and children share the parent's
            try:
                return super()._get_container_property(p, default)
            finally:
                self.container_overrides = before

        def run(self) -> None:
            while True:
                self.ended = self.again = False
                if null:
                    self._pretend()
                else:
                    super().run()
                if self.slot is not None:
                    self.slot.release()
                    self.slot = None
                if not self.again:
                    break
                self.attempt += 1
                self.reason, self.exit_code, self.container, self.latest_attempt = "", None, None, None
                self._status = "RUNNABLE"

        def _pretend(self) -> None:
            self.advance()
            self.advance()
            if self.depends_on and not self._wait_for_dependencies():
                return
            self.job_started_at = datetime.datetime.now()
            self._start_attempt()
            self._status = "RUNNING"
            time.sleep(seconds_each)
            _leave_record(self)
            self.exit_code = 0
            self._mark_stopped(success=True)

        def _wait_for_dependencies(self) -> bool:
            for dependency in self.depends_on or []:
                job = self.all_jobs[dependency["jobId"]]
                while job.status not in ("SUCCEEDED", "FAILED"):
                    if self.stop:
                        self._mark_stopped(success=False)
                        return False
                    assert isinstance(job, Job)
                    job.over.wait(0.2)
                if job.status == "FAILED":
                    self.job_stopped_reason = "Dependent Job failed"
                    self._mark_stopped(success=False)
                    return False
            return True

        def _mark_stopped(self, success: bool = True) -> None:
            """End an attempt, and with the last one the job. moto calls this with True again after a call with False."""
            if self.ended or self.job_stopped:
                return
            self.ended = True
            if not success and not self.stop and self.container is not None and self.exit_code is None:
                self.job_stopped_reason = "Job attempt duration exceeded timeout"
                self.container.kill()
                self.container.note()
            elif not success and not self.stop and self.latest_attempt is not None:
                code = "" if self.exit_code is None else str(self.exit_code)
                status_reason = "Task failed to start" if self.container is None else "Essential container in task exited"
                found = {"onExitCode": code, "onReason": self.reason, "onStatusReason": status_reason}
                self.again = retries(self.strategy, self.attempt, found)
                self.job_stopped_reason = status_reason
            if self.again:
                self._stop_attempt()
            else:
                super()._mark_stopped(success)
                self.over.set()
            if self.latest_attempt is not None:
                self.latest_attempt["container"].update(self._how_it_ended())

        def _how_it_ended(self) -> dict[str, Any]:
            found: dict[str, Any] = {} if self.exit_code is None else {"exitCode": self.exit_code}
            return {**found, "reason": self.reason} if self.reason else found

        def terminate(self, reason: str) -> None:
            for child in self._child_jobs or []:
                child.terminate(reason)
            if self.status not in ("SUCCEEDED", "FAILED"):
                super().terminate(reason)

        def describe(self) -> dict[str, Any]:
            found: dict[str, Any] = super().describe()
            found["status"] = self.status
            found.get("container", {}).update(self._how_it_ended())
            if "index" in self.array_properties:
                found["arrayProperties"] = {"index": self.array_properties["index"]}
            return found

    return Job


_REQUEST = threading.local()


def _leave_record(job: Any) -> None:
    """Write the record of a step's success, as the supervisor in a container would."""
    from moto.s3.models import s3_backends

    env = {item["name"]: item["value"] for item in job._get_container_property("environment", [])}
    step, run, config = env["ZEN_RUNNER_STEP"], env["ZEN_RUNNER_RUN_ID"], env["ZEN_RUNNER_CONFIG"]
    if step == "fan-in":
        return
    if "index" in job.array_properties:
        step += f".{job.array_properties['index']}"
    if config.startswith("ref:"):
        store = config.removeprefix("ref:").partition("/configs/")[0]
    else:
        packed = config.startswith("gz:")
        store = json.loads(gzip.decompress(base64.b64decode(config[3:])) if packed else config)["store"]
    prefix = store.removeprefix(f"s3://{BUCKET}/")
    record = {"version": 1, "run": run, "step": step, "attempt": 1, "class": "success", "exit_code": 0, "message": ""}
    record.update(outputs={}, values={}, started="2024-01-01T00:00:00.000Z", ended="2024-01-01T00:00:00.000Z", seconds=0.0)
    backend = s3_backends[ACCOUNT]["aws"]
    for name, body in (("claim", {"token": "t"}), ("result", record)):
        backend.put_object(BUCKET, f"{prefix}/runs/{run}/{step}/1/{name}.json", json.dumps(body).encode())


def _check_requests() -> None:
    """Let moto refuse what the API's own model, as botocore has it, does not allow, and see the whole request."""
    import botocore.session
    from botocore.validate import ParamValidator
    from moto.batch.exceptions import ClientException
    from moto.batch.responses import BatchResponse

    model = botocore.session.get_session().get_service_model("batch")

    def checked(operation: str, original: Any) -> Any:
        shape = model.operation_model(operation).input_shape

        def answer(self: Any) -> Any:
            body = json.loads(self.body)
            report = ParamValidator().validate(body, shape)
            unknown = set(body) - set(shape.members)
            if report.has_errors() or unknown:
                raise ClientException(f"{operation}: {report.generate_report()} {sorted(unknown)}")
            size = len(json.dumps(body.get("containerOverrides", {}), separators=(",", ":")))
            if size > 8192:
                raise ClientException("Container Overrides length must be at most 8192")
            if len(body.get("dependsOn", [])) > 20:
                raise ClientException("Job dependency count must be at most 20")
            if not 2 <= body.get("arrayProperties", {}).get("size", 2) <= 10000:
                raise ClientException("Array size must be between 2 and 10000")
            if body.get("timeout", {}).get("attemptDurationSeconds", 60) < 60:
                raise ClientException("Timeout must be at least 60 seconds")
            _REQUEST.body = body
            return original(self)

        return answer

    for name in ("SubmitJob", "RegisterJobDefinition"):
        setattr(BatchResponse, name.lower(), checked(name, getattr(BatchResponse, name.lower())))


def _prepare() -> None:
    """Make the bucket, a compute environment and the queue."""
    from moto.batch.models import batch_backends
    from moto.iam.models import iam_backends
    from moto.s3.models import s3_backends

    s3_backends[ACCOUNT]["aws"].create_bucket(BUCKET, REGION)
    role = iam_backends[ACCOUNT]["aws"].create_role("batch", "{}", "/", None, "", [], None)
    backend = batch_backends[ACCOUNT][REGION]
    environment = backend.create_compute_environment("zen", "UNMANAGED", "ENABLED", None, role.arn)  # type: ignore[arg-type]
    order = [{"order": "1", "computeEnvironment": environment.arn}]
    backend.create_job_queue(QUEUE, "1", None, "ENABLED", order)
    backend.create_job_queue("closed-queue", "1", None, "DISABLED", order)


def serve(null: bool, seconds_each: float, slots: int) -> None:
    """Serve until stdin ends or time is up; the first line on stdout is the URL."""
    os.environ["MOTO_DOCKER_NETWORK_MODE"] = "host"
    from moto.batch import models
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as AWS does

        def log(self, *_args: object) -> None:
            pass

    app = DomainDispatcherApplication(create_backend_app)
    atomic = threading.Lock()  # S3 decides conditional writes atomically; moto's threads alone don't

    def locked(environ: dict[str, Any], start: Any) -> Any:
        with atomic:
            return app(environ, start)

    server = make_server("127.0.0.1", 0, locked, threaded=True, request_handler=Quiet)
    url = f"http://127.0.0.1:{server.server_port}"
    models.Job = _job_class(url, threading.Semaphore(slots), null, seconds_each)  # type: ignore[misc] # moto makes its jobs of it
    _check_requests()
    _prepare()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(url, flush=True)
    until = time.monotonic() + LIFETIME
    while time.monotonic() < until:
        ready, _, _ = select.select([sys.stdin], [], [], 1.0)
        if ready and not os.read(0, 4096):
            break
    os._exit(0)  # with whatever threads its jobs have


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--seconds-each", type=float, default=0.0)
    parser.add_argument("--slots", type=int, default=3)
    options = parser.parse_args()
    serve(options.null, options.seconds_each, options.slots)
