"""The beam orchestrator with a real Beam: what the contract suite does not ask of every orchestrator."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import configs, frameworks, running
from tests.support.beam_job_server import start_job_server
from tests.support.processes import mentioning
from tests.support.waiting import wait_until

SECONDS = 120.0
PROGRAM = [sys.executable, "-P", "-m", "entrypoint"]


@pytest.fixture
def python() -> str:
    return frameworks.python_with("apache_beam")


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Fail if a step, or a Beam program of this test, is still there."""
    yield
    wait_until(lambda: not mentioning(tmp_path), 10)


def beam_programs(folder: Path) -> list[int]:
    """Return the Beam programs of the runs of a test."""
    return [pid for pid, command in mentioning(folder).items() if "beam/pipeline.py" in command]


def block(options: dict[str, Any] | None = None, **args: Any) -> str:
    return json.dumps({"source": "beam", "args": {**args, **({"options": options} if options else {})}})


def elsewhere(server: str, **args: Any) -> str:
    """Return a backend whose ParDos run the attempts, in Beam's program."""
    options = {"job_endpoint": server, "environment_type": "LOOPBACK"}
    return block(options, runner="PortableRunner", program=PROGRAM, **args)


def shell(script: str, **keys: Any) -> dict[str, Any]:
    return {"run": ["sh", "-c", script], **keys}


def write(folder: Path, steps: dict[str, Any], **document: Any) -> Path:
    return configs.config(folder, **{"name": "beam", "code": None, "env": {"MARK": str(folder)}, "steps": steps, **document})


def arguments(config: Path, backend: str) -> list[str]:
    return ["run", "--config", str(config), "--run-id", "r", "--backend", backend, "--output", "json"]


def run(config: Path, backend: str, python: str, **env: str) -> tuple[running.Ended, dict[str, Any]]:
    """Run a pipeline; return how it ended and its summary."""
    env = {"ZEN_RUNNER_PYTHON": python, "MARK": str(config.parent), **env}
    ended = running.run(*arguments(config, backend), cwd=config.parent, timeout=SECONDS, env=env)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert lines, ended.errors
    return ended, lines[-1]["summary"]


def classes(summary: dict[str, Any]) -> dict[str, str]:
    return {step: record["class"] for step, record in summary["steps"].items()}


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading", "multi_processing"])
def test_branches_run_side_by_side_and_join(tmp_path: Path, python: str, mode: str) -> None:
    # Each branch ends only if the other one has begun.
    meet = 'touch "$MARK/{0}"; for i in $(seq 600); do [ -e "$MARK/{1}" ] && exit 0; sleep 0.05; done; exit 1'
    steps = {
        "one": shell(meet.format("one", "two")),
        "two": shell(meet.format("two", "one")),
        "both": shell('[ -e "$MARK/one" ] && [ -e "$MARK/two" ]', after=["one", "two"]),
    }
    ended, summary = run(write(tmp_path, steps), block({"direct_running_mode": mode}, max_parallel=2), python)
    assert ended.code == 0, ended.errors
    assert classes(summary) == {"one": "success", "two": "success", "both": "success"}


FORK = {
    "bad": shell("exit 9"),
    "after_bad": shell("true", after=["bad"]),
    "good": shell("sleep 0.5"),
    "after_good": shell("true", after=["good"]),
    "after_both": shell("true", after=["after_good", "after_bad"]),
}


def test_keep_going_leaves_out_what_depends_on_a_failed_step(tmp_path: Path, python: str) -> None:
    ended, summary = run(write(tmp_path, FORK), block(keep_going=True), python)
    assert (ended.code, summary["class"], summary["exit_code"]) == (9, "user", 9)
    assert classes(summary) == {"bad": "user", "good": "success", "after_good": "success"}
    assert summary["skipped"] == {"after_bad": "bad failed", "after_both": "bad failed"}


def test_keep_going_elsewhere(tmp_path: Path, python: str, job_server: str) -> None:
    ended, summary = run(write(tmp_path, FORK), elsewhere(job_server, keep_going=True), python)
    assert (ended.code, summary["class"], summary["exit_code"]) == (9, "user", 9)
    assert classes(summary) == {"bad": "user", "good": "success", "after_good": "success"}
    assert summary["skipped"] == {"after_bad": "bad failed", "after_both": "bad failed"}


