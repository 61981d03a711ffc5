"""AWS Batch against moto: real containers on the local engine, moto's S3 as the store, and a proxy that makes calls fail."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import calls, wire
from backends.errors import InfraError, ZenRunnerError
from backends.orchestrator.batch import OrchestratorBatchBackend
from backends.store import open_store, records
from backends.store.base import Store
from tests import helpers
from tests.emulators.faulty_proxy import FaultyProxy, faulty_proxy
from tests.emulators.moto_batch import BUCKET, QUEUE, MotoBatch, moto_batch
from tests.images.build_fixture import cpu_image

__all__ = ["cpu_image"]  # a fixture

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("image")]

PREFIXES = itertools.count()


@pytest.fixture(scope="module")
def aws(cpu_image: str) -> Iterator[MotoBatch]:
    with moto_batch() as server:
        yield server


@pytest.fixture(scope="module")
def null() -> Iterator[MotoBatch]:
    """Batch without containers: each job takes a moment, and succeeds."""
    with moto_batch(null=True, seconds_each=0.05) as server:
        yield server


@pytest.fixture
def proxy(aws: MotoBatch) -> Iterator[FaultyProxy]:
    with faulty_proxy(aws.url) as proxy:
        yield proxy


@pytest.fixture
def null_proxy(null: MotoBatch) -> Iterator[FaultyProxy]:
    with faulty_proxy(null.url) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A directory of the test's own: others use the machine's at the same time.
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    if "aws" in request.fixturenames:
        server: MotoBatch = request.getfixturevalue("aws")
        wait_until(lambda: server.containers() == [], 60)
    assert list(folder.iterdir()) == []


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.05)


class Pipeline:
    """A pipeline in a folder, its store in the bucket, and a server of Batch to run it on."""

    def __init__(self, folder: Path, server: MotoBatch, url: str = "", **document: Any) -> None:
        self.server = server
        self.store_url = f"s3://{BUCKET}/{next(PREFIXES)}"
        document = {"code": None, "retry": {"limit": 0}, "store": self.store_url, **document}
        self.path = helpers.config(folder, **document)
        self.environ = {**server.environment(url), "TMPDIR": tempfile.gettempdir()}

    def block(self, **options: Any) -> str:
        return json.dumps({"type": "orchestrator", "source": "batch", "args": {"queue": QUEUE, **options}})

    def argv(self, verb: str, *more: str, **options: Any) -> list[str]:
        return [verb, "--config", str(self.path), "--backend", self.block(**options), "--run-id", "r", *more]

    def submit(self, *more: str, **options: Any) -> helpers.Ended:
        return helpers.run(*self.argv("submit", *more, **options), cwd=self.path.parent, timeout=240, **self.environ)

    def run(self, **options: Any) -> tuple[int, dict[str, Any]]:
        """Submit and wait; return the exit status and the summary."""
        ended = self.submit("--wait", "--output", "json", **options)
        for line in reversed(ended.stdout.splitlines()):
            event = json.loads(line)
            if event.get("event") == "run_finished":
                return ended.code, event["summary"]
        raise AssertionError(f"no run_finished: {ended.code} {ended.errors}")

    def here(self, monkeypatch: pytest.MonkeyPatch) -> tuple[OrchestratorBatchBackend, dict[str, Any], Store]:
        """Return what submits it from this process: the backend, the resolved config, the store."""
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(calls, "sleep", lambda seconds: time.sleep(min(seconds, 0.05)))
        ended = helpers.run("resolve", "--config", str(self.path), "--output", "json", cwd=self.path.parent, **self.environ)
        assert ended.code == 0, ended.errors
        backend = OrchestratorBatchBackend(queue=QUEUE)
        backend.poll_first = backend.poll_most = 0.3
        return backend, wire.loads(ended.stdout), self.store(monkeypatch)

    def store(self, monkeypatch: pytest.MonkeyPatch) -> Store:
        for name, value in self.server.environment().items():
            monkeypatch.setenv(name, value)
        store = open_store(self.store_url)
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)
        return store

    def objects(self) -> list[str]:
        prefix = self.store_url.removeprefix(f"s3://{BUCKET}/") + "/"
        found = self.server.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"].removeprefix(prefix) for item in found.get("Contents", [])]

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs that Batch has of this pipeline's store, by what their names say."""
        jobs = self.server.client("batch")
        found = jobs.list_jobs(jobQueue=QUEUE, filters=[{"name": "JOB_NAME", "values": ["r-*"]}])["jobSummaryList"]
        details = []
        for start in range(0, len(found), 100):
            details += jobs.describe_jobs(jobs=[job["jobId"] for job in found[start : start + 100]])["jobs"]
        details = [job for job in details if ":" not in job["jobId"]]  # no members of array jobs
        return [job for job in details if self.store_url + "/" in json.dumps(job["container"]["environment"]) or self._mine(job)]

    def _mine(self, job: dict[str, Any]) -> bool:
        from backends.orchestrator.batch.render import prefix

        return any(job["jobName"].startswith(prefix(self.store_url, "r", number)) for number in (1, 2, 3))


