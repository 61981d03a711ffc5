"""What an orchestrator makes of a pipeline that is run, or submitted, through the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends import wire
from backends.base import OrchestratorBaseBackend
from backends.states import PENDING, RUNNING, STATES
from backends.store import open_store, records
from backends.store.logs import log_chunks
from tests.support import configs, processes, running
from tests.support.waiting import wait_until


class Pipelines:
    """What the tests of pipelines share: how one is written, run, submitted and looked at.

    Attributes:
        cls: the class.
        source: what ``to_config`` says it is.
        document: what the pipelines' config has beside ``steps``, such as an image.
        options: the backend's arguments for the pipelines.
        environ: what the command line's environment has beside the least.
        seconds: how long one small pipeline may take before the test gives up.
        lingers: seconds that what has ended may take to go.
    """

    cls: ClassVar[type[OrchestratorBaseBackend]]
    source: ClassVar[str]
    document: ClassVar[dict[str, Any]] = {}
    options: ClassVar[dict[str, Any]] = {}
    environ: ClassVar[dict[str, Any]] = {}
    seconds: ClassVar[float] = 60.0
    lingers: ClassVar[float] = 0.0

    @pytest.fixture(autouse=True)
    def _leaves_nothing(self, tmp_path: Path) -> Iterator[None]:
        yield
        until = time.monotonic() + self.lingers
        while (left := processes.mentioning(tmp_path)) and time.monotonic() < until:
            time.sleep(0.05)
        assert left == {}, "a run has left this running"

    def write(self, folder: Path, steps: dict[str, Any]) -> Path:
        """Write a config whose steps are shell commands, and return its path."""
        # What is left of the steps is found by the folder in their environment.
        env = {processes.MARK: str(folder)}
        return configs.config(folder, name="contract", code=None, env=env, steps=steps, backend=self.block(), **self.document)

    def block(self) -> dict[str, Any]:
        return {"type": "orchestrator", "source": self.source, "args": self.options}

    def run(self, config: Path, run_id: str = "r") -> tuple[int, dict[str, Any]]:
        """Run a pipeline; return the exit status and the summary that the last event holds."""
        words = self._words(config, run_id)
        ended = running.run(*words, cwd=config.parent, timeout=self.seconds, **self.environ)
        return ended.code, _summary(ended)

    def begin(self, config: Path, started: Callable[[], object], run_id: str = "r") -> subprocess.Popen[bytes]:
        """Begin to run a pipeline, and return who waits for it, once a condition is met."""
        process = running.start(*self._words(config, run_id), cwd=config.parent, **self.environ)
        try:
            self.wait_until(started)
        except AssertionError as error:
            process.kill()
            raise AssertionError(f"{error}; stderr:\n{running.end(process, self.seconds).errors}") from None
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        running.end(process, self.seconds)

    def _words(self, config: Path, run_id: str) -> list[str]:
        return ["run", "--config", str(config), "--run-id", run_id, "--backend", wire.dumps(self.block()), "--output", "json"]

    def submitted(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[OrchestratorBaseBackend, dict[str, Any]]:
        """Submit a pipeline as run ``r``; return the backend and the handle as another process would read it."""
        for name, value in running.environment(**self.environ).items():
            monkeypatch.setenv(name, value)
        ended = running.run("resolve", "--config", str(config), "--output", "json", cwd=config.parent, **self.environ)
        assert ended.code == 0, ended.errors
        resolved = wire.loads(ended.stdout)
        store = open_store(resolved["store"])
        handle = self.cls(**self.options).submit(resolved, "r", store)
        assert records.read_handle(store, "r") == handle
        backend = OrchestratorBaseBackend.from_config(handle["backend"])
        assert backend == self.cls(**self.options)
        return backend, wire.loads(wire.dumps(handle))

    def wait_until(self, condition: Callable[[], object], subject: str = "it") -> None:
        wait_until(condition, self.seconds, subject)

    def ended_status(self, backend: OrchestratorBaseBackend, handle: dict[str, Any]) -> dict[str, Any]:
        """Wait for the end of a submitted run and return its status; every state on the way must be one of the known."""
        until = time.monotonic() + self.seconds
        while True:
            status = backend.status(handle)
            assert {status["state"], *status["steps"].values()} <= set(STATES)
            assert set(status) == {"run", "state", "class", "exit_code", "message", "steps"}
            if status["state"] not in (PENDING, RUNNING):
                return status
            assert time.monotonic() < until, f"the run did not end: {status}"
            time.sleep(0.05)


def has_printed(folder: Path, step: str) -> Callable[[], bool]:
    """Return what says whether the first attempt of a step of run ``r`` has printed anything."""
    log = folder / "store" / "runs" / "r" / step / "1" / "log"
    return lambda: bool(list(log.glob("*.txt")))


class PipelineContract(Pipelines):
    """An orchestrator that runs pipelines."""

    def test_a_pipeline_passes_artifacts_from_step_to_step(self, tmp_path: Path) -> None:
        config = self.write(
            tmp_path,
            {
                "make": {"run": ["sh", "-c", 'echo "it works" > "$1"', "sh", "{outputs.text}"], "outputs": ["text"]},
                "copy": {
                    "run": ["sh", "-c", 'cat "$ZEN_INPUT_TEXT" "$ZEN_INPUT_TEXT" > "$ZEN_OUTPUT_TWICE"; echo copied'],
                    "inputs": {"text": "make.text"},
                    "outputs": ["twice"],
                },
            },
        )
        code, summary = self.run(config)
        assert (code, summary["class"], summary["exit_code"]) == (0, "success", 0), summary
        assert classes(summary) == {"make": "success", "copy": "success"}, summary
        store = open_store(str(tmp_path / "store"))
        assert store.get(summary["steps"]["copy"]["outputs"]["twice"]["key"]) == b"it works\nit works\n"
        assert b"".join(log_chunks(store, "r", "copy")) == b"copied\n"
        assert records.results(store, "r") == summary["steps"]

    def test_a_failing_step_gives_the_run_its_exit_status(self, tmp_path: Path) -> None:
        config = self.write(tmp_path, {"bad": {"run": ["sh", "-c", "exit 7"]}, "never": {"run": ["true"], "after": ["bad"]}})
        code, summary = self.run(config)
        assert (code, summary["class"], summary["exit_code"]) == (7, "user", 7), summary
        assert summary["steps"]["bad"]["status"] == 7, summary
        assert (list(summary["skipped"]), list(summary["steps"])) == (["never"], ["bad"]), summary

    def test_a_retried_step_gets_a_new_attempt(self, tmp_path: Path) -> None:
        step = {"run": ["sh", "-c", '[ "$ZEN_ATTEMPT" = 2 ]'], "retry": {"limit": 3, "on": ["user"], "backoff": 0.01}}
        code, summary = self.run(self.write(tmp_path, {"flaky": step}))
        assert (code, summary["steps"]["flaky"]["attempt"]) == (0, 2), summary
        assert [record["class"] for record in running.results(tmp_path, "r", "flaky")] == ["user", "success"]

    def test_a_step_that_runs_too_long_is_ended(self, tmp_path: Path) -> None:
        step = {"run": ["sh", "-c", "sleep 300 & wait"], "timeout": 1, "grace_period": 1}
        code, summary = self.run(self.write(tmp_path, {"slow": step}))
        assert (code, summary["class"]) == (124, "timeout"), summary

    def test_a_cancelled_run_ends_its_steps(self, tmp_path: Path) -> None:
        config = self.write(
            tmp_path,
            {
                "long": {"run": ["sh", "-c", "echo begun; sleep 300 & wait"], "grace_period": 5},
                "never": {"run": ["true"], "after": ["long"]},
            },
        )
        process = self.begin(config, has_printed(tmp_path, "long"))
        process.send_signal(signal.SIGTERM)
        ended = running.end(process, self.seconds)
        summary = _summary(ended)
        assert (ended.code, summary["class"]) == (143, "terminated"), summary
        assert (classes(summary), list(summary["skipped"])) == ({"long": "terminated"}, ["never"]), summary

    def test_a_run_that_failed_is_resumed_where_it_failed(self, tmp_path: Path) -> None:
        config = self.write(
            tmp_path,
            {
                "first": {"run": ["sh", "-c", 'echo once >> "$ZEN_OUTPUT_OUT"'], "outputs": ["out"]},
                "second": {
                    "run": ["sh", "-c", 'cat "$ZEN_INPUT_OUT" && [ "$ZEN_ATTEMPT" = 2 ]'],
                    "inputs": {"out": "first.out"},
                },
            },
        )
        code, summary = self.run(config)
        assert (code, summary["resumed"]) == (1, []), summary
        code, summary = self.run(config)
        assert (code, summary["class"], summary["resumed"]) == (0, "success", ["first"]), summary
        assert {name: record["attempt"] for name, record in summary["steps"].items()} == {"first": 1, "second": 2}

    def test_a_run_whose_client_was_killed_is_resumed(self, tmp_path: Path) -> None:
        config = self.write(
            tmp_path,
            {
                "first": {"run": ["true"]},
                "second": {"run": ["sh", "-c", 'echo begun; [ "$ZEN_ATTEMPT" = 2 ] || sleep 300'], "after": ["first"]},
            },
        )
        self.kill(self.begin(config, has_printed(tmp_path, "second")))
        self.end_what_runs(config)
        code, summary = self.run(config)
        assert (code, summary["class"], summary["resumed"]) == (0, "success", ["first"]), summary
        assert summary["steps"]["first"]["attempt"] == 1, summary

    def end_what_runs(self, config: Path) -> None:
        """End what goes on without the client that was killed, and whose end another client would wait for."""


class ParallelContract(Pipelines):
    """An orchestrator that runs steps side by side."""

    def test_steps_run_side_by_side(self, tmp_path: Path) -> None:
        # Each waits for the other to begin, which shows as its log.
        steps = {name: {"run": ["sh", "-c", "echo here; sleep 300"]} for name in ("one", "two")}
        config = self.write(tmp_path, steps)
        process = self.begin(config, lambda: all(has_printed(tmp_path, name)() for name in steps))
        process.send_signal(signal.SIGTERM)
        ended = running.end(process, self.seconds)
        assert ended.code == 143, ended.errors


def classes(summary: dict[str, Any]) -> dict[str, str]:
    """Return the class of each step that has a record."""
    return {name: record["class"] for name, record in summary["steps"].items()}


def _summary(ended: running.Ended) -> dict[str, Any]:
    for line in reversed(ended.stdout.splitlines()):
        event = json.loads(line)
        if event["event"] == "run_finished":
            summary: dict[str, Any] = event["summary"]
            return summary
    raise AssertionError(f"no run_finished event; exit status {ended.code}, stderr:\n{ended.errors}")
