"""What every backend must do. A backend's own test is a subclass of one of these with a few attributes:

    class TestLocal(OrchestratorContract):
        cls = OrchestratorLocalBackend
        source = "local"
        arguments = st.fixed_dictionaries({}, optional={"keep_going": st.booleans()})

Golden files are in ``golden/``; ``UPDATE_GOLDEN=1 pytest tests/contract`` writes them anew, for you to read before you commit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends import base, wire
from backends.base import BaseBackend, OrchestratorBaseBackend
from backends.errors import ConfigError, UsageError
from backends.states import STATES
from backends.store import open_store, records
from backends.store.logs import log_chunks
from tests.support import configs, running
from tests.unit.test_arrows import SDKS

GOLDEN = Path(__file__).resolve().parent / "golden"
ROOT = running.ROOT
# The same property test runs in every subclass, which hypothesis takes for a mistake.
inherited = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


class BackendContract:
    """A backend of any role.

    Attributes:
        cls: the class.
        source: what ``to_config`` says it is.
        arguments: a strategy for the keyword arguments of one.
    """

    cls: ClassVar[type[BaseBackend]]
    source: ClassVar[str]
    arguments: ClassVar[st.SearchStrategy[dict[str, Any]]]

    @inherited
    @given(data=st.data())
    def test_config_round_trip(self, data: st.DataObject) -> None:
        args = data.draw(self.arguments)
        backend = self.cls(**args)
        block = backend.to_config()
        assert set(block) == {"type", "source", "args"}
        assert block == {"type": self.cls.BACKEND_TYPE, "source": self.source, "args": {**block["args"], **args}}
        assert wire.loads(wire.dumps(block)) == block
        for again in (
            BaseBackend.from_config(block),
            self.cls.from_config(wire.loads(wire.dumps(block))),
            base.load(block),
            base.load({"source": self.source, "args": args}, self.cls.BACKEND_TYPE),
        ):
            assert type(again) is self.cls
            assert again == backend and hash(again) == hash(backend)
            assert again.to_config() == block

    @inherited
    @given(data=st.data())
    def test_equal_means_the_same_arguments(self, data: st.DataObject) -> None:
        one, two = (self.cls(**data.draw(self.arguments)) for _ in range(2))
        assert (one == two) == (wire.dumps(one.args) == wire.dumps(two.args))
        assert one != one.to_config()

    @settings(inherited, max_examples=3)
    @given(data=st.data())
    def test_another_process_reads_the_same_backend(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(self.arguments.map(lambda args: self.cls(**args).to_config()), min_size=1, max_size=5))
        code = (
            "import sys\nfrom backends import wire\nfrom backends.base import BaseBackend\n"
            "print(wire.dumps([BaseBackend.from_config(block).to_config() for block in wire.loads(sys.stdin.read())]))"
        )
        env = {**os.environ, "PYTHONHASHSEED": "7"}
        done = subprocess.run(
            [sys.executable, "-c", code], input=wire.dumps(blocks), capture_output=True, text=True, cwd=ROOT, env=env, check=True
        )
        assert wire.loads(done.stdout) == blocks

    @inherited
    @given(data=st.data())
    def test_repr_names_the_class_and_its_arguments(self, data: st.DataObject) -> None:
        backend = self.cls(**data.draw(self.arguments))
        text = repr(backend)
        assert text.startswith(f"{self.cls.__qualname__}(")
        assert all(f"{name}={value!r}" in text for name, value in backend.args.items())

    def test_an_unknown_argument_is_a_config_error(self) -> None:
        args = {**_one(self.arguments), "no_such_argument": 1}
        with pytest.raises(ConfigError, match=r"args\.no_such_argument"):
            base.load({"type": self.cls.BACKEND_TYPE, "source": self.source, "args": args})

    def test_a_wrong_type_is_a_config_error(self) -> None:
        for name in self.cls(**_one(self.arguments)).args:
            args = {**_one(self.arguments), name: {"no": {"such": ["type"]}}}
            with pytest.raises(ConfigError, match=rf"args\.{name}"):
                base.load({"type": self.cls.BACKEND_TYPE, "source": self.source, "args": args})

    def test_defaults_are_not_shared_between_backends(self) -> None:
        function: Any = self.cls.__init__
        positional, by_name = getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)
        defaults = [*(positional or ()), *(by_name or {}).values()]
        assert not [value for value in defaults if isinstance(value, dict | list | set)]

    def test_making_one_needs_no_platform(self) -> None:
        config = self.cls(**_one(self.arguments)).to_config()
        self._isolated(f"BaseBackend.from_config({config!r}).to_config()")

    @staticmethod
    def _isolated(expression: str, stdin: str = "", **env: str) -> str:
        """Return the JSON of an expression's value, worked out in a new process that may use no network and no SDK."""
        code = f"""
import sys
def refuse(event, args):
    if event.split(".")[0] in ("socket", "subprocess") or event in ("os.posix_spawn", "os.fork", "os.exec"):
        raise RuntimeError(f"not offline: {{event}} {{args}}")
    if event == "open" and isinstance(args[2], int) and args[2] & 3 and "__pycache__" not in str(args[0]):
        raise RuntimeError(f"not pure: opens {{args[0]}} for writing")
sys.addaudithook(refuse)
from backends import wire
from backends.base import BaseBackend
print(wire.dumps({expression}))
loaded = {{name.split(".")[0] for name in sys.modules}} & set({sorted(SDKS)!r})
assert not loaded, f"imported {{loaded}}"
"""
        environ = {**os.environ, **env}
        done = subprocess.run(
            [sys.executable, "-c", code], input=stdin, capture_output=True, text=True, cwd=ROOT, env=environ, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class OrchestratorContract(BackendContract):
    """An orchestrator; beside the above, it renders without a platform and runs pipelines through the command line.

    Attributes:
        cls: the class.
        document: what the pipelines' config has beside ``steps``, such as an image.
        options: the backend's arguments for the pipelines.
        environ: what the command line's environment has beside the least.
        seconds: how long one small pipeline may take before the test gives up.
    """

    cls: ClassVar[type[OrchestratorBaseBackend]]
    document: ClassVar[dict[str, Any]] = {}
    options: ClassVar[dict[str, Any]] = {}
    environ: ClassVar[dict[str, Any]] = {}
    seconds: ClassVar[float] = 60.0

    # -- render -------------------------------------------------------------------------------------------------------

    def test_render_is_what_the_golden_file_says(self) -> None:
        config = json.loads((GOLDEN / "pipeline.json").read_text())
        documents = self.cls(**self.options).render(config)
        text = json.dumps(documents, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        path = GOLDEN / f"orchestrator.{self.source.replace(':', '.')}.json"
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text)
        assert text == path.read_text()

    def test_render_is_pure_offline_and_deterministic(self) -> None:
        config = (GOLDEN / "pipeline.json").read_text()
        expression = f"BaseBackend.from_config({self.cls(**self.options).to_config()!r}).render(wire.loads(sys.stdin.read()))"
        first, second = (self._isolated(expression, config, PYTHONHASHSEED=seed) for seed in ("1", "2"))
        assert first == second == wire.dumps(self.cls(**self.options).render(json.loads(config))) + "\n"

    def test_render_leaves_the_config_alone(self) -> None:
        config = json.loads((GOLDEN / "pipeline.json").read_text())
        self.cls(**self.options).render(config)
        assert config == json.loads((GOLDEN / "pipeline.json").read_text())

    # -- pipelines ----------------------------------------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _leaves_nothing(self, tmp_path: Path) -> Iterator[None]:
        yield
        self.assert_nothing_is_left(tmp_path)

    def assert_nothing_is_left(self, folder: Path) -> None:
        """Fail if anything that a run in ``folder`` started is still there."""
        left = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                marked = str(folder).encode() in (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
                zombie = "\nState:\tZ" in (process / "status").read_text()
            except OSError:
                continue  # gone, or not ours
            if marked and not zombie and int(process.name) != os.getpid():
                left.append((process / "cmdline").read_bytes())
        assert left == []

    def write(self, folder: Path, steps: dict[str, Any]) -> Path:
        """Write a config whose steps are shell commands, and return its path."""
        # assert_nothing_is_left finds the steps by MARK.
        return configs.config(
            folder, name="contract", code=None, env={"MARK": str(folder)}, steps=steps, backend=self.block(), **self.document
        )

    def block(self) -> dict[str, Any]:
        return {"type": "orchestrator", "source": self.source, "args": self.options}

    def arguments_of_run(self, config: Path, run_id: str) -> list[str]:
        return ["run", "--config", str(config), "--run-id", run_id, "--backend", wire.dumps(self.block()), "--output", "json"]

    def run(self, config: Path, run_id: str = "r") -> tuple[int, dict[str, Any]]:
        """Run a pipeline; return the exit status and the summary that the last event holds."""
        ended = running.run(*self.arguments_of_run(config, run_id), cwd=config.parent, timeout=self.seconds, **self.environ)
        return ended.code, _summary(ended)

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
        assert (code, summary["class"], summary["exit_code"]) == (0, "success", 0)
        assert {name: record["class"] for name, record in summary["steps"].items()} == {"make": "success", "copy": "success"}
        store = open_store(str(tmp_path / "store"))
        assert store.get(summary["steps"]["copy"]["outputs"]["twice"]["key"]) == b"it works\nit works\n"
        assert b"".join(log_chunks(store, "r", "copy")) == b"copied\n"
        assert records.results(store, "r") == summary["steps"]

    def test_a_failing_step_gives_the_run_its_exit_status(self, tmp_path: Path) -> None:
        config = self.write(tmp_path, {"bad": {"run": ["sh", "-c", "exit 7"]}, "never": {"run": ["true"], "after": ["bad"]}})
        code, summary = self.run(config)
        assert (code, summary["class"], summary["exit_code"]) == (7, "user", 7)
        assert summary["steps"]["bad"]["status"] == 7
        assert list(summary["skipped"]) == ["never"] and "never" not in summary["steps"]

    def test_a_retried_step_gets_a_new_attempt(self, tmp_path: Path) -> None:
        step = {"run": ["sh", "-c", '[ "$ZEN_ATTEMPT" = 2 ]'], "retry": {"limit": 3, "on": ["user"], "backoff": 0.01}}
        code, summary = self.run(self.write(tmp_path, {"flaky": step}))
        assert code == 0 and summary["steps"]["flaky"]["attempt"] == 2
        assert [record["class"] for record in running.results(tmp_path, "r", "flaky")] == ["user", "success"]

    def test_a_step_that_runs_too_long_is_ended(self, tmp_path: Path) -> None:
        step = {"run": ["sh", "-c", "sleep 300 & wait"], "timeout": 1, "grace_period": 1}
        code, summary = self.run(self.write(tmp_path, {"slow": step}))
        assert (code, summary["class"]) == (124, "timeout")

    def test_steps_run_side_by_side(self, tmp_path: Path) -> None:
        # Each waits for the other to begin, which shows as its log.
        store = tmp_path / "store" / "runs" / "r"
        steps = {name: {"run": ["sh", "-c", "echo here; sleep 300"]} for name in ("one", "two")}
        process = running.start(*self.arguments_of_run(self.write(tmp_path, steps), "r"), cwd=tmp_path, **self.environ)
        try:
            self.wait_until(lambda: all(list(store.glob(f"{name}/1/log/*.txt")) for name in steps))
        finally:
            process.send_signal(signal.SIGTERM)
            ended = running.end(process, self.seconds)
        assert ended.code == 143

    def test_a_cancelled_run_ends_its_steps(self, tmp_path: Path) -> None:
        config = self.write(
            tmp_path,
            {
                "long": {"run": ["sh", "-c", "echo begun; sleep 300 & wait"], "grace_period": 5},
                "never": {"run": ["true"], "after": ["long"]},
            },
        )
        process = running.start(*self.arguments_of_run(config, "r"), cwd=tmp_path, **self.environ)
        try:
            self.wait_until(lambda: bool(list((tmp_path / "store/runs/r/long/1/log").glob("*.txt"))))
        finally:
            process.send_signal(signal.SIGTERM)
            ended = running.end(process, self.seconds)
        summary = _summary(ended)
        assert (ended.code, summary["class"]) == (143, "terminated")
        assert summary["steps"]["long"]["class"] == "terminated" and list(summary["skipped"]) == ["never"]

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
        assert (code, summary["resumed"]) == (1, [])
        code, summary = self.run(config)
        assert (code, summary["class"], summary["resumed"]) == (0, "success", ["first"])
        assert {name: record["attempt"] for name, record in summary["steps"].items()} == {"first": 1, "second": 2}

    def test_a_run_whose_driver_was_killed_is_resumed(self, tmp_path: Path) -> None:
        config = self.write(
            tmp_path,
            {
                "first": {"run": ["true"]},
                "second": {"run": ["sh", "-c", 'echo begun; [ "$ZEN_ATTEMPT" = 2 ] || sleep 300'], "after": ["first"]},
            },
        )
        process = running.start(*self.arguments_of_run(config, "r"), cwd=tmp_path, **self.environ)
        try:
            self.wait_until(lambda: bool(list((tmp_path / "store/runs/r/second/1/log").glob("*.txt"))))
        finally:
            process.kill()
            running.end(process, self.seconds)
        code, summary = self.run_again(config)
        assert (code, summary["class"], summary["resumed"]) == (0, "success", ["first"])
        assert summary["steps"]["first"]["attempt"] == 1

    def run_again(self, config: Path) -> tuple[int, dict[str, Any]]:
        """Run a pipeline whose driver was killed; a backend that re-attaches to what still runs may need to end that first."""
        return self.run(config)

    # -- submitted runs -----------------------------------------------------------------------------------------------

    def submitted(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[OrchestratorBaseBackend, dict[str, Any]]:
        """Submit a pipeline as run ``r``; return the backend and the handle as another process would read it."""
        for name, value in running.environment(**self.environ).items():
            monkeypatch.setenv(name, value)
        resolved = self.resolve(config)
        store = open_store(resolved["store"])
        handle = self.cls(**self.options).submit(resolved, "r", store)
        written = records.read_json(store, "runs/r/handle.json")
        assert written == handle
        backend = OrchestratorBaseBackend.from_config(handle["backend"])
        assert backend == self.cls(**self.options)
        return backend, wire.loads(wire.dumps(handle))

    def resolve(self, config: Path) -> dict[str, Any]:
        ended = running.run("resolve", "--config", str(config), "--output", "json", cwd=config.parent, **self.environ)
        assert ended.code == 0, ended.errors
        resolved: dict[str, Any] = wire.loads(ended.stdout)
        return resolved

    def wait_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + self.seconds
        while not condition():
            assert time.monotonic() < until, "it did not come to pass"
            time.sleep(0.02)

    def ended_status(self, backend: OrchestratorBaseBackend, handle: dict[str, Any]) -> dict[str, Any]:
        """Wait for the end of a submitted run and return its status; every state on the way must be one of the known."""
        until = time.monotonic() + self.seconds
        while True:
            status = backend.status(handle)
            assert {status["state"], *status["steps"].values()} <= set(STATES)
            assert set(status) == {"run", "state", "class", "exit_code", "message", "steps"}
            if status["state"] not in ("pending", "running"):
                return status
            assert time.monotonic() < until, f"the run did not end: {status}"
            time.sleep(0.05)

    def test_a_submitted_run_can_be_followed_to_its_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(
            tmp_path, {"a": {"run": ["sh", "-c", "echo one; sleep 0.5; echo two"]}, "b": {"run": ["false"], "after": ["a"]}}
        )
        backend, handle = self.submitted(config, monkeypatch)
        assert b"".join(backend.logs(handle, "a", follow=True)) == b"one\ntwo\n"
        status = self.ended_status(backend, handle)
        assert (status["run"], status["state"], status["class"], status["exit_code"]) == ("r", "failed", "user", 1)
        assert status["steps"] == {"a": "succeeded", "b": "failed"} and "'b' failed" in status["message"]
        assert b"run_finished" in b"".join(backend.logs(handle, None, follow=True))
        assert b"".join(backend.logs(handle, "b", follow=True)) == b""
        with pytest.raises(UsageError, match="no step 'c'"):
            list(backend.logs(handle, "c"))
        backend.cancel(handle)
        assert backend.status(handle) == status

    def test_cancel_ends_what_a_killed_driver_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(tmp_path, {"a": {"run": ["sh", "-c", "echo begun; sleep 300"]}})
        backend, handle = self.submitted(config, monkeypatch)
        self.wait_until(lambda: bool(list((tmp_path / "store/runs/r/a/1/log").glob("*.txt"))))
        os.kill(handle["pid"], signal.SIGKILL)
        self.wait_until(lambda: backend.status(handle)["state"] == "failed")
        backend.cancel(handle)
        assert backend.status(handle)["state"] == "cancelled"

    def test_a_submitted_run_can_be_cancelled_twice(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(
            tmp_path, {"a": {"run": ["sh", "-c", "echo begun; sleep 300"]}, "b": {"run": ["true"], "after": ["a"]}}
        )
        backend, handle = self.submitted(config, monkeypatch)
        self.wait_until(lambda: backend.status(handle)["steps"]["a"] == "running")
        assert backend.status(handle)["steps"]["b"] == "pending"
        backend.cancel(handle)
        backend.cancel(handle)
        status = self.ended_status(backend, handle)
        assert (status["state"], status["class"], status["exit_code"]) == ("cancelled", "terminated", 143)
        assert status["steps"] == {"a": "cancelled", "b": "skipped"}
        backend.cancel(handle)
        list(backend.logs(handle, None, follow=True))  # its driver is gone when this ends


def _summary(ended: running.Ended) -> dict[str, Any]:
    for line in reversed(ended.stdout.splitlines()):
        event = json.loads(line)
        if event["event"] == "run_finished":
            summary: dict[str, Any] = event["summary"]
            return summary
    raise AssertionError(f"no run_finished event; exit status {ended.code}, stderr:\n{ended.errors}")


def _one(strategy: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Return one simple example, the same each time."""
    from hypothesis import find

    return find(strategy, lambda args: True)