def python(code: str) -> list[str]:
    return ["python3", "-c", code]


# -- how steps end -------------------------------------------------------------------------------------------------------------


def test_code_ships_and_a_foreach_step_is_one_array_job(aws: MotoBatch, proxy: FaultyProxy, tmp_path: Path) -> None:
    helpers.write(
        tmp_path / "src",
        work_py="""
            def square(n, out):
                out.write_text(str(n * n))
                return {"square": n * n}

            def total(parts, squares, out):
                found = [int(path.read_text()) for path in sorted(parts.iterdir())]
                assert found == squares, (found, squares)
                out.write_text(str(sum(found)))
        """,
    )
    pipeline = Pipeline(
        tmp_path,
        aws,
        proxy.url,
        code="./src",
        steps={
            "each": {"call": "work:square", "foreach": [1, 2, 3], "args": {"n": "{item}"}, "outputs": ["out"]},
            "all": {
                "call": "work:total",
                "inputs": {"parts": "each.out"},
                "args": {"squares": "{each.values.square}"},
                "outputs": ["out"],
            },
        },
    )
    code, summary = pipeline.run()
    assert (code, summary["class"]) == (0, "success"), summary
    assert sorted(summary["steps"]) == ["all", "each.0", "each.1", "each.2"]
    assert "runs/r/all/1/out/out" in pipeline.objects()
    assert proxy.calls["SubmitJob"] == 2 and proxy.calls["RegisterJobDefinition"] <= 1
    assert sorted(job["arrayProperties"]["size"] for job in pipeline.jobs() if job.get("arrayProperties")) == [3]


def test_a_users_failure_stops_what_depends_on_it_and_nothing_else(aws: MotoBatch, tmp_path: Path) -> None:
    steps = {
        "bad": {"run": ["sh", "-c", "echo why >&2; exit 7"]},
        "never": {"run": ["true"], "after": ["bad"]},
        "nor": {"run": ["true"], "after": ["never"]},
        "other": {"run": ["true"]},
    }
    pipeline = Pipeline(tmp_path, aws, steps=steps)
    code, summary = pipeline.run()
    assert (code, summary["class"], summary["exit_code"]) == (7, "user", 7)
    assert {step: record["class"] for step, record in summary["steps"].items()} == {"bad": "user", "other": "success"}
    assert summary["skipped"] == {"never": "bad failed", "nor": "bad failed"}
    assert not [key for key in pipeline.objects() if key.startswith(("runs/r/never", "runs/r/nor"))]
    log = helpers.run("logs", "r", "--step", "bad", "--store", pipeline.store_url, cwd=tmp_path, **pipeline.environ)
    assert log.stdout + log.stderr == b"why\n"


def test_the_containers_memory_is_a_limit(aws: MotoBatch, tmp_path: Path) -> None:
    step = {"run": python("x = b'x' * 2**29"), "resources": {"memory": "128Mi"}}
    code, summary = Pipeline(tmp_path, aws, steps={"big": step}).run()
    assert (code, summary["class"], summary["exit_code"]) == (137, "oom", 137)


def test_a_steps_timeout_may_be_shorter_than_batchs_shortest(aws: MotoBatch, tmp_path: Path) -> None:
    step = {"run": ["sleep", "300"], "timeout": 1, "grace_period": 1}
    code, summary = Pipeline(tmp_path, aws, steps={"slow": step}).run()
    assert (code, summary["class"]) == (124, "timeout")


@pytest.mark.slow
def test_batchs_own_timeout(aws: MotoBatch, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, aws, steps={"slow": {"run": ["sh", "-c", "sleep 300"], "grace_period": 1}})
    code, summary = pipeline.run(attempt_timeout=60)
    assert (code, summary["class"]) == (143, "terminated")
    [job] = pipeline.jobs()
    assert (job["status"], job["statusReason"]) == ("FAILED", "Job attempt duration exceeded timeout")


