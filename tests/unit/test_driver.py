"""The driver's decisions: order, retries, memory, failure, stop and resume.

The launcher here follows a script instead of starting processes, but claims and writes its records in a real store.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends import outcome
from backends.backoff import MAX_BACKOFF, backoff
from backends.errors import ConfigError, InfraError, PlacementError
from backends.execution import Execution
from backends.orchestrator.driven.driver import WAKE, drive
from backends.store import claims, open_store, records
from backends.store.base import Store
from tests.support.claiming import claim
from tests.support.configs import resolved

Parents = Mapping[str, list[str]]


def pipeline(parents: Parents, **common: Any) -> dict[str, Any]:
    """Return a resolved config; ``common`` is in every step, and none is tried again unless it says so."""
    step = {**common, "retry": {"limit": 0, "backoff": 0.0, **common.get("retry", {})}}
    return resolved({name: {**step, "after": of} for name, of in parents.items()})


class Script:
    """A launcher that plays a script: for each step the classes in which its attempts end, success if it says nothing.

    ``stop`` among them is an attempt that goes on until it is asked to stop. One attempt ends with each ``wait``.
    """

    def __init__(self, store: Store, script: Mapping[str, list[str]] | None = None, run: str = "r") -> None:
        self.store = store
        self.run = run
        self.script = {step: list(classes) for step, classes in (script or {}).items()}
        self.started: list[str] = []
        self.memory: list[int | None] = []
        self.running: list[tuple[str, claims.Attempt]] = []
        self.most = 0
        self.stops = 0
        self.asked: list[str] = []
        self.closed = 0
        self.timeouts: list[float | None] = []

    def start(self, step: str, memory: int | None) -> None:
        assert not self.stops, "a step was started after the stop"
        self.started.append(step)
        self.memory.append(memory)
        self.running.append((step, claim(self.store, self.run, step, {})))
        self.most = max(self.most, len(self.running))

    def wait(self, timeout: float | None) -> list[Any]:
        self.timeouts.append(timeout)
        for index, (step, attempt) in enumerate(self.running):
            script = self.script.get(step) or ["success"]
            if script[0] == "stop" and step not in self.asked:
                continue
            del self.running[index]
            name = script[0].replace("stop", "terminated")
            if self.script.get(step):
                del self.script[step][0]
            record = {"step": step, "class": name, "exit_code": outcome.code_of(name), "attempt": attempt.number}
            record |= {"message": "" if name == "success" else f"{step} ended in {name}", "seconds": 0.0}
            attempt.finish(record)
            return [record]
        time.sleep(timeout or 0)
        return []

    def stop(self, step: str | None = None) -> None:
        self.stops += 1
        self.asked += [name for name, _ in self.running]

    def close(self) -> None:
        self.closed += 1


class Events(list[tuple[str, dict[str, Any]]]):
    """A reporter that keeps what it hears."""

    def __call__(self, event: str, /, **fields: Any) -> None:
        self.append((event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self if name == event]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


DIAMOND: Parents = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


def go(store: Store, config: dict[str, Any], launcher: Any, **options: Any) -> tuple[dict[str, Any], Events]:
    events = Events()
    asked = {"report": events, **{name: options.pop(name) for name in ("report", "stop_requested") if name in options}}
    summary = drive(Execution(config, "r", store, **asked), launcher, **{"max_parallel": 4, **options})
    assert launcher.closed == 1
    return summary, events


def test_a_pipeline_runs_to_its_end(store: Store) -> None:
    launcher = Script(store)
    config = pipeline(DIAMOND)
    summary, events = go(store, config, launcher)
    assert launcher.started == ["a", "b", "c", "d"]
    assert (summary["class"], summary["exit_code"], summary["message"]) == ("success", 0, "")
    assert list(summary["steps"]) == ["a", "b", "c", "d"]
    assert (summary["skipped"], summary["resumed"]) == ({}, [])
    assert events[0] == ("run_started", {"run": "r", "steps": ["a", "b", "c", "d"], "resumed": []})
    assert [event for event, _ in events[1:3]] == ["step_started", "step_finished"]
    assert events[-1] == ("run_finished", {"summary": summary})
    run = records.read_run(store, "r")
    assert run is not None and run["state"] == run["class"] == "success" and run["name"] == "p" and run["ended"]
    assert records.get_config(store, run["config"]) == config
    assert launcher.stops == 0


def test_a_pipeline_without_steps_succeeds(store: Store) -> None:
    summary, _ = go(store, {**pipeline({"a": []}), "steps": {}}, Script(store))
    assert (summary["class"], summary["steps"]) == ("success", {})


def test_run_json_says_running_while_it_does(store: Store) -> None:
    states = []

    class Looking(Script):
        def start(self, step: str, memory: int | None) -> None:
            run = records.read_run(store, "r")
            states.append(run and (run["state"], run["pid"] > 0, run.get("ended")))
            super().start(step, memory)

    go(store, pipeline({"a": []}), Looking(store))
    assert states == [("running", True, None)]


@pytest.mark.parametrize("most", [1, 3, 100])
def test_no_more_than_max_parallel_run_at_a_time(store: Store, most: int) -> None:
    launcher = Script(store)
    go(store, pipeline({f"s{n}": [] for n in range(10)}), launcher, max_parallel=most)
    assert launcher.most == min(most, 10)
    assert launcher.started == [f"s{n}" for n in range(10)]


# -- retries ----------------------------------------------------------------------------------------------------------


def test_a_retried_class_runs_again_up_to_the_limit(store: Store) -> None:
    launcher = Script(store, {"a": ["infra", "terminated"]})
    summary, events = go(store, pipeline({"a": []}, retry={"limit": 2}), launcher)
    assert launcher.started == ["a", "a", "a"]
    assert summary["class"] == "success" and summary["steps"]["a"]["attempt"] == 3
    assert [fields["record"]["class"] for fields in events.of("step_retry")] == ["infra", "terminated"]
    assert [fields["record"]["class"] for fields in events.of("step_finished")] == ["success"]
    assert [fields["attempt"] for fields in events.of("step_started")] == [1, 2, 3]


def test_the_last_failure_counts_when_retries_are_used_up(store: Store) -> None:
    launcher = Script(store, {"a": ["infra"] * 9})
    summary, events = go(store, pipeline({"a": []}, retry={"limit": 2}), launcher)
    assert len(launcher.started) == 3
    assert (summary["class"], summary["exit_code"]) == ("infra", 69)
    assert summary["message"] == "step 'a' failed (infra, exit status 69): a ended in infra"
    assert len(events.of("step_retry")) == 2 and len(events.of("step_finished")) == 1


@pytest.mark.parametrize("name", [row.name for row in outcome.TABLE if row.name != "success"])
def test_what_is_retried_is_what_the_table_and_the_config_say(store: Store, name: str) -> None:
    by_default = Script(store, {"a": [name]})
    go(store, pipeline({"a": []}, retry={"limit": 1}), by_default)
    assert len(by_default.started) == 1 + (name in outcome.RETRIED_BY_DEFAULT)


@pytest.mark.parametrize("name", [row.name for row in outcome.TABLE if row.name != "success"])
def test_some_classes_are_never_retried(store: Store, name: str) -> None:
    asked = Script(store, {"a": [name]})
    config = pipeline({"a": []}, retry={"limit": 1})
    config["steps"]["a"]["retry"]["on"] = [name]  # which the resolver refuses for most
    go(store, config, asked)
    assert len(asked.started) == 1 + (name in outcome.RETRIABLE)


def test_a_retry_waits_for_its_backoff_while_others_run(store: Store) -> None:
    launcher = Script(store, {"a": ["infra"]})
    config = pipeline({"a": [], "b": [], "c": ["b"]}, retry={"limit": 1, "backoff": 0.2})
    began = time.monotonic()
    summary, events = go(store, config, launcher)
    assert summary["class"] == "success"
    assert launcher.started == ["a", "b", "c", "a"]
    [retry] = events.of("step_retry")
    assert 0.1 <= retry["delay"] <= 0.2 and time.monotonic() - began >= retry["delay"]


def test_a_retry_that_is_due_but_has_no_place_does_not_spin(store: Store) -> None:
    launcher = Script(store, {"a": ["infra"], "b": ["stop"]})
    config = pipeline({"a": [], "b": []}, retry={"limit": 1, "backoff": 0.01})
    go(store, config, launcher, max_parallel=1, stop_requested=once(3))
    assert launcher.started == ["a", "b"] and launcher.timeouts[1:3] == [WAKE, WAKE]


@given(st.floats(0, 1e9), st.integers(0, 10_000))
def test_backoff_doubles_up_to_its_limit(base: float, retries: int) -> None:
    full = min(MAX_BACKOFF, base * 2.0 ** min(retries, 60))
    assert full / 2 <= backoff(base, retries) <= full


def test_backoff_is_not_the_same_for_all() -> None:
    assert len({backoff(1.0, 3) for _ in range(20)}) > 1


def test_each_oom_raises_the_memory_by_the_factor(store: Store) -> None:
    launcher = Script(store, {"a": ["oom", "infra", "oom"]})
    retry = {"limit": 3, "on": ["oom", "infra"], "memory_factor": 1.5}
    config = pipeline({"a": [], "b": ["a"]}, retry=retry, resources={"memory": "1000Mi"})
    summary, _ = go(store, config, launcher)
    assert launcher.memory == [mib << 20 for mib in (1000, 1500, 1500, 2250, 1000)]
    assert summary["class"] == "success"


def test_no_limit_stays_no_limit_after_an_oom(store: Store) -> None:
    launcher = Script(store, {"a": ["oom"]})
    go(store, pipeline({"a": []}, retry={"limit": 1, "on": ["oom"], "memory_factor": 2}), launcher)
    assert launcher.memory == [None, None]


# -- failures ---------------------------------------------------------------------------------------------------------


def test_the_first_failure_stops_the_run(store: Store) -> None:
    launcher = Script(store, {"a": ["user"], "b": ["stop"]})
    config = pipeline({"a": [], "b": [], "c": [], "d": ["a"], "e": ["b"]})
    summary, events = go(store, config, launcher, max_parallel=2)
    assert launcher.started == ["a", "b"] and launcher.asked == ["b"]
    assert (summary["class"], summary["exit_code"]) == ("user", 1)
    assert summary["steps"]["b"]["class"] == "terminated"
    assert summary["skipped"] == {"d": "a failed", "c": "a failed", "e": "a failed"}
    assert [fields["step"] for fields in events.of("step_skipped")] == ["d", "c", "e"]
    run = records.read_run(store, "r")
    assert run is not None and (run["state"], run["exit_code"]) == ("user", 1)


def test_a_stopped_step_is_not_retried(store: Store) -> None:
    launcher = Script(store, {"a": ["user"], "b": ["stop"]})
    summary, events = go(store, pipeline({"a": [], "b": []}, retry={"limit": 5}), launcher)
    assert launcher.started == ["a", "b"]
    assert summary["class"] == "user" and not events.of("step_retry")


def test_a_step_that_waits_for_its_retry_stays_failed_when_the_run_stops(store: Store) -> None:
    launcher = Script(store, {"a": ["infra"], "b": ["user"]})
    config = pipeline({"a": [], "b": []}, retry={"limit": 1, "backoff": 100.0})
    summary, events = go(store, config, launcher)
    assert summary["class"] == "user" and summary["steps"]["a"]["class"] == "infra"
    assert [fields["record"]["step"] for fields in events.of("step_finished")] == ["b", "a"]


def test_keep_going_leaves_out_only_what_depends_on_the_failure(store: Store) -> None:
    launcher = Script(store, {"a": ["timeout"], "x": ["user"]})
    config = pipeline({"a": [], "b": ["a"], "c": ["b", "x"], "x": [], "y": [], "z": ["y"]})
    summary, _ = go(store, config, launcher, keep_going=True)
    assert launcher.started == ["a", "x", "y", "z"] and not launcher.stops
    assert summary["skipped"] == {"b": "a failed", "c": "a failed"}
    assert (summary["class"], summary["exit_code"]) == ("timeout", 124)
    assert summary["steps"]["z"]["class"] == "success"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_pipeline_with_any_failures_keeps_its_order(data: st.DataObject, tmp_path: Path) -> None:
    names = [f"s{n}" for n in range(data.draw(st.integers(1, 7)))]
    parents = {name: data.draw(st.lists(st.sampled_from(names[:at]), unique=True)) if at else [] for at, name in enumerate(names)}
    classes = st.sampled_from(["success", "success", "infra", "user"])
    script = {name: data.draw(st.lists(classes, max_size=3)) for name in names}
    limit = data.draw(st.integers(0, 2))
    store = open_store(tempfile.mkdtemp(dir=tmp_path))
    launcher = Script(store, script)
    summary, events = go(
        store, pipeline(parents, retry={"limit": limit}), launcher, keep_going=True, max_parallel=data.draw(st.integers(1, 3))
    )

    def ends(name: str) -> str:
        for tried, kind in enumerate([*script[name], "success"]):
            if kind != "infra" or tried == limit:
                return kind
        raise AssertionError

    good: set[str] = set()
    for event, fields in events:
        if event == "step_started":
            assert set(parents[fields["step"]]) <= good
        elif event == "step_finished" and fields["record"]["class"] == "success":
            good.add(fields["record"]["step"])
    for name in names:
        if all(parent in good for parent in parents[name]):
            assert summary["steps"][name]["class"] == ends(name)
        else:
            assert name in summary["skipped"] and name not in summary["steps"]
    assert (summary["class"] == "success") == (good == set(names))
    assert records.results(store, "r") == summary["steps"] | {
        name: {**record, "version": 1, "run": "r"} for name, record in summary["steps"].items()
    }


# -- stop -------------------------------------------------------------------------------------------------------------


def once(after: int) -> Callable[[], bool]:
    """Return a ``stop_requested`` that says True from its ``after``-th call on."""
    calls = 0

    def asked() -> bool:
        nonlocal calls
        calls += 1
        return calls > after

    return asked


def test_a_stop_ends_what_runs_and_starts_no_more(store: Store) -> None:
    launcher = Script(store, {"a": ["stop"], "b": ["stop"]})
    config = pipeline({"a": [], "b": [], "c": ["a"]}, retry={"limit": 3})
    summary, _ = go(store, config, launcher, stop_requested=once(1))
    assert launcher.started == ["a", "b"] and launcher.asked == ["a", "b"] and not launcher.running
    assert (summary["class"], summary["exit_code"]) == ("terminated", 143)
    assert summary["skipped"] == {"c": "the run was stopped"}


def test_a_stop_before_the_start_starts_nothing(store: Store) -> None:
    launcher = Script(store)
    summary, _ = go(store, pipeline(DIAMOND), launcher, stop_requested=once(0))
    assert launcher.started == [] and summary["class"] == "terminated" and len(summary["skipped"]) == 4


def test_a_stop_does_not_wait_for_a_backoff(store: Store) -> None:
    launcher = Script(store, {"a": ["infra"]})
    config = pipeline({"a": []}, retry={"limit": 1, "backoff": 1000.0})
    began = time.monotonic()
    summary, _ = go(store, config, launcher, stop_requested=once(2))
    assert (summary["class"], summary["exit_code"]) == ("terminated", 143)
    assert summary["steps"]["a"]["class"] == "infra"
    assert time.monotonic() - began < 20


def test_a_stop_that_comes_after_the_last_step_changes_nothing(store: Store) -> None:
    summary, _ = go(store, pipeline({"a": []}), Script(store), stop_requested=once(1))
    assert summary["class"] == "success"


def test_a_failure_before_the_stop_is_what_the_run_ends_with(store: Store) -> None:
    launcher = Script(store, {"a": ["user"], "b": ["stop"]})
    summary, _ = go(store, pipeline({"a": [], "b": []}), launcher, keep_going=True, stop_requested=once(2))
    assert summary["class"] == "user" and summary["steps"]["b"]["class"] == "terminated"


# -- resume -----------------------------------------------------------------------------------------------------------


def test_a_second_drive_of_the_run_does_only_what_is_missing(store: Store) -> None:
    config = pipeline(DIAMOND)
    first, _ = go(store, config, Script(store, {"c": ["user"]}), max_parallel=1)
    assert first["class"] == "user"
    launcher = Script(store)
    summary, events = go(store, config, launcher)
    assert launcher.started == ["c", "d"]
    assert summary["class"] == "success" and summary["resumed"] == ["a", "b"]
    assert {name: record["attempt"] for name, record in summary["steps"].items()} == {"a": 1, "b": 1, "c": 2, "d": 1}
    assert events[0][1]["resumed"] == ["a", "b"]
    assert [(fields["step"], fields["attempt"]) for fields in events.of("step_started")] == [("c", 2), ("d", 1)]
    assert summary["started"] == first["started"]


def test_a_finished_run_is_not_run_again(store: Store) -> None:
    config = pipeline(DIAMOND)
    go(store, config, Script(store))
    launcher = Script(store)
    summary, _ = go(store, config, launcher)
    assert launcher.started == [] and summary["class"] == "success" and len(summary["steps"]) == 4


def test_a_run_id_belongs_to_one_config(store: Store) -> None:
    go(store, pipeline(DIAMOND), Script(store))
    before = records.read_run(store, "r")
    launcher = Script(store)
    with pytest.raises(ConfigError, match="use a new run id"):
        drive(Execution(pipeline({"a": []}), "r", store), launcher, max_parallel=1)
    assert launcher.closed == 1 and launcher.started == []
    assert records.read_run(store, "r") == before


# -- a launcher that fails --------------------------------------------------------------------------------------------


class Failing(Script):
    """Raises an error at the given calls of ``start`` or ``wait``, counted from 1."""

    def __init__(self, store: Store, method: str, calls: set[int], error: BaseException, **script: list[str]) -> None:
        super().__init__(store, script)
        self.method = method
        self.calls = calls
        self.error = error
        self.count = {"start": 0, "wait": 0}

    def fail(self, method: str) -> None:
        self.count[method] += 1
        if method == self.method and self.count[method] in self.calls:
            raise self.error

    def start(self, step: str, memory: int | None) -> None:
        self.fail("start")
        super().start(step, memory)

    def wait(self, timeout: float | None) -> list[Any]:
        self.fail("wait")
        return super().wait(timeout)


def test_an_attempt_that_cannot_begin_is_tried_again(store: Store) -> None:
    launcher = Failing(store, "start", {1}, InfraError("no answer"))
    summary, events = go(store, pipeline({"a": []}, retry={"limit": 1}), launcher)
    assert summary["class"] == "success"
    [retry] = events.of("step_retry")
    assert (retry["record"]["class"], retry["record"]["message"]) == ("infra", "no answer")


def test_an_attempt_that_can_never_begin_fails_the_run_and_stops_the_rest(store: Store) -> None:
    launcher = Failing(store, "start", {2}, PlacementError("no GPU here"), a=["stop"])
    summary, _ = go(store, pipeline({"a": [], "b": [], "c": []}, retry={"limit": 1}), launcher)
    assert launcher.started == ["a"] and launcher.asked == ["a"] and not launcher.running
    assert (summary["class"], summary["exit_code"]) == ("placement", 76)
    assert summary["message"] == "step 'b' failed (placement, exit status 76): no GPU here"


def test_a_launcher_that_loses_sight_once_lets_the_rest_end(store: Store) -> None:
    launcher = Failing(store, "wait", {1}, InfraError("engine gone"), a=["stop"])
    summary, _ = go(store, pipeline({"a": [], "b": ["a"]}), launcher)
    assert (summary["class"], summary["exit_code"], summary["message"]) == ("infra", 69, "engine gone")
    assert summary["steps"]["a"]["class"] == "terminated" and summary["skipped"] == {"b": "engine gone"}
    run = records.read_run(store, "r")
    assert run is not None and run["state"] == "infra"


def test_a_launcher_that_never_answers_again_is_closed(store: Store) -> None:
    launcher = Failing(store, "wait", set(range(1, 100)), InfraError("engine gone"), a=["stop"])
    summary, _ = go(store, pipeline({"a": []}), launcher)
    assert summary["class"] == "infra" and launcher.stops == 1 and launcher.count["wait"] == 2
    assert summary["skipped"] == {"a": "engine gone"}


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_an_unexpected_error_is_raised_with_nothing_left_running(store: Store, error: BaseException) -> None:
    launcher = Failing(store, "wait", {1}, error, a=["stop"])
    with pytest.raises(type(error)):
        go(store, pipeline({"a": []}), launcher)
    assert launcher.closed == 1 and launcher.asked == ["a"] and not launcher.running


def test_a_store_that_fails_at_the_start_starts_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise InfraError("read-only")

    monkeypatch.setattr(records, "write_run", refuse)
    launcher = Script(store)
    with pytest.raises(InfraError, match="read-only"):
        drive(Execution(pipeline({"a": []}), "r", store), launcher, max_parallel=1)
    assert launcher.started == [] and launcher.closed == 1


def test_a_cycle_is_refused_before_anything_is_written(store: Store) -> None:
    config = pipeline({"a": [], "b": ["a"]})
    config["steps"]["a"]["parents"] = ["b"]
    with pytest.raises(ConfigError, match="in a cycle"):
        go(store, config, Script(store))
    assert records.read_run(store, "r") is None
