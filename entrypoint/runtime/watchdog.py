"""See that a stop signal ends this process in bounded time, even if the main thread is in a call that does not return."""

from __future__ import annotations

import _thread
import os
import select
from time import monotonic

from backends import outcome
from entrypoint.runtime.last_words import last_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.runtime.supervise import Supervisor

LOOK = 0.25  # seconds between two looks
MARGIN = 2.0  # seconds past the grace period in which run.json and the report have to be written


class Watchdog:
    """A thread that ends the process when a stop is not served.

    Args:
        supervisor: hears the signals, unless its thread is stuck.
        run: the run's id, for the last words.
        grace: seconds; the longest grace period of a step.
    """

    def __init__(self, supervisor: Supervisor, run: str, grace: float) -> None:
        self._supervisor = supervisor
        self._run = run
        self._grace = grace
        self._over = _thread.allocate_lock()
        self._over.acquire()
        _thread.start_new_thread(self._watch, ())

    def close(self) -> None:
        """Watch no more."""
        if self._over.locked():
            self._over.release()

    def _watch(self) -> None:
        supervisor = self._supervisor
        while not self._over.acquire(timeout=LOOK):
            supervisor.hear()
            if supervisor.stopped_at is None:
                continue
            grace = 0.0 if supervisor.is_impatient else self._grace
            if monotonic() > supervisor.stopped_at + grace + MARGIN:
                self._leave()

    def _leave(self) -> None:
        supervisor = self._supervisor
        supervisor.kill_groups()
        code = outcome.code_of(outcome.TERMINATED)
        message = "stopped, but the store or whoever reads the output did not answer in time; a run with this id resumes"
        words = last_words(
            {
                "version": 1,
                "run": self._run,
                "step": None,
                "attempt": None,
                "class": outcome.TERMINATED,
                "exit_code": code,
                "message": message,
            }
        )
        poller = select.poll()
        poller.register(2, select.POLLOUT)
        if poller.poll(0):
            os.write(2, words.encode())
        os._exit(code)