def test_batch_retries_what_the_exit_table_retries(aws: MotoBatch, tmp_path: Path) -> None:
    step = {"run": ["sh", "-c", 'echo begun; [ "$ZEN_ATTEMPT" = 2 ] || sleep 300'], "retry": {"limit": 2}, "grace_period": 1}
    pipeline = Pipeline(tmp_path, aws, steps={"a": step})
    process = helpers.start(*pipeline.argv("submit", "--wait", "--output", "json"), cwd=tmp_path, **pipeline.environ)
    try:
        wait_until(lambda: "runs/r/a/1/log/000001.txt" in pipeline.objects())
        [name] = aws.containers()
        subprocess.run(["docker", "kill", "--signal", "TERM", name], check=True, stdout=subprocess.DEVNULL)
    finally:
        ended = helpers.end(process, 120)
    assert ended.code == 0, ended.errors
    [job] = pipeline.jobs()
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [143, 0]
    assert {key for key in pipeline.objects() if key.endswith("result.json")} == {f"runs/r/a/{n}/result.json" for n in (1, 2)}


def test_a_run_is_cancelled_from_anywhere(aws: MotoBatch, tmp_path: Path) -> None:
    steps = {
        "long": {"run": ["sh", "-c", "trap 'echo asked; exit 0' TERM; echo begun; sleep 300 & wait"], "grace_period": 5},
        "never": {"run": ["true"], "after": ["long"]},
    }
    pipeline = Pipeline(tmp_path, aws, steps=steps)
    assert pipeline.submit().code == 0
    wait_until(lambda: "runs/r/long/1/log/000001.txt" in pipeline.objects())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for _ in range(2):
        ended = helpers.run("cancel", "r", "--store", pipeline.store_url, cwd=elsewhere, **pipeline.environ)
        assert ended.code == 0, ended.errors

    def status() -> dict[str, Any]:
        asked = ("status", "r", "--store", pipeline.store_url, "--output", "json")
        answer: dict[str, Any] = json.loads(helpers.run(*asked, cwd=elsewhere, **pipeline.environ).stdout)
        return answer

    wait_until(lambda: "runs/r/long/1/result.json" in pipeline.objects())
    assert status()["state"] == "terminated"
    assert {step: record["class"] for step, record in status()["steps"].items()} == {"long": "terminated", "never": "skipped"}
    log = helpers.run("logs", "r", "--step", "long", "--store", pipeline.store_url, cwd=elsewhere, **pipeline.environ)
    assert log.stdout == b"begun\nasked\n"


def test_a_config_of_5_mb_goes_by_reference(aws: MotoBatch, tmp_path: Path) -> None:
    helpers.write(tmp_path / "src", work_py="def run(text):\n    return {'size': len(text)}\n")
    text = "".join(random.Random(7).choices("abcdefgh", k=5 * 2**20))  # noqa: S311
    pipeline = Pipeline(tmp_path, aws, code="./src", steps={"a": {"call": "work:run", "args": {"text": text}}})
    code, summary = pipeline.run()
    assert (code, summary["steps"]["a"]["values"]) == (0, {"size": 5 * 2**20})
    [job] = pipeline.jobs()
    env = {item["name"]: item["value"] for item in job["container"]["environment"]}
    assert env["ZEN_RUNNER_CONFIG"].startswith(f"ref:{pipeline.store_url}/configs/")


def test_what_batch_kept_of_the_output(aws: MotoBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"a": {"run": ["echo", "hello"]}, "s": {"run": ["echo", "{item}"], "foreach": [7, 8]}}
    pipeline = Pipeline(tmp_path, aws, steps=steps)
    backend, config, store = pipeline.here(monkeypatch)
    handle = backend.submit(config, "r", store)
    assert backend.wait(handle)["class"] == "success"
    state = handle["state"]
    assert b"".join(backend._logs(state, "a")).splitlines()[0] == b"hello"
    assert b"".join(backend._logs(state, "s.1")).splitlines()[0] == b"8"
    assert b"".join(backend._logs(state, "zzz")) == b""


