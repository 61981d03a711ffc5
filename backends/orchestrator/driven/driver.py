"""The loop that takes a pipeline through its steps, whatever starts them.

A launcher runs attempts; the driver decides which step starts when, what is tried again, and how the run ends.
"""

from __future__ import annotations

import time
from heapq import heappop, heappush

from backends import outcome
from backends.backoff import backoff
from backends.errors import ConfigError, DuplicateError, InfraError, Terminated, ZenRunnerError
from backends.graph import Graph, order
from backends.process import is_alive, utc, whoami
from backends.states import RUNNING
from backends.store import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    from backends.execution import Execution, Launcher
    from backends.store.records import Record

else:
    Protocol = object


LINGER = 60.0
"""Seconds past the longest grace period in which attempts that were asked to stop are waited for; a platform may be slow."""
LOST = 5.0
"""The same after an error that nobody foresaw, which may have cost an attempt its record."""
WAKE = 0.5
"""The longest time between two looks at ``stop_requested``, in seconds, for launchers that cannot be woken."""


def drive(
    execution: Execution,
    launcher: Launcher,
    *,
    max_parallel: int,
    keep_going: bool = False,
    graph: Graph | None = None,
) -> dict[str, Any]:
    """Run a pipeline to its end and close the launcher.

    A step fails for good when its class is not retried or its retries are used up. The first such failure stops the
    run: nothing starts any more and what runs is asked to end. With ``keep_going`` only the failed step's
    descendants are left out. Steps with a good result under this run id are not run again, which is how a killed
    run resumes.

    Args:
        execution: what runs; the class of one that was asked to stop is ``terminated``.
        launcher: what runs the attempts; it is closed in the end, whatever happens.
        max_parallel: how many attempts run at a time, at least 1.
        keep_going: run what does not depend on a failed step.
        graph: the order of the steps, where somebody beside their parents has a say in it.

    Returns:
        ``{"version", "run", "name", "config", "state", "class", "exit_code", "message", "started", "ended", "seconds",
        "resumed": [name], "steps": {name: last record}, "skipped": {name: because}}``. Class and exit status are
        those of the step that failed first, or of the launcher's own failure.

    Raises:
        ConfigError: the run id belongs to a run of another config.
        InfraError: the store could not be reached.
    """
    try:
        return _Run(execution, launcher, max_parallel, keep_going).drive(graph)
    finally:
        launcher.close()