def test_a_pardo_retries_as_the_policy_says(tmp_path: Path, python: str, job_server: str) -> None:
    steps = {
        "flaky": shell('[ "$ZEN_ATTEMPT" = 3 ]', retry={"limit": 2, "on": ["user"], "backoff": 0.01}),
        "hopeless": shell("exit 5", retry={"limit": 1, "on": ["user"], "backoff": 0.01}, after=["flaky"]),
        "asked_not": shell("exit 6", retry={"limit": 3, "on": ["infra"], "backoff": 0.01}),
    }
    _, summary = run(write(tmp_path, steps), elsewhere(job_server, keep_going=True), python)
    assert {step: record["attempt"] for step, record in summary["steps"].items()} == {"flaky": 3, "hopeless": 2, "asked_not": 1}
    assert {step: record["exit_code"] for step, record in summary["steps"].items()} == {
        "flaky": 0,
        "hopeless": 5,
        "asked_not": 6,
    }


def test_workers_of_their_own_get_the_shipped_code(tmp_path: Path, python: str, job_server: str) -> None:
    configs.write(tmp_path / "code", mod_py="def f(n):\n    return {'twice': 2 * n}\n")
    steps = {
        "f": {"call": "mod:f", "args": {"n": 21}},
        "g": shell('[ "$0" = 42 ]', after=["f"]),
    }
    steps["g"]["run"].append("{f.values.twice}")
    options = {
        "job_endpoint": job_server,
        "environment_type": "beam:env:harness_subprocess_python:v1",
        "environment_config": f"{python} -m apache_beam.runners.worker.sdk_worker_main",
    }
    config = write(tmp_path, steps, code=str(tmp_path / "code"))
    backend = block(options, runner="PortableRunner", program=PROGRAM, mounts=[str(tmp_path)])
    ended, summary = run(config, backend, python)
    assert ended.code == 0, ended.errors
    assert classes(summary) == {"f": "success", "g": "success"}
    assert len(list((tmp_path / "store/code").glob("*.tar.gz"))) == 1


def test_a_store_that_workers_cannot_see_is_refused(tmp_path: Path, python: str) -> None:
    backend = block({"job_endpoint": "localhost:1"}, runner="PortableRunner")
    ended = running.run(*arguments(write(tmp_path, FORK), backend), cwd=tmp_path, ZEN_RUNNER_PYTHON=python)
    assert ended.code == 78 and "a directory of this machine" in ended.errors


def test_a_worker_without_the_program_is_told_of(tmp_path: Path, python: str, job_server: str) -> None:
    options = {"job_endpoint": job_server, "environment_type": "LOOPBACK"}
    backend = block(options, runner="PortableRunner", program=["no-such-zen-runner"])
    ended, summary = run(write(tmp_path, {"a": shell("true")}), backend, python)
    assert (ended.code, summary["class"]) == (69, "infra")
    assert "step 'a' failed with exit status 127; is no-such-zen-runner on the worker?" in summary["message"]


def test_a_job_server_that_is_not_there_is_told_of(tmp_path: Path, python: str) -> None:
    options = {"job_endpoint": "localhost:1", "environment_type": "LOOPBACK", "job_server_timeout": 3}
    ended, summary = run(write(tmp_path, {"a": shell("true")}), block(options, runner="PortableRunner"), python)
    assert (ended.code, summary["class"]) == (69, "infra")
    assert "the Beam job failed" in summary["message"] and (tmp_path / "store/runs/r/beam.log").read_bytes()


def begun(folder: Path, step: str, attempt: int = 1) -> bool:
    return bool(list((folder / "store/runs/r" / step / str(attempt) / "log").glob("*.txt")))