def test_the_pages_manifest_needs_no_client(aws: MotoBatch) -> None:
    definition, job, policy = re.findall(r"```json\n(.*?)```", (helpers.ROOT / "docs/batch.md").read_text(), re.DOTALL)
    assert json.loads(policy)["Version"] == "2012-10-17"
    store = f"s3://{BUCKET}/{next(PREFIXES)}"
    client = aws.client("batch")
    client.register_job_definition(**json.loads(definition))
    request = {**json.loads(job.replace("s3://my-bucket/runs", store)), "jobQueue": QUEUE}
    run = client.submit_job(**request)["jobId"]
    wait_until(lambda: client.describe_jobs(jobs=[run])["jobs"][0]["status"] in ("SUCCEEDED", "FAILED"))
    key = f"{store.removeprefix(f's3://{BUCKET}/')}/runs/{run}/hello/1/result.json"
    record = json.loads(aws.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read())
    assert (record["class"], record["run"], list(record["outputs"])) == ("success", run, ["os"])


# -- many steps ----------------------------------------------------------------------------------------------------------------


def layers(count: int, width: int, run: list[str]) -> dict[str, Any]:
    """Return steps in layers; each waits for some of the layer before, and the last of each layer for all of it."""
    rng = random.Random(7)  # noqa: S311
    steps: dict[str, Any] = {}
    for number in range(count):
        layer, place = divmod(number, width)
        before = [f"s{other}" for other in range((layer - 1) * width, layer * width)] if layer else []
        after = before if place == width - 1 else rng.sample(before, min(len(before), 3))
        steps[f"s{number}"] = {"run": run, "after": sorted(after)}
    return steps


def test_200_steps_and_what_they_cost(null: MotoBatch, null_proxy: FaultyProxy, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, null, null_proxy.url, steps=layers(200, 25, ["true"]))
    code, summary = pipeline.run()
    assert (code, len(summary["steps"])) == (0, 200), summary["message"]
    calls = null_proxy.calls
    assert calls["SubmitJob"] == 200 + 7 * 2, "each layer of 25 is joined by two fan-in jobs, of 20 and 5"
    assert calls["DescribeJobQueues"] == 1 and calls["ListJobs"] == 0
    null_proxy.clear()
    ended = helpers.run("status", "r", "--store", pipeline.store_url, cwd=tmp_path, **pipeline.environ)
    assert ended.code == 0 and calls["DescribeJobs"] <= 200 / 100 + 1


@pytest.mark.slow
def test_200_containers(aws: MotoBatch, tmp_path: Path) -> None:
    code, summary = Pipeline(tmp_path, aws, steps=layers(200, 25, ["true"])).run()
    assert (code, len(summary["steps"])) == (0, 200), summary["message"]


def test_what_is_defined_already_is_used_again(null: MotoBatch, null_proxy: FaultyProxy, tmp_path: Path) -> None:
    steps = {"a": {"run": ["true"], "resources": {"memory": "3Gi"}}, "b": {"run": ["true"], "resources": {"memory": "3Gi"}}}
    for registered in (1, 0):
        null_proxy.clear()
        assert Pipeline(tmp_path, null, null_proxy.url, steps=steps).run()[0] == 0
        assert null_proxy.calls["RegisterJobDefinition"] == registered


# -- calls that fail -----------------------------------------------------------------------------------------------------------

CHAIN = {f"s{number}": {"run": ["true"], "after": [f"s{number - 1}"] if number else []} for number in range(6)}


