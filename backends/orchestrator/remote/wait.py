"""Follow a run to its end; cancel it if it makes no progress."""

from __future__ import annotations

import time

from backends import outcome
from backends.backoff import backoff
from backends.base import PENDING, RUNNING, SKIPPED, SUCCEEDED, UNKNOWN
from backends.errors import InfraError
from backends.orchestrator.remote.picture import ENDED
from backends.orchestrator.remote.watch import Watch, sleep
from backends.process import utc
from backends.store import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from backends.execution import Report
    from backends.orchestrator.remote.backend import OrchestratorRemoteBackend
    from backends.orchestrator.remote.picture import Picture


class Wait:
    """Follows a run to its end, and ends it where it gets nowhere."""

    def __init__(
        self,
        backend: OrchestratorRemoteBackend,
        handle: Mapping[str, Any],
        resumed: list[str],
        report: Report | None,
        stop_requested: Callable[[], bool] | None,
    ) -> None:
        self._backend = backend
        self._watch = Watch(backend, handle)
        self._resumed = resumed
        self._report: Report = report if report is not None else lambda event, /, **fields: None
        self._stop_requested = stop_requested or (lambda: False)
        self._told: dict[str, str] = dict.fromkeys(resumed, SUCCEEDED)
        self._verdict: tuple[str, int, str] | None = None
        self._give_up = 0.0  # when a cancelled run counts as ended, whatever the platform says

    def perform(self) -> dict[str, Any]:
        """Return the run's summary, when it has ended."""
        watch, backend = self._watch, self._backend
        began = time.monotonic()
        self._report("run_started", run=watch.run, steps=list(watch.config["steps"]), resumed=self._resumed)
        moved = sighted = began
        pause = backend.poll_first
        while True:
            picture = watch.look()
            now = time.monotonic()
            if self._tell(picture):
                moved, pause = now, backend.poll_first
            state = picture.state()
            if state in ENDED or (self._give_up and now > self._give_up):
                return self._finish(picture, began)
            if state != UNKNOWN:
                sighted = now
            elif now - sighted > backend.blind_timeout:
                raise InfraError(f"run {watch.run!r} can't be followed any more: {picture.reasons()}")
            if not self._give_up:
                self._judge(picture, now - moved)
            self._sleep(pause)
            pause = min(backend.poll_most, pause * 1.5)

    def _judge(self, picture: Picture, idle: float) -> None:
        """Cancel the run if it was asked to stop, is past its deadline, or can't start."""
        backend = self._backend
        if self._stop_requested():
            self._cancel()
        elif backend.deadline is not None and time.time() - self._watch.handle["began"] > backend.deadline:
            why = f"the run had not ended {backend.deadline:g} s after its submission, which is its deadline"
            self._cancel((outcome.TIMEOUT, outcome.code_of(outcome.TIMEOUT), why))
        elif (
            backend.startup_timeout is not None
            and idle > backend.startup_timeout
            and picture.seen is not None
            and RUNNING not in picture.states.values()
            and (ready := self._ready(picture))
        ):
            because = picture.reasons() or "the platform gives no reason"
            why = f"step {ready!r} did not start within {backend.startup_timeout:g} s: {because}"
            self._cancel((outcome.INFRA, outcome.code_of(outcome.INFRA), why))

    def _ready(self, picture: Picture) -> str | None:
        """Return a step that waits for nothing but the platform."""
        parents, states = self._watch.parents, picture.states
        return next(
            (
                step
                for step, state in states.items()
                if state == PENDING and all(states[parent] == SUCCEEDED for parent in parents[step])
            ),
            None,
        )

    def _cancel(self, verdict: tuple[str, int, str] | None = None) -> None:
        grace = max(float(spec["grace_period"] or 0) for spec in self._watch.config["steps"].values())
        self._verdict = verdict
        self._give_up = time.monotonic() + grace + self._backend.cancel_timeout
        self._backend.cancel(self._watch.handle)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + backoff(seconds, 0)
        while (left := until - time.monotonic()) > 0:
            sleep(min(left, 0.5))
            if self._stop_requested() and not self._give_up:
                return

    def _tell(self, picture: Picture) -> bool:
        """Report what is new, and return whether anything is."""
        news = False
        for step, state in picture.states.items():
            if self._told.get(step, PENDING) == state or state == UNKNOWN:
                continue
            news = True
            if self._told.get(step) != RUNNING and (state == RUNNING or step in picture.records):
                seen = (picture.seen or {}).get(step)
                record = picture.records.get(step)
                attempt = (record and record["attempt"]) or (seen and seen.attempt) or 1
                self._report("step_started", step=step, attempt=attempt)
            self._told[step] = state
            if state == SKIPPED:
                self._report("step_skipped", step=step, because=picture.because(step, self._watch.parents))
            elif state in ENDED:
                self._report("step_finished", record=picture.records[step])
        return news

    def _finish(self, picture: Picture, began: float) -> dict[str, Any]:
        watch = self._watch
        ended = picture.state() in ENDED
        name, code, message = self._verdict or picture.verdict()
        if not ended:
            message += "; it was cancelled, and the platform did not say in time that it ended"
        run = records.read_run(watch.store, watch.run) or {}
        head = {
            "version": 1,
            "run": watch.run,
            "name": watch.config["name"],
            "config": watch.handle["config"],
            "started": run.get("started") or watch.handle["submitted"],
            "state": name,
            "class": name,
            "exit_code": code,
            "message": message,
            "ended": utc(),
            "seconds": round(time.monotonic() - began, 3),
        }
        if ended:
            records.write_run(watch.store, watch.run, head)
        skipped = {step: picture.because(step, watch.parents) for step, state in picture.states.items() if state == SKIPPED}
        order = list(watch.config["steps"])
        steps = {step: picture.records[step] for step in order if step in picture.records}
        summary = {**head, "resumed": list(self._resumed), "steps": steps, "skipped": skipped}
        self._report("run_finished", summary=summary)
        return summary
