"""Launchers for steps that a Beam runner places."""

from __future__ import annotations

import time
from collections import deque

from backends import outcome
from backends.errors import InfraError, Terminated, ZenRunnerError
from backends.graph import Graph
from backends.orchestrator.beam.program import SETTLE, State
from backends.orchestrator.driven.driver import record_of
from backends.store import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.execution import Launcher
    from backends.orchestrator.beam.program import BeamProgram
    from backends.store.base import Store
    from backends.store.records import Record


LOOK = 1.0  # seconds between two looks at the records of a run elsewhere


class AnnouncedOrder(Graph):
    """The order of the steps where Beam has a say in it: a step is taken once Beam has come to it, too."""

    __slots__ = ("_at", "_beam", "_held", "_open")

    def __init__(self, config: Mapping[str, Any], beam: BeamProgram) -> None:
        super().__init__({step: spec["parents"] for step, spec in config["steps"].items()})
        self._beam = beam
        self._at: set[str] = set()  # where Beam has come to
        self._held: dict[str, None] = {}  # whose parents have ended well, but Beam has not come to them
        self._open: deque[str] = deque()  # to be taken

    def take(self) -> str | None:
        while (step := super().take()) is not None:
            if step in self._at:
                self._open.append(step)
            else:
                self._held[step] = None
        while self._beam.reached:
            step = self._beam.reached.popleft()
            self._at.add(step)
            if step in self._held:
                del self._held[step]
                self._open.append(step)
        return self._open.popleft() if self._open else None

    def held(self) -> bool:
        return bool(self._held)

    def waiting(self) -> list[str]:
        """Return the steps that wait for Beam alone."""
        return list(self._held)


class GuardedLauncher:
    """A launcher beside which Beam lives: its death is the launcher's failure.

    Args:
        launcher: runs the attempts.
        beam: Beam's program.
        order: which steps wait for Beam.
    """

    def __init__(self, launcher: Launcher, beam: BeamProgram, order: AnnouncedOrder) -> None:
        self._launcher = launcher
        self._beam = beam
        self._order = order
        self._running = 0
        self.stop = launcher.stop

    def start(self, step: str, memory: int | None) -> None:
        self._launcher.start(step, memory)
        self._running += 1

    def wait(self, timeout: float | None) -> list[Record]:
        self._beam.check()
        self._beam.check_idle(self._order.held() and not self._running)
        ended = self._launcher.wait(timeout)
        self._running -= len(ended)
        return ended

    def close(self) -> None:
        """Leave the launcher open: it is closed, and gives the signals back, when Beam has ended."""


class RemoteLauncher:
    """The launcher of a run whose attempts Beam's workers start: it reads in the store what they do.

    The driver's retries and those of the ParDos follow the same policy, so an attempt that the driver starts is one that a
    worker starts as well.

    Args:
        config: the config.
        run: the run's id.
        store: the artifact store.
        beam: Beam's program.
        order: hears which steps have begun.
    """

    def __init__(self, config: Mapping[str, Any], run: str, store: Store, beam: BeamProgram, order: AnnouncedOrder) -> None:
        self._run = run
        self._store = store
        self._beam = beam
        self._order = order
        steps = config["steps"]
        self._seen = {step: max(records.attempts(store, run, step), default=0) for step in steps}
        self._expected: set[str] = set()
        self._records: list[Record] = []  # records that the driver has not got yet
        self._grace = max(float(spec["grace_period"] or 0) for spec in steps.values()) + SETTLE
        self._give_up: float | None = None  # when an attempt without a record counts as lost
        self._stopped = self._was_over = False
        self._next = 0.0
        good = records.results(store, run)
        beam.reached.extend(step for step, record in good.items() if record["class"] == outcome.SUCCESS)

    def start(self, step: str, memory: int | None) -> None:
        self._expected.add(step)

    def wait(self, timeout: float | None) -> list[Record]:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            over = self._beam.over  # before the look: what Beam has ended has its record by then
            looks = time.monotonic() >= self._next or (over and not self._was_over)
            if looks:
                self._was_over = over
                self._next = time.monotonic() + LOOK * (1 if self._store.root is not None else 1 + len(self._expected) / 50)
                if self._look():
                    self._next = 0.0  # the driver is behind Beam
                if over or self._stopped:
                    self._lost()
            if self._beam.reached and not self._stopped:
                return []  # the driver starts these first, so that it waits for them if a record makes it stop
            if self._records:
                news, self._records = self._records, []
                return news
            if self._beam.state is State.DIED:
                self._beam.check()
            if looks and over and not self._stopped and not self._expected and self._order.held():
                self._beam.check()
                raise InfraError(f"Beam's job has ended, but step {self._order.waiting()[0]!r} never began")
            if not self._stopped:
                self._beam.check_idle(self._order.held() and not self._expected)
            if until is not None and time.monotonic() >= until:
                return []
            time.sleep(0.05)

    def stop(self, step: str | None = None) -> None:
        self._stopped = True
        self._beam.cancel()

    def close(self) -> None:
        self.stop()

    def is_up_to_date(self) -> bool:
        """Return whether the driver knows of all steps that have begun; if not, it will when it takes steps next."""
        if not self._stopped:
            self._look()
        return not self._beam.reached

    def _look(self) -> bool:
        """Take the records that are new, tell the order of steps that have begun, and return whether there is any news."""
        news = []
        for step in [*([] if self._stopped else self._order.waiting()), *self._expected]:
            later = [number for number in records.attempts(self._store, self._run, step) if number > self._seen[step]]
            if not later:
                continue
            if step not in self._expected:
                self._beam.reached.append(step)
            elif (record := records.result(self._store, self._run, step, later[0])) is not None:
                self._seen[step] = later[0]
                self._expected.remove(step)
                news.append(record)
        self._records += sorted(news, key=lambda record: str(record["ended"]))
        return bool(news or (self._beam.reached and not self._stopped))

    def _lost(self) -> None:
        """Make up the records of what won't have one: nobody works on it, or the time to end is over."""
        if self._give_up is None:
            self._give_up = time.monotonic() + self._grace
        for step in list(self._expected):
            begun = max(records.attempts(self._store, self._run, step), default=0) > self._seen[step]
            if begun and time.monotonic() < self._give_up:
                continue
            if self._stopped:
                error: ZenRunnerError = Terminated("the run was stopped")
            else:
                error = self._beam.problem or InfraError("Beam's job has ended, and this step has no record")
            self._expected.remove(step)
            self._records.append(record_of(self._run, step, self._seen[step] + 1, error))
