"""Steps side by side as processes of this one: the local orchestrator's launcher."""

from __future__ import annotations

import os
from time import monotonic

from backends import outcome
from entrypoint.runtime.aside import LONG
from entrypoint.runtime.attempt import Attempt
from entrypoint.runtime.claimed import Task
from entrypoint.runtime.run import Run, runs_elsewhere
from entrypoint.runtime.supervise import Supervisor
from entrypoint.runtime.watchdog import Watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping
    from typing import Any

    from backends.store.base import Store
    from backends.store.records import Record

    Config = dict[str, Any]
else:
    import _signal as signal


class LocalLauncher:
    """Runs attempts side by side as processes of this one.

    Args:
        config: the resolved config.
        sha: its sha256.
        run: the run's id.
        store: the artifact store.
        output: gets (step, stream, bytes) of everything that steps print.
        environ: this process's environment.
    """

    def __init__(
        self,
        config: Config,
        sha: str,
        run: str,
        store: Store,
        output: Callable[[str, int, bytes], None],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._run = Run(config, sha, run, store, dict(os.environ) if environ is None else environ)
        self._run.enter()
        self._output = output
        self._supervisor = Supervisor(also_stop=(signal.SIGHUP,))
        grace = max(float(step["grace_period"] or 0) for step in config["steps"].values())
        self._watchdog = Watchdog(self._supervisor, run, grace)
        self._running: list[Attempt] = []
        self._woken = False
        self._over: list[Record] = []
        self._waiting: list[tuple[str, int | None]] = []  # for GPUs that running steps have

    def stop_requested(self) -> bool:
        """Return whether a stop signal came to this process."""
        return self._supervisor.stopped_by is not None

    def write(self, fd: int, data: bytes) -> None:
        """Write to one of our own streams, serving signals and deadlines while its reader is slow."""
        self._supervisor.write(fd, data)

    def wake(self) -> None:
        """Make ``wait`` return; from any thread."""
        self._woken = True
        self._supervisor.wake()

    def start(self, step: str, memory: int | None) -> None:
        """Begin one attempt; its record comes through ``wait``.

        Where running steps have the GPUs that it asks for, it begins when they have ended.
        """
        if self._must_wait(step):
            self._waiting.append((step, memory))
            return

        def output(stream: int, data: bytes) -> None:
            self._output(step, stream, data)

        attempt = Attempt(Task(self._run, step, self._supervisor, output, memory=memory, alone=False))
        attempt.reserve_gpus()  # here, one step after the other, or two would take the same
        self._running.append(attempt)
        attempt.begin()

    def wait(self, timeout: float | None) -> list[Record]:
        """Return the records of attempts that ended; an empty list when time is up, or a stop signal or `wake` came."""
        until = None if timeout is None else monotonic() + timeout
        stopped = self.stop_requested()
        while True:
            looks = [look for attempt in self._running if (look := attempt.look()) is not None]
            over = self._take_over()
            if over or self._woken or self.stop_requested() != stopped or (until is not None and monotonic() >= until):
                self._woken = False
                return over
            if until is not None:
                looks.append(until)
            self._supervisor.poll(max(0.0, min(looks) - monotonic()) if looks else LONG)

    def _take_over(self) -> list[Record]:
        """Take the records that are there, and start what waited for the ended steps' GPUs."""
        over, self._over = self._over, []
        for attempt in list(self._running):
            if attempt.record is not None:
                self._running.remove(attempt)
                over.append(attempt.record)
        if over and self._waiting:
            waiting, self._waiting = self._waiting, []
            for step, memory in waiting:
                if self.stop_requested():
                    self._refuse(step)
                else:
                    self.start(step, memory)
        return over

    def _must_wait(self, step: str) -> bool:
        wanted = self._run.config["steps"][step]["resources"]
        if not wanted["gpu"] or not self._run.gpus or runs_elsewhere(self._run.config["steps"][step]):
            return False
        from entrypoint.runtime.gpu import choice

        visible, is_own = self._run.visible_gpus(step)
        return not is_own and choice.is_busy(step, wanted, visible, self._run.environ, self._run.gpus)

    def stop(self, step: str | None = None) -> None:
        """Ask one step, or all, to end."""
        for attempt in self._running:
            if step is None or attempt.name == step:
                attempt.stop()
        for item in list(self._waiting):
            if step is None or item[0] == step:
                self._waiting.remove(item)
                self._refuse(item[0])

    def _refuse(self, step: str) -> None:
        task = Task(self._run, step, self._supervisor, lambda stream, data: None)
        self._over.append(task.record(outcome.TERMINATED, "stopped while it waited for a GPU"))

    def close(self) -> None:
        """End what still runs, and give the signals back."""
        self.stop()
        while self._running:
            self.wait(1.0)
        self._watchdog.close()
        self._supervisor.close()
