"""A step that runs as a job of a platform: waited for, found again, never started twice; on the fake platform."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.store import open_store
from backends.store.logs import log_chunks
from tests.support import configs, running
from tests.support.fake_platform.api import Api
from tests.support.waiting import wait_until

SOURCE = "tests.support.fake_platform.training:TrainingFakeBackend"
ENVIRON = {"PYTHONPATH": str(running.ROOT)}


class Training:
    """A pipeline whose step ``train`` is a job of the fake platform."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api = Api(folder / "store-cluster")

    def write(self, script: str = "true", before: dict[str, Any] | None = None, **step: Any) -> Path:
        args = step.pop("args_of_backend", {})
        train = {
            "run": ["sh", "-c", script],
            "backend": {"type": "training", "source": SOURCE, "args": args},
            "retry": {"limit": 0},
            "grace_period": 2,
            **step,
        }
        steps = {**(before or {}), "train": train}
        env = {"MARK": str(self.folder)}
        return configs.config(self.folder, name="training", code=None, env=env, secrets={}, steps=steps)

    def argv(self, *more: str, run: str = "r") -> list[str]:
        return ["run", "--config", str(self.folder / "config.json"), "--run-id", run, *more]

    def run(self, *more: str, run: str = "r", **environ: str) -> running.Ended:
        return running.run(*self.argv(*more, run=run), cwd=self.folder, env={**ENVIRON, **environ})

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        return running.start(*self.argv(*more), cwd=self.folder, **ENVIRON)

    def jobs(self) -> list[Path]:
        return sorted(self.api.root.glob("jobs/*"), key=lambda path: path.stat().st_ctime)

    def records(self, run: str = "r") -> list[dict[str, Any]]:
        return running.results(self.folder, run, "train")

    def waits(self, text: str = "begun") -> None:
        """Wait until the job's step has printed something."""
        wait_until(lambda: text in b"".join(log_chunks(open_store(str(self.folder / "store")), "r", "train")).decode(), 30)

    def container(self, script: str) -> None:
        """Let a job be a script instead of the image's entrypoint."""
        (self.api.root / "container").write_text(script)

    def waiters(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if b"entrypoint.runtime.remote_job" in line and str(self.folder).encode() in line:
                found.append(int(process.name))
        return found


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    training = Training(tmp_path)
    yield training
    for job in training.jobs():
        (job / "end").touch()
    wait_until(lambda: training.waiters() == [], 10)


def test_a_step_runs_as_a_job_between_steps_that_run_here(training: Training) -> None:
    make = {"run": ["sh", "-c", 'echo data > "$ZEN_OUTPUT_RAW"'], "outputs": ["raw"]}
    training.write(
        'echo out; echo "$ZEN_ATTEMPT $TRACEPARENT"; cat "$ZEN_INPUT_RAW" > "$ZEN_OUTPUT_MODEL"',
        {"make": make},
        inputs={"raw": "make.raw"},
        outputs=["model"],
        cache=False,
    )
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ended = training.run(TRACEPARENT=trace)
    assert ended.code == 0, ended.errors
    [job] = training.jobs()
    [record] = training.records()
    assert (record["class"], record["attempt"], record["platform"]["attempt"]) == ("success", 1, job.name)
    assert "out\n" in ended.errors + ended.stdout.decode() and "0af7651916cd43dd8448eb211c80319c" in str(ended)
    assert f"as {job.name}" in ended.errors
    spec = json.loads((job / "spec.json").read_text())
    assert set(spec["env"]) - {"FAKE_MEMORY"} >= {"ZEN_RUNNER_CONFIG", "ZEN_RUNNER_STEP", "ZEN_RUNNER_RUN_ID"}
    store = open_store(str(training.folder / "store"))
    assert store.get(record["outputs"]["model"]["key"]) == b"data\n"
    assert training.run().code == 0 and len(training.jobs()) == 1  # it has a good result


def test_a_single_step_is_a_job_too(training: Training) -> None:
    training.write("echo out; exit 7")
    ended = training.run("--step", "train")
    assert (ended.code, ended.record["class"], ended.record["attempt"]) == (7, "user", 1)
    assert ended.stdout == b"out\n"
    assert training.run("--step", "train").code == 7 and [job["attempt"] for job in training.records()] == [1, 2]
    assert len({job.name for job in training.jobs()}) == 2


def test_the_job_ends_as_its_record_says(training: Training) -> None:
    training.write("echo last words >&2; exit 3")
    ended = training.run("--output", "json")
    summary = json.loads(ended.stdout.splitlines()[-1])["summary"]
    assert (ended.code, summary["class"]) == (3, "user")
    assert summary["steps"]["train"] == training.records()[0]
    assert "last words" in summary["steps"]["train"]["log_tail"]


@pytest.mark.parametrize("when", ["before the job", "after the job", "while it runs"])
def test_a_killed_waiter_is_followed_by_one_that_finds_the_job(training: Training, when: str) -> None:
    training.write("echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done")
    if when == "while it runs":
        process = training.start()
        training.waits()
        os.killpg(process.pid, signal.SIGKILL)
        running.end(process)
        wait_until(lambda: training.waiters() == [], 10)  # one without anybody who wants to know ends by itself
    else:
        ended = training.run(FAKE_KILL={"before the job": "submit:1", "after the job": "submitted:1"}[when])
        assert ended.code == 69 and "what waited for the job ended with 137" in ended.errors
    if when != "before the job":
        training.waits()
    asked = training.api.calls("describe")
    process = training.start()
    training.waits()
    wait_until(lambda: training.api.calls("describe") > asked, 10)
    [job] = training.jobs()
    (job / "go").touch()
    ended = running.end(process)
    assert ended.code == 0, ended.errors
    assert len(training.jobs()) == 1 and [record["class"] for record in training.records()] == ["success"]
    assert b"begun" in ended.stdout + ended.stderr and b"done" in ended.stdout + ended.stderr


@pytest.mark.parametrize("job_dies", [False, True])
@pytest.mark.parametrize("kill", ["submit:1", "submitted:1", "describe:1", "describe:2"])
def test_a_kill_at_any_call_loses_nothing_and_starts_nothing_twice(training: Training, kill: str, job_dies: bool) -> None:
    training.write(
        'cd "$HERE"; [ "$DIES" = 0 ] || [ -e died ] || { touch died; kill -9 "$PPID"; exit; }; echo ran >> count; sleep 0.3',
        env={"HERE": str(training.folder), "DIES": str(int(job_dies))},
    )
    training.container(f"{shlex.join(running.argv())}; exit $?")
    first = training.run(FAKE_KILL=kill)
    assert first.code == 69, first.errors
    codes = [training.run().code for _ in range(2)]
    assert codes[-1] == 0
    classes = [record["class"] for record in training.records()]
    assert classes == (["oom", "success"] if job_dies else ["success"])
    assert len(training.jobs()) == len(classes)
    assert (training.folder / "count").read_text() == "ran\n"


def test_a_job_that_ended_while_nobody_waited_is_not_started_again(training: Training) -> None:
    training.write("echo begun; while [ ! -e go ]; do sleep 0.05; done")
    process = training.start()
    training.waits()
    os.killpg(process.pid, signal.SIGKILL)
    running.end(process)
    [job] = training.jobs()
    (job / "go").touch()
    wait_until(lambda: bool(training.records()), 10)
    assert training.run().code == 0 and len(training.jobs()) == 1


@pytest.mark.parametrize("pending", [False, True])
def test_a_cancelled_run_ends_the_job(training: Training, pending: bool) -> None:
    if pending:
        (training.api.root / "stuck").write_text("no room")
    training.write("echo begun; sleep 300")
    process = training.start()
    if pending:
        wait_until(lambda: len(training.jobs()) == 1, 20)
    else:
        training.waits()
    process.send_signal(signal.SIGTERM)
    ended = running.end(process)
    assert ended.code == 143, ended.errors
    [record] = training.records()
    assert (record["class"], record["exit_code"]) == ("terminated", 143)
    [job] = training.jobs()
    wait_until(lambda: json.loads((job / "state.json").read_text())["state"] == "cancelled", 10)


def test_cancel_ends_the_job_of_a_run_that_was_killed(training: Training) -> None:
    training.write("echo begun; sleep 300")
    process = training.start()
    training.waits()
    cancel = ("cancel", "r", "--config", str(training.folder / "config.json"))
    ended = running.run(*cancel, cwd=training.folder, env=ENVIRON)
    assert ended.code == 64 and "was not submitted: stop process" in ended.errors
    os.killpg(process.pid, signal.SIGKILL)
    running.end(process)
    ended = running.run(*cancel, cwd=training.folder, env=ENVIRON)
    assert ended.code == 0, ended.errors
    wait_until(lambda: [record["class"] for record in training.records()] == ["terminated"], 20)


def test_cancel_ends_the_job_of_a_driver_that_was_killed(training: Training) -> None:
    training.write("echo begun; sleep 300")
    ended = running.run("submit", *training.argv()[1:], cwd=training.folder, env=ENVIRON)
    assert ended.code == 0, ended.errors
    training.waits()
    ended = running.run("status", "r", "--config", str(training.folder / "config.json"), cwd=training.folder, env=ENVIRON)
    assert f"train is on {SOURCE} as {training.jobs()[0].name}\n" in ended.stdout.decode()
    handle = json.loads((training.folder / "store/runs/r/handle.json").read_text())
    os.kill(handle["pid"], signal.SIGKILL)
    wait_until(lambda: training.waiters() == [], 10)
    ended = running.run("cancel", "r", "--config", str(training.folder / "config.json"), cwd=training.folder, env=ENVIRON)
    assert ended.code == 0, ended.errors
    wait_until(lambda: [record["class"] for record in training.records()] == ["terminated"], 20)


def test_a_job_deleted_by_hand_is_infra(training: Training) -> None:
    training.write("echo begun; sleep 300")
    process = training.start()
    training.waits()
    [job] = training.jobs()
    (job / "forgotten").touch()
    ended = running.end(process)
    assert ended.code == 69 and "the job is gone" in ended.record["message"]
    assert training.records()[0]["class"] == "infra"


@pytest.mark.parametrize(
    ("script", "code", "kind", "words"),
    [
        ("exit 0", 78, "config", "does not run zen-runner"),
        ("echo some words; exit 9", 9, "user", "ended with 9"),
        ("exit 69", 69, "infra", "ended with 69"),
        (
            """echo noise; echo '{"class":"placement","exit_code":76,"message":"no key","run":"r","step":"train"}'; exit 76""",
            76,
            "placement",
            "no key",
        ),
    ],
)
def test_a_job_that_leaves_no_record_gets_one(training: Training, script: str, code: int, kind: str, words: str) -> None:
    training.write()
    training.container(script)
    ended = training.run()
    [record] = training.records()
    assert (ended.code, record["class"], record["exit_code"]) == (code, kind, code)
    assert words in record["message"]
    if "words" in script:
        assert record["log_tail"] == "some words\n"
    assert training.run().code == code and len(training.jobs()) == 2  # another round, not the old job's end again


def test_a_job_that_is_killed_with_its_claim_gets_a_record(training: Training) -> None:
    training.write('echo begun; kill -9 "$PPID"; sleep 300')
    training.container(f"{shlex.join(running.argv())}; exit $?")
    ended = training.run()
    [record] = training.records()
    assert (record["attempt"], record["exit_code"]) == (1, 137), ended.errors


def test_a_platform_that_goes_away_leaves_the_job_to_the_next_attempt(training: Training) -> None:
    training.write("echo begun; while [ ! -e go ]; do sleep 0.05; done", retry={"limit": 5, "on": ["infra"], "backoff": 0.1})
    (training.api.root / "faults.json").write_text(json.dumps([["describe:3", "gone"]]))
    process = training.start()
    training.waits()
    wait_until(lambda: (training.api.root / "faults.json").read_text() == "[]", 20)
    [job] = training.jobs()
    wait_until(lambda: training.api.calls("describe") > 5, 20)
    (job / "go").touch()
    ended = running.end(process)
    assert ended.code == 0, ended.errors
    assert b"describe: gone" in ended.stderr
    assert len(training.jobs()) == 1 and len(training.records()) == 1


def test_two_waiters_share_one_job(training: Training) -> None:
    training.write("echo begun; sleep 1")
    both = [training.start("--step", "train") for _ in range(2)]
    ended = [running.end(process) for process in both]
    assert [one.code for one in ended] == [0, 0], [one.errors for one in ended]
    assert len(training.jobs()) == 1 and len(training.records()) == 1
    assert [one.stdout for one in ended] == [b"begun\n"] * 2


def test_a_class_that_is_retried_is_another_job(training: Training) -> None:
    training.write('exit "$(( ZEN_ATTEMPT == 1 ? 9 : 0 ))"', retry={"limit": 3, "on": ["user"], "backoff": 0.01})
    assert training.run().code == 0
    assert [record["class"] for record in training.records()] == ["user", "success"]
    assert len(training.jobs()) == 2


def test_more_memory_after_the_out_of_memory_killer(training: Training) -> None:
    training.write(resources={"memory": 2**20}, retry={"limit": 1, "on": ["oom"], "memory_factor": 2, "backoff": 0.01})
    training.container('echo "$FAKE_MEMORY"; exit 137')
    assert training.run().code == 137
    memory = [json.loads((job / "spec.json").read_text())["env"]["FAKE_MEMORY"] for job in training.jobs()]
    assert memory == [str(2**20), str(2**21)]
    assert [record["class"] for record in training.records()] == ["oom", "oom"]


def test_a_cache_hit_starts_no_job(training: Training) -> None:
    make = {"run": ["sh", "-c", 'echo data > "$ZEN_OUTPUT_RAW"'], "outputs": ["raw"]}
    training.write(
        'cat "$ZEN_INPUT_RAW" > "$ZEN_OUTPUT_MODEL"; echo "{}" > "$ZEN_VALUES"',
        {"make": make},
        inputs={"raw": "make.raw"},
        outputs=["model"],
        cache=True,
        image=f"images/train@sha256:{'0' * 64}",
    )
    assert training.run(run="one").code == 0 and len(training.jobs()) == 1
    ended = training.run(run="two")
    assert ended.code == 0, ended.errors
    assert len(training.jobs()) == 1
    [first], [second] = training.records("one"), training.records("two")
    assert second["cached_from"] == {"run": "one", "step": "train", "attempt": 1}
    assert second["outputs"] == first["outputs"] and second["inputs"] == first["inputs"]


def test_a_store_that_the_platform_does_not_see_is_refused_before_anything_starts(training: Training) -> None:
    training.write(args_of_backend={"seen": ["/elsewhere"]})
    ended = training.run()
    assert ended.code == 78 and "which the containers don't see; write a URL" in ended.record["message"]
    assert training.jobs() == [] and not list(training.folder.glob("store/runs/r/train/*"))


def test_what_other_steps_read_from_here_does_not_matter(training: Training) -> None:
    (training.folder / "data").write_text("data")
    read = {"run": ["cat", "{inputs.data}"], "inputs": {"data": str(training.folder / "data")}}
    training.write(before={"read": read}, args_of_backend={"seen": [str(training.folder / "store")]})
    ended = training.run()
    assert ended.code == 0, ended.errors


def test_a_refused_job_can_be_started_later(training: Training) -> None:
    training.write()
    (training.api.root / "faults.json").write_text(json.dumps([["submit:1", "no such queue"]]))
    ended = training.run()
    assert ended.code == 78 and "no such queue" in ended.record["message"]
    assert training.run().code == 0 and len(training.jobs()) == 1


def test_the_timeout_covers_waiting_and_running(training: Training) -> None:
    (training.api.root / "stuck").write_text("no room")
    training.write("true", timeout=1)
    ended = training.run()
    [record] = training.records()
    assert (ended.code, record["class"]) == (124, "timeout") and "with the waiting for it" in record["message"]


def test_a_job_that_does_not_begin_is_ended(training: Training) -> None:
    (training.api.root / "stuck").write_text("no room")
    training.write("true", args_of_backend={"startup_timeout": 0.5})
    ended = training.run()
    [record] = training.records()
    assert (ended.code, record["class"], record["message"]) == (69, "infra", "not running after 0.5 s: no room")
    [job] = training.jobs()
    assert (job / "end").exists()


def test_secrets_cross_as_references_only(training: Training) -> None:
    path = training.write("true")
    document = json.loads(path.read_text())
    document["secrets"] = {"KEY": {"env": "MY_KEY"}}
    path.write_text(json.dumps(document))
    process = training.start()
    running.end(process)
    ended = training.run(MY_KEY="hush-hush")
    assert ended.code == 76 and "$MY_KEY is not set" in ended.record["message"]  # the platform hands none over
    for path in [*training.folder.rglob("*.json"), *training.folder.rglob("log")]:
        assert path.is_dir() or "hush-hush" not in path.read_text(), path


def test_the_heavy_step_is_named_before_it_runs(training: Training) -> None:
    training.write("true")
    ended = training.run("--dry-run")
    assert ended.code == 0 and f"on {SOURCE}" in ended.stdout.decode()
    assert training.jobs() == []


def test_render_shows_the_job_as_it_is_started(training: Training) -> None:
    training.write("true")
    rendered = running.run(
        *("render", "--config", str(training.folder / "config.json"), "--run-id", "r", "-o", "json"),
        cwd=training.folder,
        env=ENVIRON,
    )
    assert rendered.code == 0 and training.jobs() == [], rendered.errors
    *_, document = json.loads(rendered.stdout)
    assert training.run().code == 0
    [job] = training.jobs()
    spec = json.loads((job / "spec.json").read_text())
    assert (document["name"], document["env"]) == (job.name, {key: spec["env"][key] for key in document["env"]})
    assert set(spec["env"]) - set(document["env"]) <= {"FAKE_MEMORY", "TRACEPARENT", "PYTHONPATH"}


def test_a_waiter_of_another_version_is_followed_too(training: Training) -> None:
    training.write("echo begun; while [ ! -e go ]; do sleep 0.05; done")
    process = training.start()
    training.waits()
    os.killpg(process.pid, signal.SIGKILL)
    running.end(process)
    wait_until(lambda: training.waiters() == [], 10)
    [path] = training.folder.glob("store/runs/r/train/job.1.json")
    note = json.loads(path.read_text())
    path.write_text(json.dumps({**note, "version": 2, "later": {"known": "to nobody here"}}))
    asked = training.api.calls("describe")
    process = training.start()
    wait_until(lambda: training.api.calls("describe") > asked, 10)
    [job] = training.jobs()
    (job / "go").touch()
    ended = running.end(process)
    assert ended.code == 0 and f"as {job.name}; waiting for it" in ended.errors, ended.errors
    assert training.jobs() == [job] and [record["class"] for record in training.records()] == ["success"]