LONG = {"long": shell("echo begun; sleep 300 & wait", grace_period=5), "never": shell("true", after=["long"])}


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_run_whose_beam_is_killed_ends_as_infra(
    tmp_path: Path, python: str, where: str, request: pytest.FixtureRequest
) -> None:
    backend = block() if where == "here" else elsewhere(request.getfixturevalue("job_server"))
    env = {"ZEN_RUNNER_PYTHON": python, "MARK": str(tmp_path)}
    process = running.start(*arguments(write(tmp_path, LONG), backend), cwd=tmp_path, **env)
    try:
        wait_until(lambda: begun(tmp_path, "long"), SECONDS)
        (program,) = beam_programs(tmp_path)
        os.kill(program, signal.SIGKILL)
        ended = running.end(process, SECONDS)
    finally:
        process.kill()
    summary = json.loads(ended.stdout.splitlines()[-1])["summary"]
    assert list(summary["skipped"]) == ["never"] and classes(summary) == {"long": "terminated"}
    assert (ended.code, summary["class"]) == (69, "infra")
    assert "the Beam job ended before the run did: it was killed by signal 9" in summary["message"]


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_beam_ends_with_a_killed_driver(tmp_path: Path, python: str, where: str, request: pytest.FixtureRequest) -> None:
    backend = block() if where == "here" else elsewhere(request.getfixturevalue("job_server"))
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    env = {"ZEN_RUNNER_PYTHON": python, "MARK": str(tmp_path), "TMPDIR": str(scratch)}
    step = shell('echo begun; [ "$ZEN_ATTEMPT" = 2 ] || sleep 300', grace_period=2)
    config = write(tmp_path, {"first": shell("true"), "second": {**step, "after": ["first"]}})
    process = running.start(*arguments(config, backend), cwd=tmp_path, **env)
    try:
        wait_until(lambda: begun(tmp_path, "second"), SECONDS)
        assert beam_programs(tmp_path)
    finally:
        process.kill()
        running.end(process, SECONDS)
    wait_until(lambda: not beam_programs(tmp_path), 10)
    assert list(scratch.glob("zen-beam-*")) == [] and list(Path("/tmp").glob(f"zen-beam-*/{tmp_path.name}")) == []
    ended, summary = run(config, backend, python=python, TMPDIR=str(scratch))
    assert ended.code == 0, ended.errors
    assert summary["resumed"] == ["first"] and classes(summary) == {"first": "success", "second": "success"}


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_sigterm_while_beam_is_on_its_way_cancels(
    tmp_path: Path, python: str, where: str, request: pytest.FixtureRequest
) -> None:
    backend = block() if where == "here" else elsewhere(request.getfixturevalue("job_server"))
    env = {"ZEN_RUNNER_PYTHON": python, "MARK": str(tmp_path)}
    process = running.start(*arguments(write(tmp_path, LONG), backend), cwd=tmp_path, **env)
    try:
        wait_until(lambda: beam_programs(tmp_path), SECONDS)  # it imports Beam, which takes seconds
        process.send_signal(signal.SIGTERM)
        ended = running.end(process, SECONDS)
    finally:
        process.kill()
    assert ended.code == 143, ended.errors


def test_a_python_without_beam_is_the_wrong_place(tmp_path: Path) -> None:
    ended = running.run(*arguments(write(tmp_path, FORK), block()), cwd=tmp_path)
    assert ended.code == 76 and ended.record["class"] == "placement"
    for part in ("Apache Beam is not installed for", running.USER_PYTHON, "pip install apache-beam", "zen-runner:beam"):
        assert part in ended.record["message"]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({"options": {"direct_runing_mode": "in_memory"}}, "'direct_runing_mode' (did you mean 'direct_running_mode'?)"),
        ({"options": {"direct_running_mode": "fast"}}, "invalid choice: 'fast'"),
        ({"options": {"direct_num_workers": "many"}}, "invalid int value: 'many'"),
        ({"runner": "NoRunner", "options": {"environment_type": "LOOPBACK"}}, "Unexpected pipeline runner: NoRunner"),
    ],
)
def test_what_beam_does_not_take_is_one_clear_error(tmp_path: Path, python: str, args: dict[str, Any], complaint: str) -> None:
    config = write(tmp_path, FORK)
    ended = running.run(*arguments(config, block(**args)), cwd=tmp_path, ZEN_RUNNER_PYTHON=python, MARK=str(tmp_path))
    assert ended.code == 78 and complaint in ended.record["message"]
    assert len(ended.errors.splitlines()) == 2  # the error and the last words