class _Run:
    def __init__(self, execution: Execution, launcher: Launcher, max_parallel: int, keep_going: bool) -> None:
        self.config = execution.config
        self.steps: Mapping[str, Any] = execution.config["steps"]
        self.run_id = execution.run_id
        self.store = execution.store
        self.report = execution.report
        self.stop_requested = execution.stop_requested
        self.launcher = launcher
        self.max_parallel = max_parallel
        self.keep_going = keep_going
        self.records: dict[str, Record] = {}
        self.skipped: dict[str, str] = {}
        self.running: set[str] = set()
        self.due: list[tuple[float, str]] = []  # a heap of retries by the time they may start
        self.retries: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.memory: dict[str, int] = {}
        self.verdict: tuple[str, int, str] | None = None  # class, exit status and message of the first final failure
        self.stopping = ""  # why nothing starts any more
        self.until: float | None = None  # when nobody waits any longer for what was asked to stop

    def drive(self, graph: Graph | None) -> dict[str, Any]:
        parents = {step: spec["parents"] for step, spec in self.steps.items()}
        order(parents)  # a cycle would end the loop early
        self.graph = Graph(parents) if graph is None else graph
        begun = time.monotonic()
        head = self._begin()
        try:
            self._loop()
        except ZenRunnerError as error:
            self._abort(error)
        except BaseException as error:
            self._abort(error)
            raise
        name, code, message = self._verdict()
        for _, step in sorted(self.due):  # their retries never came
            self.report("step_finished", record=self.records[step])
        for step in self.steps:
            if step not in self.records and step not in self.skipped:
                self._skip(step, self.stopping)
        ended = {
            "state": name,
            "class": name,
            "exit_code": code,
            "message": message,
            "ended": utc(),
            "seconds": round(time.monotonic() - begun, 3),
        }
        self._write_end({**head, **ended})
        summary = {**head, **ended, "resumed": self.resumed, "steps": self.records, "skipped": self.skipped}
        self.report("run_finished", summary=summary)
        return summary

    def _begin(self) -> dict[str, Any]:
        """Publish the config and run.json, and read what an earlier driver of this run has done."""
        digest = records.put_config(self.store, self.config)
        earlier = records.read_run(self.store, self.run_id)
        head = {"version": 1, "run": self.run_id, "name": self.config["name"], "config": digest, "started": utc(), **whoami()}
        if earlier is None and not records.write_run(self.store, self.run_id, {**head, "state": RUNNING}, is_new=True):
            earlier = records.read_run(self.store, self.run_id)  # somebody else was a moment quicker
        if earlier is not None:
            self._refuse_other(earlier, digest)
            head["started"] = earlier["started"]
            records.write_run(self.store, self.run_id, {**head, "state": RUNNING})
        self.earlier = earlier
        before = records.results(self.store, self.run_id) if earlier else {}
        self.good = {step: record for step, record in before.items() if record["class"] == outcome.SUCCESS}
        self.attempts = {step: record["attempt"] for step, record in before.items()}
        self.resumed = [step for step in self.steps if step in self.good]
        self.report("run_started", run=self.run_id, steps=list(self.steps), resumed=self.resumed)
        return head

    def _refuse_other(self, earlier: Mapping[str, Any], digest: str) -> None:
        """Refuse a run of another config, and one whose driver lives: two would take steps from each other."""
        if earlier.get("config") != digest:
            raise ConfigError(
                f"run {self.run_id!r} was started with another config (sha256 {str(earlier.get('config'))[:12]}…, "
                f"this one is {digest[:12]}…); use a new run id, or the config of that run to resume it"
            )
        if earlier.get("state") == RUNNING and not _is_me(earlier) and is_alive(earlier):
            raise DuplicateError(
                f"run {self.run_id!r} has a driver: process {earlier['pid']} on {earlier['host']}; "
                "wait for it, cancel it, or start a new run with another run id"
            )

    def _write_end(self, record: Mapping[str, Any]) -> None:
        """Write run.json; where another driver has the run, give it back as it was."""
        if record["class"] == outcome.DUPLICATE and self.earlier is not None:
            if not _is_me(records.read_run(self.store, self.run_id) or {}):
                return
            record = self.earlier
        records.write_run(self.store, self.run_id, record)

    def _loop(self) -> None:
        while True:
            if not self.stopping and self.stop_requested():
                self._stop("the run was stopped")
            while not self.stopping and len(self.running) < self.max_parallel and (step := self._next()):
                self._start(step)
            if not self.running and (self.stopping or not (self.due or self.graph.held())):
                return
            if self.until is not None and time.monotonic() >= self.until:
                self._lose()
                return
            for record in self.launcher.wait(self._timeout()):
                self._ended(record)

    def _next(self) -> str | None:
        if self.due and self.due[0][0] <= time.monotonic():
            return heappop(self.due)[1]
        while (step := self.graph.take()) is not None:
            if step not in self.good:
                return step
            self.records[step] = self.good[step]
            self.graph.done(step)
        return None

    def _timeout(self) -> float:
        if self.stopping or not self.due or len(self.running) >= self.max_parallel:
            return WAKE
        return min(WAKE, max(0.0, self.due[0][0] - time.monotonic()))

    def _start(self, step: str) -> None:
        self.attempts[step] = self.attempts.get(step, 0) + 1
        self.report("step_started", step=step, attempt=self.attempts[step])
        self.running.add(step)
        try:
            self.launcher.start(step, self.memory.get(step, self.steps[step]["resources"]["memory"]))
        except ZenRunnerError as error:
            self._ended(record_of(self.run_id, step, self.attempts[step], error))
        except Exception as error:  # noqa: BLE001 - nobody runs this attempt, so it must end here
            reason = InfraError(f"zen-runner failed while it started the step: {type(error).__name__}: {error}")
            self._ended(record_of(self.run_id, step, self.attempts[step], reason))

    def _ended(self, record: Record) -> None:
        step = record["step"]
        if step not in self.running:
            return
        self.running.remove(step)
        self.records[step] = record
        good = record["class"] == outcome.SUCCESS
        delay = None if good or self.stopping else self._retry(step, record)
        if delay is not None:
            self.report("step_retry", record=record, delay=delay)
            return
        self.report("step_finished", record=record)
        if good:
            self.graph.done(step)
        elif not self.stopping:
            self._fail(step, record)

    def _retry(self, step: str, record: Record) -> float | None:
        """Put the step on the heap of retries and return its pause in seconds, or None if it has failed for good."""
        policy = self.steps[step]["retry"]
        retries = self.retries.get(step, 0)
        if retries >= policy["limit"] or not outcome.is_retried(record["class"], record["exit_code"], policy["on"]):
            return None
        self.retries[step] = retries + 1
        memory = self.memory.get(step, self.steps[step]["resources"]["memory"])
        if record["class"] == outcome.OOM and memory is not None:
            self.memory[step] = int(memory * policy["memory_factor"])
        delay = backoff(policy["backoff"], retries)
        heappush(self.due, (time.monotonic() + delay, step))
        return delay

    def _fail(self, step: str, record: Record) -> None:
        because = f"{step} failed"
        if self.verdict is None:
            detail = f": {record['message']}" if record.get("message") else ""
            message = f"step {step!r} failed ({record['class']}, exit status {record['exit_code']}){detail}"
            self.verdict = record["class"], record["exit_code"], message
        for name in self.graph.fail(step):
            self._skip(name, because)
        if not self.keep_going:
            self._stop(because)

    def _skip(self, step: str, because: str) -> None:
        self.skipped[step] = because
        self.report("step_skipped", step=step, because=because)

    def _stop(self, because: str, linger: float = LINGER) -> None:
        self.stopping = because
        self.until = time.monotonic() + linger + max(float(spec["grace_period"] or 0) for spec in self.steps.values())
        if self.running:
            self.launcher.stop()

    def _lose(self) -> None:
        """Make up the records of attempts that should have ended long ago; closing the launcher ends what is left of them."""
        for step in sorted(self.running):
            error = Terminated("asked to stop, and not heard of since")
            self._ended(record_of(self.run_id, step, self.attempts[step], error))

    def _abort(self, error: BaseException) -> None:
        """After a failure of the launcher itself: let what runs end in peace, as far as it still can be watched."""
        linger = LOST
        if isinstance(error, ZenRunnerError):
            linger = LINGER
            self.verdict = self.verdict or (error.outcome_class, error.exit_code, str(error))
        try:
            self._stop(self.stopping or str(error) or type(error).__name__, linger)
            self._loop()
        except ZenRunnerError:
            pass  # the first failure is the one to tell; closing the launcher ends the rest

    def _verdict(self) -> tuple[str, int, str]:
        if self.verdict is not None:
            return self.verdict
        left = [step for step, record in self.records.items() if record["class"] != outcome.SUCCESS]
        if self.stopping and (left or len(self.records) < len(self.steps)):
            return outcome.TERMINATED, outcome.code_of(outcome.TERMINATED), self.stopping
        return outcome.SUCCESS, 0, ""


def _is_me(record: Mapping[str, Any]) -> bool:
    """Return whether a record was written by this process."""
    return all(record.get(name) == value for name, value in whoami().items())


def record_of(run_id: str, step: str, attempt: int, error: ZenRunnerError) -> Record:
    """Return the record of an attempt that left none, or could not begin; it is nowhere but in the summary.

    Args:
        run_id: the run's id.
        step: the step.
        attempt: the attempt's number.
        error: why.
    """
    return records.make_record(run_id, step, attempt, error.outcome_class, str(error), code=error.exit_code)
