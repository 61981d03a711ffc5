"""Follow a run to its end; cancel it if it makes no progress."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from backends import outcome
from backends.backoff import backoff
from backends.errors import InfraError
from backends.execution import never, silent
from backends.process import utc
from backends.states import ENDED, PENDING, RUNNING, SKIPPED, SUCCEEDED, UNKNOWN
from backends.store import records

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.execution import Report
    from backends.orchestrator.remote.life import PlatformLife
    from backends.view import RunStatus, RunView

sleep = time.sleep


class Patience(NamedTuple):
    """How long is waited for what, in seconds; infinite for ever.

    Attributes:
        startup: for a step that could run to begin, while nothing runs and nothing changes.
        deadline: for the run's end, from its submission.
        pause: the most between two looks.
        blind: for a run's state to be known again.
        cancel: for a cancelled run to end, beside the steps' grace period.
    """

    startup: float
    deadline: float
    pause: float
    blind: float
    cancel: float


class Follower:
    """Follows a run to its end, and cancels one that makes no progress.

    Args:
        view: looks at the run.
        life: what it asks.
        resumed: the steps that had a good result before.
        patience: how long is waited for what.
        cancel: cancels the run.
        report: called with each event; None for silence.
        stop_requested: called often; True cancels the run.
    """

    def __init__(
        self,
        view: RunView,
        life: PlatformLife,
        resumed: list[str],
        patience: Patience,
        cancel: Callable[[], None],
        report: Report | None,
        stop_requested: Callable[[], bool] | None,
    ) -> None:
        self._view = view
        self._life = life
        self._resumed = resumed
        self._patience = patience
        self._cancel_run = cancel
        self._report: Report = report if report is not None else silent
        self._stop_requested = stop_requested if stop_requested is not None else never
        self._reported: dict[str, str] = dict.fromkeys(resumed, SUCCEEDED)
        self._verdict: tuple[str, int, str] | None = None
        self._give_up = 0.0  # when a cancelled run counts as ended, whatever the platform says

    def wait(self) -> dict[str, Any]:
        """Return the run's summary, when it has ended."""
        view, patience = self._view, self._patience
        began = time.monotonic()
        self._report("run_started", run=view.run, steps=list(view.config["steps"]), resumed=self._resumed)
        last_change = last_known = began
        pause = 0.0
        while True:
            status = view.look()
            now = time.monotonic()
            changed = self._report_changes(status)
            if changed:
                last_change = now
            # All callers of an account share the platform's rate, so a look that took many calls is a rare one.
            pause = self._life.pace if changed or not pause else max(self._life.pace, pause)
            state = status.state()
            if state in ENDED or (self._give_up and now > self._give_up):
                return self._finish(status, began)
            if state != UNKNOWN:
                last_known = now
            elif now - last_known > patience.blind:
                raise InfraError(f"run {view.run!r} can't be followed any more: {status.reasons()}")
            if not self._give_up:
                self._cancel_what_gets_nowhere(status, now - last_change)
            self._sleep(pause)
            pause = min(max(patience.pause, self._life.pace), pause * 1.5)

    def _cancel_what_gets_nowhere(self, status: RunStatus, idle: float) -> None:
        """Cancel the run if it was asked to stop, is past its deadline, or can't start."""
        patience = self._patience
        if self._stop_requested():
            self._cancel()
        elif time.time() - self._life.handle["began"] > patience.deadline:
            why = f"the run had not ended {patience.deadline:g} s after its submission, which is its deadline"
            self._cancel((outcome.TIMEOUT, outcome.code_of(outcome.TIMEOUT), why))
        elif (
            idle > patience.startup
            and status.said is not None
            and RUNNING not in status.states.values()
            and (ready := self._ready(status))
        ):
            because = status.reasons() or "the platform gives no reason"
            why = f"step {ready!r} did not start within {patience.startup:g} s: {because}"
            self._cancel((outcome.INFRA, outcome.code_of(outcome.INFRA), why))

    def _ready(self, status: RunStatus) -> str | None:
        """Return a step that waits for nothing but the platform."""
        parents, states = self._view.parents, status.states
        return next(
            (
                step
                for step, state in states.items()
                if state == PENDING and all(states[parent] == SUCCEEDED for parent in parents[step])
            ),
            None,
        )

    def _cancel(self, verdict: tuple[str, int, str] | None = None) -> None:
        grace = max(float(spec["grace_period"] or 0) for spec in self._view.config["steps"].values())
        self._verdict = verdict
        self._give_up = time.monotonic() + grace + self._patience.cancel
        self._cancel_run()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + backoff(seconds, 0)
        while (left := until - time.monotonic()) > 0:
            sleep(min(left, 0.5))
            if self._stop_requested() and not self._give_up:
                return

    def _report_changes(self, status: RunStatus) -> bool:
        """Report what is new, and return whether anything is."""
        news = False
        for step, state in status.states.items():
            if self._reported.get(step, PENDING) == state or state == UNKNOWN:
                continue
            news = True
            if self._reported.get(step) != RUNNING and (state == RUNNING or step in status.records):
                self._report("step_started", step=step, attempt=self._attempt(status, step))
            self._reported[step] = state
            if state == SKIPPED:
                self._report("step_skipped", step=step, because=status.because(step))
            elif state in ENDED:
                self._report("step_finished", record=status.records[step])
        return news

    def _attempt(self, status: RunStatus, step: str) -> int:
        record, said = status.records.get(step), (status.said or {}).get(step)
        number = (record["attempt"] if record is not None else 0) or (said is not None and said.attempt)
        return number or status.attempts.get(step, 1)

    def _finish(self, status: RunStatus, began: float) -> dict[str, Any]:
        view, handle = self._view, self._life.handle
        ended = status.state() in ENDED
        name, code, message = self._verdict or status.verdict()
        if not ended:
            message += "; it was cancelled, and the platform did not say in time that it ended"
        run = records.read_run(view.store, view.run) or {}
        head = {
            "version": 1,
            "run": view.run,
            "name": view.config["name"],
            "config": handle["config"],
            "started": run.get("started") or handle["submitted"],
            "state": name,
            "class": name,
            "exit_code": code,
            "message": message,
            "ended": utc(),
            "seconds": round(time.monotonic() - began, 3),
        }
        if ended and (status.ended is None or self._verdict is not None):
            records.write_run(view.store, view.run, head)
        skipped = {step: status.because(step) for step, state in status.states.items() if state == SKIPPED}
        steps = {step: status.records[step] for step in view.config["steps"] if step in status.records}
        summary = {**head, "resumed": list(self._resumed), "steps": steps, "skipped": skipped}
        self._report("run_finished", summary=summary)
        return summary