@pytest.mark.parametrize("kind", ["throttle", "throttle400", "broken", "unavailable", "reset", "lost"])
def test_a_job_is_submitted_once_whatever_the_answer(
    kind: str, null: MotoBatch, null_proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(tmp_path, null, null_proxy.url, steps=CHAIN)
    backend, config, store = pipeline.here(monkeypatch)
    null_proxy.fault("SubmitJob", at=(1, 4, 5), kind=kind)
    null_proxy.fault("RegisterJobDefinition", at=(1,), kind=kind)
    null_proxy.fault("DescribeJobs", at=(1, 3), kind=kind)
    handle = backend.submit(config, "r", store)
    assert backend.wait(handle)["class"] == "success"
    assert len(pipeline.jobs()) == 6
    assert null_proxy.calls["SubmitJob"] == (6 if kind == "lost" else 9)


@pytest.mark.parametrize("kind", ["denied", "broken", "lost"])
def test_a_submission_that_was_cut_short_is_completed(
    kind: str, null: MotoBatch, null_proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(tmp_path, null, null_proxy.url, steps=CHAIN)
    backend, config, store = pipeline.here(monkeypatch)
    null_proxy.fault("SubmitJob", at=range(4, 1000), kind=kind)
    null_proxy.fault("ListJobs", kind="broken")
    with pytest.raises(InfraError, match=r"^AWS Batch in eu-west-1: SubmitJob of 's3' to queue 'zen-queue': .*") as caught:
        backend.submit(config, "r", store)
    assert "submit it again with --run-id r to complete it" in str(caught.value)
    null_proxy.clear()
    handle = OrchestratorBatchBackend(queue=QUEUE).submit(config, "r", store)
    assert backend.wait(handle)["class"] == "success"
    assert len(pipeline.jobs()) == 6
    null_proxy.clear()
    again = backend.submit(config, "r", store)
    assert again["state"] == handle["state"] and null_proxy.calls["SubmitJob"] == 0


def test_a_submission_that_could_not_begin_leaves_no_run(
    null: MotoBatch, null_proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(tmp_path, null, null_proxy.url, steps=CHAIN)
    backend, config, store = pipeline.here(monkeypatch)
    for call, kind in (("SubmitJob", "denied"), ("DescribeJobDefinitions", "denied")):
        null_proxy.fault(call, kind=kind)
        with pytest.raises(InfraError, match=rf"{call} .*AccessDeniedException.*docs/batch\.md"):
            backend.submit(config, "r", store)
        assert not [key for key in pipeline.objects() if key.startswith("runs/")]
        null_proxy.clear()
    assert pipeline.jobs() == []


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_client_killed_while_it_submits(number: int, null: MotoBatch, null_proxy: FaultyProxy, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, null, null_proxy.url, steps=CHAIN)
    process = helpers.start(*pipeline.argv("submit"), cwd=tmp_path, **pipeline.environ)
    null_proxy.fault("SubmitJob", at=(number,), kind=lambda: os.kill(process.pid, signal.SIGKILL))
    assert helpers.end(process).code == -signal.SIGKILL
    wait_until(lambda: len(pipeline.jobs()) == number)  # the last call was carried out, and nobody heard of it
    for folder in Path(tempfile.gettempdir()).glob("zen-runner-*/"):
        if folder.is_dir() and not list(folder.iterdir()):
            folder.rmdir()
    code, summary = pipeline.run()
    assert (code, len(summary["steps"])) == (0, 6)
    assert len(pipeline.jobs()) == 6


def test_a_status_that_could_not_be_read_is_unknown(
    aws: MotoBatch, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(tmp_path, aws, proxy.url, steps={"a": {"run": ["sleep", "5"]}})
    backend, config, store = pipeline.here(monkeypatch)
    handle = backend.submit(config, "r", store)
    proxy.fault("DescribeJobs", kind="broken")
    status = OrchestratorBatchBackend(queue=QUEUE).status(handle)
    assert (status["state"], status["steps"]) == ("unknown", {"a": "unknown"})
    assert "AWS Batch in eu-west-1: DescribeJobs: ServerException" in status["message"]
    proxy.clear()
    assert backend.wait(handle)["class"] == "success"


# -- what can't work: one clear error, the class's exit status, nothing left -----------------------------------------------------


def refused(pipeline: Pipeline, code: int, *words: str, keys: tuple[str, ...] = (), **options: Any) -> None:
    before = len(pipeline.jobs())
    ended = pipeline.submit(**options)
    assert ended.code == code, (ended.code, ended.errors)
    errors = ended.errors.strip()
    assert "Traceback" not in errors and errors.count("zen-runner: error:") == 1, errors
    for word in words:
        assert word in errors, (word, errors)
    assert pipeline.objects() == list(keys)
    assert len(pipeline.jobs()) == before


def test_wrong_credentials(null: MotoBatch, null_proxy: FaultyProxy, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, null, null_proxy.url, steps=CHAIN)
    null_proxy.fault("DescribeJobQueues", kind="stranger")
    refused(pipeline, 69, "UnrecognizedClientException", "the credentials are wrong or have expired", "AWS_PROFILE")


def test_no_credentials(null: MotoBatch, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, null, steps=CHAIN)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del pipeline.environ[name]
    pipeline.environ.update(AWS_EC2_METADATA_DISABLED="true", HOME=str(tmp_path))
    refused(pipeline, 69, "no credentials were found")


def test_a_region_that_is_none(null: MotoBatch, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, null, steps=CHAIN)
    pipeline.environ["AWS_ENDPOINT_URL_S3"] = pipeline.environ.pop("AWS_ENDPOINT_URL")
    refused(pipeline, 69, "AWS Batch in eu-nowhere-1: DescribeJobQueues", "check the region", region="eu-nowhere-1")
    refused(pipeline, 78, "backend.args.region", "in valid", region="in valid")


def test_no_region(null: MotoBatch, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, null, steps=CHAIN)
    del pipeline.environ["AWS_REGION"], pipeline.environ["AWS_DEFAULT_REGION"]
    pipeline.environ["HOME"] = str(tmp_path)
    refused(pipeline, 78, "backend.args.region: no region is known", "set AWS_REGION")


def test_a_queue_that_is_not_there(null: MotoBatch, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, null, steps=CHAIN)
    refused(pipeline, 78, "queue 'zen-queu' does not exist in eu-west-1 (did you mean 'zen-queue'?)", queue="zen-queu")
    refused(pipeline, 78, "queue 'zen-queue' does not exist in us-east-1", "the queues there are none", region="us-east-1")
    refused(pipeline, 78, "queue 'closed-queue' in eu-west-1 takes no jobs: DISABLED", queue="closed-queue")


def test_a_store_that_can_not_be_written(null: MotoBatch, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, null, steps=CHAIN, store="s3://no-such-bucket/x")
    refused(pipeline, 69, "no-such-bucket")


def test_code_of_2_gb(null: MotoBatch, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    with (source / "model.bin").open("wb") as file:
        file.truncate(2 * 2**30)
    pipeline = Pipeline(tmp_path, null, steps=CHAIN, code="./src")
    refused(pipeline, 78, "model.bin")


def test_a_client_library_that_is_missing(null: MotoBatch, tmp_path: Path) -> None:
    helpers.write(tmp_path / "path", boto3_py='raise ImportError("No module named boto3")')
    pipeline = Pipeline(tmp_path, null, steps=CHAIN)
    pipeline.environ["PYTHONPATH"] = str(tmp_path / "path")
    refused(pipeline, 76, "pip install 'zen-runner[aws]'")


def test_names_of_300_characters(null: MotoBatch, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, null, steps={"s" * 63: {"run": ["true"]}}, name="é" * 300)
    ended = pipeline.submit("--wait")
    assert ended.code == 78 and "Traceback" not in ended.errors
    assert "is not a pipeline's name" in ended.errors and "at most 63" in ended.errors
    assert pipeline.jobs() == [] and pipeline.objects() == []


def test_an_image_that_does_not_exist(aws: MotoBatch, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, aws, steps={"a": {"run": ["true"], "image": "no-such/image:1"}})
    code, summary = pipeline.run()
    assert code in (69, 78) and summary["steps"]["a"]["class"] in ("infra", "config")
    assert "CannotPullContainerError" in summary["message"] and "'a' failed" in summary["message"]


def test_an_image_that_does_not_run_zen_runner(aws: MotoBatch, tmp_path: Path) -> None:
    steps = {"a": {"run": ["true"], "image": "python:3.11-slim-bookworm"}}
    code, summary = Pipeline(tmp_path, aws, steps=steps).run()
    assert (code, summary["class"]) == (78, "config")
    assert "python:3.11-slim-bookworm does not run zen-runner" in summary["message"]


def test_a_dry_run_needs_nothing(tmp_path: Path, null: MotoBatch) -> None:
    pipeline = Pipeline(tmp_path, null, steps=CHAIN)
    ended = helpers.run(*pipeline.argv("submit", "--dry-run", "-o", "json"), cwd=tmp_path)
    assert ended.code == 0, ended.errors
    documents = json.loads(ended.stdout)
    assert [document["api"] for document in documents] == ["RegisterJobDefinition", *["SubmitJob"] * 6]
    assert documents[3]["request"]["dependsOn"] == [{"jobId": "{s1}"}]


def test_errors_are_the_projects_own(
    null: MotoBatch, null_proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(tmp_path, null, null_proxy.url, steps=CHAIN)
    backend, config, store = pipeline.here(monkeypatch)
    for kind in ("throttle", "broken", "reset", "stranger", "denied"):
        null_proxy.clear()
        null_proxy.fault("DescribeJobQueues", kind=kind)
        with pytest.raises(ZenRunnerError, match=r"^AWS Batch in eu-west-1: DescribeJobQueues of queue 'zen-queue': \S"):
            backend.submit(config, "r", store)
        assert null_proxy.calls["DescribeJobQueues"] == (1 if kind in ("stranger", "denied") else 3)
    assert records.read_run(store, "r") is None