def test_penguins_give_the_same_digests_as_local(tmp_path: Path, python: str) -> None:
    digests = []
    for backend in ("local", "beam"):
        store = tmp_path / backend
        words = ["--config", str(running.ROOT / "examples/penguins/pipeline.yaml"), "--set", f"store={store}", "--run-id", "r"]
        ended = running.run("run", *words, "--backend", backend, cwd=tmp_path, timeout=SECONDS, ZEN_RUNNER_PYTHON=python)
        assert ended.code == 0, ended.errors
        records = [json.loads(path.read_text()) for path in sorted(store.glob("runs/r/*/1/result.json"))]
        digests.append({(record["step"], name): made["digest"] for record in records for name, made in record["outputs"].items()})
    assert digests[0] == digests[1] and digests[0]


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["wide", "chain"])
def test_three_hundred_steps(tmp_path: Path, python: str, shape: str) -> None:
    steps = {
        f"s{number}": shell("true", after=[f"s{number - 1}"] if shape == "chain" and number else []) for number in range(300)
    }
    ended, summary = run(write(tmp_path, steps), block(), python)
    assert ended.code == 0, ended.errors
    assert set(classes(summary).values()) == {"success"} and len(summary["steps"]) == 300


def test_a_beam_that_does_not_start_is_given_up(tmp_path: Path, python: str) -> None:
    env = {"ZEN_RUNNER_PYTHON": python, "MARK": str(tmp_path)}
    process = running.start(*arguments(write(tmp_path, LONG), block(startup_timeout=2.0)), cwd=tmp_path, **env)
    try:
        wait_until(lambda: beam_programs(tmp_path), SECONDS)
        os.kill(beam_programs(tmp_path)[0], signal.SIGSTOP)
        ended = running.end(process, SECONDS)
    finally:
        process.kill()
    assert ended.code == 69 and "was not ready after 2 s" in ended.record["message"]


def test_a_runner_that_never_begins_a_step_is_given_up(tmp_path: Path, python: str) -> None:
    configs.write(
        tmp_path,
        never_py="""
        import time
        from apache_beam.runners.runner import PipelineRunner

        class Never(PipelineRunner):
            def run_pipeline(self, pipeline, options):
                time.sleep(600)
        """,
    )
    backend = block({"environment_type": "LOOPBACK"}, runner="never.Never", startup_timeout=20.0)
    ended, summary = run(write(tmp_path, LONG), backend, python, PYTHONPATH=str(tmp_path))
    assert (ended.code, summary["class"]) == (69, "infra")
    assert "was silent for 20 s" in summary["message"]
    assert list(summary["skipped"]) == ["long", "never"]


def test_workers_take_code_and_config_from_a_bucket(tmp_path: Path, python: str) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        cloud = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        keys = {"aws_access_key_id": "id", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=cloud["AWS_ENDPOINT_URL"], **keys).create_bucket(Bucket="beam-bucket")
        configs.write(tmp_path / "code", mod_py="def f(out):\n    out.write_text('from a worker')\n")
        steps = {
            "f": {"call": "mod:f", "outputs": ["out"]},
            "g": shell('[ "$(cat "$ZEN_INPUT_TEXT")" = "from a worker" ]', inputs={"text": "f.out"}),
        }
        config = write(tmp_path, steps, code=str(tmp_path / "code"), store="s3://beam-bucket/prefix")
        worker_environ = {**running.environment(ZEN_RUNNER_PYTHON=python), **cloud}
        jobs = start_job_server(tmp_path, **worker_environ)
        options = {
            "job_endpoint": next(jobs),
            "environment_type": "beam:env:harness_subprocess_python:v1",
            "environment_config": f"{python} -m apache_beam.runners.worker.sdk_worker_main",
        }
        ended, summary = run(config, block(options, runner="PortableRunner", program=PROGRAM), python, **cloud)
        jobs.close()
    finally:
        server.stop()
    assert ended.code == 0, ended.errors
    assert classes(summary) == {"f": "success", "g": "success"}
